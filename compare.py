#!/usr/bin/env python3
"""Compare finished runs, or train a grid of them: tables, curves, and one page with all of it.

    python compare.py --runs logs/* --baseline relu
    python compare.py --acts relu,ChaATAC --blocks 1,2,3 --seeds 0,1 -- --num-epochs 12
    python compare.py --grid studies/cifar10.json --finished --out reports/cifar10
"""
import argparse
import contextlib
import os
import sys
from pathlib import Path

from common.arguments import Parser, names, natural, positive_int
from common.errors import UserError, run_script
from common.files import reason, write_text
from common.screen import printable
from common.tables import markdown_text
from common.threads import set_threads
from data import DataError


def group(text):
    """'NAME=PATTERN' -> (name, pattern)."""
    name, equals, pattern = text.partition("=")
    if not (name.strip() and equals and pattern):
        raise argparse.ArgumentTypeError("must be NAME=PATTERN, such as random=random-*, not "
                                         f"'{text}'")
    return name.strip(), pattern


def list_of(convert):
    """A type of option: values separated by commas."""
    return lambda text: [convert(part) for part in names(text)]


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
    options.out = options.out or f"reports/{Path(options.grid or 'compare').stem}"
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

    from reporting.page import check_png
    from reporting.runs import load_runs

    gallery = [(Path(path).name, check_png(path)) for path in options.gallery or ()]
    code, folders, published = (train_grid(options, axes, training) if options.grid or axes
                                else (0, [], None))
    if code < 128:
        runs = load_runs([*(options.runs or []), *folders], warn)
        with writing(options.out):
            make_report(options, runs, gallery, published)
    return code


def grid_axes(options):
    """What the command line varies: option of train_cifar.py -> values."""
    attentions = options.attentions and [
        None if name.lower() == "none" else name for name in options.attentions]
    axes = {"act_type": options.acts, "blocks": options.blocks, "attention": attentions,
            "seed": options.seeds}
    return {key: values for key, values in axes.items() if values}


def train_grid(options, axes, training):
    """Train a grid's runs; their exit code and folders, and what is published beside them."""
    from reporting.grid import check_baseline, make_cells, prepare, read_grid, train_cells
    from reporting.published import read_published

    out = make_folder(options.out)
    shared, grids, published = read_grid(options.grid) if options.grid else ({}, [axes], None)
    published = published and read_published(published, shared, options.grid)
    cells = make_cells(out.resolve().name, shared, grids)
    with writing(out):
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


def warn(line):
    print(line, file=sys.stderr)


def make_report(options, runs, gallery=(), published=None):
    """Write everything under --out, and show the tables."""
    from reporting import table
    from reporting.page import make_page, table_section
    from reporting.runs import configurations

    compared = configurations(runs, options.group or (), warn)
    baseline = options.baseline or default_baseline(options, compared)
    tables = [table.configuration_table(compared), table.run_table(runs, compared)]
    if baseline:
        tables.insert(1, table.difference_table(compared, baseline))
    if published:
        tables.insert(0, table.published_table(compared, published))
    recipe = table.common_recipe(runs)
    lead = f"{count(runs, 'run')} of {count(compared, 'configuration')}" + (
        f"; common to all: {recipe}." if recipe else ".")
    text = f"{markdown_text(lead)}\n\n" + "\n".join(map(table.to_markdown, tables))

    out = make_folder(options.out)
    write_text(out / "table.md", text)
    write_text(out / "runs.csv", table.run_csv(runs, compared))
    write_text(out / "configurations.csv", table.configuration_csv(compared))
    if baseline:
        write_text(out / "differences.csv", table.difference_csv(compared, baseline))
    drawn = draw_figures(out, compared, published, table.val_name(runs))

    *first, last = map(table_section, tables)
    write_text(out / "index.html", make_page(options.title, lead, [
        *first, *picture_sections(options, runs, out, drawn, gallery), last]))
    print(text)
    print(f"tables and figures: {out}\npage: {out / 'index.html'}")


def draw_figures(out, compared, published, val_name):
    """Draw what there is to see of the configurations; the names of the files."""
    from reporting import figures, table

    figures.draw_curves(compared, out / "curves.png", val_name)
    drawn = ["curves.png"]
    depths = table.depth_series(compared)
    if depths:
        figures.draw_depths(depths, out / "depths.png", val_name)
        drawn.append("depths.png")
    if published:
        figures.draw_sizes(table.size_series(compared), published, out / "sizes.png", val_name)
        drawn.append("sizes.png")
    return drawn


def default_baseline(options, compared):
    """Of a grid that has ReLU beside other units, ReLU."""
    units = {each.units for each in compared}
    if (options.grid or grid_axes(options)) and "relu" in units and len(units) > 1:
        return "relu"
    return None


def picture_sections(options, runs, out, drawn, gallery):
    """The page's parts between the tables."""
    from reporting.page import picture, section

    if "sizes.png" in drawn:
        yield section("Accuracy and size", picture(
            (out / "sizes.png").read_bytes(), "accuracy against trained parameters",
            "Means over seeds; bars are one standard deviation each way; hollow: published.",
            density=1.5))
    if "depths.png" in drawn:
        yield section("Accuracy and depth", picture(
            (out / "depths.png").read_bytes(), "accuracy against blocks per stage",
            "Means over seeds at the last epoch; bars are one standard deviation each way.",
            density=1.5))
    yield section("Curves", picture(
        (out / "curves.png").read_bytes(), "error and loss against the epoch",
        "Lines are means over seeds, bands go from the smallest to the largest.",
        density=1.25))
    if options.confusion:
        yield section("Confusion", confusions(options, runs, out),
                      "Parameters of the best epoch, on the test images; percent of the true "
                      "class.")
    if gallery:
        yield section("Gallery", "\n".join(picture(content, name, name)
                                           for name, content in gallery))


def count(things, name):
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def make_folder(path):
    """The folder, made and found writable."""
    path = Path(path)
    with writing(path):
        if os.path.lexists(path / "config.json"):
            raise UserError(f"--out {path} is the folder of a run, whose figures would be "
                            "replaced: choose another")
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.touch(exist_ok=False)
        probe.unlink()
    return path


@contextlib.contextmanager
def writing(out):
    """Raise UserError if the block cannot write: a full disk, say."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to --out {printable(out)}: {reason(error)}") from None


def confusions(options, runs, out):
    """Pictures and CSV files of the confusion matrices; the page's part that shows them."""
    from engines.devices import select_devices
    from engines.gluon import to_contexts
    from reporting.confusion import evaluate_run, most_confused, to_csv
    from reporting.figures import draw_confusion
    from reporting.page import picture

    contexts, datasets, parts = to_contexts(select_devices()), {}, []
    for number, run in enumerate(runs):
        try:
            matrix, names = evaluate_run(run, options.data_dir, contexts, datasets)
        except UserError as error:
            warn(f"skipped: {error}")
            continue
        stem = out / f"confusion-{number:02d}-{run.folder.name}"
        image = stem.with_name(stem.name + ".png")
        write_text(stem.with_name(stem.name + ".csv"), to_csv(matrix, names))
        draw_confusion(matrix, names, image)
        pairs = ", ".join(f"{true} for {predicted} {100 * share:.1f} %"
                          for true, predicted, share in most_confused(matrix, names))
        accuracy = matrix.trace() / matrix.sum()
        stated = run.test.get("best", run.best["val_accuracy"])
        # Another data set under the same name, say; a rounding difference is a few images.
        doubt = "" if abs(accuracy - stated) < 0.001 else (
            f" The run itself states {100 * stated:.2f} %: params or data are not what they were.")
        parts.append(picture(
            image.read_bytes(), f"confusion matrix of {run.name}",
            f"{run.name}: {run.units}; accuracy {100 * accuracy:.2f} % of "
            f"{matrix.sum():,} images. Most confused (true taken for …): {pairs}.{doubt}",
            density=1.5))
    return '<div class="grid">' + "\n".join(parts) + "</div>"


if __name__ == "__main__":
    run_script(main, DataError, result="files")
