#!/usr/bin/env python3
"""Train one network on CIFAR-10, CIFAR-100 or the built-in data set of shapes.

    python train_cifar.py --act-type ChaATAC --blocks 3

is the recipe of "Attention as Activation" (arXiv 2007.07729) on CIFAR-10.
"""
from common.errors import run_script
from machines.client import leave
from runs.engines import start
from runs.options import make_cifar_parser as make_parser


def train(options, script):
    from runs.cifar import CifarTraining
    from runs.train import run_job

    return run_job(CifarTraining(), options, script)


def main(argv=None):
    return start(make_parser, train, argv)


if __name__ == "__main__":
    run_script(main, leave=leave, result="files")
