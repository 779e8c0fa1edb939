"""Finished runs as a folder of tables, figures and one page: what compare.py writes."""
import os
import sys
from pathlib import Path

from common.errors import UserError
from common.files import make_writable, write_text, writing
from common.tables import markdown_text

__all__ = ["count", "grid_axes", "make_folder", "make_report", "warn"]


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


def confusions(options, runs, out):
    """Pictures and CSV files of the confusion matrices; the page's part that shows them."""
    from engines.devices import select_devices
    from reporting.confusion import evaluate_run, most_confused, to_csv
    from reporting.figures import draw_confusion
    from reporting.page import picture

    devices, datasets, parts = select_devices(), {}, []
    for number, run in enumerate(runs):
        try:
            matrix, names = evaluate_run(run, options.data_dir, devices, datasets)
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
