"""What is no regular file, or of an absurd size, in the place of each file that is read."""
import contextlib
import signal

import pytest

import compare
import evaluate
import export
import train_cifar
from common.errors import UserError
from common.params import check_params, read_params
from machines.launch import read_hosts
from reporting.runs import DamagedRun, load_run
from runs.folder import Run
from tests import scripts
from tests.reporting.run_folders import write_run
from tests.torture.fuzz_files import SPECIAL
from training.checkpoint import CheckpointError, newest_checkpoint
from training.history import main as history
from training.history import open_log, read_log, read_metrics

_PARAMS = scripts.ROOT / "params/cifar10-relu-b1.params"


@pytest.fixture(params=SPECIAL)
def special(request, tmp_path):
    """A function that puts what is no file at a path; all that follows must end in 10 s."""
    def put(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        SPECIAL[request.param](path)
        return path

    def too_slow(*_):
        raise TimeoutError("it is waited for, or read without end")

    before = signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(10)
    yield put
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("read", [
    check_params, read_params, read_metrics, read_log, read_hosts,
    lambda path: history([str(path)]),
    lambda path: train_cifar.main(["--config", str(path)]),
    lambda path: train_cifar.main(["--structure", str(path), "--data-dir", "x"]),
    lambda path: compare.main(["--grid", str(path), "--out", str(path.parent / "out")]),
    lambda path: compare.main(["--runs", "x", "--gallery", str(path)]),
    lambda path: evaluate.main(["--params", str(path), "--dataset", "cifar10"]),
    lambda path: evaluate.main(["--onnx", str(path), "--dataset", "cifar10"]),
    lambda path: export.main(["--params", str(path)])])
def test_it_is_refused_in_a_line(special, read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UserError, ValueError)) as refusal:
        read(special(tmp_path / "file"))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["config.json", "result.json", "metrics.csv"])
def test_a_run_of_it_is_left_out(special, name, tmp_path):
    folder = write_run(tmp_path, "run")
    special(folder / name)
    with pytest.raises(DamagedRun):
        load_run(folder)


@pytest.mark.parametrize("name", ["last.json", "best.json"])
def test_a_run_s_description(special, name, tmp_path):
    folder = write_run(tmp_path, "run")
    (tmp_path / "params/run/last.json").unlink(missing_ok=True)
    special(tmp_path / "params/run" / name)
    with pytest.raises(DamagedRun):
        load_run(folder)


def test_the_description_beside_parameters(special, tmp_path):
    path = tmp_path / "net.params"
    path.write_bytes(_PARAMS.read_bytes())
    special(path.with_suffix(".json"))
    with pytest.raises(UserError):
        evaluate.main(["--params", str(path)])


@pytest.mark.parametrize("name", ["state.json", "net.params", "optimizer.params"])
def test_a_file_of_a_checkpoint(special, name, tmp_path):
    special(tmp_path / "step-000000001" / name)
    warnings = []
    with pytest.raises(CheckpointError, match="every checkpoint in .* is damaged"):
        newest_checkpoint(tmp_path, warnings.append)
    assert len(warnings) == 1


@pytest.mark.parametrize("name", ["config.json", ".lock"])
def test_a_run_s_folder(special, name, tmp_path):
    run = Run("run", tmp_path / "params", tmp_path / "logs")
    path = special(run.logs / name)
    before = path.lstat()
    if path.is_dir() and name == "config.json":
        assert run.exists()         # so that nothing is begun there
    else:
        with pytest.raises(UserError):
            run.check_owned()
            run.lock()
    run.unlock()
    assert path.lstat().st_ino == before.st_ino and path.lstat().st_mode == before.st_mode


def test_a_log(special, tmp_path):
    path = special(tmp_path / "train.log")
    if path.is_file():
        pytest.skip("a log may be of any size")
    with pytest.raises(UserError, match="cannot write"):
        open_log(path)
