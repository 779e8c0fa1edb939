"""Units for existing Gluon networks: GluonCV's and MXNet's model zoos, and one's own.

    net = vision.resnet50_v1(pretrained=True)
    print(replace_activations(net, "ChaATAC", where="features.7.*"))
    print(insert_attention(net, "CBAM", reduction=8))

The network is changed in place. Channel counts come from one pass of a symbol, which computes
nothing. Parameters that are there keep their names, values and gradients; only
those of new units are initialized. What cannot be changed is in the report, above all
activations that a block calls as functions in its own code.
"""
import fnmatch
import inspect
import re
from collections import Counter
from dataclasses import dataclass, field

import mxnet as mx
from mxnet.gluon import nn

from .activation import ACTIVATIONS
from .attention import ATTENTIONS
from .registry import UserError

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
    UserError
        If the unit or an option is unknown, `where` matches nothing, or the network does not
        fit `input_shape`.
    TypeError
        If the network is not a HybridBlock, so that it cannot be traced.
    """
    factory = ACTIVATIONS.configure(name, options)
    places = _places(net)
    calls = _trace(net, places)
    functional = [(place.path or "(the network)",
                   f"{type(place.block).__name__} calls ReLU as a function in its code"
                   + (f", {count} times" if count > 1 else ""))
                  for place, count in _relu_calls(calls, places)
                  if not callable(where) and _matches(where, place)]
    chosen = _choose(places, where, _is_relu, "ReLU", required=not functional)
    shapes = _shapes([(block, inputs[0]) for block, inputs, _ in calls], input_shape)

    def put(place, unit):
        place.swap(unit)
        return "->"

    report = _change(net, chosen, shapes, factory, initializer, put)
    report.left += functional
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
    UserError
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
    places = _places(net)
    calls = _trace(net, places)
    chosen = _branch_ends(places) if where is None else _choose(places, where, _is_any, "block")
    shapes = _shapes([(block, output) for block, _, output in calls], input_shape)

    def put(place, unit):
        if type(place.block) is nn.HybridSequential:
            place.block.add(unit)
        else:
            both = nn.HybridSequential(prefix="")
            both.add(place.block, unit)
            place.swap(both)
        return "+"

    return _change(net, chosen, shapes, factory, initializer, put)


def _change(net, places, shapes, factory, initializer, put):
    """Build a unit for each place and ``put(place, unit)`` it there; returns the report."""
    report = Report()
    for place in places:
        channels, reason = _channels(place.block, shapes.get(place.block, []))
        if reason:
            report.left.append((place.path, reason))
            continue
        with place.parents[0].name_scope():
            unit = factory(channels)
        if not isinstance(unit, nn.HybridBlock):
            raise TypeError(f"{type(unit).__name__} is not a HybridBlock")
        _initialize(unit, net, initializer)
        sign = put(place, unit)
        report.changed.append((place.path, f"{_describe(place.block)} {sign} "
                                           f"{type(unit).__name__}({channels})"))
    # Compiled graphs hold what was replaced.
    net.apply(lambda block: block._clear_cached_op() if isinstance(block, nn.HybridBlock) else None)
    return report


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


# ---- places in a network ----

@dataclass
class _Place:
    """A block in a network: its path, and the parents that hold it."""

    path: str
    block: mx.gluon.Block
    parents: list

    def swap(self, new):
        """Let every parent hold `new` instead, as a child and as an attribute."""
        new.hybridize(self.block._active, **dict(self.block._flags))
        for parent in self.parents:
            # Not setattr: Gluon refuses another class under the same name.
            for table in (parent._children, vars(parent)):
                table.update({key: new for key, value in table.items() if value is self.block})


def _places(net):
    """Block -> place, for a network and all in it but the insides of this project's units."""
    if not isinstance(net, nn.HybridBlock):
        raise TypeError(f"{type(net).__name__} is not a HybridBlock: it cannot be traced")
    places = {}

    def walk(block, path, parents):
        if block in places:
            places[block].parents += parents
            return
        places[block] = _Place(path, block, parents)
        for key, child in ({} if _is_unit(block) else block._children).items():
            walk(child, f"{path}.{key}".lstrip("."), [block])

    walk(net, "", [])
    return places


def _choose(places, where, candidate, kind, required=True):
    """Places that `where` chooses, in the order of the blocks' children."""
    inside = list(places.values())[1:]
    if callable(where):
        chosen = [place for place in inside if where(place.path, place.block)]
    else:
        inside = [place for place in inside if candidate(place.block)]
        chosen = [place for place in inside if _matches(where, place)]
    if where is not None and required and not chosen:
        known = ", ".join(place.path for place in inside[:5])
        raise UserError(f"no {kind} matches {getattr(where, 'pattern', where)!r}. The first of "
                         f"{len(inside)}: {known or 'none'}")
    return chosen


def _matches(where, place):
    names = place.path, place.block.name
    if isinstance(where, re.Pattern):
        return any(map(where.search, names))
    return where is None or any(fnmatch.fnmatchcase(name, where) for name in names)


def _branch_ends(places):
    """Places at the end of the residual branch of known residual blocks."""
    residual = [block for block in places if type(block).__name__ in _BRANCH_ENDS
                and getattr(block, "use_shortcut", True)]
    ends = [block._children.get(_BRANCH_ENDS[type(block).__name__]) for block in residual]
    if not any(ends):
        raise UserError("the network has no residual blocks of a known class: "
                         "say where= the attention goes")
    return [places[end] for end in ends if end is not None]


def _is_any(block):
    return True


def _is_relu(block):
    if type(block) is nn.Activation:
        return block._act_type == "relu"
    return type(block).__name__.lower() == "relu6"


def _is_unit(block):
    """Whether a block is one of this project's units, which is replaced or kept as a whole."""
    return any(inspect.isclass(registry[name]) and isinstance(block, registry[name])
               for registry in (ACTIVATIONS, ATTENTIONS) for name in registry.names())


def _describe(block):
    name = type(block).__name__
    return f"{name}({block._act_type})" if type(block) is nn.Activation else name


# ---- what one pass of a symbol tells ----

def _trace(net, places):
    """(block, inputs, output) of each block's call, in the order of their ends, as symbols."""
    calls = []
    hooks = [block.register_forward_hook(lambda *call: calls.append(call)) for block in places]
    try:
        net(mx.sym.var("data"))
    finally:
        for hook in hooks:
            hook.detach()
    return calls


def _shapes(maps, input_shape):
    """Block -> the shapes of the symbols that `maps`, pairs of both, has for it."""
    maps = [(block, symbol) for block, symbol in maps
            if isinstance(symbol, mx.sym.Symbol) and len(symbol.list_outputs()) == 1]
    try:
        found = mx.sym.Group([symbol for _, symbol in maps]).infer_shape(data=tuple(input_shape))[1]
    except mx.MXNetError as error:
        raise UserError(f"the network does not fit input_shape={input_shape}: "
                         f"{str(error).strip().splitlines()[-1]}") from None
    if found is None:
        raise UserError(f"not all shapes follow from input_shape={input_shape}")
    shapes = {}
    for (block, _), shape in zip(maps, found):
        shapes.setdefault(block, []).append(shape)
    return shapes


def _channels(block, shapes):
    """Channel count of the maps at a block, and None; or None and why there is none."""
    if not shapes:
        return None, f"{_describe(block)} is not used in the forward pass"
    if any(len(shape) != 4 for shape in shapes):
        return None, f"{_describe(block)} is at a vector of shape {shapes[0]}, not at a map"
    counts = sorted({shape[1] for shape in shapes})
    if len(counts) > 1:
        return None, (f"{_describe(block)} is used at maps of different channel counts: "
                      f"{', '.join(map(str, counts))}")
    return counts[0], None


def _relu_calls(calls, places):
    """(place, how often) for each block whose own code calls ReLU as a function."""
    everything = mx.sym.Group(_flat(calls[-1][2]))
    # The operator relu has no attributes, and is known by the name that MXNet gives it.
    relus = {name for name in _nodes(everything) if re.search(r"relu\d+$", name)}
    relus |= {name for name, attrs in everything.attr_dict().items()
              if attrs.get("act_type") == "relu"}
    counts = Counter()
    for block, inputs, output in calls:    # inner ones come first
        made = relus & _nodes(output)
        made -= _nodes(inputs) if made else set()
        relus -= made
        if made and not _is_relu(block) and not _is_unit(block):
            counts[block] += len(made)
    return [(places[block], count) for block, count in counts.items()]


def _nodes(symbols):
    """Names of all operators' nodes in the graphs of some symbols."""
    symbols = [symbol for symbol in _flat(symbols) if isinstance(symbol, mx.sym.Symbol)]
    names = mx.sym.Group(symbols).get_internals().list_outputs() if symbols else ()
    return {name[:-len("_output")] for name in names if name.endswith("_output")}


def _flat(output):
    if isinstance(output, (list, tuple)):
        return [symbol for part in output for symbol in _flat(part)]
    return [output]
