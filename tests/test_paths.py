"""Every option that takes a path, with paths that nobody can use: one line, no traceback."""
import ctypes
import importlib
import os

import pytest

from common.errors import UserError
from data.packing import pack
from tests import scripts
from tests.data.photo_files import write_tree
from tests.reporting.run_folders import write_run

_PARAMS = str(scripts.ROOT / "params/cifar10-relu-b1.params")
_TRAINING = ("--batch-size", "32", "--blocks", "1", "-j", "0", "--name", "run")
# What each script is to do beside; DATA stands for a folder of images.
_OTHERS = {
    "train_cifar": ("--num-epochs", "1", "--data-dir", "DATA", *_TRAINING),
    "train_imagenet": ("--data-dir", "DATA", "--name", "run", "--model", "resnet18_v1b",
                       "--input-size", "32", "--num-epochs", "1", "--batch-size", "2", "-j", "0"),
    "search_attention": ("--dataset", "cifar10", "--data-dir", "DATA", "--search-epochs", "1",
                         "--width", "0.03", "--batch-size", "32", "-j", "0", "--name", "run"),
    "evaluate": ("--params", _PARAMS, "--data-dir", "DATA", "--csv", "DATA/table.csv"),
    "export": ("--params", _PARAMS, "--data-dir", "DATA", "--output", "DATA/net.onnx",
               "--check", "--overwrite"),
    "gradcam": ("--params", _PARAMS, "--data-dir", "DATA", "--output", "DATA/map.png"),
    "compare": ("--runs", "DATA/logs/run", "--out", "DATA/report"),
}
# What an option is used with.
_RECORDS = ("--use-rec", "--rec-train", "DATA/rec/train.rec", "--rec-val", "DATA/rec/val.rec")
_WITH = {"--onnx": ("--dataset", "cifar10"), "--teacher-params": ("--teacher", "resnet18_v1b"),
         **dict.fromkeys(("--rec-train", "--rec-train-idx", "--rec-val", "--rec-val-idx"),
                         _RECORDS)}
# A run whose confusion matrix cannot be had is left out with a line.
_LEFT_OUT = {("compare", "--data-dir")}


def _cases():
    for script in _OTHERS:
        for action in importlib.import_module(script).make_parser()._actions:
            flag = action.option_strings[0]
            takes_path = any(word in str(action.metavar) for word in ("DIR", "FILE", "PATH"))
            if takes_path and (script, flag) not in _LEFT_OUT:
                yield script, flag


class _NoPrivileges(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@pytest.fixture
def obeys_permissions():
    """Without root's right to pass them by, until the test ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (_NoPrivileges * 2)()
    assert libc.capget(header, data) == 0
    before = data[0].effective
    data[0].effective = before & ~0b110     # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, data) == 0
    yield
    data[0].effective = before
    assert libc.capset(header, data) == 0


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = scripts.drawn_cifar(tmp_path_factory.mktemp("files"), train=64, test=10)
    write_tree(folder, classes=2, train=2, val=1)
    pack(folder, folder / "rec", log=lambda line: None)
    write_run(folder, "run")
    return folder


def _refused(script, flag, path, files):
    arguments = [str(word).replace("DATA", str(files)) for word in _OTHERS[script]]
    more = [word.replace("DATA", str(files)) for word in _WITH.get(flag, ())]
    if script in ("evaluate", "export") and more and flag.startswith("--rec"):
        more = ["--dataset", "imagenet", "--use-rec", "--rec-val", f"{files}/rec/val.rec"]
    arguments += more
    if flag in arguments:
        place = arguments.index(flag)
        del arguments[place:place + 2]
    if flag == "--onnx":
        arguments = arguments[2:]           # in place of --params
    if (script, flag) == ("gradcam", "--save-dir"):
        arguments = ["--run", "run"]
    arguments += [flag, path]
    main = importlib.import_module(script).main
    with pytest.raises(UserError) as refusal:
        main(arguments)
    message = str(refusal.value)
    assert path[:60] in message or flag in message
    assert "\n" not in message


@pytest.mark.parametrize("script, flag", _cases())
def test_paths_that_are_too_long(script, flag, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _refused(script, flag, str(tmp_path / (300 * "x")), files)


@pytest.mark.parametrize("script, flag", _cases())
def test_paths_without_permission(script, flag, files, tmp_path, monkeypatch,
                                  obeys_permissions):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locked").mkdir(mode=0)
    _refused(script, flag, str(tmp_path / "locked/x"), files)
    assert os.stat(tmp_path / "locked").st_mode & 0o777 == 0
