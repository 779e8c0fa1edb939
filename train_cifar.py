#!/usr/bin/env python3
"""Train one network on CIFAR-10, CIFAR-100 or the built-in data set of shapes.

    python train_cifar.py --act-type ChaATAC --blocks 3

is the recipe of "Attention as Activation" (arXiv 2007.07729) on CIFAR-10.
"""
import sys

from common.arguments import Parser, natural
from common.errors import run_script
from common.threads import set_threads
from data import list_datasets
from machines.client import join, leave
from runs.options import (
    add_cifar_data_options,
    add_cifar_network_options,
    add_device_options,
    add_run_options,
    add_structure_option,
    add_training_options,
    add_worker_options,
)


def make_parser():
    parser = Parser(prog="train_cifar.py", description=__doc__.splitlines()[0])
    add_structure_option(add_cifar_network_options(parser, model="resnet_v2_cifar"))
    add_cifar_data_options(parser, "cifar10", list_datasets()).add_argument(
        "--val-split", type=natural, default=0, metavar="N",
        help="hold out N training images and select on them, not on the test set")
    add_training_options(parser, num_epochs=400, batch_size=128, lr=0.2)
    add_worker_options(add_device_options(parser))
    add_run_options(parser, save_period=0)
    return parser


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    options = parser.parse_args(argv)
    set_threads(takes_part=True)
    join(options.join_timeout)

    # What follows needs MXNet; a wrong option or --help has been answered by now.
    from runs.cifar import CifarTraining
    from runs.train import run_job

    return run_job(CifarTraining(), parser, argv)


if __name__ == "__main__":
    run_script(main, leave=leave, result="files")
