"""compare.py, run as a user runs it."""
import re

import pytest

import compare
from common.errors import UserError
from tests import scripts
from tests.reporting.run_folders import write_run

_TINY = ("--batch-size", 64, "--lr", 0.05, "--num-epochs", 1, "-j", 0)


@pytest.fixture(scope="module")
def cifar_files(tmp_path_factory):
    """A small data set in the official binary format: drawn shapes, 128 + 64 images."""
    return scripts.drawn_cifar(tmp_path_factory.mktemp("cifar-files"), train=128, test=64)


def _grid(folder, cifar_files):
    return scripts.run("compare.py", "--acts", "relu,ChaATAC", "--blocks", 1, "--out",
                       "reports/tiny", "--", *_TINY, "--data-dir", cifar_files, cwd=folder)


@pytest.fixture(scope="module")
def real_runs(tmp_path_factory, cifar_files):
    """A folder with two small trained networks, from a grid."""
    folder = tmp_path_factory.mktemp("real")
    done = _grid(folder, cifar_files)
    assert done.returncode == 0, done.stderr
    for unit in ("relu", "ChaATAC"):
        assert f"tiny-{unit}-b1: " in done.stdout
        (folder / "logs" / f"tiny-{unit}-b1").rename(folder / "logs" / unit)
        (folder / "params" / f"tiny-{unit}-b1").rename(folder / "params" / unit)
    assert "## Differences to relu" in done.stdout
    assert (folder / "reports/tiny/index.html").exists()
    return folder


def test_real_runs_with_all_that_there_is(real_runs):
    (real_runs / "logs/README.md").write_text("what is here")
    arguments = ("--runs", "logs/relu", "logs/ChaATAC", "logs/README.md", "--baseline", "relu",
                 "--confusion", "--gallery", "logs/relu/curves.png", "--out", "reports/r")
    done = scripts.run("compare.py", *arguments, cwd=real_runs)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "skipped: logs/README.md is no folder"
    out = real_runs / "reports/r"
    assert {path.name for path in out.iterdir()} == {
        "table.md", "runs.csv", "configurations.csv", "differences.csv", "curves.png",
        "index.html", "confusion-00-relu.png", "confusion-00-relu.csv",
        "confusion-01-ChaATAC.png", "confusion-01-ChaATAC.csv"}
    assert "77,850" in done.stdout and "89,578" in done.stdout
    assert (out / "table.md").read_text() in done.stdout
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    # best.params give exactly the accuracy that the run states.
    assert len(re.findall(r"accuracy [\d.]+ % of 64 images", page)) == 2
    assert "The run itself states" not in page


def test_a_second_call_gives_the_same_bytes(real_runs, monkeypatch):
    arguments = ["--runs", "logs/relu", "logs/ChaATAC", "--out"]
    monkeypatch.chdir(real_runs)
    compare.main([*arguments, "one"])
    # Another process: other hash seeds, nothing remembered.
    done = scripts.run("compare.py", *arguments, "two", cwd=real_runs)
    assert done.returncode == 0, done.stderr
    made = [{path.name: path.read_bytes() for path in (real_runs / out).iterdir()}
            for out in ("one", "two")]
    assert made[0] == made[1] and "table.md" in made[0]


def test_params_are_not_needed_for_the_table(real_runs, tmp_path):
    for name in ("relu", "ChaATAC"):
        (tmp_path / "logs" / name).mkdir(parents=True)
        for file in ("config.json", "result.json", "metrics.csv"):
            text = (real_runs / "logs" / name / file).read_text()
            (tmp_path / "logs" / name / file).write_text(text)
    for folder in (real_runs, tmp_path):
        runs = [str(folder / "logs" / name) for name in ("relu", "ChaATAC")]
        compare.main(["--runs", *runs, "--out", str(tmp_path / f"of-{folder.name}")])
    tables = [(tmp_path / f"of-{folder.name}/table.md").read_bytes()
              for folder in (real_runs, tmp_path)]
    assert tables[0] == tables[1]


def test_hostile_names(tmp_path, capsys):
    folder = write_run(tmp_path, "x<img src=x onerror=alert(1)>|\x1b[31m")
    compare.main(["--runs", str(folder), "--out", str(tmp_path / "out"), "--title", "<script>",
                  "--group", "<b>$\\x=x*"])
    page = (tmp_path / "out/index.html").read_text()
    assert "<img src=x" not in page and "<script" not in page and "<b>" not in page
    assert "&lt;b&gt;" in page
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("arguments, words", [
    ([], "--runs"),
    (["--runs", "nothing"], "no finished run"),
    (["--runs", "logs/a", "--baseline", "nobody"], "units are relu"),
    (["--runs", "logs/a", "--group", "nobody"], "NAME=PATTERN"),
    (["--runs", "logs/a", "--gallery", "logs/a/config.json"], "is no PNG"),
    (["--runs", "logs/a", "--out", "logs/a/config.json"], "cannot write to --out"),
    (["--runs", "logs/a", "--unknown"], "unrecognized"),
    (["--runs", "logs/a", "--", "--lr", "1"], "there is no grid"),
    (["--runs", "logs/a", "--finished"], "--finished is of a grid"),
    (["--acts", "rolu"], "rolu"),
    (["--acts", "relu,swish", "--baseline", "rolu"], "units are relu, swish"),
    (["--blocks", "0"], "at least 1"),
    (["--grid", "absent.json"], "cannot read --grid"),
    (["--grid", "logs/a/config.json", "--acts", "relu"], "drop --acts"),
])
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    write_run(tmp_path, "a")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        compare.main(arguments)
    assert not list(tmp_path.glob("reports/*/index.html"))


def test_errors_reach_the_user(tmp_path):
    done = scripts.run("compare.py", "--runs", "nothing", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: no finished run")


def test_confusion_without_params_is_skipped(tmp_path, capsys):
    folder = write_run(tmp_path, "a")
    compare.main(["--runs", str(folder), "--out", str(tmp_path / "out"), "--confusion"])
    assert "skipped: no confusion matrix of a" in capsys.readouterr().err
    assert (tmp_path / "out/index.html").exists()


def test_confusion_of_another_data_set_is_skipped(tmp_path, capsys):
    folder = write_run(tmp_path, "a", dataset="imagenet")
    (tmp_path / "params/a/best.params").write_bytes(b"")
    compare.main(["--runs", str(folder), "--out", str(tmp_path / "out"), "--confusion"])
    assert "skipped: no confusion matrix of a: unknown data set 'imagenet'" in (
        capsys.readouterr().err)
    assert (tmp_path / "out/index.html").exists()


def test_a_finished_grid_is_only_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for blocks in (1, 2):
        for seed in (0, 1):
            write_run(tmp_path, f"g-swish-b{blocks}-seed{seed}", seed, activation="swish",
                      blocks=blocks)
    training = ["--", "--padding", "reflect", "--num-epochs", "4", "--lr-mode", "cosine"]
    assert compare.main(["--acts", "swish", "--blocks", "1,2", "--seeds", "0,1", "--out", "g",
                         *training]) == 0
    assert capsys.readouterr().out.count(" is finished\n") == 4
    assert (tmp_path / "g/depths.png").exists()


def test_a_grid_is_compared_as_far_as_it_is_finished(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = ["--acts", "relu,swish", "--blocks", "1", "--out", "g", "--finished", "--",
            "--num-epochs", "4", "--padding", "reflect", "--lr-mode", "cosine"]
    with pytest.raises(UserError, match="no run of the grid is finished"):
        compare.main(grid)
    write_run(tmp_path, "g-relu-b1", params=False)
    assert compare.main(grid) == 0
    captured = capsys.readouterr()
    assert "2 runs in the grid, 1 not finished" in captured.err
    assert "g-relu-b1" in captured.out and "swish" not in captured.out
