#!/usr/bin/env python3
"""Train one network on ImageNet, or on data like it: RecordIO files or folders of images.

    python train_imagenet.py --use-rec --rec-train train.rec --rec-val val.rec \\
        --act-type ChaATAC --r 2 --act-layers 2 --dtype float16 --num-gpus 2 \\
        --warmup-epochs 5 --last-gamma --no-wd --label-smoothing

is the recipe of "Attention as Activation" (arXiv 2007.07729) for ATAC-ResNet-50.
"""
import argparse
import os
import sys

from common.errors import UserError, run_script
from data.dataset import DataError
from machines.client import join, leave
from training.device import set_threads
from training.options import (
    Parser,
    add_device_options,
    add_image_options,
    add_network_options,
    add_run_options,
    add_training_options,
    add_v1b_options,
    add_worker_options,
    fraction,
    natural,
    positive_float,
)


def make_parser():
    parser = Parser(prog="train_imagenet.py", description=__doc__.splitlines()[0])
    _add_network(parser)
    add_image_options(parser)
    group = add_training_options(parser, num_epochs=160, batch_size=128, lr=0.075,
                                 lr_mode="cosine")
    group.add_argument("--mixup-alpha", type=positive_float, metavar="ALPHA",
                       help="Beta parameter of --mixup (default: 0.2)")
    group.add_argument("--teacher", metavar="NAME",
                       help="learn from this network, too: one of this project or of GluonCV")
    group.add_argument("--teacher-params", metavar="FILE",
                       help="the teacher's parameters (default: GluonCV's released ones)")
    group.add_argument("--temperature", type=positive_float, default=20.0, metavar="T",
                       help="divides the logits of both networks")
    group.add_argument("--hard-weight", type=fraction, default=0.5, metavar="W",
                       help="share of the true labels in the loss")
    add_worker_options(add_device_options(parser))
    add_run_options(parser, save_period=10)
    parser.set_defaults(log_interval=50)
    _add_authors_names(parser)
    return parser


def _add_network(parser):
    group = add_network_options(parser, "resnet50_v1b", "how many of the four stages get the "
                                                        "unit (default: 2)")
    add_v1b_options(group)
    group.add_argument(
        "--pretrained", "--use-pretrained", action="store_true",
        help="start from released parameters of this network")


class _Sets(argparse.Action):
    """A flag that stands for another option with a value."""

    def __init__(self, option_strings, dest, sets, help):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS,
                         help=help)
        self.sets = sets

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, *self.sets)


class _Refused(argparse.Action):
    """A flag that is refused with the reason, unless its value is the authors' default."""

    def __init__(self, option_strings, dest, reason):
        super().__init__(option_strings, argparse.SUPPRESS, nargs="?", const="given",
                         default=argparse.SUPPRESS, metavar="X", help="refused, with the reason")
        self.reason = reason

    def __call__(self, parser, namespace, values, option_string=None):
        if values not in ("", "0"):
            parser.error(f"{option_string} is not taken: {self.reason}")


def _add_authors_names(parser):
    """Flags of the authors' script, of which some did nothing there or resumed by halves."""
    add = parser.add_argument_group("the authors' names").add_argument
    add("--use_se", action=_Sets, sets=("attention", "SE"), help="the same as --attention SE")
    add("--use-gn", action=_Sets, sets=("norm_layer", "GroupNorm"),
        help="the same as --norm-layer GroupNorm")
    add("--save-frequency", type=natural, dest="save_period", metavar="N",
        default=parser.get_default("save_period"), help="the same as --save-period")
    add("--batch-norm", action=_Refused, reason="it was for VGG networks, which this script does "
        "not train; ResNets have batch normalisation")
    add("--resume-epoch", action=_Refused, reason="a run is resumed as a whole, with weights, "
        "momentum and epoch, by --resume")
    add("--resume-states", action=_Refused, reason="MXNet's .states files are pickles, which may "
        "run anything; --resume goes on with a run, --resume-params starts from weights")


def check(options):
    """Raise UserError for options that contradict each other."""
    if options.mixup_alpha and not options.mixup:
        raise UserError("--mixup-alpha has no meaning without --mixup")
    if options.teacher_params and not options.teacher:
        raise UserError("--teacher-params has no meaning without --teacher")
    if options.final_drop and options.drop_rate:
        raise UserError("--final-drop and --drop-rate are the same: give one")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    options = parser.parse_args(argv)
    if options.pretrained and options.resume_from:
        raise UserError("--pretrained and --resume-from both say where to start: give one")
    set_threads(takes_part=True)
    join(options.join_timeout)

    # What follows needs MXNet; a wrong option or --help has been answered by now.
    from model.zoo import build
    from runs.weights import load_weights
    from training.session import Recipe, train

    return train(parser, argv, Recipe(
        describe, build, load_weights, make_batches, milestones=(40, 60), epochs=80,
        make_objective=make_objective, style="imagenet"))


def describe(options):
    """The network that the options ask for, and where its weights come from."""
    from runs.describe import describe as describe_network
    from runs.released import find_released

    check(options)
    if options.act_type is None and options.model.lower().endswith("_v1b"):
        options.act_type = "ChaATAC"
    if options.drop_rate:
        options.final_drop, options.drop_rate = options.drop_rate, None
    description = describe_network(options)
    if options.pretrained:
        options.resume_from = str(find_released(description, options.dataset).path)
    return description


def make_batches(options, batch_size, shard):
    """The data and this worker's batches: (data, training, validation, None)."""
    from data.imagenet import open_imagenet

    dataset, train, val = open_imagenet(
        options.dataset, options.use_rec, options.data_dir, options.rec_train,
        options.rec_train_idx, options.rec_val, options.rec_val_idx, batch_size,
        options.input_size, options.crop_ratio, options.seed, shard, options.num_data_workers)
    if shard[1] > 1:
        val.photos = Part(val.photos, *shard)
    return dataset, train, val, None


class Part:
    """One of several parts of a set of photographs: a worker's, in validation.

    Parameters
    ----------
    photos : data.photos.FolderPhotos or data.imagenet.RecordFile
    index, count : int
        Which part, of how many.
    """

    def __init__(self, photos, index, count):
        self._photos = photos
        self._start, self._stop = (len(photos) * k // count for k in (index, index + 1))

    def __len__(self):
        return self._stop - self._start

    def read(self, number):
        """Bytes and label of the part's photograph `number`."""
        return self._photos.read(self._start + number)

    def name(self, number):
        """That photograph for people."""
        return self._photos.name(self._start + number)


def make_objective(options, classes, contexts):
    """Cross-entropy, softened as the options say, and with a teacher if there is one."""
    from training.objective import Distillation, Objective

    settings = {
        "label_smoothing": options.label_smoothing, "cutmix_alpha": options.cutmix,
        "mixup_alpha": (options.mixup_alpha or options.mixup) if options.mixup else 0,
        "mix_epochs": max(options.num_epochs - options.mixup_off_epoch, 0)}
    if not options.teacher:
        return Objective(classes, **settings)
    return Distillation(classes, load_teacher(options, classes, contexts), options.temperature,
                        options.hard_weight, **settings)


def load_teacher(options, classes, contexts):
    """The teacher: described by the JSON beside its file, else by its name alone."""
    from mxnet import nd

    from graph.fast_cpu import hybridize
    from model.zoo import MODELS
    from runs.weights import load_weights
    from trained import load_network, read_description

    path = options.teacher_params
    description = {"model": options.teacher, "options": {}}
    beside = os.path.splitext(path)[0] + ".json" if path else ""
    if beside and os.path.isfile(beside):
        description = read_description(beside)
        if description["model"].lower() != options.teacher.lower():
            raise ValueError(f"{beside} says that the file holds {description['model']}, not the "
                             f"--teacher {options.teacher}")
    if path and description["model"] in MODELS:
        net = load_network(path, description, classes, contexts)
    else:
        net = _gluoncv_network(options.teacher, classes, released=not path)
        if path:
            net.infer_shape(nd.zeros((1, 3, options.input_size, options.input_size)))
            load_weights(net, path, contexts)
        else:
            net.collect_params().reset_ctx(contexts)
    if options.dtype != "float32":
        net.cast(options.dtype)
    if options.mode == "hybrid":
        hybridize(net, (options.batch_size, 3, options.input_size, options.input_size), contexts,
                  options.dtype)
    return net


def _gluoncv_network(name, classes, released):
    from gluoncv.model_zoo import get_model

    try:
        return get_model(name, pretrained=released, classes=classes)
    except ValueError as error:
        raise ValueError(f"--teacher {name}: neither this project nor GluonCV has such a network "
                         f"({str(error).splitlines()[0][:100]})") from None
    except Exception as error:    # whatever a download may raise
        raise ValueError(f"--teacher {name}: its released parameters cannot be had "
                         f"({str(error).splitlines()[0][:100]}); name a file with "
                         "--teacher-params") from None


if __name__ == "__main__":
    run_script(main, DataError, leave=leave, result="files")
