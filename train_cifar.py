#!/usr/bin/env python3
"""Train one network on CIFAR-10, CIFAR-100 or the built-in data set of shapes.

    python train_cifar.py --act-type ChaATAC --blocks 3

is the recipe of "Attention as Activation" (arXiv 2007.07729) on CIFAR-10.
"""
import sys

from common.errors import run_script
from common.threads import set_threads
from machines.client import leave
from runs.config import recorded_threads
from runs.engines import start
from runs.options import make_cifar_parser as make_parser


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    parser.parse_args(argv)
    set_threads(takes_part=True, recorded=lambda: recorded_threads(make_parser(), argv))
    code = start(make_parser, argv)
    if code is not None:
        return code

    # What follows needs MXNet; a wrong option or --help has been answered by now.
    from runs.cifar import CifarTraining
    from runs.train import run_job

    return run_job(CifarTraining(), parser, argv)


if __name__ == "__main__":
    run_script(main, leave=leave, result="files")
