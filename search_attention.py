#!/usr/bin/env python3
"""Search each block's attention structure: CA and SA in which order, alone, or left out.

    python search_attention.py --model resnet18 --attention CBAM --dataset cifar100
    python train_cifar.py --structure logs/<run>/structure.json --model resnet18 ...

The first writes logs/<run>/structure.json, the second trains what was found from scratch.
"""
import sys

from common import arguments as types
from common.arguments import Parser
from common.errors import run_script
from common.threads import set_threads
from runs import options as shared
from runs.config import recorded_threads, resolve_options


def make_parser():
    parser = Parser(prog="search_attention.py", description=__doc__.splitlines()[0])
    shared.add_cifar_network_options(parser, model="resnet18")
    parser.set_defaults(attention="CBAM")
    shared.add_cifar_data_options(parser, "cifar100").add_argument(
        "--alpha-split", type=types.fraction, default=0.0, metavar="F",
        help="hold out this share of the training images for the structure; 0: every second "
             "batch of the training stream is the structure's, as in the study")
    add_search_options(parser)
    shared.add_device_options(parser)
    shared.add_run_options(parser)
    return parser


def add_search_options(parser):
    add = parser.add_argument_group("search").add_argument
    add("--warmup-epochs", type=types.natural, default=12, metavar="N",
        help="epochs in which only the weights learn")
    add("--search-epochs", type=types.epochs, default=8, metavar="N",
        help="epochs after these, in which weights and structure learn in turns")
    add("--penalty-weight", type=types.non_negative, default=0.1, metavar="W",
        help="w of the penalty w * mean over blocks of sum_i r_i p_i^m; 0: none")
    add("--penalty-power", type=types.positive_float, default=1.1, metavar="M", help="its m")
    add("--penalty-ratio", type=types.list_of(types.non_negative), default=(4, 1, 1, 2, 2),
        metavar="R,R,R,R,R",
        help="its r, of identity, CA(+)SA, SA(+)CA, CA, SA (default: 4,1,1,2,2)")
    add("--alpha-lr", type=types.positive_float, default=0.1, metavar="LR",
        help="learning rate of the structure (Adam, betas 0.5 and 0.999)")
    add("--batch-size", type=types.positive_int, default=128, metavar="N",
        help="images per device and step")
    add("--lr", type=types.positive_float, default=0.1, metavar="LR",
        help="learning rate of the weights (SGD); rises linearly in the first epoch")
    add("--momentum", type=types.fraction, default=0.9, metavar="M", help="of the weights")
    add("--weight-decay", "--wd", type=types.non_negative, default=5e-4, metavar="WD",
        help="of the weights")
    add("--seed", type=types.seed, default=0, metavar="N",
        help="of initial weights, order and augmentation, or of the random structure")
    add("--random", action="store_true",
        help="search nothing: write a random structure, the baseline of every search")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    options = resolve_options(parser, argv)
    set_threads(recorded=lambda: recorded_threads(options))

    # What follows needs MXNet; a wrong option or --help has been answered by now.
    from runs.search import StructureSearch, write_random_structure
    from runs.train import run_job

    run = write_random_structure if options.random else run_job
    return run(StructureSearch(), options, parser.prog)


if __name__ == "__main__":
    run_script(main, result="files")
