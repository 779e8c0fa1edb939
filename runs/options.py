"""The options that scripts share, each declared once: with its help, and with its scope."""
import argparse
from functools import cache, partial

from common import arguments as types
from common.arguments import RECORDED_THREADS, Parser, Scope
from data import list_datasets

__all__ = ["add_cifar_data_options", "add_cifar_network_options", "add_described_options",
           "add_device_options", "add_image_options", "add_network_options", "add_run_options",
           "add_structure_option", "add_teacher_options", "add_training_options",
           "add_v1b_options", "add_worker_options", "datasets_help", "make_cifar_parser",
           "scope_of"]

_NETWORK = Scope.COMPUTES | Scope.NETWORK


def scope_of(name):
    """The `Scope` of an option of the scripts that train; `Scope.COMPUTES` of others."""
    return _scopes().get(name, Scope.COMPUTES)


@cache
def _scopes():
    parser = Parser(conflict_handler="resolve")
    add_v1b_options(add_cifar_network_options(parser, model=None))
    add_structure_option(parser)
    add_cifar_data_options(parser, None)
    add_image_options(parser)
    add_teacher_options(add_training_options(parser))
    add_worker_options(add_device_options(parser))
    add_run_options(parser, save_period=0)
    return {**parser.scopes(), RECORDED_THREADS: Scope.HOW}


def add_network_options(parser, model, act_layers_help):
    """The network and what fills its slots."""
    group = parser.add_argument_group("network")
    add = partial(group.add_argument, scope=_NETWORK)
    add("--model", default=model, metavar="NAME", help="network")
    add("--act-type", metavar="NAME",
        help="unit of the activation slots: relu, prelu, elu, selu, gelu, swish, mish, xUnit, "
             "xUnitS, ChaATAC, SpaATAC, SeqATAC (default: the network's own)")
    add("--reduction", "--r", type=types.network_size, metavar="R",
        help="the paper's r: bottleneck channels are C / R (default: the unit's own; 2 for ATAC)")
    add("--use-relu", "--useReLU", action=argparse.BooleanOptionalAction,
        help="ReLU inside the ATAC gate (default: yes, the paper's)")
    add("--use-global", "--useGlobal", action=argparse.BooleanOptionalAction,
        help="average over all positions first: the paper's SEActivation ablation (default: no)")
    add("--act-kernel-size", type=types.network_size, metavar="K",
        help="kernel of SpaATAC, SeqATAC, xUnit or xUnitS, in pixels (default: the unit's own)")
    add("--act-dilation", type=types.network_size, metavar="D",
        help="dilation of that kernel (default: 1)")
    add("--act-gate", metavar="GATE", help="gate of xUnit: gaussian or sigmoid")
    add("--act-layers", type=types.natural, metavar="N", help=act_layers_help)
    add("--act-order", choices=("bac", "pre"),
        help="whether the last (bac) or the first (pre) --act-layers get the unit (default: bac)")
    add("--replace-act", metavar="NAME",
        help="unit of the remaining activation slots (default: relu)")
    add("--attention", metavar="NAME",
        help="unit of the attention slots: SE, CBAM, MVAM, ZAM, GE, ECA, BAM, ATAC ... "
             "(default: none)")
    add("--attn-reduction", type=types.network_size, metavar="R",
        help="reduction of that unit, where --reduction goes to the activation")
    add("--spatial-kernel", type=types.network_size, metavar="K",
        help="kernel of its spatial map, in pixels (default: the unit's own)")
    add("--drop-rate", type=types.fraction, metavar="P",
        help="dropout before the classifier (default: 0)")
    return group


def add_cifar_network_options(parser, model):
    """The network options of the hosts for 32x32 images."""
    group = add_network_options(
        parser, model, act_layers_help="how many positions get the unit: of three stages and the "
                                       "head, or of four stages (default: all)")
    add = partial(group.add_argument, scope=_NETWORK)
    add("--blocks", type=types.network_size, metavar="B",
        help="the paper's b: residual blocks per stage of resnet_v2_cifar (default: 3)")
    add("--attention-at", type=types.names, metavar="SLOT,SLOT",
        help="attention slots to fill in resnet18 ... resnet152: block, identity (blocks "
             "without a projection), classifier (default: block)")
    add("--width", type=types.positive_float, metavar="F",
        help="multiplies the channels of resnet18 ... resnet152 (default: 1)")
    add("--stem", choices=("conv3", "conv7"),
        help="first layers of resnet18 ... resnet152: 3x3, or 7x7 and a max-pool "
             "(default: conv3)")
    return group


def add_structure_option(group):
    """What search_attention.py has found."""
    group.add_argument("--structure", scope=_NETWORK | Scope.MACHINE, metavar="FILE.json",
                       help="the attention of each block, as search_attention.py found it "
                            "(structure.json)")


def add_v1b_options(group):
    """The options that only the ImageNet networks have, for a group of network options."""
    add = partial(group.add_argument, scope=_NETWORK)
    add("--norm-layer", metavar="NAME",
        help="normalisation of the ImageNet networks: BatchNorm, SyncBatchNorm, GroupNorm "
             "(default: BatchNorm)")
    for name, text in (
            ("last-gamma", "begin with every block as an identity: scale 0 in its last "
                           "normalisation"),
            ("deep-stem", "three 3x3 convolutions in place of the 7x7 one"),
            ("avg-down", "average pooling before the 1x1 convolution of a shortcut"),
            ("dilated", "dilation in place of stride in the last two stages")):
        add(f"--{name}", action="store_true", default=None, help=text)
    add("--final-drop", type=types.fraction, metavar="P", help="the same as --drop-rate")


def add_cifar_data_options(parser, dataset):
    """Which small images to train on, and how; `dataset` is the default."""
    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--dataset", default=dataset, metavar="NAME", help=datasets_help())
    add("--data-dir", scope=Scope.MACHINE, metavar="DIR",
        help="folder of the official binary files (default: ~/.mxnet/datasets/<dataset>)")
    _add_data_url(add)
    add("--limit-train", type=types.positive_int, metavar="N",
        help="use only the first N training images")
    add("--padding", choices=("black", "mean", "reflect"), default="black",
        help="what surrounds an image before it is cropped; black is the paper's")
    add("-j", "--num-data-workers", scope=Scope.MACHINE, type=types.threads, default=4, metavar="N",
        help="batches prepared ahead in the background (0: none)")
    return group


def add_described_options(parser, data=None):
    """The network of a file, and the images it is shown, where no JSON beside it says so.

    Parameters
    ----------
    parser : Parser
    data : str, optional
        Description of the group of data options.

    Returns
    -------
    Groups of the data options and of those of ImageNet-like data.
    """
    network = add_cifar_network_options(parser, model=None)
    network.description = "Only for a file without such a JSON."
    add_v1b_options(network)
    group = parser.add_argument_group("data", data)
    add = group.add_argument
    add("--dataset", metavar="NAME",
        help=f"{datasets_help()}; or imagenet for data like it (default: the described one)")
    add("--data-dir", scope=Scope.MACHINE, metavar="DIR",
        help="folder of the official binary files, or of val/<class>/ (default: "
             "~/.mxnet/datasets/<dataset>)")
    _add_data_url(add)
    return group, add_image_options(parser, train=False)


def datasets_help():
    """What may follow --dataset."""
    return (f"one of {', '.join(list_datasets())}; cifar100-coarse has the 20 superclasses, "
            "cifar100-authors the same under the 100 outputs that the paper's authors trained")


def _add_data_url(add):
    add("--data-url", scope=Scope.MACHINE, metavar="URL[#md5=SUM]",
        help="download the archive from here if the files are missing")


def add_image_options(parser, train=True):
    """Where the images of ImageNet-like data are, and how they are cropped."""
    group = parser.add_argument_group("data" if train else "ImageNet-like data")
    add = group.add_argument
    if train:
        add("--dataset", default="imagenet", metavar="NAME",
            help="what the data are called in names of runs and in descriptions")
        add("--data-dir", scope=Scope.MACHINE, default="~/.mxnet/datasets/imagenet", metavar="DIR",
            help="folder with train/<class>/ and val/<class>/, without --use-rec")
        _add_records(add, "train", "training")
    _add_records(add, "val", "validation")
    add("--use-rec", action="store_true", help="read RecordIO files, not folders")
    add("-j", "--num-data-workers", "--num-workers", scope=Scope.MACHINE, type=types.threads,
        default=4, metavar="N", help="threads that decode images")
    add("--input-size", type=types.positive_int, default=224 if train else None, metavar="PX",
        help="side of the crops in pixels" + ("" if train else
                                              " (default: the described one, or 224)"))
    add("--crop-ratio", type=types.positive_fraction, default=0.875, metavar="F",
        help="side of a validation crop by the shorter side of the image")
    return group


def _add_records(add, which, what):
    add(f"--rec-{which}", scope=Scope.MACHINE,
        default=f"~/.mxnet/datasets/imagenet/rec/{which}.rec",
        metavar="FILE.rec", help=f"{what} images")
    add(f"--rec-{which}-idx", scope=Scope.MACHINE, metavar="FILE.idx",
        help=f"index of --rec-{which} (default: the file beside it)")


def add_training_options(parser, **defaults):
    """Optimizer, schedule and regularisation."""
    group = parser.add_argument_group("training")
    add = group.add_argument
    add("--num-epochs", type=types.epochs, metavar="N", help="epochs")
    add("--batch-size", type=types.positive_int, metavar="N",
        help="images per step and device of each worker")
    add("--optimizer", choices=("nag", "sgd", "adam"), default="nag", help="update rule")
    add("--lr", type=types.positive_float, metavar="LR", help="learning rate after the warm-up")
    add("--scale-lr", type=types.positive_int, nargs="?", const=256, metavar="N",
        help="multiply the learning rate by the images per step of all devices, divided by N "
             "(256 if no number is given); without it the rate is taken as it is")
    add("--momentum", type=types.fraction, default=0.9, metavar="M", help="of nag and sgd")
    add("--weight-decay", "--wd", type=types.non_negative, default=1e-4, metavar="WD",
        help="weight decay")
    add("--no-wd", action="store_true", help="no weight decay for biases and normalisation")
    add("--lr-mode", choices=("step", "cosine", "poly", "constant", "plateau"), default="step",
        help="how the learning rate falls")
    add("--lr-decay", type=types.fraction, default=0.1, metavar="F",
        help="factor of modes step and plateau")
    add("--lr-decay-epoch", type=types.milestones, metavar="E,E",
        help="epochs at which mode step decays")
    add("--lr-decay-period", type=types.natural, default=0, metavar="N",
        help="decay every N epochs instead (0: use --lr-decay-epoch)")
    add("--lr-patience", type=types.natural, default=10, metavar="N",
        help="epochs without improvement before mode plateau decays")
    add("--lr-power", type=types.positive_float, default=2.0, metavar="P",
        help="exponent of mode poly")
    add("--final-lr", type=types.non_negative, default=0.0, metavar="LR",
        help="rate at the end of modes cosine and poly")
    add("--warmup-epochs", type=types.natural, default=0, metavar="N",
        help="epochs over which the rate rises linearly")
    add("--warmup-lr", type=types.non_negative, default=0.0, metavar="LR",
        help="rate at the first step of a warm-up")
    add("--label-smoothing", type=types.fraction, nargs="?", const=0.1, default=0.0, metavar="S",
        help="share of the target spread over all classes (0.1 if no number is given)")
    add("--mixup", type=types.non_negative, nargs="?", const=0.2, default=0.0, metavar="ALPHA",
        help="blend images with this Beta parameter (0.2 if no number is given)")
    add("--cutmix", type=types.non_negative, nargs="?", const=1.0, default=0.0, metavar="ALPHA",
        help="paste boxes with this Beta parameter (1 if no number is given)")
    add("--mixup-off-epoch", type=types.natural, default=0, metavar="N",
        help="mix no images in the last N epochs")
    add("--early-stop", type=types.natural, default=0, metavar="N",
        help="stop after N epochs without a better validation accuracy (0: never)")
    add("--seed", type=types.seed, default=0, metavar="N",
        help="of initial weights, order and augmentation")
    parser.set_defaults(**defaults)
    return group


def add_teacher_options(group):
    """Another network to learn from, for the group of training options."""
    add = group.add_argument
    add("--teacher", metavar="NAME",
        help="learn from this network, too: one of this project or of GluonCV")
    add("--teacher-params", scope=Scope.MACHINE, metavar="FILE",
        help="the teacher's parameters (default: GluonCV's released ones)")
    add("--temperature", type=types.positive_float, default=20.0, metavar="T",
        help="divides the logits of both networks")
    add("--hard-weight", type=types.fraction, default=0.5, metavar="W",
        help="share of the true labels in the loss")


def add_device_options(parser):
    """Where and in what precision to compute."""
    group = parser.add_argument_group("device")
    add = group.add_argument
    add("--gpus", scope=Scope.MACHINE, metavar="I,J",
        help="GPUs to use, by number ('' for the CPU)")
    add("--num-gpus", scope=Scope.HOW, type=types.natural, metavar="N",
        help="use the first N GPUs, 0 for the CPU (default: one GPU where there is one)")
    add("--engine", scope=Scope.HOW, choices=("auto", "mxnet", "pytorch"), default="auto",
        help="what computes; auto: MXNet, but PyTorch for bfloat16 and on GPUs that MXNet has no "
             "code for")
    add("--dtype", choices=("float32", "float16", "bfloat16"), default="float32",
        help="precision of network and data; float16 needs a GPU, bfloat16 PyTorch")
    add("--no-compile", dest="mode", action="store_const", const="imperative", default="hybrid",
        help="the same as --mode imperative (default: compiled)")
    add("--mode", choices=("hybrid", "imperative"), default="hybrid",
        help="hybrid compiles the network into a static graph; imperative eases debugging")
    return group


def add_worker_options(group):
    """How devices and workers share gradients, for the group of device options."""
    add = group.add_argument
    add("--kv-store", scope=Scope.HOW,
        choices=("local", "device", "nccl", "dist_sync", "dist_device_sync"), default="device",
        help="how devices and workers add up gradients; dist_sync and dist_device_sync are for "
             "the workers that python -m machines.launch starts")
    add("--join-timeout", scope=Scope.HOW, type=types.positive_float, default=60.0, metavar="S",
        help="seconds that those wait for one another at the start")


def add_run_options(parser, save_period=None):
    """Folders, saving and resuming; without `save_period`, nothing about params files."""
    group = parser.add_argument_group("run")
    how, machine, call = (partial(group.add_argument, scope=scope)
                          for scope in (Scope.HOW, Scope.MACHINE, Scope.INVOCATION))
    call("--config", metavar="FILE.json",
         help="take options from a JSON file, such as a run's config.json")
    how("--name", help="name of the run and its folders (default: made from the options)")
    machine("--save-dir", default="params", metavar="DIR", help="where params/<run> goes")
    machine("--log-dir", default="logs", metavar="DIR", help="where logs/<run> goes")
    how("--logging-file", default="train.log", metavar="FILE",
        help="name of the log in the run's folder")
    machine("--save-plot-dir", metavar="DIR",
            help="where curves.png goes (default: beside the log)")
    if save_period is not None:
        how("--save-period", type=types.natural, default=save_period, metavar="N",
            help="keep the params of every N-th epoch (0: only last and best)")
        how("--keep", type=types.natural, default=0, metavar="N",
            help="how many of those to keep (0: all)")
    how("--checkpoint-every", type=types.natural, default=0, metavar="STEPS",
        help="also save within an epoch, every so many steps (0: at its end only)")
    call("--resume", nargs="?", const="auto", metavar="auto|PATH",
         help="go on where the run was left: auto finds it by its name and starts it if there "
              "is none; PATH is a run's folder")
    if save_period is not None:
        group.add_argument(
            "--resume-from", "--resume-params", scope=Scope.COMPUTES | Scope.MACHINE,
            metavar="FILE.params", help="start a new run from these weights")
        group.add_argument(
            "--new-classifier", action="store_true",
            help="take over all of them but the last layer's: other classes are learnt")
    call("--overwrite", action="store_true", help="delete an earlier run of the same name first")
    call("--summary", action="store_true", help="print the network's layers, then train")
    how("--log-interval", type=types.positive_int, default=20, metavar="STEPS",
        help="steps between updates of the progress bar")


def make_cifar_parser():
    """The parser of train_cifar.py, which grids use, too."""
    parser = Parser(prog="train_cifar.py", description="Train one network on CIFAR-10, CIFAR-100 "
                                                       "or the built-in data set of shapes.")
    add_structure_option(add_cifar_network_options(parser, model="resnet_v2_cifar"))
    add_cifar_data_options(parser, "cifar10").add_argument(
        "--val-split", type=types.natural, default=0, metavar="N",
        help="hold out N training images and select on them, not on the test set")
    add_training_options(parser, num_epochs=400, batch_size=128, lr=0.2)
    add_worker_options(add_device_options(parser))
    add_run_options(parser, save_period=0)
    return parser
