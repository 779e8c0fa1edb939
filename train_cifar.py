#!/usr/bin/env python3
"""Train one network on CIFAR-10, CIFAR-100 or the built-in data set of shapes.

    python train_cifar.py --act-type ChaATAC --blocks 3

is the recipe of "Attention as Activation" (arXiv 2007.07729) on CIFAR-10.
"""
import sys

from common.errors import run_script
from data import DataError, list_datasets
from machines.client import join, leave
from training.device import set_threads
from training.options import (
    Parser,
    add_cifar_data_options,
    add_cifar_network_options,
    add_device_options,
    add_run_options,
    add_training_options,
    add_worker_options,
    natural,
)


def make_parser():
    parser = Parser(prog="train_cifar.py", description=__doc__.splitlines()[0])
    network = add_cifar_network_options(parser, model="resnet_v2_cifar")
    network.add_argument("--structure", metavar="FILE.json",
                         help="the attention of each block, as search_attention.py found it "
                              "(structure.json)")
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
    from model.zoo import build
    from runs.describe import describe
    from runs.weights import load_weights
    from training.session import Recipe, train

    return train(parser, argv, Recipe(describe, build, load_weights, make_batches,
                                      milestones=(300, 350), epochs=400))


def make_batches(options, batch_size, shard):
    """The data set and this worker's batches: (dataset, training, validation, test)."""
    from data import get_dataset
    from data.batches import Batches

    dataset = get_dataset(options.dataset, options.data_dir, options.data_url,
                          options.limit_train, options.val_split, options.seed)
    train = Batches(dataset.train, batch_size, shard=shard, seed=options.seed,
                    padding=options.padding, mean=dataset.mean,
                    prefetch=options.num_data_workers)
    val, test = (Batches(images, batch_size, shard=shard, train=False,
                         prefetch=options.num_data_workers)
                 for images in (dataset.val, dataset.test))
    return dataset, train, val, test


if __name__ == "__main__":
    run_script(main, DataError, leave=leave, result="files")
