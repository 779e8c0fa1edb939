#!/usr/bin/env python3
"""Compare finished runs, or train a grid of them: tables, curves, and one page with all of it.

    python compare.py --runs logs/* --baseline relu
    python compare.py --acts relu,ChaATAC --blocks 1,2,3 --seeds 0,1 -- --num-epochs 12
    python compare.py --grid studies/cifar10.json --finished --out reports/cifar10
"""
import argparse
import sys
from pathlib import Path

from common.arguments import Parser, list_of, names, natural, positive_int, replaced
from common.errors import UserError, run_script
from common.files import writing
from common.threads import set_threads
from reporting.page import check_png
from reporting.report import count, grid_axes, make_folder, make_report, warn


def group(text):
    """'NAME=PATTERN' -> (name, pattern)."""
    name, equals, pattern = text.partition("=")
    if not (name.strip() and equals and pattern):
        raise argparse.ArgumentTypeError("must be NAME=PATTERN, such as random=random-*, not "
                                         f"'{text}'")
    return name.strip(), pattern


def make_parser():
    parser = Parser(
        prog="compare.py", description=__doc__.splitlines()[0],
        epilog="What follows -- are options of train_cifar.py for all runs of a grid.")
    add = parser.add_argument
    add("--runs", nargs="+", metavar="DIR",
        help="folders of runs, such as logs/*; their params are found beside: ../params/<run>")
    add("--out", metavar="DIR",
        help="where everything is written (default: reports/compare, or reports/ and the name of "
             "the --grid)")
    add("--title", default="Comparison of runs", help="of the page")
    add("--baseline", metavar="NAME",
        help="also show the differences to this run's configuration, or to these units (relu), "
             "paired by seed")
    add("--group", type=group, action="append", metavar="NAME=PATTERN",
        help="count the runs whose name fits the pattern as seeds of one configuration of this "
             "name; may be repeated")
    add("--confusion", action="store_true",
        help="evaluate every run's best.params and show its confusion matrix")
    add("--data-dir", metavar="DIR",
        help="folder of the data for --confusion (default: the one of the run)")
    add("--gallery", nargs="+", metavar="FILE.png",
        help="pictures for the page, such as those of gradcam.py")
    grid = parser.add_argument_group(
        "grid", "Train every combination that is not finished yet, one run at a time, then "
                "compare them all. The runs bear the name of --out.")
    add = grid.add_argument
    add("--grid", metavar="FILE.json",
        help='{"options": {...}, "grids": [{"act_type": ["relu", ...], "seed": [0, 1]}, ...]}, '
             "with any options of train_cifar.py; may hold published figures to stand beside the "
             "runs, as studies/paper.json does")
    add("--acts", type=names, metavar="A,B", help="units of the activation slots")
    add("--blocks", type=list_of(positive_int), metavar="B,B", help="blocks per stage")
    add("--attentions", type=names, metavar="A,B",
        help="units of the attention slots; none stands for no unit")
    add("--seeds", type=list_of(natural), metavar="N,N", help="seeds (default: 0)")
    add("--finished", action="store_true",
        help="train nothing: compare what is finished of the grid")
    return parser


def main(argv=None):
    argv = sys.argv[1:] if argv is None else list(argv)
    cut = argv.index("--") if "--" in argv else len(argv)
    options, training = make_parser().parse_args(argv[:cut]), argv[cut + 1:]
    options = replaced(options,
                       out=options.out or f"reports/{Path(options.grid or 'compare').stem}")
    axes = grid_axes(options)
    if not (options.runs or options.grid or axes):
        raise UserError("nothing to compare: give --runs, or a grid (see --help)")
    if options.grid and axes:
        raise UserError("--grid says what to train: drop --acts, --blocks, --attentions, --seeds")
    if training and not (options.grid or axes):
        raise UserError("options after -- are those of a grid's runs, and there is no grid")
    if options.finished and not (options.grid or axes):
        raise UserError("--finished is of a grid: give --grid, or what it varies (see --help)")
    set_threads()

    from reporting.runs import load_runs

    gallery = [(Path(path).name, check_png(path)) for path in options.gallery or ()]
    code, folders, published = (train_grid(options, axes, training) if options.grid or axes
                                else (0, [], None))
    if code < 128:
        runs = load_runs([*(options.runs or []), *folders], warn)
        with writing(f"--out {options.out}"):
            make_report(options, runs, gallery, published)
    return code


def train_grid(options, axes, training):
    """Train a grid's runs; their exit code and folders, and what is published beside them."""
    from reporting.grid import check_baseline, make_cells, prepare, read_grid, train_cells
    from reporting.published import read_published

    out = make_folder(options.out)
    shared, grids, published = read_grid(options.grid) if options.grid else ({}, [axes], None)
    published = published and read_published(published, shared, options.grid)
    cells = make_cells(out.resolve().name, shared, grids)
    with writing(f"--out {out}"):
        prepare(cells, training, out / "cells")
    if options.baseline and not options.group:    # a group's name may be the baseline, too
        check_baseline(cells, options.baseline)
    if options.finished:
        return 0, finished_folders(cells), published
    code = train_cells(cells, training, lambda line: print(line, flush=True))
    return code, [cell.logs for cell in cells], published


def finished_folders(cells):
    """Folders of the finished cells; says how many are not."""
    folders = [cell.logs for cell in cells if cell.finished()]
    if not folders:
        raise UserError("no run of the grid is finished: drop --finished to train them")
    if len(folders) < len(cells):
        warn(f"{count(cells, 'run')} in the grid, {len(cells) - len(folders)} not finished")
    return folders


if __name__ == "__main__":
    run_script(main, result="files")
