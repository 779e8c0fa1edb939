#!/usr/bin/env python3
"""Train one network on ImageNet, or on data like it: RecordIO files or folders of images.

    python train_imagenet.py --use-rec --rec-train train.rec --rec-val val.rec \\
        --act-type ChaATAC --r 2 --act-layers 2 --dtype float16 --num-gpus 2 \\
        --warmup-epochs 5 --last-gamma --no-wd --label-smoothing

is the recipe of "Attention as Activation" (arXiv 2007.07729) for ATAC-ResNet-50.
"""
import argparse
from functools import partial

from common.arguments import Parser, Scope, natural, positive_float
from common.errors import run_script
from machines.client import leave
from runs import options as shared
from runs.engines import start


def make_parser():
    parser = Parser(prog="train_imagenet.py", description=__doc__.splitlines()[0])
    group = shared.add_network_options(
        parser, "resnet50_v1b", "how many of the four stages get the unit (default: 2)")
    shared.add_v1b_options(group)
    group.add_argument("--pretrained", "--use-pretrained", action="store_true",
                       help="start from released parameters of this network")
    shared.add_image_options(parser)
    group = shared.add_training_options(parser, num_epochs=160, batch_size=128, lr=0.075,
                                        lr_mode="cosine")
    group.add_argument("--mixup-alpha", type=positive_float, metavar="ALPHA",
                       help="Beta parameter of --mixup (default: 0.2)")
    shared.add_teacher_options(group)
    shared.add_worker_options(shared.add_device_options(parser))
    shared.add_run_options(parser, save_period=10)
    parser.set_defaults(log_interval=50)
    _add_authors_names(parser)
    return parser


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
    same = partial(add, action="store_const", default=argparse.SUPPRESS)
    same("--use_se", dest="attention", const="SE", help="the same as --attention SE")
    same("--use-gn", dest="norm_layer", const="GroupNorm",
         help="the same as --norm-layer GroupNorm")
    add("--save-frequency", type=natural, dest="save_period", scope=Scope.HOW, metavar="N",
        default=parser.get_default("save_period"), help="the same as --save-period")
    add("--batch-norm", action=_Refused, reason="it was for VGG networks, which this script does "
        "not train; ResNets have batch normalisation")
    add("--resume-epoch", action=_Refused, reason="a run is resumed as a whole, with weights, "
        "momentum and epoch, by --resume")
    add("--resume-states", action=_Refused, reason="MXNet's .states files are pickles, which may "
        "run anything; --resume goes on with a run, --resume-params starts from weights")


def train(options, script):
    from runs.imagenet import ImageNetTraining
    from runs.train import run_job

    return run_job(ImageNetTraining(), options, script)


def main(argv=None):
    return start(make_parser, train, argv)


if __name__ == "__main__":
    run_script(main, leave=leave, result="files")
