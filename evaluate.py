#!/usr/bin/env python3
"""Score a parameter file, or an exported network, on a data set's test images.

    python evaluate.py --params params/demo/best.params
    python evaluate.py --onnx params/demo/best.onnx
    python evaluate.py --model cifar10-ChaATAC-b1 --pretrained
    python evaluate.py --list
    python evaluate.py --all-released
    python evaluate.py --dataset imagenet --use-rec --rec-val val.rec --params FILE.params \\
        --model resnet50_v1b --act-type ChaATAC
"""
from functools import partial

from common.arguments import Parser, Scope, positive_int, replaced
from common.errors import UserError, run_script
from common.tables import records_table
from common.threads import set_threads
from engines.predictor import Predictor
from runs import evaluation
from runs import options as shared
from runs.engines import settle_engine
from runs.trained import check_fits

_ROUNDING = 0.001    # of all images may be classified in another way by another processor


def make_parser():
    parser = Parser(prog="evaluate.py", description=__doc__.splitlines()[0])
    parser.add_argument("--params", metavar="FILE.params",
                        help="file to score; the JSON beside it describes its network and data")
    parser.add_argument("--pretrained", nargs="?", const="", metavar="NAME",
                        help="score released parameters, in place of --params: those of this "
                             "name, or those of --model, which may be such a name, or a network "
                             "with its options")
    parser.add_argument("--list", scope=Scope.INVOCATION, action="store_true",
                        help="name the released parameters, and stop")
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
    data, photos = shared.add_described_options(parser)
    data.add_argument("--batch-size", type=positive_int, default=128, metavar="N",
                      help="images per step")
    photos.add_argument("--crops", type=int, choices=(1, 10), default=1,
                        help="crops of each image, whose predictions are averaged")
    shared.add_device_options(parser)
    return parser


def main(argv=None):
    parser = make_parser()
    options = parser.parse_args(argv)
    if options.list:
        from runs.released import list_released

        print(records_table(list_released()))
        return 0
    set_threads()
    if (bool(options.params) + (options.pretrained is not None) + bool(options.onnx)
            + options.all_released) != 1:
        raise UserError("say what to score: either --params FILE or --pretrained NAME (see "
                        "--list), or --onnx FILE, or --all-released")
    if options.onnx:
        return score_onnx(options)
    if options.runtime != "onnxruntime":
        raise UserError("--runtime says what runs the file of --onnx, which is not given")
    options, devices = settle_engine(options)
    if options.all_released:
        return score_released(options, devices)
    options = evaluation.with_params(options)
    return evaluation.score_and_report(options, *evaluation.open_params(options, devices))


def score_onnx(options):
    """Score the file that --onnx names; return the exit code."""
    from exporting.opening import open_file

    if ((options.dtype, options.engine, options.mode) != ("float32", "auto", "hybrid")
            or options.gpus or options.num_gpus):
        raise UserError("--onnx runs on the CPU, in the file's own precision: --dtype, --engine, "
                        "--mode, --gpus and --num-gpus have no meaning for it")
    file = open_file(options.onnx, options.runtime)
    description = file.description or {"model": "unknown", "options": {},
                                       "dataset": {"image_size": file.image_size}}
    if not (options.dataset or "name" in description["dataset"]):
        raise UserError(f"{options.onnx} was not written by export.py: say what it was trained on "
                        "with --dataset")
    dataset, batches = evaluation.open_data(options, description)
    check_fits(options.onnx, description, file.outputs, dataset)
    if dataset.image_size != file.image_size:
        raise UserError(f"{options.onnx} takes images of {file.image_size} pixels a side; those "
                        f"of {dataset.name} have {dataset.image_size}")
    predictor = _OnnxPredictor(file, options.runtime, description["dataset"], dataset)
    return evaluation.score_and_report(options, predictor, description, dataset, batches)


class _OnnxPredictor(Predictor):
    """An ONNX file that predicts."""

    def __init__(self, file, runtime, source, dataset):
        from exporting.command import normalised
        from exporting.runtimes import RUNTIMES

        self._path, self._outputs = file.path, file.outputs
        self._run = RUNTIMES[runtime](file.content, file.input_name)
        self._normalize = (lambda images: images) if file.pixels else partial(
            normalised, description={"dataset": {"mean": dataset.mean, "std": dataset.std,
                                                 **source}})

    def _begin(self, images, number):
        try:
            logits = self._run(self._normalize(images))
        except Exception as error:  # the runtimes' errors have no type in common
            raise UserError(f"{self._path} fails on a batch of {len(images)}: {error}") from None
        if logits.shape != (len(images), self._outputs):
            raise UserError(f"{self._path} gives an output of the shape {logits.shape} for "
                            f"{len(images)} images")
        return logits

    def _end(self, result):
        return result.astype("float32")


def score_released(options, devices):
    """Score everything that is released; the exit code says whether all is as listed."""
    from reporting.table import released_table, to_markdown
    from runs.released import RELEASED

    found = []
    evaluation.check_csv(options)
    for released in choose_released(options, RELEASED):
        released.verify()
        own = replaced(options, params=str(released.path))
        predictor, description, dataset, batches = evaluation.open_params(own, devices)
        print(f"{released.name}: {dataset.description}")
        scores, seconds = evaluation.score(predictor, batches, options.crops)
        evaluation.append_scores(own, description, dataset, scores, seconds)
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


if __name__ == "__main__":
    run_script(main)
