"""train_cifar.py and evaluate.py, run as a user runs them."""
import json
import os
import re
import shlex
import shutil
import subprocess

import pytest

import evaluate
import train_cifar
from common.errors import UserError
from data import DataError
from tests import golden_cases, scripts


@pytest.fixture(scope="session")
def cifar_files(tmp_path_factory):
    """A small data set in the official binary format: drawn shapes, 1,024 + 256 images."""
    return scripts.drawn_cifar(tmp_path_factory.mktemp("cifar-files"), train=1024, test=256)


def _options(files, *more):
    return ("--data-dir", files, "--blocks", 1, "--batch-size", 64, "--lr", 0.05,
            "--num-epochs", 3, *more)


def _words(files, *more):
    return [str(word) for word in _options(files, *more)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cifar_files):
    """A finished run: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    result = scripts.run("train_cifar.py", *_options(
        cifar_files, "--name", "run", "--save-period", 1, "--keep", 2, "--drop-rate", 0.1,
        "--mixup", 0.2, "--label-smoothing"), cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_a_run_leaves_params_log_metrics_and_curves(finished):
    folder, result = finished
    assert {p.name for p in (folder / "params/run").glob("*.params")} == {
        "best.params", "last.params", "epoch-0002.params", "epoch-0003.params"}
    assert {p.name for p in (folder / "logs/run").iterdir()} - {".lock"} == {
        "config.json", "train.log", "metrics.csv", "curves.png", "result.json"}
    rows = scripts.metrics(folder / "logs/run")
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    # Known to be good: what the tests below compare a run with is this one.
    assert [float(row["train_loss"]) for row in rows] == pytest.approx([2.356, 2.314, 2.317],
                                                                       rel=5e-3)
    assert len(re.findall(r"\[Epoch \d\] train=[\d.]+ val=[\d.]+", result.stdout)) == 3
    assert "last, after 3 epochs: test accuracy" in result.stdout
    assert "best, after" in result.stdout and "(chosen by test accuracy)" in result.stdout
    assert "evaluate: python evaluate.py --params params/run/best.params" in result.stdout


def test_the_printed_command_evaluates_to_the_printed_accuracy(finished, cifar_files):
    folder, result = finished
    for which in ("best", "last"):
        accuracy = re.search(rf"{which}, after .*accuracy ([\d.]+) %", result.stdout).group(1)
        scored = scripts.run("evaluate.py", "--params", f"params/run/{which}.params",
                             "--data-dir", cifar_files, cwd=folder)
        assert scored.returncode == 0, scored.stderr
        assert f"top-1 accuracy {accuracy} %" in scored.stdout
        assert "256 images" in scored.stdout
        assert f"test accuracy {accuracy} %" in scored.stdout


def test_config_json_repeats_the_run(finished, cifar_files):
    folder, _ = finished
    again = scripts.run("train_cifar.py", "--config", "logs/run/config.json", "--name", "again",
                        cwd=folder)
    assert again.returncode == 0, again.stderr
    assert scripts.metrics(folder / "logs/again") == scripts.metrics(folder / "logs/run")
    scripts.assert_same_params(folder / "params/again", folder / "params/run")


def test_killed_within_an_epoch_and_resumed_it_ends_with_the_same_bits(finished, cifar_files,
                                                                       tmp_path):
    folder, _ = finished
    process = scripts.start("train_cifar.py", "--config", folder / "logs/run/config.json",
                            "--checkpoint-every", 3, cwd=tmp_path, log=tmp_path / "out")
    target = tmp_path / "params/run/checkpoints/step-000000022"     # epoch 1, step 6 of 16
    scripts.wait_for(target.exists, process, tmp_path / "out")
    process.kill()
    process.wait()
    assert target.exists(), (tmp_path / "out").read_text()
    resumed = scripts.run("train_cifar.py", "--resume", "logs/run", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from" in resumed.stdout
    assert scripts.metrics(tmp_path / "logs/run") == scripts.metrics(folder / "logs/run")
    scripts.assert_same_params(tmp_path / "params/run", folder / "params/run")


_FREE = ("import atexit, os, common.threads; common.threads.free_cores = lambda: {}; "
         "atexit.register(lambda: print('threads:', os.environ['OMP_NUM_THREADS']))")


def test_a_run_is_resumed_with_as_many_threads_as_it_had(cifar_files, tmp_path):
    options = _options(cifar_files, "--limit-train", 64, "--num-epochs", 1, "--resume")

    def train(free, *more, **environ):
        result = subprocess.run(
            scripts.command("train_cifar.py", *options, *more, first=_FREE.format(free)),
            cwd=tmp_path, text=True, capture_output=True, timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "", **environ})
        assert result.returncode == 0, result.stderr
        return result.stdout
    assert "threads: 1\n" in train(free=1)
    config, = tmp_path.glob("logs/*/config.json")
    assert json.loads(config.read_text())["threads"] == 1
    resumed = train(free=2)
    assert "resumed from" in resumed and "threads: 1\n" in resumed and "begun with" not in resumed
    resumed = train(2, "--resume", config.parent, OMP_NUM_THREADS="2")
    assert "threads: 2\n" in resumed and "begun with 1 threads and gone on with 2" in resumed


def test_a_finished_run_without_its_checkpoints_is_not_trained_again(finished, tmp_path,
                                                                     monkeypatch):
    """As in a fresh clone, which has the logs of released runs."""
    folder, _ = finished
    shutil.copytree(folder / "logs", tmp_path / "logs")
    before = (tmp_path / "logs/run/metrics.csv").read_bytes()
    monkeypatch.chdir(tmp_path)
    for how in (["--resume", "logs/run"], ["--config", "logs/run/config.json", "--name", "run",
                                           "--resume"]):
        with pytest.raises(UserError, match="logs/run is the account of a finished run"):
            train_cifar.main(how)
    assert (tmp_path / "logs/run/metrics.csv").read_bytes() == before


def test_a_run_is_resumed_from_where_it_was_begun(finished, tmp_path, monkeypatch):
    folder, _ = finished
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="was begun with --log-dir logs in another folder"):
        train_cifar.main(["--resume", str(folder / "logs/run")])
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_cannot_become_another(finished, monkeypatch):
    folder, _ = finished
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="--lr was 0.05"):
        train_cifar.main(["--resume", "--name", "run", "--lr", "0.3"])
    with pytest.raises(UserError, match="num-epochs was 3.*--resume-from params/run/last.params"):
        train_cifar.main(["--resume", "--name", "run", "--num-epochs", "9"])


def test_the_command_that_it_prints_evaluates_it(finished, monkeypatch, capsys):
    folder, result = finished
    monkeypatch.chdir(folder)
    line, = re.findall(r"evaluate: python evaluate.py (.*)", result.stdout)
    assert evaluate.main(shlex.split(line)) == 0
    assert re.search(r"top-1 accuracy [\d.]+ %", capsys.readouterr().out)


def test_the_same_holds_for_a_run_found_by_its_default_name(cifar_files, tmp_path, monkeypatch):
    first = scripts.run("train_cifar.py", *_options(cifar_files, "--num-epochs", 1), cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--lr was 0.05"):
        train_cifar.main(_words(cifar_files, "--num-epochs", 1, "--resume", "--lr", 0.3))


def test_overwriting_waits_until_all_is_checked(finished, cifar_files, monkeypatch):
    folder, _ = finished
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="do not fill one batch"):
        train_cifar.main(_words(cifar_files, "--name", "run", "--overwrite", "--batch-size", 4096))
    assert (folder / "params/run/best.params").exists()


def test_a_run_is_not_overwritten_by_accident(finished, cifar_files, monkeypatch):
    folder, _ = finished
    before = (folder / "params/run/best.params").read_bytes()
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="--resume.*--overwrite.*--name"):
        train_cifar.main(_words(cifar_files, "--name", "run"))
    assert (folder / "params/run/best.params").read_bytes() == before


def test_val_split_selects_on_held_out_images(cifar_files, tmp_path):
    result = scripts.run("train_cifar.py", *_options(
        cifar_files, "--val-split", 128, "--name", "held", "--num-epochs", 2, "--act-type",
        "relu", "--early-stop", 1, "--lr-mode", "plateau"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "896 of 50,000 training images, 128 held out for validation" in result.stdout
    scores = json.loads((tmp_path / "logs/held/result.json").read_text())
    assert scores["test"]["last"]["count"] == scores["test"]["best"]["count"] == 256
    assert f"best: test accuracy {100 * scores['test']['best']['accuracy']:.2f} %" in (
        result.stdout)


def test_training_starts_from_given_weights(tmp_path, cifar_files):
    """The golden network keeps its accuracy when it is trained with a rate of almost nothing."""
    params = golden_cases.FOLDER / "resnet20v2_chaatac_b1_cifar10.params"
    scored = scripts.run("evaluate.py", "--params", params, "--model", "atac", "--blocks", 1,
                         "--dataset", "cifar10", "--data-dir", cifar_files, cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    assert "256 images" in scored.stdout
    result = scripts.run("train_cifar.py", *_options(
        cifar_files, "--resume-from", params, "--num-epochs", 1, "--lr", 1e-9, "--name", "on"),
        cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.realdata
def test_it_learns_real_photographs(real_cifar10, tmp_path):
    """1,000 photographs, two passes: a loss of 1.933 for each of two seeds, 2.04 without momentum.

    Chance is a loss of 2.303 and 10 %.
    """
    for name, count in [(f"data_batch_{k}.bin", 200) for k in range(1, 6)] + [
            ("test_batch.bin", 500)]:
        records = (real_cifar10 / name).read_bytes()[:count * 3073]
        (tmp_path / name).write_bytes(records)
    result = scripts.run(
        "train_cifar.py", "--data-dir", tmp_path, "--blocks", 1, "--act-type", "ChaATAC",
        "--batch-size", 25, "--lr", 0.05, "--num-epochs", 2, "--lr-mode", "cosine", "--padding",
        "reflect", "--name", "photos", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    row = scripts.metrics(tmp_path / "logs/photos")[-1]
    assert float(row["train_loss"]) == pytest.approx(1.933, abs=0.05)
    assert float(row["val_accuracy"]) > 0.22


# ---- errors ------------------------------------------------------------------------------------

_ERRORS = [
    (["--act-type", "ChaATOC"], "Did you mean 'ChaATAC'"),
    (["--attention", "CBUM"], "unknown attention 'CBUM'"),
    (["--model", "resnet_v3"], "unknown network 'resnet_v3'"),
    (["--dataset", "cifar11"], "unknown data set 'cifar11'. Did you mean 'cifar1"),
    (["--blocks", "0"], "--blocks: must be a whole number from 1 to 1024"),
    (["--lr", "-0.1"], "--lr: must be a number above 0"),
    (["--dtype", "float16", "--num-gpus", "0"], "float16 needs a GPU"),
    (["--gpus", "3"], "GPU 3 was asked for"),
    (["--act-type", "relu", "--reduction", "2"], "relu has no option reduction"),
    (["--act-layers", "5"], "act_layers must lie in 0 ... 4"),
    (["--act-gate", "tanh", "--act-type", "xUnit"], "gate must be one of"),
    (["--name", "../escape"], "a run's name holds letters"),
    (["--logging-file", "logs/x.log"], "--logging-file is the name of a file of its own"),
    (["--logging-file", "metrics.csv"], "--logging-file is the name of a file of its own"),
    (["--warmup-epochs", "3", "--num-epochs", "3"], "--warmup-epochs 3 with --num-epochs 3"),
    (["--batch-size", "4096"], "do not fill one batch"),
    (["--val-split", "1024"], "val_split is 1,024"),
    (["--config", "none.json"], "cannot read --config none.json"),
    (["--resume", "logs/none"], "no run is there"),
    (["--resume", "--overwrite"], "choose one"),
    (["--resume-from", "none.params"], "cannot read parameters from none.params"),
    (["--use_se"], "unrecognized arguments: --use_se"),
    (["--data-dir", "empty", "--data-url", "http://127.0.0.1:9/none"], "--dataset shapes"),
]


@pytest.mark.parametrize("arguments, message", _ERRORS, ids=lambda v: " ".join(v)[:30]
                         if isinstance(v, list) else "")
def test_bad_input_is_one_line_before_anything_is_written(arguments, message, cifar_files,
                                                          tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["--data-dir", str(cifar_files), "--num-epochs", "1", *arguments]
    with pytest.raises((UserError, DataError)) as caught:
        train_cifar.main(argv)
    assert message in str(caught.value)
    assert not any((tmp_path / folder).exists() for folder in ("params", "logs"))


@pytest.mark.parametrize("arguments, word", [
    (["--act-type", "ChaATOC"], "ChaATAC"),
    (["--dataset", "cifar11"], "cifar10"),
    (["--lr", "fast"], "--lr"),
])
def test_bad_input_exits_with_2_and_no_traceback(arguments, word, tmp_path):
    scripts.assert_user_error(
        scripts.run("train_cifar.py", *arguments, cwd=tmp_path), word)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(cifar_files, tmp_path):
    tmp_path.chmod(0o500)
    scripts.assert_user_error(
        scripts.run("train_cifar.py", *_options(cifar_files), cwd=tmp_path), "cannot write to")


def test_a_folder_that_cannot_be_made(cifar_files, tmp_path):
    (tmp_path / "params").write_text("a file is in the way")
    scripts.assert_user_error(
        scripts.run("train_cifar.py", *_options(cifar_files), cwd=tmp_path), "cannot write to")


@pytest.mark.parametrize("content, message", [
    (None, "has no description beside it"),
    ("{", "is not a JSON file"),
    ('{"model": 3}', "does not describe a network"),
    ('{"model": "resnet_v9", "options": {}, "dataset": {"name": "cifar10"}}', "unknown network"),
    ('{"model": "resnet_v2_cifar", "options": {"colour": 1}, "dataset": {"name": "cifar10"}}',
     "has no option colour"),
    ('{"model": "resnet_v2_cifar", "options": {"blocks": 2}, "dataset": {"name": "cifar10"}}',
     "was written by another network"),
])
def test_evaluate_s_bad_input(content, message, cifar_files, tmp_path):
    params = tmp_path / "net.params"
    params.write_bytes((golden_cases.FOLDER / "resnet20v2_relu_b1_cifar10.params").read_bytes())
    if content:
        (tmp_path / "net.json").write_text(content)
    with pytest.raises(UserError, match=message):
        evaluate.main(["--params", str(params), "--data-dir", str(cifar_files)])


def test_evaluate_without_a_file(tmp_path):
    scripts.assert_user_error(scripts.run("evaluate.py", "--params", "none.params", cwd=tmp_path),
                              "there is no file none.params")


@pytest.mark.parametrize("script", ["train_cifar.py", "evaluate.py"])
def test_help_imports_nothing_heavy(script, tmp_path):
    result = scripts.run(script, "--help", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 0 and "usage: " + script in result.stdout
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"mxnet", "numpy", "matplotlib", "gluoncv"}


def test_the_reference_s_command_line_is_understood():
    """Every flag of the authors' script, with a value it takes there."""
    line = """--model atac --blocks 3 --act-type ChaATAC --r 2 --act-layers 4 --useReLU --useGlobal
        --summary --dataset cifar10 --batch-size 128 --gpus 0 -j 4 --num-epochs 400 --lr 0.2
        --momentum 0.9 --wd 0.0001 --lr-decay 0.1 --lr-decay-period 0 --lr-decay-epoch 300,350
        --drop-rate 0.0 --mode hybrid --save-period 10 --save-dir params
        --resume-from file.params --save-plot-dir ."""
    options = train_cifar.make_parser().parse_args(line.split())
    assert (options.reduction, options.weight_decay, options.use_global) == (2, 1e-4, True)


def test_defaults_are_the_paper_s_recipe():
    options = train_cifar.make_parser().parse_args(["--act-type", "ChaATAC", "--blocks", "3"])
    assert (options.dataset, options.batch_size, options.optimizer, options.lr, options.momentum,
            options.weight_decay, options.num_epochs, options.lr_mode, options.lr_decay,
            options.padding) == (
        "cifar10", 128, "nag", 0.2, 0.9, 1e-4, 400, "step", 0.1, "black")
