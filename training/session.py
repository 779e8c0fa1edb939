"""From a script's options to a finished run.

The scripts bring what differs: how data and network are made. Everything that a user can
get wrong is checked here before the first step.
"""
import argparse
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np

from common import interruption
from common.errors import UserError
from common.files import read_json, write_json
from common.params import ParamsError, check_params
from common.progress import format_seconds
from graph.fast_cpu import hybridize
from machines.client import get_client

from .device import select_contexts
from .epoch import Normalize
from .fit import Fit, FitOptions, evaluate_together
from .history import close_log, open_log, silent_log
from .input_statistics import keep_input_statistics
from .loop import SaveFailed
from .objective import Objective
from .options import NOT_COMPUTING
from .run import Run
from .schedule import Plateau, Schedule, proportional_milestones
from .workers import connect

__all__ = ["train", "Recipe", "resolve_options", "as_user_error", "open_run", "write_config",
           "describe_dataset", "make_schedule", "make_trainer", "make_objective"]

# Options that each worker may have its own way: where things are on its machine.
_OF_MACHINE = {"gpus", "num_data_workers", "data_dir", "data_url", "save_dir", "log_dir",
               "save_plot_dir", "rec_train", "rec_train_idx", "rec_val", "rec_val_idx",
               "teacher_params", "resume_from", "structure"}
# Options that are about one invocation and stay out of config.json.
_PASSING = {"config", "resume", "overwrite", "summary"}


class Recipe:
    """What a script brings.

    Parameters
    ----------
    describe : callable
        ``describe(options) -> dict`` names the network and its options; raises ValueError.
    build : callable
        ``build(description, classes, devices) -> HybridBlock``; raises ValueError.
    load_weights : callable
        ``load_weights(net, path, ctx)``; raises ValueError.
    make_batches : callable
        ``make_batches(options, batch_size, shard) -> dataset, train, val, test``; raises
        ValueError. The size is that of all devices of a worker, the shard its number and that
        of all workers.
    milestones, epochs
        The published milestones and length, scaled to the length of the run.
    make_objective : callable, optional
        ``make_objective(options, classes, contexts) -> Objective``; raises ValueError.
    style : str, default 'cifar'
        Whose log lines: see `training.history.epoch_lines`.
    """

    def __init__(self, describe, build, load_weights, make_batches, milestones, epochs,
                 make_objective=None, style="cifar"):
        self.describe, self.build, self.load_weights = describe, build, load_weights
        self.make_batches = make_batches
        self.milestones, self.epochs = milestones, epochs
        self.make_objective, self.style = make_objective, style


def train(parser, argv, recipe):
    """Train as the command line `argv` says.

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    UserError
        If the user can put something right.
    """
    options = agreed_options(parser, argv)
    contexts = select_contexts(options.gpus, options.num_gpus)
    _check_precision(options, contexts)
    description = as_user_error(recipe.describe, options)
    options.name = options.name or default_name(options, description)
    workers = connect(options, contexts)
    run = open_run(options) if workers.first else None

    dataset, train_batches, val_batches, test_batches = as_user_error(
        recipe.make_batches, options, options.batch_size * len(contexts),
        (workers.rank, workers.count))
    _check_alike(workers, len(contexts), dataset, train_batches, val_batches)
    description.update(dataset=describe_dataset(dataset))
    net, predictor = _make_networks(options, recipe, description, dataset, contexts)
    schedule = make_schedule(options, recipe, len(train_batches))
    if options.scale_lr:
        images = options.batch_size * len(contexts) * workers.count
        schedule = replace(schedule, lr=options.lr * images / options.scale_lr)
    objective = (as_user_error(recipe.make_objective, options, dataset.outputs, contexts)
                 if recipe.make_objective else make_objective(options, dataset.outputs))

    log = _begin(run, options)
    try:
        _announce(log, options, dataset, net, contexts, workers)
        fit = Fit(net, predictor, make_trainer(net, options, workers.kvstore), objective, schedule,
                  train_batches, val_batches,
                  Normalize(dataset.mean, dataset.std, options.dtype), contexts, run, log,
                  _fit_options(options, description, dataset, recipe.style), description,
                  Plateau(options.lr_patience, options.lr_decay)
                  if options.lr_mode == "plateau" else None, workers)
        if not (options.resume and fit.resume()) and run:
            write_config(run, options)
        start = time.monotonic()
        with interruption.deferred():
            result = fit()
        result["images_per_step"] = options.batch_size * len(contexts) * workers.count
        _report(log, run, fit, result, dataset, test_batches, time.monotonic() - start)
    except interruption.Interrupted as stop:
        how = "python" if workers.count == 1 else "the same launcher and"
        if run:
            log.info(f"stopped by {stop}; go on with: {how} {parser.prog} --resume {run.logs}")
        return stop.code
    finally:
        close_log(log)
        if run:
            run.unlock()
    return 0


def _begin(run, options):
    """Make the run's folders and open its log; nothing but a silent log for workers above 0."""
    if run is None:
        return silent_log()
    if options.overwrite:
        # Only now: nothing that the user can get wrong is left to check.
        run.remove()
    run.create()
    return open_log(run.log_file)


# ---- options ----------------------------------------------------------------------------------

def resolve_options(parser, argv):
    """Options of the command line over those of --config, or of the run that is resumed."""
    typed = options = parser.parse_args(argv)
    if options.config:
        parser.load_config(options.config)
        options = _one_choice(typed, parser.parse_args(argv))
    stored = _stored_config(options)
    if stored is None:
        return options
    parser.load_config(stored)
    merged = _one_choice(typed, parser.parse_args(argv))
    merged.name = options.name or stored.parent.name
    if Path(merged.log_dir).resolve() != stored.parent.parent.resolve():
        raise UserError(f"{stored.parent} was begun with --log-dir {merged.log_dir} in another "
                        "folder: go on from there, so that all its files are found")
    return merged


def _one_choice(typed, options):
    """The devices that were typed replace those of a file, which may say it the other way."""
    for one, other in (("gpus", "num_gpus"), ("num_gpus", "gpus")):
        if getattr(typed, one) is not None and getattr(typed, other) is None:
            setattr(options, other, None)
    return options


def agreed_options(parser, argv):
    """The options that all workers of a run share: those of worker 0.

    What may differ from machine to machine (`_OF_MACHINE`) is a worker's own, if it was given.

    Raises
    ------
    UserError
        If a worker was started with other options, or one of the options is wrong.
    """
    machine = get_client()
    if machine is None:
        return resolve_options(parser, argv)
    own = vars(parser.parse_args(argv))
    given = machine.gather(own)
    if machine.rank == 0:
        _check_same(given)
        options = resolve_options(parser, argv)
        machine.gather(vars(options))
        return options
    options = machine.gather(None)[0]
    options.update({name: own[name] for name in own.keys() & _OF_MACHINE
                    if own[name] != parser.get_default(name)})
    return argparse.Namespace(**options)


def _check_same(given):
    """Raise UserError unless all workers were started alike."""
    for rank, options in enumerate(given):
        for name in sorted(options.keys() - _OF_MACHINE):
            if options[name] != given[0].get(name):
                raise UserError(
                    f"worker {rank} was started with another --{name.replace('_', '-')} than "
                    f"worker 0: {options[name]}, not {given[0].get(name)}; start all processes "
                    "with the same options")


def _check_alike(workers, devices, dataset, train_batches, val_batches):
    """Raise UserError unless all workers have the same data and as many devices."""
    if val_batches.num_images < 1:
        raise UserError(f"there are fewer {_val_name(dataset)} images than workers")
    found = workers.gather((devices, dataset.description, len(train_batches)))
    for rank, one in enumerate(found):
        if one != found[0]:
            raise UserError("all workers need the same data and as many devices: worker {} has "
                            "{} device(s) and {}, {:,} steps; worker 0 has {} and {}, {:,} steps"
                            .format(rank, *one, *found[0]))


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _stored_config(options):
    """config.json of the run that --resume names, if there is one yet."""
    if not options.resume:
        return None
    if options.resume == "auto":
        path = Path(options.log_dir) / options.name / "config.json" if options.name else None
        return path if path and os.path.isfile(path) else None
    name = Path(options.resume).resolve().name
    candidates = [Path(options.resume), Path(options.log_dir) / name]
    for folder in candidates:
        if os.path.isfile(folder / "config.json"):
            options.name = name
            return folder / "config.json"
    raise UserError(f"--resume {options.resume}: no run is there (no config.json in "
                    f"{' or '.join(map(str, candidates))})")


def as_user_error(function, *arguments):
    """Call a function whose ValueErrors are about what the user asked for."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise UserError(str(error)) from error


def _check_precision(options, contexts):
    if options.dtype != "float16":
        return
    if contexts[0].device_type == "cpu":
        raise UserError("--dtype float16 needs a GPU: MXNet has no usable float16 convolutions "
                        "on a CPU; use float32")
    if str(getattr(options, "norm_layer", None)).lower() == "syncbatchnorm":
        raise UserError("--norm-layer SyncBatchNorm computes in float32 only: use --dtype float32, "
                        "or BatchNorm")


def default_name(options, description):
    """A run's name, from what it computes."""
    model = description["options"]
    parts = [options.dataset, description["model"]]
    parts += [f"b{model['blocks']}"] if "blocks" in model else []
    parts += [str(model[slot]) for slot in ("activation", "attention") if model.get(slot)]
    parts += [f"SS{model['structure']['kind']}"] if "structure" in model else []
    return "-".join([*parts, f"seed{options.seed}"])


def open_run(options):
    """The run's folders, if they are free or meant.

    Raises
    ------
    UserError
        If a run of that name is there and neither --resume nor --overwrite was given, or both
        were, it is to be resumed with other options, or another process works on it.
    """
    if options.resume and options.overwrite:
        raise UserError("--resume keeps an earlier run and --overwrite deletes it: choose one")
    run = Run(options.name, options.save_dir, options.log_dir, options.logging_file,
              options.save_plot_dir)
    run.check_owned()
    run.lock()
    if run.exists() and not (options.resume or options.overwrite):
        raise UserError(f"a run named {run.name} is there already ({run.logs}): go on with "
                        "--resume, replace it with --overwrite, or choose another --name")
    if options.resume and os.path.lexists(run.config):
        _check_goes_on(options, read_json(run.config))
    return run


def _check_goes_on(options, stored):
    """Raise UserError unless the options compute what the stored ones do."""
    for name in sorted(stored.keys() - NOT_COMPUTING):
        if _plain(getattr(options, name, None)) != stored[name]:
            raise UserError(f"a resumed run goes on as it began: --{name.replace('_', '-')} was "
                            f"{stored[name]}; drop the option, or start a new run with another "
                            "--name")


def write_config(run, options):
    """Write the options into config.json, for --config and --resume."""
    try:
        write_json(run.config, {key: value for key, value in vars(options).items()
                                if key not in _PASSING})
    except OSError as error:
        raise UserError(f"cannot write {run.config}: {error.strerror}") from None


# ---- the parts of a run -----------------------------------------------------------------------

def describe_dataset(dataset):
    """What a description says of the data set."""
    return {"name": dataset.name, "classes": dataset.classes, "outputs": dataset.outputs,
            "class_names": dataset.class_names,
            "mean": list(dataset.mean), "std": list(dataset.std),
            "image_size": dataset.image_size}


def _make_networks(options, recipe, description, dataset, contexts):
    """The network to train, and its twin that predicts (see `copy_parameters`)."""
    # MXNet draws the initial weights from NumPy's and its own global generators.
    mx.random.seed(options.seed)
    np.random.seed(options.seed)
    net, predictor = (as_user_error(recipe.build, description, dataset.outputs, len(contexts))
                      for _ in range(2))
    if options.resume_from:
        as_user_error(recipe.load_weights, net, options.resume_from, contexts)
    else:
        net.initialize(mx.init.MSRAPrelu(), ctx=contexts)
    predictor.initialize(ctx=contexts)
    if options.summary:
        # An imperative prediction: so by the twin, and before hybridizing.
        predictor.summary(mx.nd.zeros((1, 3, dataset.image_size, dataset.image_size),
                                      contexts[0]))
    if options.dtype != "float32":
        net.cast(options.dtype)
        predictor.cast(options.dtype)
    if options.mode == "hybrid":
        size = dataset.image_size
        for each in (net, predictor):
            hybridize(each, (options.batch_size, 3, size, size), contexts, options.dtype)
    keep_input_statistics(net)
    return net, predictor


def make_trainer(net, options, kvstore="device"):
    """A Gluon Trainer; updates run on the devices, so that their state can be saved."""
    if options.no_wd:
        for name, parameter in net.collect_params().items():
            if name.endswith(("gamma", "beta", "bias")):
                parameter.wd_mult = 0.0
    settings = {"learning_rate": options.lr, "wd": options.weight_decay}
    if options.optimizer != "adam":
        settings["momentum"] = options.momentum
    if options.dtype != "float32":
        settings["multi_precision"] = True
    return mx.gluon.Trainer(net.collect_params(), options.optimizer, settings,
                            kvstore=kvstore, update_on_kvstore=False)


def make_schedule(options, recipe, steps_per_epoch):
    """The learning rate as a function of the step.

    Without explicit milestones, the published ones keep their share of the run's length.
    """
    if options.lr_decay_period:
        epochs = range(options.lr_decay_period, options.num_epochs, options.lr_decay_period)
    elif options.lr_decay_epoch is not None:
        epochs = options.lr_decay_epoch
    else:
        epochs = proportional_milestones(recipe.milestones, recipe.epochs, options.num_epochs)
    try:
        return Schedule(options.lr_mode, options.lr, options.num_epochs * steps_per_epoch,
                        warmup_steps=options.warmup_epochs * steps_per_epoch,
                        warmup_lr=options.warmup_lr,
                        milestones=tuple(math.ceil(e * steps_per_epoch) for e in epochs),
                        decay=options.lr_decay, final_lr=options.final_lr,
                        power=options.lr_power)
    except ValueError as error:
        raise UserError(f"--warmup-epochs {options.warmup_epochs} with --num-epochs "
                        f"{options.num_epochs}: {error}") from None


def make_objective(options, classes):
    """Cross-entropy with the softening that the options ask for."""
    return Objective(classes, options.label_smoothing, options.mixup, options.cutmix,
                     max(options.num_epochs - options.mixup_off_epoch, 0))


def _fit_options(options, description, dataset, style):
    return FitOptions(
        num_epochs=options.num_epochs, seed=options.seed, log_interval=options.log_interval,
        save_period=options.save_period, keep=options.keep,
        checkpoint_every=options.checkpoint_every, early_stop=options.early_stop,
        val_name=_val_name(dataset), title=f"{options.name} on {dataset.title}",
        reseed=any(description["options"].get(rate) for rate in ("drop_rate", "final_drop")),
        style=style, loss_scaling=options.dtype == "float16")


def _val_name(dataset):
    return dataset.val_name


# ---- what is said -----------------------------------------------------------------------------

def _announce(log, options, dataset, net, contexts, workers):
    trained = sum(int(np.prod(p.shape)) for p in net.collect_params().values()
                  if p.grad_req != "null")
    log.info(f"run {options.name}")
    log.info(dataset.description)
    log.info(f"{trained:,} trained parameters, on {', '.join(map(str, contexts))}, "
             f"{options.dtype}")
    if workers.count > 1:
        log.info(f"{workers.count} workers, {options.batch_size * len(contexts) * workers.count:,} "
                 "images a step")
    log.info("options " + " ".join(f"{key}={value}" for key, value in vars(options).items()
                                   if value not in (None, False)))


def _report(log, run, fit, result, dataset, test_batches, seconds):
    """Say how the run went and where everything is; write result.json."""
    val_name = _val_name(dataset)
    scores = (_test_scores(fit, run, test_batches)
              if val_name != "test" and test_batches is not None else None)
    if run is None:
        return
    for which in ("last", "best"):
        row = result[which]
        how = f" (chosen by {val_name} accuracy)" if which == "best" else ""
        log.info(f"{which}, after {row['epoch'] + 1} epochs{how}: {val_name} accuracy "
                 f"{100 * row['val_accuracy']:.2f} %")
    if scores:
        result["test"] = scores
        for which, score in scores.items():
            log.info(f"{which}: test accuracy {100 * score['accuracy']:.2f} %")
    try:
        write_json(run.result, {**result, "val_name": val_name})
    except OSError as error:
        raise SaveFailed(f"cannot write {run.result}: {error.strerror}. Make room, and write it "
                         "with --resume") from None
    log.info(f"took {format_seconds(seconds)}")
    for what, path in (("params", run.params), ("log", run.log_file), ("metrics", run.metrics),
                       ("curves", run.curves)):
        log.info(f"{what + ':':9}{path}")
    log.info(f"evaluate: python evaluate.py --params {run.params / 'best.params'}")


def _test_scores(fit, run, test_batches):
    """Test scores of the last and of the selected network, where training never saw them."""
    scores = {}
    for which in ("last", "best"):
        path = run.params / f"{which}.params" if run else Path(which)
        with fit.workers.shared_files([path]) as (path,):
            try:
                check_params(path)
            except ParamsError as error:
                raise UserError(f"{path}: {error}") from None
            fit.predictor.load_parameters(str(path), ctx=fit.contexts)
        scores[which] = evaluate_together(fit.workers, fit.predictor, test_batches,
                                          fit.normalize, fit.contexts)
    return scores
