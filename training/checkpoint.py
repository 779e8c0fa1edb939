"""Checkpoints that are complete or absent, and say nothing of the engine that wrote them.

A checkpoint is a folder ``step-<number>`` with three files:

    net.params        the network's weights and statistics, float32, in MXNet's own format
    optimizer.params  the optimizer's arrays, in the same format: nothing is pickled
    state.json        everything else, and the SHA-256 of both and of itself

It is written under a temporary name, flushed, and renamed as a whole.
"""
import contextlib
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from common.errors import UserError
from common.files import read_bytes, read_json, scratch_folder, sha256, sync_folder, write_json
from common.params import ParamsError, check_params, parse_params, write_params
from engines.interface import EngineState

__all__ = ["CheckpointError", "list_checkpoints", "newest_checkpoint", "other_version",
           "read_state", "save_checkpoint"]

_NAME = re.compile(r"step-(\d{9})")
_ARRAY_FILES = ("net.params", "optimizer.params")
_MOST_BYTES = 1 << 33
# No parameter's structural name begins so.
_STATISTICS = "extra:statistics"


class CheckpointError(UserError):
    """A checkpoint is damaged or belongs to another run."""


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


def save_checkpoint(folder, step, state, content, keep=2):
    """Write a checkpoint and remove the oldest ones.

    Parameters
    ----------
    folder : pathlib.Path
        Where the run's checkpoints live.
    step : int
        Steps done; names the checkpoint.
    state : engines.interface.EngineState
    content : dict
        JSON-compatible; what else the run needs to go on.
    keep : int, default 2
        How many checkpoints stay.

    Returns
    -------
    pathlib.Path
        The checkpoint.

    Raises
    ------
    OSError, FileError
        If it could not be written; the earlier ones are untouched.
    """
    final = folder / f"step-{step:09d}"
    arrays = dict(state.optimizer)
    if state.statistics is not None:
        arrays[_STATISTICS] = state.statistics
    content = {**content, "update_counts": state.update_counts,
               "num_updates": state.num_updates, "scaling": state.scaling}
    with scratch_folder(folder, final.name) as temporary:
        for name, each in zip(_ARRAY_FILES, (state.weights, arrays)):
            write_params(temporary / name, each)
        content["sha256"] = {name: sha256(temporary / name) for name in _ARRAY_FILES}
        write_json(temporary / "state.json", {**content, "state_sha256": _digest(content)})
        sync_folder(temporary)
        _remove(final)
        os.replace(temporary, final)
        sync_folder(folder)
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


def _verified(path):
    """What state.json of a checkpoint says, if its files are what they were when written."""
    try:
        content = read_json(path / "state.json")
        digest = content.pop("state_sha256")
        changed = ["state.json"] if digest != _digest(content) else [
            name for name in _ARRAY_FILES if sha256(path / name) != content["sha256"][name]]
        for name in _ARRAY_FILES if not changed else ():
            check_params(path / name)
    except KeyError as error:
        raise CheckpointError(f"checkpoint {path} is damaged: state.json lacks {error}") from None
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from None
    if changed:
        raise CheckpointError(f"checkpoint {path} is damaged: {changed[0]} has changed since it "
                              "was written")
    return content


def newest_checkpoint(folder, warn):
    """The newest undamaged checkpoint of a folder.

    Parameters
    ----------
    folder : pathlib.Path
    warn : callable
        Told of every damaged checkpoint that is passed over.

    Returns
    -------
    (pathlib.Path, dict) or None
        Its folder and what its state.json says; None if there is no checkpoint at all.

    Raises
    ------
    CheckpointError
        If there are checkpoints but all are damaged.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        try:
            return path, _verified(path)
        except CheckpointError as error:
            warn(str(error))
    if paths:
        raise CheckpointError(f"every checkpoint in {folder} is damaged; start anew with "
                              "--overwrite")
    return None


def other_version(path):
    """The error of a checkpoint whose state lacks something that this version reads."""
    return CheckpointError(f"checkpoint {path} was written by another version")


def read_state(path, content, workers):
    """The engine's state in a checkpoint.

    Parameters
    ----------
    path : pathlib.Path
        The checkpoint's folder, on worker 0.
    content : dict
        What its state.json says, as `newest_checkpoint` returned it.
    workers : engines.workers.SingleWorker or another
        Worker 0 reads; all get it.

    Returns
    -------
    engines.interface.EngineState

    Raises
    ------
    CheckpointError
        If something is missing in it.
    """
    try:
        weights, arrays = (parse_params(workers.share(
            read_bytes(path / name, _MOST_BYTES) if workers.first else None))
            for name in _ARRAY_FILES)
        statistics = arrays.pop(_STATISTICS, None)
        return EngineState(weights, arrays, content["update_counts"], content["num_updates"],
                           content.get("scaling"), statistics)
    except (KeyError, ParamsError) as error:
        raise CheckpointError(f"checkpoint {path} was written by another version: "
                              f"{error}") from None
