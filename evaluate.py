#!/usr/bin/env python3
"""Score a parameter file on a data set's test images.

    python evaluate.py --params params/demo/best.params
"""
import math
import sys
import time

from data import DataError, list_datasets
from trained import find_description, load_network
from training.device import select_contexts, set_threads
from training.errors import UserError, run_script
from training.options import (
    Parser,
    add_cifar_network_options,
    add_device_options,
    positive_int,
)


def make_parser():
    parser = Parser(prog="evaluate.py", description=__doc__.splitlines()[0])
    parser.add_argument("--params", required=True, metavar="FILE.params",
                        help="file to score; the JSON beside it describes its network and data")
    network = add_cifar_network_options(parser, model=None)
    network.description = "Only for a file without such a JSON."
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", metavar="NAME",
                      help=f"one of {', '.join(list_datasets())} (default: the described one)")
    data.add_argument("--data-dir", metavar="DIR",
                      help="folder of the official binary files "
                           "(default: ~/.mxnet/datasets/<dataset>)")
    data.add_argument("--data-url", metavar="URL[#md5=SUM]",
                      help="download the archive from here if the files are missing")
    data.add_argument("--batch-size", type=positive_int, default=128, metavar="N",
                      help="images per step")
    add_device_options(parser)
    return parser


def main(argv=None):
    parser = make_parser()
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    set_threads()
    description = find_description(options.params, options)
    contexts = select_contexts(options.gpus, options.num_gpus)
    if options.dtype == "float16" and contexts[0].device_type == "cpu":
        raise UserError("--dtype float16 needs a GPU; use float32")

    from data import get_dataset

    dataset = get_dataset(options.dataset or description["dataset"]["name"], options.data_dir,
                          options.data_url)
    net = make_network(options, description, dataset, contexts)
    report(description, dataset, *score(options, net, description, dataset, contexts))
    return 0


def make_network(options, description, dataset, contexts):
    """The described network with the file's parameters, as the options want it run."""
    net = load_network(options.params, description, dataset.classes, contexts)
    if options.dtype != "float32":
        net.cast(options.dtype)
    if options.mode == "hybrid":
        net.hybridize(static_alloc=True, static_shape=True)
    return net


def score(options, net, description, dataset, contexts):
    """Scores on the test images, and the seconds that took."""
    from data.batches import Batches
    from training.fit import Normalize, evaluate
    from training.progress import Progress

    # The statistics of the training data belong to the network, not to what it is shown.
    source = description.get("dataset", {})
    normalize = Normalize(source.get("mean", dataset.mean), source.get("std", dataset.std),
                          options.dtype)
    batches = Batches(dataset.test, options.batch_size, train=False)
    progress = Progress("evaluating", len(batches))
    start = time.monotonic()
    scores = evaluate(net, batches, normalize, contexts, progress)
    progress.close()
    return scores, time.monotonic() - start


def interval(accuracy, count, z=1.96):
    """Wilson's 95 % interval of a share (E. B. Wilson, JASA 22, 1927)."""
    centre = (accuracy + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(
        accuracy * (1 - accuracy) / count + z * z / (4 * count * count))
    return centre - half, centre + half


def report(description, dataset, scores, seconds):
    low, high = interval(scores["accuracy"], scores["count"])
    print(dataset.description)
    print(f"top-1 accuracy {100 * scores['accuracy']:.2f} % "
          f"(95 % interval {100 * low:.2f} to {100 * high:.2f}), "
          f"top-1 error {100 * (1 - scores['accuracy']):.2f} %, "
          f"top-5 error {100 * (1 - scores['top5_accuracy']):.2f} %, "
          f"loss {scores['loss']:.4f}")
    print(f"{scores['count']:,} images, {scores['count'] / seconds:,.0f} images/s")
    if "figures" in description and dataset.name == description["dataset"]["name"]:
        print(f"the file's own record: after {description['epoch'] + 1} epochs, "
              f"{description['val_name']} accuracy "
              f"{100 * description['figures']['val_accuracy']:.2f} %")


if __name__ == "__main__":
    run_script(main, DataError)
