"""Units for networks of other houses: GluonCV's and MXNet's model zoos, and one's own.

    net = vision.resnet50_v1(pretrained=True)
    print(replace_activations(net, "ChaATAC", where="features.7.*"))
    print(insert_attention(net, "CBAM", reduction=8))

The network is changed in place. Channel counts come from tracing it once as a symbol, which
computes nothing. Parameters that are there keep their names, values and gradients; only
those of new units are initialized. What cannot be changed is in the report, above all
activations that a block calls as functions in its own code.
"""
import fnmatch
import inspect
import json
import re
from collections import Counter
from dataclasses import dataclass, field

import mxnet as mx
from mxnet.gluon import nn

from .activation import ACTIVATIONS
from .attention import ATTENTIONS

__all__ = ["Report", "insert_attention", "replace_activations"]

# Classes of residual blocks -> the child at the end of the branch, before the addition.
_BRANCH_ENDS = {
    "BasicBlockV1": "body", "BottleneckV1": "body",
    "BasicBlockV2": "conv2", "BottleneckV2": "conv3",
    "BasicBlockV1b": "bn2", "BottleneckV1b": "bn3",
    "CIFARBasicBlockV1": "body", "CIFARBasicBlockV2": "conv2",
    "LinearBottleneck": "out",
    "PreActBlock": "conv2", "BasicBlock": "bn2", "Bottleneck": "bn3",
}


@dataclass
class Report:
    """What an operation changed in a network, and what it could not.

    Attributes
    ----------
    changed : list of (path, str)
        Where in the network, as in its parameter names, and what was done.
    left : list of (path, str)
        Where something was left as it was, and why.
    """

    changed: list = field(default_factory=list)
    left: list = field(default_factory=list)

    def __str__(self):
        lines = []
        for title, entries in ((f"{len(self.changed)} changed", self.changed),
                               (f"{len(self.left)} left as they were", self.left)):
            width = max((len(path) for path, _ in entries), default=0)
            lines.append(title + (":" if entries else ""))
            lines += [f"  {path:<{width}}  {text}" for path, text in entries]
        return "\n".join(lines)


def replace_activations(net, name, where=None, input_shape=(1, 3, 224, 224), initializer=None,
                        **options):
    """Put a unit in the place of a network's ReLUs.

    A ReLU is a child ``nn.Activation('relu')``, or a block of the class ReLU6. Units of
    this project are not looked into.

    Parameters
    ----------
    net : mxnet.gluon.HybridBlock
        Changed in place; it may be hybridized, initialized, or neither.
    name : str or callable
        An activation unit, as in `get_activation`.
    where : str, re.Pattern or callable, optional
        Which ReLUs: a glob (``features.5.*``) or a compiled regular expression (searched)
        for the path or the Gluon name, or ``where(path, block)`` -> bool, which is asked
        about every block and so may choose others than ReLUs. None: all.
    input_shape : tuple, default (1, 3, 224, 224)
        Shape of an input, to infer channel counts with.
    initializer : mxnet.init.Initializer, default MSRAPrelu
        For the new parameters.
    **options
        Of the unit.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        If the unit or an option is unknown, `where` matches nothing, or the network does not
        fit `input_shape`.
    TypeError
        If the network is not a HybridBlock, so that it cannot be traced.
    """
    factory = ACTIVATIONS.configure(name, options)
    tree = _Tree(net, input_shape)
    report, as_functions = Report(), tree.called_as_functions(where)
    for place in tree.matching(where, _is_relu, "ReLU", required=not as_functions):
        channels, reason = tree.channels(place.block, of_output=False)
        if reason:
            report.left.append((place.path, reason))
            continue
        unit = tree.build(factory, channels, place.block.prefix or f"{place.scope}act_",
                          instead=place.block)
        _initialize(unit, net, initializer)
        place.swap(unit)
        report.changed.append((place.path, f"{_describe(place.block)} -> "
                                           f"{type(unit).__name__}({channels})"))
    report.left += as_functions
    _clear_compiled(net)
    return report


def insert_attention(net, name, where=None, input_shape=(1, 3, 224, 224), initializer=None,
                     **options):
    """Let the output of chosen blocks pass through an attention unit.

    Parameters
    ----------
    net : mxnet.gluon.HybridBlock
        Changed in place; it may be hybridized, initialized, or neither.
    name : str or callable
        An attention unit, as in `get_attention`.
    where : str, re.Pattern or callable, optional
        After which blocks: as in `replace_activations`, but among all blocks. None: at the
        end of the residual branch, before the addition, of the residual blocks of MXNet's
        and GluonCV's ResNets, ResNet-v1b, CIFAR ResNets and MobileNetV2.
    input_shape, initializer, **options
        As in `replace_activations`.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        If the unit or an option is unknown, `where` matches nothing, or the network does not
        fit `input_shape`.
    TypeError
        If the network is not a HybridBlock, so that it cannot be traced.

    Notes
    -----
    A ``HybridSequential`` gets the unit as its last child. Any other block becomes the
    first child of a new one, which puts ``.0`` into its parameters' structural names: load
    files of the unchanged network first.
    """
    factory = ATTENTIONS.configure(name, options)
    tree = _Tree(net, input_shape)
    report = Report()
    chosen = tree.branch_ends() if where is None else tree.matching(where, _is_any, "block")
    for place in chosen:
        channels, reason = tree.channels(place.block, of_output=True)
        if reason:
            report.left.append((place.path, reason))
            continue
        unit = tree.build(factory, channels, f"{place.block.prefix or place.scope}attn_")
        _initialize(unit, net, initializer)
        if type(place.block) is nn.HybridSequential:
            place.block.add(unit)
        else:
            place.swap(_in_sequence(place.block, unit))
        report.changed.append((place.path, f"{_describe(place.block)} + "
                                           f"{type(unit).__name__}({channels})"))
    _clear_compiled(net)
    return report


# ---- the network as a tree of places ----

@dataclass
class _Place:
    """A block in a network: its path, the parents that hold it, and their name scope."""

    path: str
    block: mx.gluon.Block
    scope: str
    parents: list

    def swap(self, new):
        """Let every parent hold `new` instead, as a child and as an attribute."""
        new.hybridize(self.block._active, **dict(self.block._flags))
        for parent in self.parents:
            for key, child in parent._children.items():
                if child is self.block:
                    parent._children[key] = new
            # Not setattr: Gluon refuses another class under the same name.
            for key, value in vars(parent).items():
                if value is self.block:
                    vars(parent)[key] = new


class _Tree:
    """The blocks of a network, and what one symbolic pass through it tells about them."""

    def __init__(self, net, input_shape):
        if not isinstance(net, nn.HybridBlock):
            raise TypeError(f"{type(net).__name__} is not a HybridBlock: it cannot be traced")
        self._places = {}
        self._walk(net, "", "", None)
        self._prefixes = Counter(place.block.prefix for place in self._places.values())
        self._trace(net, tuple(input_shape))

    def _walk(self, block, path, scope, parent):
        if id(block) in self._places:
            self._places[id(block)].parents.append(parent)
            return
        self._places[id(block)] = _Place(path, block, scope, [parent] if parent else [])
        if _is_unit(block):
            return
        for key, child in block._children.items():
            self._walk(child, f"{path}.{key}".lstrip("."), block.prefix or scope, block)

    def _trace(self, net, input_shape):
        """Shapes at every block, and which blocks call ReLU as a function."""
        seen, hooks = [], []
        for place in self._places.values():
            hooks.append(place.block.register_forward_hook(
                lambda block, inputs, output: seen.append((block, inputs, output))))
        try:
            output = net(mx.sym.var("data"))
        finally:
            for hook in hooks:
                hook.detach()
        self._inputs, self._outputs = {}, {}
        symbols, slots = [], []
        for block, inputs, result in seen:
            for table, symbol in ((self._inputs, inputs[0]), (self._outputs, result)):
                shapes = table.setdefault(id(block), [])
                if isinstance(symbol, mx.sym.Symbol) and len(symbol.list_outputs()) == 1:
                    symbols.append(symbol)
                    slots.append(shapes)
        for shapes, shape in zip(slots, _shapes(mx.sym.Group(symbols), input_shape)):
            shapes.append(shape)
        self._calls_of_relu = _calls_of_relu(seen, _relu_nodes(mx.sym.Group(_flat(output))))

    def matching(self, where, candidate, kind, required=True):
        """Places that `where` chooses, in the order of the blocks' children."""
        places = list(self._places.values())[1:]
        if callable(where):
            chosen = [place for place in places if where(place.path, place.block)]
        else:
            places = [place for place in places if candidate(place.block)]
            chosen = [place for place in places if _matches(where, place.path, place.block.name)]
        if where is not None and required and not chosen:
            known = ", ".join(place.path for place in places[:5])
            raise ValueError(f"no {kind} matches {_text(where)}. The first of {len(places)}: "
                             f"{known or 'none'}")
        return chosen

    def branch_ends(self):
        """Places at the end of the residual branch of known residual blocks."""
        ends = [(place, _BRANCH_ENDS[type(place.block).__name__])
                for place in self._places.values()
                if type(place.block).__name__ in _BRANCH_ENDS
                and getattr(place.block, "use_shortcut", True)]
        ends = [self._places[id(place.block._children[child])] for place, child in ends
                if child in place.block._children]
        if not ends:
            raise ValueError("the network has no residual blocks of a known class: "
                             "say where= the attention goes")
        return ends

    def channels(self, block, of_output):
        """Channel count of the map at a block, and None; or None and why there is none."""
        shapes = (self._outputs if of_output else self._inputs).get(id(block), [])
        if not shapes:
            return None, f"{_describe(block)} is not used in the forward pass"
        if any(len(shape) != 4 for shape in shapes):
            return None, f"{_describe(block)} is at a vector of shape {shapes[0]}, not at a map"
        counts = sorted({shape[1] for shape in shapes})
        if len(counts) > 1:
            return None, (f"{_describe(block)} is used at maps of different channel counts: "
                          f"{', '.join(map(str, counts))}")
        return counts[0], None

    def build(self, factory, channels, prefix, instead=None):
        """A new unit whose Gluon name begins with `prefix`, unique in the network.

        `instead` is the block, if any, that makes way for it.
        """
        if instead is not None:
            self._prefixes[instead.prefix] -= 1
        stem, number = prefix.rstrip("_"), 0
        while self._prefixes[prefix]:
            number += 1
            prefix = f"{stem}_{number}_"
        self._prefixes[prefix] += 1
        with nn.HybridSequential(prefix=prefix).name_scope():
            unit = factory(channels)
        if not isinstance(unit, nn.HybridBlock):
            raise TypeError(f"{type(unit).__name__} is not a HybridBlock")
        return unit

    def called_as_functions(self, where):
        """(path, reason) for each block whose own code calls ReLU as a function."""
        places = [self._places[id(block)] for block in self._calls_of_relu]
        return [(place.path or "(the network)",
                 f"{type(place.block).__name__} calls ReLU as a function in its code"
                 + (f", {count} times" if count > 1 else ""))
                for place, count in zip(places, self._calls_of_relu.values())
                if not callable(where) and _matches(where, place.path, place.block.name)]


def _shapes(group, input_shape):
    try:
        shapes = group.infer_shape(data=input_shape)[1]
    except mx.MXNetError as error:
        raise ValueError(f"the network does not fit input_shape={input_shape}: "
                         f"{str(error).strip().splitlines()[-1]}") from None
    if shapes is None:
        raise ValueError(f"not all shapes follow from input_shape={input_shape}")
    return shapes


def _relu_nodes(symbol):
    """Names of all ReLUs in a graph."""
    return {node["name"] for node in json.loads(symbol.tojson())["nodes"]
            if node["op"] == "relu" or (node["op"] == "Activation"
                                        and node["attrs"]["act_type"] == "relu")}


def _calls_of_relu(calls, relus):
    """How often each block calls ReLU as a function.

    Parameters
    ----------
    calls : list of (block, inputs, output)
        All calls of blocks in the order of their ends, so that inner ones come first.
    relus : set of str
        Names of all ReLUs in the graph.

    Returns
    -------
    Counter
        By block.
    """
    relus, counts = set(relus), Counter()
    for block, inputs, output in calls:
        made = relus & (_node_names(output) - _node_names(inputs))
        relus -= made
        if made and not _is_relu(block) and not _is_unit(block):
            counts[block] += len(made)
    return counts


def _node_names(symbols):
    """Names of all nodes in the graphs of some symbols."""
    symbols = [symbol for symbol in _flat(symbols) if isinstance(symbol, mx.sym.Symbol)]
    if not symbols:
        return set()
    return {name[:-len("_output")] for name in mx.sym.Group(symbols).get_internals().list_outputs()
            if name.endswith("_output")}


def _flat(output):
    if isinstance(output, (list, tuple)):
        return [symbol for part in output for symbol in _flat(part)]
    return [output]


# ---- what blocks are ----

def _is_any(block):
    return True


def _is_relu(block):
    if type(block) is nn.Activation:
        return block._act_type == "relu"
    return type(block).__name__.lower() == "relu6"


def _is_unit(block):
    """Whether a block is one of this project's units, whose inside is its own affair."""
    return any(inspect.isclass(registry[name]) and isinstance(block, registry[name])
               for registry in (ACTIVATIONS, ATTENTIONS) for name in registry.names())


def _matches(where, path, name):
    if where is None:
        return True
    if isinstance(where, re.Pattern):
        return bool(where.search(path) or where.search(name))
    return fnmatch.fnmatchcase(path, where) or fnmatch.fnmatchcase(name, where)


def _text(where):
    return repr(where.pattern) if isinstance(where, re.Pattern) else repr(where)


def _describe(block):
    name = type(block).__name__
    return f"{name}({block._act_type})" if type(block) is nn.Activation else name


# ---- new blocks ----

def _in_sequence(block, unit):
    """`block`, then `unit`, as one block; both keep their names."""
    sequence = nn.HybridSequential(prefix="")
    sequence.add(block, unit)
    return sequence


def _initialize(unit, net, initializer):
    """Give a unit the network's type, and values on its devices if the network has any."""
    parameters = net.collect_params().values()
    for parameter in parameters:
        if parameter.name.endswith("weight"):
            unit.cast(parameter.dtype)
            break
    for parameter in parameters:
        if parameter._data is not None or parameter._deferred_init:
            unit.initialize(initializer or mx.init.MSRAPrelu(), ctx=parameter.list_ctx())
            return


def _clear_compiled(net):
    """Forget compiled graphs: they hold what was replaced."""
    net.apply(lambda block: block._clear_cached_op() if isinstance(block, nn.HybridBlock) else None)
