"""Finished runs as a folder of tables, figures and one page: what compare.py writes."""
import os
import sys
from pathlib import Path

from common.errors import UserError
from common.files import make_writable, write_text, writing
from common.tables import markdown_text

from .page import make_page, picture, section, table_section

__all__ = ["count", "grid_axes", "make_folder", "make_report", "warn"]


def make_report(options, runs, gallery=(), published=None):
    """Write everything under --out, and show the tables."""
    from reporting import table
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

    *first, last = map(table_section, tables)
    parts = [*first, *figure_sections(out, compared, published, table.val_name(runs))]
    if options.confusion:
        parts.append(section("Confusion", confusions(options, runs, out),
                             "Parameters of the best epoch, on the test images; percent of the "
                             "true class."))
    if gallery:
        parts.append(section("Gallery", "\n".join(picture(content, name, name)
                                                  for name, content in gallery)))
    write_text(out / "index.html", make_page(options.title, lead, [*parts, last]))
    print(text)
    print(f"tables and figures: {out}\npage: {out / 'index.html'}")


def default_baseline(options, compared):
    """Of a grid that has ReLU beside other units, ReLU."""
    units = {each.units for each in compared}
    if (options.grid or grid_axes(options)) and "relu" in units and len(units) > 1:
        return "relu"
    return None


def figure_sections(out, compared, published, val_name):
    """Draw what there is to see of the configurations; yields the page's parts that show it."""
    from reporting import figures, table

    bars = "bars are one standard deviation each way"
    if published:
        figures.draw_sizes(table.size_series(compared), published, out / "sizes.png", val_name)
        yield figure_section("Accuracy and size", out / "sizes.png",
                             "accuracy against trained parameters",
                             f"Means over seeds; {bars}; hollow: published.")
    depths = table.depth_series(compared)
    if depths:
        figures.draw_depths(depths, out / "depths.png", val_name)
        yield figure_section("Accuracy and depth", out / "depths.png",
                             "accuracy against blocks per stage",
                             f"Means over seeds at the last epoch; {bars}.")
    figures.draw_curves(compared, out / "curves.png", val_name)
    yield figure_section("Curves", out / "curves.png", "error and loss against the epoch",
                         "Lines are means over seeds, bands go from the smallest to the largest.",
                         density=1.25)


def figure_section(title, path, alternative, caption, density=1.5):
    """The page's part that shows one figure."""
    return section(title, picture(path.read_bytes(), alternative, caption, density))


def confusions(options, runs, out):
    """Pictures and CSV files of the confusion matrices; the page's part that shows them."""
    from engines.devices import select_devices
    from reporting.confusion import evaluate_run, most_confused, to_csv
    from reporting.figures import draw_confusion

    devices, parts = select_devices(), []
    for number, run in enumerate(runs):
        try:
            matrix, names = evaluate_run(run, options.data_dir, devices)
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
        stated = run.accuracy("best")
        # Another data set under the same name, say; a rounding difference is a few images.
        doubt = "" if run.accuracy_is_of != "test" or abs(accuracy - stated) < 0.001 else (
            f" The run itself states {100 * stated:.2f} %: params or data are not what they were.")
        parts.append(picture(
            image.read_bytes(), f"confusion matrix of {run.name}",
            f"{run.name}: {run.units}; accuracy {100 * accuracy:.2f} % of "
            f"{matrix.sum():,} images. Most confused (true taken for …): {pairs}.{doubt}",
            density=1.5))
    return '<div class="grid">' + "\n".join(parts) + "</div>"


def grid_axes(options):
    """What the command line varies: option of train_cifar.py -> values."""
    attentions = options.attentions and [
        None if name.lower() == "none" else name for name in options.attentions]
    axes = {"act_type": options.acts, "blocks": options.blocks, "attention": attentions,
            "seed": options.seeds}
    return {key: values for key, values in axes.items() if values}


def count(things, name):
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def make_folder(path):
    """The folder, made and found writable."""
    path = Path(path)
    with writing(f"--out {path}"):
        if os.path.lexists(path / "config.json"):
            raise UserError(f"--out {path} is the folder of a run, whose figures would be "
                            "replaced: choose another")
        make_writable(path)
    return path


def warn(line):
    print(line, file=sys.stderr)
