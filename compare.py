#!/usr/bin/env python3
"""Compare finished runs: tables, curves, confusion matrices and one page with all of it.

    python compare.py --runs logs/* --baseline relu
"""
import sys
from pathlib import Path

from data import DataError
from training.device import set_threads
from training.errors import UserError, run_script
from training.files import replacing, write_text
from training.options import Parser


def group(text):
    """'NAME=PATTERN' -> (name, pattern)."""
    name, equals, pattern = text.partition("=")
    if not (name.strip() and equals and pattern):
        raise UserError(f"--group must be NAME=PATTERN, such as random=random-*, not '{text}' "
                        "(see --help)")
    return name.strip(), pattern


def make_parser():
    parser = Parser(prog="compare.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--runs", nargs="+", metavar="DIR",
        help="folders of runs, such as logs/*; their params are found beside: ../params/<run>")
    add("--out", default="reports/compare", metavar="DIR", help="where everything is written")
    add("--title", default="Comparison of runs", help="of the page")
    add("--baseline", metavar="NAME",
        help="also show the differences to this run's configuration, or to these units (relu), "
             "paired by seed")
    add("--group", type=group, action="append", default=[], metavar="NAME=PATTERN",
        help="count the runs whose name fits the pattern as seeds of one configuration of this "
             "name; may be repeated")
    add("--confusion", action="store_true",
        help="evaluate every run's best.params and show its confusion matrix")
    add("--data-dir", metavar="DIR",
        help="folder of the data for --confusion (default: the one of the run)")
    add("--gallery", nargs="+", default=[], metavar="FILE.png",
        help="pictures for the page, such as those of gradcam.py")
    return parser


def main(argv=None):
    options = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
    if not options.runs:
        raise UserError("nothing to compare: give --runs (see --help)")
    set_threads()

    from reporting.page import check_png
    from reporting.runs import load_runs

    gallery = [(Path(path).name, check_png(path)) for path in options.gallery]
    make_report(options, load_runs(options.runs, warn), gallery)
    return 0


def warn(line):
    print(line, file=sys.stderr)


def make_report(options, runs, gallery=(), more=()):
    """Write everything under --out, and show the tables."""
    from reporting import figures, table
    from reporting.page import make_page, picture, section, table_section
    from reporting.runs import configurations

    compared = configurations(runs, options.group, warn)
    tables = [table.configuration_table(compared)]
    if options.baseline:
        tables.append(table.difference_table(compared, options.baseline))
    tables.append(table.run_table(runs, compared))
    out = make_folder(options.out)
    recipe = table.common_recipe(runs)
    lead = f"{count(runs, 'run')} of {count(compared, 'configuration')}" + (
        f"; common to all: {recipe}." if recipe else ".")

    text = f"{lead}\n\n" + "\n".join(map(table.to_markdown, tables))
    write_text(out / "table.md", text)
    write_text(out / "runs.csv", table.run_csv(runs, compared))
    write_text(out / "configurations.csv", table.configuration_csv(compared))
    if options.baseline:
        write_text(out / "differences.csv", table.difference_csv(compared, options.baseline))
    figures.draw_curves(compared, out / "curves.png", table.val_name(runs))

    sections = [table_section(tables[0]), *more, *map(table_section, tables[1:-1]),
                section("Curves", picture(
                    (out / "curves.png").read_bytes(), "error and loss against the epoch",
                    "Lines are means over seeds, bands go from the smallest to the largest."))]
    if options.confusion:
        sections.append(section("Confusion", confusions(options, runs, out),
                                "Parameters of the best epoch, on the test images; percent of "
                                "the true class."))
    if gallery:
        sections.append(section("Gallery", "\n".join(
            picture(content, name, name) for name, content in gallery)))
    sections.append(table_section(tables[-1]))
    write_text(out / "index.html", make_page(options.title, lead, sections))
    print(text)
    print(f"tables:  {out / 'table.md'}, {out / 'runs.csv'}, {out / 'configurations.csv'}\n"
          f"curves:  {out / 'curves.png'}\npage:    {out / 'index.html'}")


def count(things, name):
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def make_folder(path):
    """The folder, made and found writable."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with replacing(path / ".writable") as temporary:
            temporary.touch()
        (path / ".writable").unlink()
    except OSError as error:
        raise UserError(f"cannot write to --out {path}: {error.strerror}") from None
    return path


def confusions(options, runs, out):
    """Pictures and CSV files of the confusion matrices; the page's part that shows them."""
    from reporting.confusion import evaluate_run, most_confused, to_csv
    from reporting.figures import draw_confusion
    from reporting.page import picture
    from training.device import select_contexts

    contexts, datasets, parts = select_contexts(None, None), {}, []
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
            f"{matrix.sum():,} images. Most confused (true taken for …): {pairs}.{doubt}"))
    return '<div class="grid">' + "\n".join(parts) + "</div>"


if __name__ == "__main__":
    run_script(main, DataError)
