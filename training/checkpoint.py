"""Checkpoints that are complete or absent.

A checkpoint is a folder ``step-<number>`` with three files:

    net.params        the network's parameters, in MXNet's own format
    optimizer.params  the optimizer's arrays, in the same format: nothing is pickled
    state.json        everything else, and the SHA-256 of both and of itself

It is written under a temporary name, flushed, and renamed as a whole.
"""
import contextlib
import copy
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx

from common.errors import UserError
from common.files import read_json, sha256, sync_folder, temporary_path, write_json
from common.params import ParamsError, check_params

__all__ = ["CheckpointError", "SaveError", "save_checkpoint", "load_checkpoint", "list_checkpoints",
           "array_files", "newest_state", "other_version"]

_NAME = re.compile(r"step-(\d{9})")
_ARRAY_FILES = ("net.params", "optimizer.params")
# No parameter's structural name begins so.
_EXTRA = "extra:"


class CheckpointError(UserError):
    """A checkpoint is damaged or belongs to another run."""


class SaveError(Exception):
    """Something could not be saved, for want of space perhaps; one line, the reason alone."""


@contextlib.contextmanager
def save_errors():
    """Turn whatever a failing disk makes of a save into a `SaveError`."""
    try:
        yield
    except OSError as error:
        raise SaveError(error.strerror or str(error)) from error
    except (mx.MXNetError, ParamsError) as error:
        # MXNet does not say why, or does not even notice that not all was written.
        raise SaveError("the file could not be written to its end; is the disk full?") from error


def list_checkpoints(folder):
    """The complete-looking checkpoints in a folder, oldest first.

    Returns
    -------
    list of pathlib.Path
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name)
                  and any(os.path.lexists(path / name) for name in (*_ARRAY_FILES, "state.json")))


def array_files(path):
    """The files of a checkpoint that hold arrays: the network's and the optimizer's."""
    return [path / name for name in _ARRAY_FILES]


def _leaves(state):
    """The arrays of an optimizer's state for one parameter, in a fixed order."""
    if state is None:
        return []
    if isinstance(state, (tuple, list)):
        return [leaf for part in state for leaf in _leaves(part)]
    return [state]


def _trainers(trainer):
    """One trainer or several, as a list."""
    return list(trainer) if isinstance(trainer, (list, tuple)) else [trainer]


def _trained_parameters(net, trainer):
    """(index in the trainer, structural name, parameter) of all that it trains."""
    names = {id(parameter): name for name, parameter in net._collect_params_with_prefix().items()}
    return [(index, names[id(parameter)], parameter)
            for index, parameter in enumerate(trainer._params) if parameter.grad_req != "null"]


def _optimizer_arrays(net, trainer):
    states = trainer._updaters[0].states
    return {f"{name}:{k}": leaf.as_in_context(mx.cpu())
            for index, name, _ in _trained_parameters(net, trainer)
            for k, leaf in enumerate(_leaves(states.get(index)))}


def _update_counts(net, trainer):
    counts = trainer._optimizer._index_update_count
    return {name: counts.get(index, 0) for index, name, _ in _trained_parameters(net, trainer)}


def save_checkpoint(folder, step, net, trainer, state, keep=2, extra=None):
    """Write a checkpoint and remove the oldest ones.

    Parameters
    ----------
    folder : pathlib.Path
        Where the run's checkpoints live.
    step : int
        Optimizer updates done; names the checkpoint.
    net : mxnet.gluon.Block
    trainer : mxnet.gluon.Trainer, or several in a list
        Several share the network's parameters out among them.
    state : dict
        JSON-compatible; what the loop needs to go on.
    keep : int, default 2
        How many checkpoints stay.
    extra : dict of str -> NDArray, optional
        What else must come back from `load_checkpoint`.

    Returns
    -------
    pathlib.Path
        The checkpoint.

    Raises
    ------
    SaveError
        If it could not be written; the earlier ones are untouched.
    """
    # A pending backward pass still writes running statistics, unknown to MXNet's engine.
    mx.nd.waitall()
    final = folder / f"step-{step:09d}"
    temporary = temporary_path(final)
    shutil.rmtree(temporary, ignore_errors=True)
    arrays, counts = {f"{_EXTRA}{name}": array for name, array in (extra or {}).items()}, {}
    for part in _trainers(trainer):
        arrays.update(_optimizer_arrays(net, part))
        counts.update(_update_counts(net, part))
    content = {**state, "update_counts": counts,
               "num_updates": [part._optimizer.num_update for part in _trainers(trainer)]}
    try:
        with save_errors():
            folder.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            net.save_parameters(str(temporary / "net.params"))
            mx.nd.save(str(temporary / "optimizer.params"), arrays)
            _flush_files(temporary)
            content["sha256"] = {name: sha256(temporary / name) for name in _ARRAY_FILES}
            write_json(temporary / "state.json", {**content, "state_sha256": _digest(content)})
            sync_folder(temporary)
            _remove(final)
            os.replace(temporary, final)
            sync_folder(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in list_checkpoints(folder)[:-keep]:
        _remove(old)
    return final


def _remove(path):
    """Remove a checkpoint; killed meanwhile, this leaves no damaged one."""
    hidden = path.with_name(f".{path.name}.old.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _digest(content):
    """SHA-256 of what state.json says."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _flush_files(folder):
    for name in _ARRAY_FILES:
        with open(folder / name, "rb+") as stream:
            os.fsync(stream.fileno())
        # MXNet does not look whether its last bytes reached the disk.
        check_params(folder / name)


def _verified_state(path):
    """The state of a checkpoint whose files are what they were when written."""
    try:
        state = read_json(path / "state.json")
        digest = state.pop("state_sha256")
        changed = ["state.json"] if digest != _digest(state) else [
            name for name in _ARRAY_FILES if sha256(path / name) != state["sha256"][name]]
        for name in _ARRAY_FILES if not changed else ():
            check_params(path / name)
    except KeyError as error:
        raise CheckpointError(f"checkpoint {path} is damaged: state.json lacks {error}") from None
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from None
    if changed:
        raise CheckpointError(f"checkpoint {path} is damaged: {changed[0]} has changed since it "
                              "was written")
    return state


def newest_state(folder, warn):
    """The newest undamaged checkpoint of a folder.

    Parameters
    ----------
    folder : pathlib.Path
    warn : callable
        Told of every damaged checkpoint that is passed over.

    Returns
    -------
    (pathlib.Path, dict) or None
        None if there is no checkpoint at all.

    Raises
    ------
    CheckpointError
        If there are checkpoints but all are damaged.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        try:
            return path, _verified_state(path)
        except CheckpointError as error:
            warn(str(error))
    if paths:
        raise CheckpointError(f"every checkpoint in {folder} is damaged; start anew with "
                              "--overwrite")
    return None


def other_version(path):
    """The error of a checkpoint whose state lacks something that this version reads."""
    return CheckpointError(f"checkpoint {path} was written by another version")


def load_checkpoint(path, state, net, trainer, files=None):
    """Put network and optimizer into the state of a checkpoint.

    Parameters
    ----------
    path : pathlib.Path
        The checkpoint's folder.
    state : dict
        Its state, as `newest_state` returned it.
    net : mxnet.gluon.Block
        The same network, initialized.
    trainer : mxnet.gluon.Trainer, or several in a list
        Made for that network with the same optimizer; as many as were saved.
    files : sequence of 2 pathlib.Path, optional
        Copies of its `array_files`, to be read in their place.

    Returns
    -------
    dict of str -> NDArray
        What was saved as `extra`.

    Raises
    ------
    CheckpointError
        If parameters or optimizer arrays do not fit.
    """
    of_net, of_optimizer = files or array_files(path)
    try:
        net.load_parameters(str(of_net),
                            ctx=_trainers(trainer)[0]._contexts, cast_dtype=True,
                            dtype_source="current")
    except (AssertionError, ValueError, mx.MXNetError) as error:
        raise CheckpointError(f"checkpoint {path} belongs to another network: "
                              f"{str(error).splitlines()[0]}") from None
    arrays = mx.nd.load(str(of_optimizer)) or {}
    try:
        for part, num_update in zip(_trainers(trainer), state["num_updates"]):
            _restore_optimizer(path, state, arrays, net, part)
            part._optimizer.num_update = num_update
    except (KeyError, TypeError):
        raise CheckpointError(f"checkpoint {path} was written by another optimizer or an "
                              "earlier version") from None
    return {name[len(_EXTRA):]: array for name, array in arrays.items()
            if name.startswith(_EXTRA)}


def _restore_optimizer(path, state, arrays, net, trainer):
    optimizer = trainer._optimizer
    counts = {}
    for index, name, parameter in _trained_parameters(net, trainer):
        counts[index] = state["update_counts"][name]
        if counts[index] == 0 and f"{name}:0" not in arrays:
            continue    # never updated yet: the first update makes its state
        for updater, data in zip(trainer._updaters, parameter.list_data()):
            fresh = optimizer.create_state_multi_precision(index, data)
            for k, leaf in enumerate(_leaves(fresh)):
                stored = arrays.get(f"{name}:{k}")
                if stored is None or stored.shape != leaf.shape:
                    raise CheckpointError(f"checkpoint {path} was written by another optimizer "
                                          f"({name} has no fitting state)")
                leaf[:] = stored
            updater.states[index] = fresh
            updater.states_synced[index] = True
    # One count per device; the optimizer switches between them by device number.
    optimizer._all_index_update_counts = {
        context.device_id: copy.copy(counts) for context in trainer._contexts}
    optimizer._index_update_count = optimizer._all_index_update_counts[
        trainer._contexts[0].device_id]
