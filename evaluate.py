#!/usr/bin/env python3
"""Score a parameter file, or an exported network, on a data set's test images.

    python evaluate.py --params params/demo/best.params
    python evaluate.py --onnx params/demo/best.onnx
    python evaluate.py --model cifar10-ChaATAC-b1 --pretrained
    python evaluate.py --all-released
    python evaluate.py --dataset imagenet --use-rec --rec-val val.rec --params FILE.params \\
        --model resnet50_v1b --act-type ChaATAC
"""
import csv
import io
import math
import sys
import time

from common.arguments import Parser, positive_int
from common.errors import UserError, run_script
from common.files import append_rows
from common.tables import csv_cell
from common.threads import set_threads
from data import DataError, list_datasets
from engines.devices import select_devices
from runs.description import check_fits, count_outputs, find_description, load_network
from runs.options import (
    add_cifar_network_options,
    add_described_data_options,
    add_device_options,
    add_image_options,
    add_v1b_options,
)

_COLUMNS = ("params", "model", "dataset", "images", "top1_error", "top1_low", "top1_high",
            "top5_error", "loss", "images_per_s", "crops", "input_size", "dtype")

_ROUNDING = 0.001    # of all images may be classified in another way by another processor


def make_parser():
    parser = Parser(prog="evaluate.py", description=__doc__.splitlines()[0])
    parser.add_argument("--params", metavar="FILE.params",
                        help="file to score; the JSON beside it describes its network and data")
    parser.add_argument("--pretrained", nargs="?", const="", metavar="NAME",
                        help="score released parameters, in place of --params: those of this "
                             "name, or those of --model, which may be such a name, or a network "
                             "with its options")
    parser.add_argument("--all-released", action="store_true",
                        help="score all released parameters (with --dataset, those of that data "
                             "set) and show them beside what they are listed with; exit code 1 if "
                             "any differs")
    parser.add_argument("--onnx", metavar="FILE.onnx",
                        help="score an exported network, in place of --params; of a file that "
                             "export.py did not write, --dataset says what it was trained on")
    parser.add_argument("--runtime", choices=("onnxruntime", "openvino"), default="onnxruntime",
                        help="what runs it")
    parser.add_argument("--csv", metavar="FILE.csv", help="append the scores to this table")
    network = add_cifar_network_options(parser, model=None)
    network.description = "Only for a file without such a JSON."
    add_v1b_options(network)
    add_described_data_options(parser, list_datasets()).add_argument(
        "--batch-size", type=positive_int, default=128, metavar="N", help="images per step")
    add_image_options(parser, train=False).add_argument(
        "--crops", type=int, choices=(1, 10), default=1,
        help="crops of each image, whose predictions are averaged")
    add_device_options(parser)
    return parser


def main(argv=None):
    parser = make_parser()
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    set_threads()
    if (bool(options.params) + (options.pretrained is not None) + bool(options.onnx)
            + options.all_released) != 1:
        raise UserError("say what to score: either --params FILE or --pretrained NAME, or --onnx "
                        "FILE, or --all-released")
    if options.onnx:
        return score_onnx(options)
    devices = select_devices(options.gpus, options.num_gpus)
    if options.dtype == "float16" and devices[0] == "cpu":
        raise UserError("--dtype float16 needs a GPU; use float32")
    from engines.gluon import to_contexts

    contexts = to_contexts(devices)
    if options.all_released:
        return score_released(options, contexts)
    return score_and_report(options, *open_params(options, contexts), contexts)


def open_params(options, contexts):
    """The network of --params, its description, the data set and batches of its test images."""
    description = find_params(options)
    dataset, batches = open_data(options, description)
    return make_network(options, description, dataset, contexts), description, dataset, batches


def score_onnx(options):
    """Score the file that --onnx names; return the exit code."""
    from exporting.opening import open_file

    if options.dtype != "float32" or options.gpus or options.num_gpus:
        raise UserError("--onnx runs on the CPU, in the file's own precision: --dtype, --gpus and "
                        "--num-gpus have no meaning for it")
    file = open_file(options.onnx, options.runtime)
    description = file.description or {"model": "unknown", "options": {},
                                       "dataset": {"image_size": file.image_size}}
    if not (options.dataset or "name" in description["dataset"]):
        raise UserError(f"{options.onnx} was not written by export.py: say what it was trained on "
                        "with --dataset")
    dataset, batches = open_data(options, description)
    check_fits(options.onnx, description, file.outputs, dataset)
    if dataset.image_size != file.image_size:
        raise UserError(f"{options.onnx} takes images of {file.image_size} pixels a side; those "
                        f"of {dataset.name} have {dataset.image_size}")
    from engines.gluon import to_contexts

    net = _OnnxNetwork(file, options.runtime)
    return score_and_report(options, net, description, dataset, batches, to_contexts(["cpu"]))


class _OnnxNetwork:
    """An ONNX file as a network: (N, 3, H, W) NDArray -> logits (N, outputs)."""

    def __init__(self, file, runtime):
        from exporting.runtimes import RUNTIMES

        self.takes_pixels = file.pixels
        self._path, self._outputs = file.path, file.outputs
        self._run = RUNTIMES[runtime](file.content, file.input_name)

    def __call__(self, x):
        from mxnet import nd

        try:
            logits = self._run(x.asnumpy())
        except Exception as error:  # the runtimes' errors have no type in common
            raise UserError(f"{self._path} fails on a batch of {len(x)}: {error}") from None
        if logits.shape != (len(x), self._outputs):
            raise UserError(f"{self._path} gives an output of the shape {logits.shape} for "
                            f"{len(x)} images")
        return nd.array(logits, dtype="float32")


def score_and_report(options, net, description, dataset, batches, contexts):
    """Score a network and say how it did; returns the exit code."""
    check_csv(options)
    scores, seconds = score(options, net, description, dataset, batches, contexts)
    report(description, dataset, scores, seconds)
    if options.csv:
        append_row(options.csv, table_row(options, description, dataset, scores, seconds))
    return 0


def find_params(options):
    """Description of the file that --params or --pretrained names; its path is in `options`."""
    if options.pretrained is not None:
        options.params = str(find_released(options).path)
    return find_description(options.params, options)


def find_released(options):
    """The released parameters that the options name, verified."""
    from runs import released
    from runs.describe import describe

    name = options.pretrained or options.model
    if not name:
        raise UserError("--pretrained needs a name, its own or that of --model")
    try:
        if options.pretrained or name.lower() in {
                each.name.lower() for each in released.RELEASED}:
            return released.released_by_name(name)
        return released.find_released(describe(options), options.dataset or "cifar10")
    except ValueError as error:
        raise UserError(str(error)) from None


def score_released(options, contexts):
    """Score everything that is released; the exit code says whether all is as listed."""
    from reporting.table import released_table, to_markdown
    from runs.released import RELEASED, verify_file

    found = []
    check_csv(options)
    for released in choose_released(options, RELEASED):
        try:
            verify_file(released.path, released)
        except ValueError as error:
            raise UserError(str(error)) from None
        options.params = str(released.path)
        net, description, dataset, batches = open_params(options, contexts)
        print(f"{released.name}: {dataset.description}")
        scores, seconds = score(options, net, description, dataset, batches, contexts)
        if options.csv:
            append_row(options.csv, table_row(options, description, dataset, scores, seconds))
        found.append((released, description, scores))
    print("\n" + to_markdown(released_table(found)))
    return int(any(differs(released, scores) for released, _, scores in found))


def choose_released(options, released):
    """Those of the data set that --dataset names, or all."""
    if options.model:
        raise UserError("--all-released takes every network: drop --model")
    chosen = [each for each in released
              if not options.dataset or each.dataset == options.dataset.lower()]
    datasets = sorted({each.dataset for each in chosen})
    if not chosen:
        known = ", ".join(sorted({each.dataset for each in released}))
        raise UserError(f"nothing that was trained on {options.dataset} is released; there are "
                        f"networks for {known}")
    if len(datasets) > 1 and (options.data_dir or options.data_url):
        raise UserError("--data-dir and --data-url are of one data set, and there are networks for "
                        f"{' and '.join(datasets)}: choose with --dataset")
    return chosen


def differs(released, scores):
    """Whether a score is not the listed one; another processor may round another way."""
    listed = released.figures["val_accuracy"]
    return abs(scores["accuracy"] - listed) > _ROUNDING


def open_data(options, description):
    """The data set and batches of its test images."""
    try:
        return _open_data(options, description.get("dataset", {}))
    except ValueError as error:
        raise UserError(str(error)) from None


def _open_data(options, described):
    name = options.dataset or described["name"]
    photos = (options.use_rec or name.lower() == "imagenet" or name == described.get("name")
              or described.get("image_size", 32) != 32)
    if name.lower() in list_datasets() or not photos:
        if options.crops != 1:
            raise UserError("--crops is for ImageNet-like data")
        from data import get_dataset
        from data.batches import Batches

        dataset = get_dataset(name, options.data_dir, options.data_url)
        return dataset, Batches(dataset.test, options.batch_size, train=False)
    from data.imagenet import validation_batches

    return validation_batches(
        options.use_rec, options.data_dir or "~/.mxnet/datasets/imagenet", options.rec_val,
        options.rec_val_idx, options.batch_size,
        options.input_size or described.get("image_size", 224), options.crop_ratio,
        options.crops, options.num_data_workers, name, described.get("class_names"))


def make_network(options, description, dataset, contexts):
    """The described network with the file's parameters, as the options want it run."""
    from graph.fast_cpu import hybridize

    outputs = count_outputs(description) or dataset.outputs
    check_fits(options.params, description, outputs, dataset)
    net = load_network(options.params, description, outputs, contexts)
    if options.dtype != "float32":
        net.cast(options.dtype)
    if options.mode == "hybrid":
        size = dataset.image_size
        hybridize(net, (options.batch_size, 3, size, size), contexts, options.dtype)
    return net


class _Averaged:
    """A network that gives images of several crops the mean of the crops' predictions."""

    def __init__(self, net, crops):
        self.net, self.crops = net, crops

    def __call__(self, x):
        """(N * crops, 3, H, W) -> logarithms of the mean shares (N, classes)."""
        shares = self.net(x).astype("float32").softmax()
        return shares.reshape((-1, self.crops, shares.shape[1])).mean(axis=1).clip(1e-37, 1).log()


def score(options, net, description, dataset, batches, contexts):
    """Scores on the test images, and the seconds that took."""
    from common.progress import Progress
    from engines.gluon import Normalize, Predictor
    from training.scores import evaluate

    # The statistics of the training data belong to the network, not to what it is shown.
    source = description.get("dataset", {})
    normalize = Normalize(source.get("mean", dataset.mean), source.get("std", dataset.std),
                          options.dtype)
    if getattr(net, "takes_pixels", False):
        normalize = as_pixels
    prepare = normalize
    if options.crops > 1:
        net = _Averaged(net, options.crops)

        def prepare(images, ctx):
            return normalize(images.reshape((-1, *images.shape[2:])), ctx)
    progress = Progress("evaluating", len(batches))
    start = time.monotonic()
    scores = evaluate(Predictor(net, prepare, contexts), batches, progress)
    progress.close()
    return scores, time.monotonic() - start


def as_pixels(images, ctx):
    """(N, 3, H, W) uint8 on the host -> the same on `ctx`, for a file that normalises."""
    from mxnet import nd

    return nd.array(images, ctx=ctx, dtype="uint8")


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


def table_row(options, description, dataset, scores, seconds):
    """The scores as a row of --csv."""
    low, high = interval(1 - scores["accuracy"], scores["count"])
    return dict(zip(_COLUMNS, (
        options.onnx or options.params, description["model"], dataset.name, scores["count"],
        1 - scores["accuracy"], low, high, 1 - scores["top5_accuracy"], scores["loss"],
        scores["count"] / seconds, options.crops, dataset.image_size, options.dtype)))


def check_csv(options):
    """Raise UserError if --csv cannot be appended to: not after all that is to be scored."""
    if options.csv:
        append_rows(options.csv, ",".join(_COLUMNS), "", "--csv")


def append_row(path, row):
    """Append to a CSV file, to which others may be appending, too."""
    text = io.StringIO()
    csv.DictWriter(text, _COLUMNS, lineterminator="\n").writerow(
        {column: csv_cell(value) for column, value in row.items()})
    append_rows(path, ",".join(_COLUMNS), text.getvalue(), "--csv")


if __name__ == "__main__":
    run_script(main, DataError)
