"""Where scripts write: a full disk is one line, and no file that is read is written over."""
import contextlib
import resource

import pytest

import compare
import export
from common.errors import UserError
from tests import scripts
from tests.reporting.run_folders import write_run
from training.history import main as history

_PARAMS = scripts.ROOT / "params/cifar10-relu-b1.params"


@contextlib.contextmanager
def _full_at(size):
    """Within the block no file can grow beyond `size` bytes: writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("form, names", [("mxnet", ["net-0000.params", "net-symbol.json"]),
                                         ("onnx", ["net.onnx"])])
def test_an_export_finds_no_room(form, names, tmp_path):
    output = tmp_path / "out" / ("net" if form == "mxnet" else "net.onnx")
    arguments = ["--params", str(_PARAMS), "--format", form, "--output", str(output)]
    with _full_at(20_000), pytest.raises(UserError, match="cannot write .*: File too large"):
        export.main(arguments)
    assert list((tmp_path / "out").iterdir()) == []
    assert export.main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_a_comparison_finds_no_room(tmp_path):
    folder = write_run(tmp_path, "run")
    arguments = ["--runs", str(folder), "--out", str(tmp_path / "out")]
    with _full_at(500), pytest.raises(UserError, match="cannot write to --out .*: File too large"):
        compare.main(arguments)
    assert not [path for path in (tmp_path / "out").iterdir() if path.stat().st_size > 500]
    assert compare.main(arguments) == 0


def test_a_comparison_does_not_replace_a_run_s_figures(tmp_path):
    folder = write_run(tmp_path, "run")
    (folder / "curves.png").write_bytes(b"of the run")
    with pytest.raises(UserError, match="is the folder of a run"):
        compare.main(["--runs", str(folder), "--out", str(folder)])
    assert (folder / "curves.png").read_bytes() == b"of the run"


@pytest.fixture
def net(tmp_path):
    """A copy of a parameter file and its description."""
    for suffix in (".params", ".json"):
        (tmp_path / f"net{suffix}").write_bytes(_PARAMS.with_suffix(suffix).read_bytes())
    return tmp_path / "net.params"


@pytest.mark.parametrize("output, form", [
    ("net.params", "onnx"), ("./net.params", "onnx"), ("net.json", "onnx"), ("link", "onnx"),
    ("hard", "onnx")])
def test_an_export_is_never_its_input(net, output, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(net)
    (tmp_path / "hard").hardlink_to(net)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="is read, and cannot be written, too"):
        export.main(["--params", "net.params", "--format", form, "--output", output,
                     "--overwrite"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_export_for_mxnet_is_never_its_input(net, tmp_path):
    exported = net.rename(tmp_path / "net-0000.params")
    net.with_suffix(".json").rename(tmp_path / "net-0000.json")
    before = exported.read_bytes()
    with pytest.raises(UserError, match="is read, and cannot be written, too"):
        export.main(["--params", str(exported), "--format", "mxnet", "--output",
                     str(tmp_path / "net"), "--overwrite"])
    assert exported.read_bytes() == before


def test_a_drawn_history_is_never_its_source(tmp_path):
    metrics = write_run(tmp_path, "run") / "metrics.csv"
    before = metrics.read_bytes()
    with pytest.raises(UserError, match="is read, and cannot be written, too"):
        history([str(metrics), "--out", str(metrics)])
    with pytest.raises(UserError, match="is read, and cannot be written, too"):
        history([str(metrics.parent), "--out", str(metrics)])
    assert metrics.read_bytes() == before
