"""Parameters and multiply-adds of a network, layer by layer, and the paper's table.

    python -m tools.complexity --model resnet50_v1b --activation ChaATAC --format markdown
    python -m tools.complexity --model resnet_v2_cifar --set blocks=3 --input-size 32
    python -m tools.complexity --table

`graph.cost` tells what is counted.
"""
import argparse
import ast
import inspect
from collections import namedtuple
from functools import partial

from common.arguments import Parser, positive_int
from common.errors import UserError, run_script
from common.tables import markdown_table, text_table
from runs.options import add_cifar_network_options, add_v1b_options

__all__ = ["TableRow", "table_rows", "measure_table", "format_layers", "format_table", "main"]


# ---------------------------------------------------------------- the paper's table

TableRow = namedtuple("TableRow", "name build params gflops statistics note")
TableRow.__doc__ = """A row of the paper's ImageNet comparison (Dai et al., arXiv 2007.07729).

`build` makes the network; `params` and `gflops` are the published figures, in millions and
billions; `statistics` says whether the former count the running statistics.
"""

# The publications do not state their counting rule: these are the likely reasons.
_SUM = "about half: the published figure probably counts multiplications and additions apart"
_LOCAL = f"{_SUM}; its network also has an attention stem, this one a convolutional stem"
_STRIDE = "the published figure fits the stride in a stage's first 1x1 convolution, here in the 3x3"


def _ge_theta_plus(channels):
    from model.attention import get_attention

    # Stages of 256, 512, ... channels have maps of 56, 28, ... pixels a side.
    return get_attention("GE", channels, variant="theta+", size=224 * 64 // channels)


def table_rows():
    """The networks of the paper's table, ResNet-50 in both variants.

    Returns
    -------
    list of TableRow
    """
    from gluoncv.model_zoo import resnet50_v1

    from model.resnet_selfattention import aa_resnet50, fa_resnet50
    from model.resnet_v1b import resnet50_v1b, resnet50_v1b_atac

    se = partial(resnet50_v1b, attention="SE", attn_options={"use_bias": False})
    ge = partial(resnet50_v1b, attention=_ge_theta_plus)
    return [
        TableRow("ResNet-50 v1", resnet50_v1, 25.6, 3.86, False,
                 "GluonCV's 1x1 convolutions have biases"),
        TableRow("ResNet-50 v1b", resnet50_v1b, 25.6, 3.86, False, _STRIDE),
        TableRow("SE-ResNet-50", se, 28.1, 3.87, False, _STRIDE),
        TableRow("AA-ResNet-50", aa_resnet50, 25.8, 8.3, False, _SUM),
        TableRow("FA-ResNet-50", fa_resnet50, 18.0, 7.2, False, _LOCAL),
        TableRow("GE-theta+-ResNet-50", ge, 33.7, 3.87, False, _STRIDE),
        TableRow("ATAC-ResNet-50", resnet50_v1b_atac, 28.0, 4.4, True, ""),
    ]


def measure_table():
    """Count every row of the table, for an image of 224 x 224 pixels.

    Returns
    -------
    list of (TableRow, Complexity)
    """
    from graph.cost import count
    from graph.graph import trace

    return [(row, count(trace(row.build(), (3, 224, 224)))) for row in table_rows()]


# ---------------------------------------------------------------- text

_TABLES = {"text": text_table, "markdown": markdown_table}


def format_layers(complexity, style="text"):
    """The layer table of a `Complexity`, and its totals below."""
    header = ["<layer", "operator", "output", "parameters", "multiply-adds", "paper's rule"]
    rows = [[layer.name, layer.op, "x".join(map(str, layer.output_shape)),
             *(f"{value:,}" for value in layer[3:])] for layer in complexity.layers]
    return "\n".join([
        _TABLES[style](header, rows), "",
        f"parameters: {complexity.num_params:,} trained, "
        f"{complexity.num_params_with_statistics:,} with running statistics"
        f"{'' if style == 'text' else '  '}",
        f"GFLOPs: {complexity.multiply_adds / 1e9:.3f} (a multiply-add counted once), "
        f"{complexity.reference_flops / 1e9:.3f} (by the rule of the paper's code)"])


def format_table(measured, style="text"):
    """The paper's table beside what was measured, with a note for every row that differs."""
    header = ["<network", "params M", "with stat. M", "published M", "diff. %",
              "GFLOPs", "paper's rule", "published"]
    rows, notes = [], []
    for row, total in measured:
        params = total.num_params_with_statistics if row.statistics else total.num_params
        difference = 100 * (params / 1e6 / row.params - 1)
        rows.append([row.name, f"{total.num_params / 1e6:.2f}",
                     f"{total.num_params_with_statistics / 1e6:.2f}",
                     f"{row.params:.1f}{'*' if row.statistics else ''}", f"{difference:+.2f}",
                     f"{total.multiply_adds / 1e9:.2f}", f"{total.reference_flops / 1e9:.3f}",
                     f"{row.gflops:g}"])
        notes.extend(_row_notes(row, total, difference))
    mark = "- " if style == "markdown" else "  "
    return "\n".join([
        _TABLES[style](header, rows), "",
        "GFLOPs: billions of multiply-adds, each counted once, for one image. Paper's rule: see "
        "graph/cost.py.",
        "28.0*: the published figure counts the running statistics.",
        *([""] if notes else []), *(mark + note for note in notes)])


def _row_notes(row, total, difference):
    """Sentences on what does not meet the published figures: parameters by 1 %, FLOPs by 2 %."""
    if abs(difference) > 1:
        yield f"{row.name}: {difference:+.2f} % parameters: {row.note}."
    flops = 100 * (total.multiply_adds / 1e9 / row.gflops - 1)
    if abs(flops) > 2:
        yield f"{row.name}: {flops:+.1f} % FLOPs: {row.note}."


# ---------------------------------------------------------------- command line

def _assignment(text):
    """'key=value' -> (key, value), the value a Python literal where it is one."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, not '{text}'")
    try:
        return key, ast.literal_eval(value.capitalize() if value in ("true", "false") else value)
    except (ValueError, SyntaxError):
        return key, value


def parse_args(argv=None):
    """Options of the command line; raises UserError for unusable ones."""
    parser = Parser(
        prog="python -m tools.complexity",
        description="Parameters and multiply-adds of a network, layer by layer.")
    parser.add_argument("--table", action="store_true",
                        help="the paper's ImageNet comparison, rebuilt, in place of one network")
    parser.add_argument("--classes", type=positive_int, metavar="N",
                        help="number of classes (default: the network's own)")
    parser.add_argument("--input-size", type=positive_int, metavar="N",
                        help="side of the image in pixels (default: 32 for CIFAR networks, "
                             "else 224)")
    parser.add_argument("--format", choices=tuple(_TABLES), default="text",
                        help="how tables are written (default: text)")
    network = add_cifar_network_options(parser, model=None)
    add_v1b_options(network)
    network.add_argument("--activation", dest="act_type", metavar="NAME",
                         help="the same as --act-type")
    for name, whose in (("set", "network"), ("set-act", "activation unit"),
                        ("set-attn", "attention unit")):
        network.add_argument(f"--{name}", type=_assignment, action="append", default=[],
                             metavar="NAME=VALUE", help=f"any other option of the {whose}; "
                                                        "may be repeated")
    args = parser.parse_args(argv)
    if bool(args.model) == args.table:
        raise UserError("give either --model NAME or --table")
    if args.table and any(value not in (None, []) for name, value in vars(args).items()
                          if name not in ("table", "format")):
        raise UserError("--table is of fixed networks at 224 pixels: it takes --format only")
    return args


def _network(args):
    """The network that the command line asks for."""
    from model import get_model
    from runs.describe import describe

    options = describe(args)["options"]
    options.update(args.set)
    for name, of_unit in (("act_options", args.set_act), ("attn_options", args.set_attn)):
        if of_unit:
            options[name] = {**options.get(name, {}), **dict(of_unit)}
    return get_model(args.model, classes=args.classes, **options)


def _report(args):
    from graph.cost import count
    from graph.graph import trace
    from model.zoo import find_model

    if args.table:
        return format_table(measure_table(), args.format)
    classes = inspect.signature(find_model(args.model)[1]).parameters["classes"].default
    size = args.input_size or (32 if classes == 10 else 224)    # CIFAR's networks, ImageNet's
    return format_layers(count(trace(_network(args), (3, size, size))), args.format)


def main(argv=None):
    """Print what the command line asks for; returns the exit code."""
    args = parse_args(argv)
    try:
        print(_report(args))
    except TypeError as error:
        raise UserError(f"an option has a value of another kind than it takes: {error}") from None
    return 0


if __name__ == "__main__":
    run_script(main)
