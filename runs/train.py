"""From a script's options to a finished run.

A script brings a `Job`: what is trained on which data, with which step and record. All that
a user can get wrong is checked here before the first step.
"""
import math
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common import interruption
from common.arguments import as_arguments
from common.errors import UserError
from common.files import write_json
from common.params import parse_params
from common.progress import format_seconds
from engines.interface import Group, Loss, Settings
from machines import torchrun
from training.history import close_log, open_log, silent_log
from training.loop import Loop, SaveFailed, TrainStep
from training.mixing import Mixing
from training.record import RecordOptions, TrainingRecord
from training.schedule import Plateau, Schedule, proportional_milestones
from training.scores import evaluate

from .config import note_threads, open_run, write_config
from .describe import describe
from .engines import TITLES, settle_engine
from .weights import initial_weights

__all__ = ["Data", "Job", "Setup", "run_job"]

_MOST_FLOAT32 = 3.4028234663852886e38


@dataclass(frozen=True)
class Data:
    """What a run trains on and is scored on.

    Attributes
    ----------
    dataset
        `data.dataset.Dataset`, or the like of photographs.
    train, val : batches
        This worker's.
    test : batches, optional
        Scored at the end, where `val` are other images.
    held_out : batches, optional
        Images for the structure of a search.
    """

    dataset: Any
    train: Any
    val: Any
    test: Any = None
    held_out: Any = None


@dataclass(frozen=True)
class Setup:
    """What a run begins with.

    Attributes
    ----------
    options : argparse.Namespace
        Its ``engine`` is the one that computes.
    name : str
        Of the run.
    description : dict
        ``model`` and ``options`` of the network, and its ``dataset``.
    data : Data
    schedule : training.schedule.Schedule
    devices : tuple of str
        This worker's.
    workers : engines.workers.SingleWorker
    run : runs.folder.Run or None
        Its folders; None on workers above 0.
    """

    options: Any
    name: str
    description: dict
    data: Data
    schedule: Schedule
    devices: tuple
    workers: Any
    run: Any

    @property
    def images_per_step(self):
        """Of all devices of all workers."""
        return self.options.batch_size * len(self.devices) * self.workers.count

    @property
    def title(self):
        """Stands above the run's curves."""
        return f"{self.name} on {self.data.dataset.title}"


class Job:
    """An ordinary training run; what a script does in its own way, it overrides.

    Attributes
    ----------
    milestones, epochs
        The published milestones and length, scaled to the length of the run.
    style : str
        Whose log lines: see `training.history.epoch_lines`.
    """

    milestones, epochs, style = (), 1, "cifar"

    # ---- the script's ------------------------------------------------------------------------

    def describe(self, options):
        """The network: a dict of ``model`` and ``options``, as `model.zoo.build` takes it."""
        return describe(options)

    def open_data(self, options, batch_size, shard):
        """`Data` of a worker, given the batch size of all its devices, and (number, count)."""
        raise NotImplementedError

    def connect(self, options, devices):
        """The workers that train together."""
        if options.engine == "pytorch":
            from engines.torch_workers import connect

            return connect()
        from engines.distributed import connect

        return connect(options.kv_store, options.join_timeout, devices[0] == "cpu")

    def first_weights(self, options, description):
        """A parameter file to start from, or None; a search has no such option."""
        return getattr(options, "resume_from", None)

    def make_teacher(self, options, outputs):
        """See `engines.interface.Loss`."""
        return None

    def evaluation_options(self, options):
        """With which options evaluate.py finds the data: name -> value."""
        raise NotImplementedError

    # ---- an ordinary run's -------------------------------------------------------------------

    def default_name(self, options, description):
        """A run's name, from what it computes."""
        model = description["options"]
        parts = [options.dataset, description["model"]]
        parts += [f"b{model['blocks']}"] if "blocks" in model else []
        parts += [str(model[slot]) for slot in ("activation", "attention") if model.get(slot)]
        parts += [f"SS{model['structure']['kind']}"] if "structure" in model else []
        return "-".join([*parts, f"seed{options.seed}"])

    def build(self, description, outputs, devices=1):
        """The network, uninitialised."""
        from model.zoo import build

        return build(description, outputs, devices)

    def make_groups(self, options, weights):
        """Parameters and their optimizers: `engines.interface.Settings.groups`."""
        return {"weights": Group(options.optimizer, options.momentum,
                                 weight_decay=options.weight_decay,
                                 decay_all=not options.no_wd)}

    def make_loss(self, options, outputs):
        """`engines.interface.Loss`."""
        return Loss(outputs, options.label_smoothing, make_mixing(options).used,
                    self.make_teacher(options, outputs), getattr(options, "temperature", 20.0),
                    getattr(options, "hard_weight", 0.5))

    def make_parts(self, setup, engine, log):
        """Step and record: see `training.loop.Loop`."""
        options, schedule = setup.options, setup.schedule
        if options.scale_lr:
            lr = options.lr * setup.images_per_step / options.scale_lr
            if lr > _MOST_FLOAT32:
                raise UserError(f"--lr {options.lr:g} with --scale-lr {options.scale_lr} is "
                                f"{lr:g}: more than float32 holds")
            schedule = replace(schedule, lr=lr)
        plateau = (Plateau(options.lr_patience, options.lr_decay)
                   if options.lr_mode == "plateau" else None)
        record = TrainingRecord(
            setup.run, log, setup.title, options.num_epochs, setup.description,
            RecordOptions(setup.data.dataset.val_name, self.style, options.save_period,
                          options.keep, options.early_stop, plateau))
        step = TrainStep(engine, setup.data.train, lambda n: schedule(n) * record.factor,
                         make_mixing(options), len(setup.devices))
        return step, record

    def make_schedule(self, options, steps_per_epoch):
        """The learning rate as a function of the step.

        Without explicit milestones, the published ones keep their share of the run's length.
        """
        if options.lr_decay_period:
            epochs = range(options.lr_decay_period, options.num_epochs, options.lr_decay_period)
        elif options.lr_decay_epoch is not None:
            epochs = options.lr_decay_epoch
        else:
            epochs = proportional_milestones(self.milestones, self.epochs, options.num_epochs)
        if options.warmup_epochs >= options.num_epochs:
            raise UserError(f"--warmup-epochs {options.warmup_epochs} with --num-epochs "
                            f"{options.num_epochs}: the warm-up leaves nothing of the run")
        return Schedule(options.lr_mode, options.lr, options.num_epochs * steps_per_epoch,
                        warmup_steps=options.warmup_epochs * steps_per_epoch,
                        warmup_lr=options.warmup_lr,
                        milestones=tuple(math.ceil(e * steps_per_epoch) for e in epochs),
                        decay=options.lr_decay, final_lr=options.final_lr,
                        power=options.lr_power)

    def finish(self, setup, loop):
        """Say how the run went, and write result.json."""
        run, data, record = setup.run, setup.data, loop.record
        scores = _test_scores(setup, loop) if data.test is not None and (
            data.dataset.val_name != "test") else None
        if run is None:
            return
        result = {"last": record.last, "best": record.best,
                  "images_per_step": setup.images_per_step}
        for which in ("last", "best"):
            row = result[which]
            how = (f" (chosen by {data.dataset.val_name} accuracy)" if which == "best" else "")
            loop.log.info(f"{which}, after {row['epoch'] + 1} epochs{how}: "
                          f"{data.dataset.val_name} accuracy {100 * row['val_accuracy']:.2f} %")
        if scores:
            result["test"] = scores
            for which, score in scores.items():
                loop.log.info(f"{which}: test accuracy {100 * score['accuracy']:.2f} %")
        write_result(run.result, {**result, "val_name": data.dataset.val_name})

    def farewell(self, setup, loop):
        """Say where everything is."""
        run = setup.run
        for what, path in (("params", run.params), ("log", run.log_file),
                           ("metrics", run.metrics), ("curves", run.curves)):
            loop.log.info(f"{what + ':':9}{path}")
        loop.log.info("evaluate: " + shlex.join(
            ["python", "evaluate.py", "--params", str(run.params / "best.params"),
             *as_arguments(self.evaluation_options(setup.options))]))


def make_mixing(options):
    """How the batches of a run are mixed."""
    mixup = options.mixup and (getattr(options, "mixup_alpha", None) or options.mixup)
    return Mixing(mixup, options.cutmix, max(options.num_epochs - options.mixup_off_epoch, 0),
                  options.seed)


def _test_scores(setup, loop):
    """Test scores of the last and of the selected network, where training never saw them."""
    scores, workers = {}, setup.workers
    for which in ("last", "best"):
        path = setup.run.params / f"{which}.params" if setup.run else Path()
        content = path.read_bytes() if workers.first else None
        loop.engine.load_weights(parse_params(workers.share(content)))
        scores[which] = evaluate(loop.engine, setup.data.test)
    return scores


def write_result(path, content):
    """Write the account of a run that has come to its end.

    Raises
    ------
    training.loop.SaveFailed
    """
    try:
        write_json(path, content)
    except OSError as error:
        raise SaveFailed(f"cannot write {path}: {error.strerror}. Make room, and write it with "
                         "--resume") from None


# ---- the run -------------------------------------------------------------------------------

def run_job(job, options, script):
    """Train as the options of a script say.

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    UserError
        If the user can put something right.
    """
    setup = prepare(job, options)
    engine = make_engine(job, setup)
    options, run = setup.options, setup.run
    log = begin(run, options)
    try:
        _announce(log, setup, engine.num_trained)
        step, record = job.make_parts(setup, engine, log)
        loop = Loop(engine, step, record, setup.data.val, options.log_interval,
                    options.checkpoint_every)
        resumed = options.resume and loop.resume()
        if run:
            note_threads(run, log) if resumed else write_config(run, options)
        start = time.monotonic()
        with interruption.deferred():
            loop()
        job.finish(setup, loop)
        log.info(f"took {format_seconds(time.monotonic() - start)}")
        if run:
            job.farewell(setup, loop)
    except interruption.Interrupted as stop:
        alone = setup.workers.count == 1 or torchrun.is_launched()
        how = "python" if alone else "the same launcher and"
        if run:
            log.info(f"stopped by {stop}; go on with: {how} {script} --resume {run.logs}")
        return stop.code
    finally:
        close_log(log)
        if run:
            run.unlock()
    return 0


def prepare(job, options):
    """`Setup` of a run; nothing is written yet."""
    description = job.describe(options)
    options, devices = settle_engine(options)
    name = options.name or job.default_name(options, description)
    workers = job.connect(options, devices)
    run = open_run(options, name) if workers.first else None
    data = job.open_data(options, options.batch_size * len(devices),
                         (workers.rank, workers.count))
    _check_alike(workers, len(devices), data)
    description = {**description, "dataset": describe_dataset(data.dataset)}
    schedule = job.make_schedule(options, len(data.train))
    return Setup(options, name, description, data, schedule, devices, workers, run)


def make_engine(job, setup):
    """The engine, with the weights that the run begins with."""
    options, dataset = setup.options, setup.data.dataset
    size = dataset.image_size

    def build(devices):
        return job.build(setup.description, dataset.outputs, devices)

    path = job.first_weights(options, setup.description)
    new_classifier = getattr(options, "new_classifier", False)
    if new_classifier and not path:
        raise UserError("--new-classifier has no meaning without weights to start from: name "
                        "their file with --resume-from")
    _check_norms(build(1), options.batch_size, size)
    weights = initial_weights(build, options.seed, (3, size, size), path, options.summary,
                              new_classifier)
    model = setup.description["options"]
    if options.engine == "pytorch":
        from engines.pytorch import PyTorchEngine as Engine
    else:
        from engines.gluon import GluonEngine as Engine
    return Engine(build, weights, Settings(
        groups=job.make_groups(options, weights), loss=job.make_loss(options, dataset.outputs),
        mean=dataset.mean, std=dataset.std, batch_shape=(options.batch_size, 3, size, size),
        devices=setup.devices, dtype=options.dtype, compiled=options.mode == "hybrid",
        seed=options.seed,
        dropout=any(model.get(rate) for rate in ("drop_rate", "final_drop"))), setup.workers)


def _check_norms(net, batch_size, size):
    """Raise UserError if a normalisation would see a single value: less its mean, that is 0."""
    from graph.graph import trace
    from graph.norms import erasing_norms

    erased = erasing_norms(trace(net, (3, size, size)), batch_size)
    if erased:
        raise UserError(f"with --batch-size {batch_size} the normalisation {erased[0]} takes the "
                        "mean of a single value, which erases it, and what comes before would "
                        "never learn: take a larger --batch-size")


def describe_dataset(dataset):
    """What a description says of the data set."""
    return {"name": dataset.name, "classes": dataset.classes, "outputs": dataset.outputs,
            "class_names": dataset.class_names, "mean": list(dataset.mean),
            "std": list(dataset.std), "image_size": dataset.image_size}


def _check_alike(workers, devices, data):
    """Raise UserError unless all workers have the same data and as many devices."""
    if data.val.num_images < 1:
        raise UserError(f"there are fewer {data.dataset.val_name} images than workers")
    found = workers.gather((devices, data.dataset.description, len(data.train)))
    for rank, one in enumerate(found):
        if list(one) != list(found[0]):
            raise UserError("all workers need the same data and as many devices: worker {} has "
                            "{} device(s) and {}, {:,} steps; worker 0 has {} and {}, {:,} steps"
                            .format(rank, *one, *found[0]))


def begin(run, options):
    """Make the run's folders and open its log; nothing but a silent log for workers above 0."""
    if run is None:
        return silent_log()
    if options.overwrite:
        # Only now: nothing that the user can get wrong is left to check.
        run.remove()
    run.create()
    return open_log(run.log_file)


def _announce(log, setup, num_trained):
    options, workers = setup.options, setup.workers
    log.info(f"run {setup.name}")
    log.info(setup.data.dataset.description)
    log.info(f"{num_trained:,} trained parameters, on {', '.join(setup.devices)}, "
             f"{options.dtype}, by {TITLES[options.engine]}")
    if workers.count > 1:
        log.info(f"{workers.count} workers, {setup.images_per_step:,} images a step")
    log.info("options " + " ".join(f"{key}={value}" for key, value in vars(options).items()
                                   if value not in (None, False)))
