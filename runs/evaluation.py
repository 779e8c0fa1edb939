"""Scoring parameter files, as evaluate.py and the exporter's check do it."""
import math
import time
from contextlib import closing

from common.arguments import replaced
from common.errors import UserError
from common.files import append_rows
from common.tables import csv_text
from data import list_datasets
from engines.workers import SingleWorker

from .trained import check_fits, count_outputs, find_description, load_network

__all__ = ["append_scores", "check_csv", "interval", "make_predictor", "open_data", "open_params",
           "report", "score", "score_and_report", "with_params"]

_COLUMNS = ("params", "model", "dataset", "images", "top1_error", "top1_low", "top1_high",
            "top5_error", "loss", "images_per_s", "crops", "input_size", "dtype")


def with_params(options):
    """The options, with --params where --pretrained stands for it."""
    if options.pretrained is None:
        return options
    return replaced(options, params=str(find_released(options).path))


def find_released(options):
    """The released parameters that the options name, verified."""
    from . import released
    from .describe import describe

    name = options.pretrained or options.model
    if not name:
        raise UserError("--pretrained needs a name, its own or that of --model")
    if options.pretrained or name.lower() in {each.name.lower() for each in released.RELEASED}:
        return released.released_by_name(name)
    return released.find_released(describe(options), (options.dataset or "cifar10").lower())


def open_params(options, devices):
    """What predicts with --params, its description, the data set and its test images' batches."""
    description = find_description(options.params, options)
    dataset, batches = open_data(options, description)
    return make_predictor(options, devices, description, dataset), description, dataset, batches


def open_data(options, description):
    """The data set and batches of its test images."""
    described = description.get("dataset", {})
    name = options.dataset or described["name"]
    # Photographs may have any name. Where nothing says that photographs are meant, an unknown
    # name is a slip, and `get_dataset` says so.
    photos_meant = (options.use_rec or name.lower() == "imagenet"
                    or name == described.get("name") or described.get("image_size", 32) != 32)
    if name.lower() in list_datasets() or not photos_meant:
        if options.crops != 1:
            raise UserError("--crops is for ImageNet-like data")
        from data import get_dataset
        from data.batches import Batches

        dataset = get_dataset(name, options.data_dir, options.data_url)
        return dataset, Batches(dataset.test, options.batch_size, train=False)
    from data.imagenet import validation_batches
    from data.photos import Decoding

    decoding = Decoding(options.input_size or described.get("image_size", 224),
                        options.crop_ratio, options.crops, workers=options.num_data_workers)
    return validation_batches(
        options.use_rec, options.data_dir or "~/.mxnet/datasets/imagenet", options.rec_val,
        options.rec_val_idx, options.batch_size, decoding, name, described.get("class_names"))


def make_predictor(options, devices, description, dataset):
    """The described network with the file's parameters, as the options want it run.

    Parameters
    ----------
    options : argparse.Namespace
    devices : tuple of str
    description : dict
    dataset
        Its statistics serve where the description has none.

    Returns
    -------
    engines.predictor.Predictor
    """
    from engines.gluon import to_contexts

    outputs = count_outputs(description) or dataset.outputs
    check_fits(options.params, description, outputs, dataset)
    # The statistics of the training data belong to the network, not to what it is shown.
    source = description.get("dataset") or {}
    statistics = source.get("mean", dataset.mean), source.get("std", dataset.std)
    shape = (options.batch_size, 3, dataset.image_size, dataset.image_size)
    contexts = to_contexts(("cpu",) if options.engine == "pytorch" else devices)
    net = load_network(options.params, description, outputs, contexts)
    if options.engine == "pytorch":
        from engines.pytorch import make_predictor

        return make_predictor(net, shape[1:], devices[0], options.dtype, *statistics)
    from engines.gluon import make_predictor

    return make_predictor(net, shape, contexts, options.dtype, *statistics,
                          compiled=options.mode == "hybrid")


class _Averaged:
    """A predictor that gives images of several crops the mean of the crops' predictions."""

    workers = SingleWorker()

    def __init__(self, predictor, crops):
        self._predictor, self._crops = predictor, crops

    def predict(self, images, batch_size):
        """Arrays (n, crops, 3, H, W) -> logarithms of the mean shares (n, classes)."""
        import numpy as np

        crops = (each.reshape(-1, *each.shape[2:]) for each in images)
        for logits in self._predictor.predict(crops, batch_size * self._crops):
            shares = np.exp(logits - logits.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
            mean = shares.reshape(-1, self._crops, shares.shape[1]).mean(axis=1)
            yield np.log(np.maximum(mean, 1e-37))


def score_and_report(options, predictor, description, dataset, batches):
    """Score a network and say how it did; returns the exit code."""
    check_csv(options)
    scores, seconds = score(predictor, batches, options.crops)
    report(description, dataset, scores, seconds)
    append_scores(options, description, dataset, scores, seconds)
    return 0


def score(predictor, batches, crops=1):
    """Scores on the test images, and the seconds that took; `crops` are of each image."""
    from common.progress import Progress
    from training.scores import evaluate

    predictor = _Averaged(predictor, crops) if crops > 1 else predictor
    start = time.monotonic()
    with closing(Progress("evaluating", len(batches))) as progress:
        scores = evaluate(predictor, batches, progress)
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


def check_csv(options):
    """Raise UserError if --csv cannot be appended to: not after all that is to be scored."""
    if options.csv:
        append_rows(options.csv, ",".join(_COLUMNS), "", "--csv")


def append_scores(options, description, dataset, scores, seconds):
    """Append the scores to --csv, if it is given; others may be appending, too."""
    if options.csv:
        low, high = interval(1 - scores["accuracy"], scores["count"])
        append_rows(options.csv, ",".join(_COLUMNS), csv_text([
            options.onnx or options.params, description["model"], dataset.name, scores["count"],
            1 - scores["accuracy"], low, high, 1 - scores["top5_accuracy"], scores["loss"],
            scores["count"] / seconds, options.crops, dataset.image_size, options.dtype]), "--csv")
