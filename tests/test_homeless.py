"""A user without HOME and without an entry in passwd, as in many a container."""
import os
import pwd
import subprocess
import sys

import pytest

import evaluate
import export
import train_cifar
import train_imagenet
from common.errors import UserError
from tests import scripts

_PARAMS = str(scripts.ROOT / "params/cifar10-relu-b1.params")


@pytest.fixture(autouse=True)
def homeless(monkeypatch, tmp_path):
    def unknown(who):
        raise KeyError(who)

    monkeypatch.delenv("HOME", raising=False)
    for name in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(pwd, name, unknown)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("main, arguments", [
    (train_cifar.main, ["--name", "run", "--num-epochs", "1"]),
    (train_cifar.main, ["--name", "run", "--data-dir", "~/images"]),
    (train_imagenet.main, ["--name", "run"]),
    (train_imagenet.main, ["--name", "run", "--use-rec"]),
    (evaluate.main, ["--params", _PARAMS]),
    (evaluate.main, ["--params", _PARAMS, "--dataset", "imagenet", "--use-rec"]),
    (export.main, ["--params", _PARAMS, "--output", "~/net.onnx"])])
def test_a_home_folder_is_missed_in_a_line(main, arguments):
    with pytest.raises(UserError, match="there is no home folder that ~ could stand for"):
        main(arguments)


def test_who_names_folders_needs_none(tmp_path):
    files = scripts.drawn_cifar(tmp_path / "files", train=64, test=10)
    # In a process of its own: Matplotlib looks for a home folder when it is imported.
    program = ("import os, pwd, sys\n"
               "def unknown(who): raise KeyError(who)\n"
               "pwd.getpwuid = pwd.getpwnam = unknown\n"
               f"sys.path.insert(0, {str(scripts.ROOT)!r})\n"
               "import gradcam, train_cifar\n"
               "assert train_cifar.main(sys.argv[1:]) == 0\n"
               "assert gradcam.main(['--run', 'run', '--data-dir', sys.argv[2]]) == 0")
    done = subprocess.run(
        [sys.executable, "-c", program, "--data-dir", str(files), "--name", "run", "--num-epochs",
         "1", "--blocks", "1", "--batch-size", "32", "-j", "0"], capture_output=True, text=True,
        cwd=tmp_path, timeout=120,
        env={key: value for key, value in os.environ.items()
             if key not in ("HOME", "MPLCONFIGDIR")})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "logs/run/curves.png").is_file()
