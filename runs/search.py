"""A search for a network's attention structure, as a `runs.train.Job`; and its baseline."""
import shlex
from functools import partial

import numpy as np

from common.arguments import as_arguments, given
from common.errors import UserError
from data.streams import bit_stream, permutation
from engines.interface import Group, Loss
from engines.workers import SingleWorker
from model.structure import (
    KINDS,
    OPERATIONS,
    SEARCHED,
    SearchableAttention,
    Structure,
    derive,
    searchable_units,
)
from training.history import close_log
from training.schedule import Schedule
from training.search import SearchRecord, SearchStep, Space, operation_weights, structure_table

from .cifar import open_cifar, training_batches
from .config import open_run, write_config
from .describe import script_options
from .train import Data, Job, begin, write_result

__all__ = ["StructureSearch", "write_random_structure"]

# The structural name of a searchable unit's structure parameter ends so.
_ALPHA = ".alpha"


class StructureSearch(Job):
    """Search each block's attention structure: see `training.search`."""

    def describe(self, options):
        """The plain network, beside ``kind`` and ``unit_options`` of what is searched."""
        _check(options)
        description = super().describe(options)
        kind = description["options"].pop("attention")
        if kind not in KINDS:
            raise UserError(f"--attention: a structure is made of {' or '.join(KINDS)}, not of "
                            f"{kind}")
        return {**description, "kind": kind,
                "unit_options": description["options"].pop("attn_options", {})}

    def default_name(self, options, description):
        """search-, or random-, data set, network, kind, seed."""
        what = "random" if options.random else "search"
        return (f"{what}-{options.dataset}-{description['model']}-{description['kind']}-"
                f"seed{options.seed}")

    def connect(self, options, devices):
        """A search is one worker's."""
        return SingleWorker()

    def build(self, description, outputs, devices=1):
        """The network with a searchable unit in every block."""
        attention = partial(SearchableAttention, kind=description["kind"],
                            **description["unit_options"])
        net = super().build({**description, "options": {**description["options"],
                                                        "attention": attention}}, outputs)
        if getattr(net, "num_blocks", None) != len(searchable_units(net)):
            raise UserError(f"{description['model']} has no attention slot for each block; take "
                            "resnet18 ... resnet152 or resnet_v2_cifar")
        return net

    def open_data(self, options, batch_size, shard):
        """The data set; its training images are shared out with --alpha-split."""
        found = open_cifar(options, batch_size, shard)
        if not options.alpha_split:
            if len(found.train) < 2:
                raise UserError(f"{len(found.dataset.train):,} training images are one batch of "
                                f"{batch_size:,}, and every second one is the structure's: "
                                "take a smaller --batch-size, more images, or --alpha-split")
            return found
        images = found.dataset.train
        count = round(options.alpha_split * len(images))
        if not count:
            raise UserError(f"--alpha-split {options.alpha_split:g} of {len(images):,} training "
                            "images is none of them: take a larger share")
        order = permutation(len(images), options.seed, "alpha split")
        # Another seed: the two parts are not to be augmented alike.
        train, held_out = (
            training_batches(options, found.dataset, images.take(part), batch_size, shard, seed)
            for part, seed in ((order[count:], options.seed), (order[:count], options.seed + 1)))
        return Data(found.dataset, train, found.val, held_out=held_out)

    def make_groups(self, options, weights):
        """One optimizer for the weights, another for the structure."""
        return {"weights": Group("sgd", options.momentum, weight_decay=options.weight_decay),
                "alphas": Group("adam", betas=(0.5, 0.999), names=_alphas(weights))}

    def make_loss(self, options, outputs):
        """Plain cross-entropy."""
        return Loss(outputs)

    def make_schedule(self, options, steps_per_epoch):
        """A constant rate after one epoch of rising, as in the study."""
        epochs = options.warmup_epochs + options.search_epochs
        return Schedule("constant", options.lr, epochs * steps_per_epoch,
                        warmup_steps=steps_per_epoch if epochs > 1 else 0)

    def make_parts(self, setup, engine, log):
        """Step and record: see `training.loop.Loop`."""
        options, data = setup.options, setup.data
        space = Space(SEARCHED, _alphas(engine.weights()), derive, options.penalty_ratio,
                      options.penalty_power, options.penalty_weight)
        step = SearchStep(engine, data.train, data.held_out,
                          (setup.schedule, options.alpha_lr), space, options.warmup_epochs)
        return step, SearchRecord(setup.run, log, setup.title,
                                  options.warmup_epochs + options.search_epochs, space,
                                  options.warmup_epochs)

    def finish(self, setup, loop):
        """Show the operations' weights, and write structure.json."""
        weights = operation_weights(np.stack(loop.engine.values(loop.record.space.names)))
        operations = [derive(row) for row in weights]
        for line in structure_table(SEARCHED, weights, operations):
            loop.log.info(line)
        write_structure(setup.options, setup.run, setup.description, operations, weights)

    def farewell(self, setup, loop):
        """Say where everything is, and how to train what was found."""
        _announce(loop.log, setup.options, setup.run, setup.description)
        loop.log.info(f"weights:   {setup.run.logs / 'alphas.csv'}, "
                      f"{setup.run.logs / 'structure.png'}")


def _check(options):
    """Raise UserError for what is not searched here."""
    if len(options.penalty_ratio) != 5:
        raise UserError("--penalty-ratio takes 5 numbers, not "
                        f"{len(options.penalty_ratio)} (see --help)")
    if options.attention_at not in (None, ["block"]):
        raise UserError("--attention-at: a structure is searched for the slots 'block' only")
    if options.dtype != "float32":
        raise UserError(f"--dtype {options.dtype}: a search is made in float32")


def _alphas(weights):
    """Structural names of the structure's parameters, in the order of the blocks."""
    return tuple(name for name in weights if name.endswith(_ALPHA))


def write_random_structure(job, options, script):
    """Search nothing: write a random structure, the baseline of every search.

    Every operation is equally likely for every block.

    Returns
    -------
    int
        Exit code.
    """
    description = job.describe(options)
    run = open_run(options, options.name or job.default_name(options, description))
    blocks = job.build(description, None).num_blocks
    words = bit_stream(options.seed, "random structure").random_raw(blocks)
    operations = [OPERATIONS[int(word) % len(OPERATIONS)] for word in words]
    log = begin(run, options)
    try:
        log.info(f"random structure of seed {options.seed}: {', '.join(operations)}")
        write_config(run, options)
        write_structure(options, run, description, operations)
        _announce(log, options, run, description)
    finally:
        close_log(log)
        run.unlock()
    return 0


def write_structure(options, run, description, operations, weights=None):
    """Write structure.json, with the options of its search."""
    search = {key: value for key, value in vars(options).items() if value is not None}
    if weights is not None:
        search["weights"] = [[float(value) for value in row] for row in weights]
    structure = Structure(description["model"], description["kind"], operations,
                          description["unit_options"], search)
    write_result(run.structure, structure.content())


def _announce(log, options, run, description):
    log.info(f"structure: {run.structure}")
    log.info(f"train it:  {_training_command(options, description, run.structure)}")


def _training_command(options, description, structure):
    """What trains a structure in the network, and on the data, of its search."""
    # What was not given is the network's own there, too.
    network = {name: value for name, value in script_options(description).items()
               if getattr(options, name) is not None}
    data = given(options, "dataset", "data_dir", "data_url", "limit_train")
    return shlex.join(["python", "train_cifar.py", "--model", description["model"],
                       "--structure", str(structure), *as_arguments({**network, **data})])
