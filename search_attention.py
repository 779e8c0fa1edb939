#!/usr/bin/env python3
"""Search each block's attention structure: CA and SA in which order, alone, or left out.

    python search_attention.py --model resnet18 --attention CBAM --dataset cifar100
    python train_cifar.py --structure logs/<run>/structure.json --model resnet18 ...

The first writes logs/<run>/structure.json, the second trains what was found from scratch.
"""
import shlex
import sys
import time
from functools import partial

from common.errors import UserError, run_script
from data import DataError, list_datasets
from training.device import select_contexts, set_threads
from training.options import (
    Parser,
    add_cifar_data_options,
    add_cifar_network_options,
    add_device_options,
    add_run_options,
    as_arguments,
    fraction,
    natural,
    non_negative,
    numbers,
    positive_float,
    positive_int,
    seed,
)


def make_parser():
    parser = Parser(prog="search_attention.py", description=__doc__.splitlines()[0])
    add_cifar_network_options(parser, model="resnet18")
    parser.set_defaults(attention="CBAM")
    add_cifar_data_options(parser, "cifar100", list_datasets()).add_argument(
        "--alpha-split", type=fraction, default=0.0, metavar="F",
        help="hold out this share of the training images for the structure; 0: every second "
             "batch of the training stream is the structure's, as in the study")
    add_search_options(parser)
    add_device_options(parser)
    add_run_options(parser)
    return parser


def add_search_options(parser):
    add = parser.add_argument_group("search").add_argument
    add("--warmup-epochs", type=natural, default=12, metavar="N",
        help="epochs in which only the weights learn")
    add("--search-epochs", type=positive_int, default=8, metavar="N",
        help="epochs after these, in which weights and structure learn in turns")
    add("--penalty-weight", type=non_negative, default=0.1, metavar="W",
        help="w of the penalty w * mean over blocks of sum_i r_i p_i^m; 0: none")
    add("--penalty-power", type=positive_float, default=1.1, metavar="M", help="its m")
    add("--penalty-ratio", type=numbers, default=(4, 1, 1, 2, 2), metavar="R,R,R,R,R",
        help="its r, of identity, CA(+)SA, SA(+)CA, CA, SA (default: 4,1,1,2,2)")
    add("--alpha-lr", type=positive_float, default=0.1, metavar="LR",
        help="learning rate of the structure (Adam, betas 0.5 and 0.999)")
    add("--batch-size", type=positive_int, default=128, metavar="N",
        help="images per device and step")
    add("--lr", type=positive_float, default=0.1, metavar="LR",
        help="learning rate of the weights (SGD); rises linearly in the first epoch")
    add("--momentum", type=fraction, default=0.9, metavar="M", help="of the weights")
    add("--weight-decay", "--wd", type=non_negative, default=5e-4, metavar="WD",
        help="of the weights")
    add("--seed", type=seed, default=0, metavar="N",
        help="of initial weights, order and augmentation, or of the random structure")
    add("--random", action="store_true",
        help="search nothing: write a random structure, the baseline of every search")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    check_options(parser.parse_args(argv))
    set_threads()

    from training.history import close_log, open_log
    from training.session import as_user_error, open_run, resolve_options

    options = resolve_options(parser, argv)
    check_options(options)
    description, kind, unit_options = as_user_error(describe_searchable, options)
    what = "random" if options.random else "search"
    options.name = options.name or (f"{what}-{options.dataset}-{description['model']}-{kind}-"
                                    f"seed{options.seed}")
    run = open_run(options)
    found = partial(write_structure, options, run, description, kind, unit_options)
    if not options.random:
        return search(options, run, description, kind, unit_options, found)
    operations = as_user_error(random_operations, options, description, kind, unit_options)
    create_run(options, run)
    log = open_log(run.log_file)
    try:
        log.info(f"random structure of seed {options.seed}: {', '.join(operations)}")
        found(log, operations)
    finally:
        close_log(log)
        run.unlock()
    return 0


def create_run(options, run):
    """The run's folders; only now, when nothing that a user can get wrong is left to check."""
    if options.overwrite:
        run.remove()
    run.create()


def check_options(options):
    """Raise UserError for what is not searched here."""
    if len(options.penalty_ratio) != 5:
        raise UserError("--penalty-ratio takes 5 numbers, not "
                        f"{len(options.penalty_ratio)} (see --help)")
    if options.attention_at not in (None, ["block"]):
        raise UserError("--attention-at: a structure is searched for the slots 'block' only")
    if options.dtype != "float32":
        raise UserError("--dtype float16: a search is made in float32")


# ---- what is searched --------------------------------------------------------------------------

def describe_searchable(options):
    """The plain network's description, the kind of attention, and the units' options."""
    from model.structure import KINDS
    from runs.describe import describe

    description = describe(options)
    kind = description["options"].pop("attention")
    if kind not in KINDS:
        raise ValueError(f"--attention: a structure is made of {' or '.join(KINDS)}, not of {kind}")
    return description, kind, description["options"].pop("attn_options", {})


def build_searchable(description, kind, unit_options, classes):
    """The network with a searchable unit in every block."""
    from model.structure import SearchableAttention, searchable_units
    from model.zoo import get_model

    net = get_model(description["model"], classes=classes, **description["options"],
                    attention=partial(SearchableAttention, kind=kind, **unit_options))
    if getattr(net, "num_blocks", None) != len(searchable_units(net)):
        raise ValueError(f"{description['model']} has no attention slot for each block; take "
                         "resnet18 ... resnet152 or resnet_v2_cifar")
    return net


def random_operations(options, description, kind, unit_options):
    """One operation for each block, all equally likely."""
    from data.streams import bit_stream
    from model.structure import OPERATIONS

    blocks = build_searchable(description, kind, unit_options, None).num_blocks
    words = bit_stream(options.seed, "random structure").random_raw(blocks)
    return [OPERATIONS[int(word) % len(OPERATIONS)] for word in words]


def write_structure(options, run, description, kind, unit_options, log, operations, weights=None):
    """Write structure.json, and say what to do with it."""
    from common.files import write_json
    from model.structure import Structure
    from training.loop import SaveFailed
    from training.session import write_config

    record = {key: value for key, value in vars(options).items() if value is not None}
    if weights is not None:
        record["weights"] = [[float(value) for value in row] for row in weights]
    path = run.structure
    write_config(run, options)
    structure = Structure(description["model"], kind, operations, unit_options, record)
    try:
        write_json(path, structure.content())
    except OSError as error:
        raise SaveFailed(f"cannot write {path}: {error.strerror}. Make room, and call the same "
                         "again with --resume") from None
    log.info(f"structure: {path}")
    log.info(f"train it:  {training_command(options, description, path)}")


def training_command(options, description, structure):
    """What trains a structure in the network, and on the data, of its search."""
    from runs.describe import script_options

    # What was not given is the network's own there, too.
    network = {name: value for name, value in script_options(description).items()
               if getattr(options, name) is not None}
    data = {name: getattr(options, name) for name in ("dataset", "data_dir", "data_url",
                                                      "limit_train")
            if getattr(options, name) is not None}
    return shlex.join(["python", "train_cifar.py", "--model", description["model"],
                       "--structure", str(structure), *as_arguments({**network, **data})])


# ---- the search --------------------------------------------------------------------------------

def search(options, run, description, kind, unit_options, found):
    """Search, and write what was found."""
    from common import interruption
    from common.progress import format_seconds
    from model.structure import SEARCHED, derive
    from training.epoch import Normalize
    from training.history import close_log, open_log
    from training.objective import Objective
    from training.search import Search
    from training.search_history import structure_table
    from training.session import as_user_error, write_config

    contexts = select_contexts(options.gpus, options.num_gpus)
    dataset, *batches = as_user_error(make_batches, options, options.batch_size * len(contexts))
    net, predictor = make_networks(options, contexts, partial(
        as_user_error, build_searchable, description, kind, unit_options, dataset.outputs))
    space = make_space(options)
    create_run(options, run)
    log = open_log(run.log_file)
    try:
        log.info(f"run {run.name}: {options.model} with searchable {kind}")
        log.info(dataset.description)
        looking = Search(net, predictor, space, *make_trainers(options, net, space),
                         Objective(dataset.outputs), make_schedule(options, len(batches[0])),
                         *batches, Normalize(dataset.mean, dataset.std), contexts, run, log,
                         make_search_options(options, dataset))
        if not (options.resume and looking.resume()):
            write_config(run, options)
        start = time.monotonic()
        with interruption.deferred():
            operations = looking()
        weights = space.weights(net)
        for line in structure_table(SEARCHED, weights, [derive(row) for row in weights]):
            log.info(line)
        log.info(f"took {format_seconds(time.monotonic() - start)}")
        found(log, operations, weights)
        log.info(f"weights:   {run.logs / 'alphas.csv'}, {run.logs / 'structure.png'}")
    except interruption.Interrupted as stop:
        log.info(f"stopped by {stop}; go on with: python search_attention.py --resume {run.logs}")
        return stop.code
    finally:
        close_log(log)
        run.unlock()
    return 0


def make_batches(options, global_batch_size):
    """The data set, and batches for the weights, for the structure (or None), for testing."""
    from data import get_dataset
    from data.batches import Batches
    from data.streams import permutation

    dataset = get_dataset(options.dataset, options.data_dir, options.data_url,
                          options.limit_train)
    training = partial(Batches, batch_size=global_batch_size, padding=options.padding,
                       mean=dataset.mean, prefetch=options.num_data_workers)
    test = Batches(dataset.test, global_batch_size, train=False,
                   prefetch=options.num_data_workers)
    if not options.alpha_split:
        batches = training(dataset.train, seed=options.seed)
        if len(batches) < 2:
            raise ValueError(f"{len(dataset.train):,} training images are one batch of "
                             f"{global_batch_size:,}, and every second one is the structure's: "
                             "take a smaller --batch-size, more images, or --alpha-split")
        return dataset, batches, None, test
    held_out = round(options.alpha_split * len(dataset.train))
    if not held_out:
        raise ValueError(f"--alpha-split {options.alpha_split:g} of {len(dataset.train):,} "
                         "training images is none of them: take a larger share")
    order = permutation(len(dataset.train), options.seed, "alpha split")
    # Another seed: the two parts are not to be augmented alike.
    return (dataset, training(dataset.train.take(order[held_out:]), seed=options.seed),
            training(dataset.train.take(order[:held_out]), seed=options.seed + 1), test)


def make_networks(options, contexts, build):
    """The network to search, and its twin that predicts."""
    import model.mxnet_compat  # noqa: F401  (comes before mxnet)
    import mxnet as mx
    import numpy as np

    from graph.fast_cpu import hybridize
    from training.input_statistics import keep_input_statistics

    mx.random.seed(options.seed)
    np.random.seed(options.seed)
    net, predictor = build(), build()
    net.initialize(mx.init.MSRAPrelu(), ctx=contexts)
    predictor.initialize(ctx=contexts)
    if options.summary:
        predictor.summary(mx.nd.zeros((1, 3, 32, 32), contexts[0]))
    if options.mode == "hybrid":
        for each in (net, predictor):
            hybridize(each, (options.batch_size, 3, 32, 32), contexts)
    keep_input_statistics(net)
    return net, predictor


def make_space(options):
    """What is searched: the operations, and the price of each."""
    from model import structure
    from training.search import Space

    return Space(structure.SEARCHED, structure.architecture_parameters,
                 structure.operation_weights,
                 partial(structure.architecture_penalty, ratio=options.penalty_ratio,
                         power=options.penalty_power, weight=options.penalty_weight),
                 structure.derive)


def make_trainers(options, net, space):
    """One optimizer for the weights, another for the structure."""
    from mxnet import gluon

    alphas = space.parameters(net)
    chosen = {id(alpha) for alpha in alphas}
    weights = [p for p in net.collect_params().values() if id(p) not in chosen]
    return (gluon.Trainer(weights, "sgd", {
                "learning_rate": options.lr, "momentum": options.momentum,
                "wd": options.weight_decay}, update_on_kvstore=False),
            gluon.Trainer(alphas, "adam", {
                "learning_rate": options.alpha_lr, "beta1": 0.5, "beta2": 0.999,
                "wd": 0.0}, update_on_kvstore=False))


def make_schedule(options, steps_per_epoch):
    """A constant rate after one epoch of rising, as in the study."""
    from training.schedule import Schedule

    epochs = options.warmup_epochs + options.search_epochs
    return Schedule("constant", options.lr, epochs * steps_per_epoch,
                    warmup_steps=steps_per_epoch if epochs > 1 else 0)


def make_search_options(options, dataset):
    from training.search import SearchOptions

    return SearchOptions(options.warmup_epochs, options.search_epochs, options.seed,
                         options.log_interval, options.checkpoint_every,
                         f"{options.name} on {dataset.title}", bool(options.drop_rate))


if __name__ == "__main__":
    run_script(main, DataError, result="files")
