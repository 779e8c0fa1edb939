"""train_imagenet.py and its evaluation, run as a user runs them, on real photographs."""
import csv
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
import pytest

import train_imagenet
from common.errors import UserError
from data import DataError
from runs.imagenet import ImageNetTraining
from tests import scripts
from tests.data.photo_files import broken_files, write_tree
from tests.machines.cluster import Cluster


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Real photographs of 6 classes: 4 copies of each for training, one for validation."""
    source = Path(os.environ.get("ATAC_SHARED_DATA", scripts.ROOT.parent / "shared" / "data"))
    source = source / "imagenet-sample"
    if not source.is_dir():
        pytest.skip(f"no real photographs: {source} does not exist (ATAC_SHARED_DATA names its "
                    "parent)")
    folder = tmp_path_factory.mktemp("photos")
    for wnid in sorted(path for path in source.iterdir() if path.is_dir())[:6]:
        photo = next(wnid.iterdir())
        for part, copies in (("train", 4), ("val", 1)):
            (folder / part / wnid.name).mkdir(parents=True)
            for k in range(copies):
                shutil.copyfile(photo, folder / part / wnid.name / f"{k}.JPEG")
    (folder / "train" / wnid.name / "cut.JPEG").write_bytes(broken_files()["cut.JPEG"])
    return folder


@pytest.fixture(scope="module")
def records(photos):
    result = scripts.run("data/imagenet.py", "pack", photos, photos / "rec", "--resize", 80,
                         "-j", 1, cwd=photos, PYTHONPATH=str(scripts.ROOT))
    assert result.returncode == 0, result.stderr
    assert "skipped train/" in result.stdout and "cut.JPEG: " in result.stdout
    return photos / "rec"


def _options(records, *more):
    return ("--use-rec", "--rec-train", records / "train.rec", "--rec-val", records / "val.rec",
            "--model", "resnet18_v1b", "--input-size", 64, "--batch-size", 6, "--lr", 0.01,
            "--lr-mode", "constant", "--num-epochs", 2, "--log-interval", 2, "-j", 1,
            "--num-gpus", 0, *more)


@pytest.fixture(scope="module")
def finished(records, tmp_path_factory):
    """A finished run of 2 epochs with label smoothing and mixup: its folder and its output."""
    folder = tmp_path_factory.mktemp("finished")
    result = scripts.run("train_imagenet.py", *_options(
        records, "--name", "run", "--last-gamma", "--no-wd", "--checkpoint-every", 3), cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_it_trains_on_photographs(finished):
    folder, result = finished
    rows = scripts.metrics(folder / "logs/run")
    assert [row["epoch"] for row in rows] == ["0", "1"]
    # What this run had when its steps were those of the formulas in tests/options/.
    assert [float(row["train_loss"]) for row in rows] == pytest.approx([1.7422, 1.6664], rel=2e-3)
    assert "24 training and 6 validation images of 6 classes" in result.stdout
    assert re.search(r"\[Epoch 1\] validation: err-top1=[\d.]+ err-top5=[\d.]+", result.stdout)
    assert re.search(r"Epoch\[0\] Batch \[1\]\tSpeed: [\d.]+ samples/sec\taccuracy=", result.stdout)
    # All parameters are counted, also those whose shapes GluonCV settles late: ResNet-18 has
    # 11.2 M, of which 8.4 M in the last stage.
    count = int(re.search(r"([\d,]+) trained parameters", result.stdout).group(1).replace(",", ""))
    assert 11e6 < count < 14e6


def test_resumed_within_an_epoch_it_ends_with_the_same_bits(finished, tmp_path):
    folder, _ = finished
    for part in ("logs", "params"):
        shutil.copytree(folder / part, tmp_path / part)
    checkpoints = sorted((tmp_path / "params/run/checkpoints").iterdir())
    shutil.rmtree(checkpoints[-1])    # leaves step 7: three of the second epoch's four
    assert checkpoints[0].name == "step-000000007"
    resumed = scripts.run("train_imagenet.py", "--resume", "logs/run", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from" in resumed.stdout
    assert scripts.metrics(tmp_path / "logs/run") == scripts.metrics(folder / "logs/run")
    scripts.assert_same_params(tmp_path / "params/run", folder / "params/run")


def test_evaluation_counts_and_tabulates(finished, records, photos, tmp_path):
    folder, result = finished
    error = re.findall(r"err-top1=([\d.]+)", result.stdout)[-1]
    params = folder / "params/run/last.params"
    table = tmp_path / "scores.csv"
    printed, = re.findall(r"evaluate: python evaluate.py (.*)", result.stdout)
    for source, place in ((shlex.split(printed), folder),
                          (("--params", params, "--data-dir", photos, "--crops", 10), tmp_path)):
        scored = scripts.run("evaluate.py", *source, "--csv", table,
                             "--batch-size", 4, "-j", 1, "--num-gpus", 0, cwd=place)
        assert scored.returncode == 0, scored.stderr
        assert "6 images, " in scored.stdout and "95 % interval" in scored.stdout
    with open(table, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["images"], row["crops"]) for row in rows] == [("6", "1"), ("6", "10")]
    assert float(rows[0]["top1_error"]) == pytest.approx(float(error), abs=1e-6)
    assert float(rows[0]["top1_low"]) <= float(rows[0]["top1_error"]) <= float(
        rows[0]["top1_high"])


def test_half_precision_files_are_evaluated_on_a_cpu(finished, records, tmp_path):
    """Described by options, as a file without a JSON beside it; and by the wrong options."""
    folder, _ = finished
    arrays = mx.nd.load(str(folder / "params/run/last.params"))
    mx.nd.save(str(tmp_path / "half.params"),
               {key: array.astype("float16") for key, array in arrays.items()})
    common = ("--params", "half.params", "--dataset", "imagenet", "--use-rec", "--rec-val",
              records / "val.rec", "--model", "resnet18_v1b", "--input-size", 64, "--num-gpus", 0)
    scored = scripts.run("evaluate.py", *common, "--act-type", "ChaATAC", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    wrong = scripts.run("evaluate.py", *common, "--act-type", "relu", cwd=tmp_path)
    scripts.assert_user_error(wrong, "written by another network", "in the file are not in")


@pytest.mark.slow
def test_folders_a_teacher_and_softened_targets(photos, finished, tmp_path):
    """Without --use-rec, with distillation from the finished run; the teacher stays as it is."""
    folder, _ = finished
    teacher = folder / "params/run/last.params"
    before = teacher.read_bytes()
    broken = next((photos / "train").rglob("cut.JPEG"))
    content = broken.read_bytes()
    common = ("--data-dir", photos, "--model", "resnet18_v1b", "--input-size", 32, "-j", 1,
              "--batch-size", 12, "--num-epochs", 1, "--num-gpus", 0, "--lr", 0.001)
    died = scripts.run("train_imagenet.py", *common, "--batch-size", 25, "--name", "b",
                       cwd=tmp_path)
    scripts.assert_user_error(died, "cut.JPEG cannot be decoded")
    broken.unlink()
    try:
        result = scripts.run(
            "train_imagenet.py", *common, "--teacher", "resnet18_v1b", "--teacher-params", teacher,
            "--mixup", "--cutmix", "--label-smoothing", "--name", "pupil", cwd=tmp_path)
    finally:
        broken.write_bytes(content)
    assert result.returncode == 0, result.stderr
    assert np.isfinite(float(scripts.metrics(tmp_path / "logs/pupil")[0]["train_loss"]))
    assert teacher.read_bytes() == before


@pytest.mark.slow
def test_two_workers_train_on_one_record_file(records, tmp_path):
    """Each reads its part; the 6 validation images are shared out, and each counted once."""
    with Cluster(tmp_path) as cluster:
        cluster.start_all(scripts.command("train_imagenet.py", *_options(
            records, "--kv-store", "dist_sync", "--name", "run", "--num-epochs", 1)))
        assert set(cluster.codes().values()) == {0}, cluster
        assert "2 workers, 12 images a step" in cluster.output("worker0")
        assert cluster.output("worker1") == ""
    assert [path.name for path in (tmp_path / "params").iterdir()] == ["run"]
    accuracy = float(scripts.metrics(tmp_path / "logs/run")[0]["val_accuracy"])
    assert accuracy * 6 % 1 == pytest.approx(0, abs=1e-6)


# ---- options -----------------------------------------------------------------------------------

def test_the_published_command_line_is_understood():
    """Every flag of the authors' script, with a value it takes there."""
    line = """--mode hybrid --lr 0.075 --lr-mode cosine --num-epochs 160 --batch-size 128
        --num-gpus 2 -j 48 --warmup-epochs 5 --use-rec --dtype float16 --last-gamma --no-wd
        --label-smoothing --save-dir params_resnet50_v1b_ChaATAC_2
        --logging-file resnet50_v1b_ChaATAC_2.log --r 2 --act-type ChaATAC --act-layers 2
        --rec-train a --rec-train-idx b --rec-val c --rec-val-idx d --data-dir e --summary
        --momentum 0.9 --wd 0.0001 --lr-decay 0.1 --lr-decay-period 0 --lr-decay-epoch 40,60
        --warmup-lr 0.0 --input-size 224 --crop-ratio 0.875 --mixup --mixup-alpha 0.2
        --mixup-off-epoch 10 --teacher resnet50_v1b --temperature 20 --hard-weight 0.5
        --save-frequency 10 --resume-epoch 0 --log-interval 50 --use-gn --use_se
        --use-pretrained --num-data-workers 4"""
    options = train_imagenet.make_parser().parse_args(line.split())
    assert (options.reduction, options.save_period, options.norm_layer, options.attention) == (
        2, 10, "GroupNorm", "SE")
    assert (options.last_gamma, options.label_smoothing, options.mixup) == (True, 0.1, 0.2)


def test_defaults():
    options = train_imagenet.make_parser().parse_args([])
    assert (options.model, options.lr, options.num_epochs, options.batch_size, options.optimizer,
            options.weight_decay, options.lr_mode, options.kv_store) == (
        "resnet50_v1b", 0.075, 160, 128, "nag", 1e-4, "cosine", "device")
    description = ImageNetTraining().describe(options)
    assert description["options"]["activation"] == "ChaATAC"


@pytest.fixture(scope="module")
def drawn_tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("drawn"), classes=2, train=2, val=1)


_ERRORS = [
    (["--dtype", "bfloat16", "--engine", "mxnet"], "bfloat16: MXNet computes a few"),
    (["--dtype", "float16"], "float16 needs a GPU"),
    (["--kv-store", "dist_async"], "--kv-store: invalid choice"),
    (["--kv-store", "nccl"], "between GPUs"),
    (["--kv-store", "dist_sync"], "python -m machines.launch"),
    (["--batch-norm"], "it was for VGG"),
    (["--resume-epoch", "3"], "--resume"),
    (["--resume-states", "x.states"], "pickles"),
    (["--pretrained"], "no parameters of this resnet50_v1b on imagenet are released"),
    (["--mixup-alpha", "0.3"], "without --mixup"),
    (["--teacher-params", "x"], "without --teacher"),
    (["--teacher", "resnet51", "--teacher-params", "x.params"], "neither this project nor"),
    (["--teacher", "resnet18_v1b", "--teacher-params", "x.params"], "cannot read parameters"),
    (["--use-rec", "--rec-train", "none.rec"], "there is no file none.rec"),
    (["--data-dir", "none"], "there is no folder none"),
    (["--batch-size", "64"], "do not fill one batch"),
    (["--crop-ratio", "1.5"], "above 0, up to 1"),
    (["--norm-layer", "LayerNorm"], "unknown normalisation 'LayerNorm'"),
    (["--blocks", "3"], "unrecognized arguments"),
]


@pytest.mark.parametrize("content, message", [
    ({"note": "no description"}, "does not describe a network"),
    ({"model": "resnet34_v1b", "options": {}, "dataset": {"name": "x"}},
     "holds resnet34_v1b, not the --teacher resnet18_v1b"),
])
def test_a_teacher_that_is_not_what_it_is_called(content, message, drawn_tree, tmp_path,
                                                 monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.params").write_bytes(b"")
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        train_imagenet.main(["--data-dir", str(drawn_tree), "--batch-size", "2", "--num-gpus", "0",
                             "--input-size", "32", "--teacher", "resnet18_v1b",
                             "--teacher-params", "t.params"])
    assert not (tmp_path / "logs").exists()


def test_what_contradicts_itself_in_a_file_is_refused(drawn_tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.json").write_text(json.dumps({"mixup_alpha": 0.3}))
    with pytest.raises(UserError, match="without --mixup"):
        train_imagenet.main(["--config", "c.json", "--num-gpus", "0"])


@pytest.mark.parametrize("arguments, message", _ERRORS, ids=lambda v: " ".join(v)[:30]
                         if isinstance(v, list) else "")
def test_bad_input_is_one_line_before_anything_is_written(arguments, message, drawn_tree,
                                                          tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["--data-dir", str(drawn_tree), "--num-epochs", "1", "--batch-size", "2", "--num-gpus",
            "0", "--input-size", "32", *arguments]
    with pytest.raises((UserError, DataError)) as caught:
        train_imagenet.main(argv)
    assert message in str(caught.value)
    assert not any((tmp_path / folder).exists() for folder in ("params", "logs"))
