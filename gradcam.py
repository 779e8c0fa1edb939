#!/usr/bin/env python3
"""Where do networks look? Heat maps side by side, gates, and how faithful the maps are.

    python gradcam.py --run demo --count 9 --gates --faithfulness 100
"""
import os
from pathlib import Path

from common.arguments import Parser, Scope, list_of, natural, positive_int
from common.errors import UserError, run_script
from common.files import writing
from common.tables import records_table
from common.threads import set_threads
from engines.devices import select_devices
from runs.options import add_cifar_network_options, datasets_help


def make_parser():
    parser = Parser(prog="gradcam.py", description=__doc__.splitlines()[0])
    add = parser.add_argument_group("networks").add_argument
    add("--params", nargs="+", default=[], metavar="FILE.params",
        help="parameter files; the JSON beside each describes its network and data")
    add("--run", nargs="+", default=[], metavar="NAME",
        help="runs of the training scripts: their best params")
    add("--save-dir", scope=Scope.MACHINE, default="params", metavar="DIR",
        help="where runs keep their params")
    add = parser.add_argument_group("images").add_argument
    add("--count", type=positive_int, metavar="N", help="the first N test images (default: 9)")
    add("--indices", type=list_of(natural), metavar="I,J",
        help="these test images, numbered from 0")
    add("--images", nargs="+", metavar="PATH",
        help="image files, or folders of them; a file in a folder with a class's name belongs "
             "to that class")
    add("--dataset", metavar="NAME",
        help=f"{datasets_help()} (default: the described one)")
    add("--data-dir", scope=Scope.MACHINE, metavar="DIR",
        help="folder of its official binary files")
    add("--data-url", scope=Scope.MACHINE, metavar="URL[#md5=SUM]",
        help="download the archive from here if the files are missing")
    add = parser.add_argument_group("heat maps").add_argument
    add("--method", choices=("grad-cam", "grad-cam++"), default="grad-cam", help="how")
    add("--layer", metavar="NAME",
        help="layer whose feature map is weighted (default: the last one before pooling)")
    add("--list-layers", action="store_true", help="name the layers of each network, and stop")
    add("--class", dest="label", metavar="NAME|I",
        help="class that the maps are about (default: the predicted one)")
    add = parser.add_argument_group("results").add_argument
    add("--output", default="gradcam.png", metavar="FILE.png",
        help="the gallery; other results get their names from it")
    add("--gates", type=positive_int, nargs="?", const=100, metavar="N",
        help="also draw what the units' gates do, counted over N test images (100 if no "
             "number is given)")
    add("--faithfulness", type=positive_int, metavar="N",
        help="also measure, for N test images, how fast the class is lost when the hottest "
             "places are blurred first, and when random ones are")
    add = parser.add_argument_group("device").add_argument
    add("--gpus", scope=Scope.MACHINE, metavar="I", help="GPU to use, by number ('' for the CPU)")
    add("--num-gpus", scope=Scope.HOW, type=natural, metavar="N",
        help="0 for the CPU (default: a GPU, if any)")
    network = add_cifar_network_options(parser, model=None)
    network.description = "Only for files without such a JSON."
    return parser


def main(argv=None):
    options = make_parser().parse_args(argv)
    output = Path(options.output)
    paths = [*options.params, *(Path(options.save_dir) / run / "best.params"
                                for run in options.run)]
    check(options, output, paths)
    set_threads()
    context = one_device(options)

    from explain import report
    from explain.networks import class_index, load_subjects

    subjects, load_data = load_subjects(paths, options, context)
    if options.list_layers:
        for subject in subjects:
            print(subject.name, *report.layer_lines(subject), sep="\n    ")
        return 0
    names = subjects[0].data["class_names"]
    label = None if options.label is None else class_index(options.label, names)
    pictures, more = get_pictures(options, subjects[0].data, load_data)
    with writing(output.parent):
        report.gallery(output, subjects, pictures, options.method, options.layer, label)
        print(f"gallery:      {output}")
        for subject in subjects if options.gates else ():
            part = f"-{subject.name.replace('/', '-')}" if len(subjects) > 1 else ""
            path = output.with_name(f"{output.stem}-gates{part}.png")
            rows = report.gates(path, path.with_suffix(".csv"), subject, pictures,
                                more(options.gates))
            print(f"gates:        {path}, {path.with_suffix('.csv').name}", records_table(rows),
                  sep="\n\n", end="\n\n")
        if options.faithfulness:
            path = output.with_name(f"{output.stem}-faithfulness.csv")
            rows = report.faithfulness(path, subjects, more(options.faithfulness),
                                       options.method, options.layer, label)
            print(f"faithfulness: {path}", records_table(rows), sep="\n\n")
    return 0


def check(options, output, paths):
    """Refuse what cannot work, before anything is computed."""
    if not paths:
        raise UserError("name the networks to look into with --params or --run")
    if options.images and options.indices:
        raise UserError("--images and --indices both choose the images: give one of them")
    if output.suffix.lower() != ".png":
        raise UserError(f"--output must end in .png: {output}")
    if not os.path.isdir(output.parent):
        raise UserError(f"there is no folder {output.parent} for --output")
    if os.path.isdir(output) or not os.access(output.parent, os.W_OK):
        raise UserError(f"--output: {output} cannot be written")
    if options.count and (options.images or options.indices):
        raise UserError("--count takes the first test images: it has no meaning with --images or "
                        "--indices")


def one_device(options):
    """The device to compute on."""
    devices = select_devices(options.gpus, options.num_gpus)
    if len(devices) > 1:
        raise UserError("one device looks into the networks: name one GPU with --gpus")
    from engines.gluon import to_contexts

    return to_contexts(devices)[0]


def get_pictures(options, data, load_data):
    """The pictures to draw, and ``more(n)``, which gives n images (n, 3, H, W) to measure."""
    import numpy as np

    from explain.images import dataset_pictures, file_pictures, image_files

    if options.images:
        pictures = file_pictures(image_files(options.images), data["image_size"],
                                 data["class_names"])
        return pictures, lambda n: np.stack([picture.pixels for picture in pictures[:n]])
    dataset = load_data()
    chosen = options.indices or range(min(options.count or 9, len(dataset.test)))
    return dataset_pictures(dataset, chosen), lambda n: dataset.test.images[:n]


if __name__ == "__main__":
    run_script(main)
