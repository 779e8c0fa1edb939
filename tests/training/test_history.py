import io
import math
import os
from pathlib import Path

import pytest

from common.errors import UserError
from training.history import (
    COLUMNS,
    batch_line,
    close_log,
    draw_curves,
    epoch_line,
    epoch_lines,
    main,
    open_log,
    read_history,
    read_log,
    read_metrics,
    write_metrics,
)

ROOT = Path(__file__).resolve().parents[2]


def _row(epoch, accuracy=0.5):
    return {"epoch": epoch, "lr": 0.1, "train_loss": 1.5 - epoch / 10, "train_accuracy": accuracy,
            "val_loss": 1 / 3, "val_accuracy": accuracy, "val_top5_accuracy": 0.9,
            "images_per_s": 1234.5, "seconds": 2.25}


def test_metrics_read_back_bit_for_bit(tmp_path):
    rows = [_row(epoch) for epoch in range(3)]
    write_metrics(tmp_path / "metrics.csv", rows)
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    assert read_metrics(tmp_path / "metrics.csv") == rows


@pytest.mark.parametrize("text", ["", "epoch,lr\n0,1\n", ",".join(COLUMNS) + "\nx,1,1,1,1,1,1,1,1\n"
                                  ])
def test_what_is_no_metrics_file(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    if text:
        with pytest.raises(ValueError, match="is no metrics file"):
            read_metrics(path)
    else:
        assert read_metrics(path) == []


def test_epoch_line_is_the_reference_s():
    assert epoch_line(_row(3)) == ("[Epoch 3] train=0.500000 val=0.500000 loss=1.200000 "
                                   "time: 2.250000")


def test_the_log_appends_and_shows(tmp_path, capsys):
    for text in ("first", "second"):
        log = open_log(tmp_path / "train.log")
        log.info(text)
        close_log(log)
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["first", "second"]
    assert capsys.readouterr().out == "first\nsecond\n"


@pytest.mark.parametrize("rows", [[_row(0)], [_row(e, e / 60) for e in range(60)],
                                  [_row(0), {**_row(1), "val_loss": float("inf")}]])
def test_curves_are_drawn(tmp_path, rows):
    draw_curves(rows, tmp_path / "curves.png", "a run")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


# ---- the authors' logs -------------------------------------------------------------------------

def _published_log():
    source = Path(os.environ.get("ATAC_SHARED_DATA", ROOT.parent / "shared" / "data"))
    path = source / "logs" / "open-atac_resnet50_v1b_ChaATAC_2.log"
    if not path.is_file():
        pytest.skip(f"the published log is not there: {path}")
    return path


def test_the_published_log_is_read(tmp_path):
    rows = read_log(_published_log())
    errors = [1 - row["val_accuracy"] for row in rows]
    assert [row["epoch"] for row in rows] == list(range(160))
    assert f"{100 * min(errors):.2f} {100 * errors[-1]:.2f}" == "21.41 21.47"
    assert rows[-1]["train_accuracy"] == 0.854021 and rows[-1]["seconds"] == 1377.212075
    assert rows[-1]["images_per_s"] == 942 and rows[3]["lr"] == pytest.approx(0.06, rel=0.01)
    assert 1 - rows[-1]["val_top5_accuracy"] == pytest.approx(0.061038)
    assert math.isnan(rows[0]["train_loss"])
    draw_curves(rows, tmp_path / "published.png", "published", "validation")
    assert (tmp_path / "published.png").stat().st_size > 5000


@pytest.mark.parametrize("style", ["cifar", "imagenet"])
def test_a_log_of_ours_is_read_like_the_authors(style, tmp_path):
    rows = [{**_row(epoch), "images_per_s": 100.0} for epoch in range(3)]
    path = tmp_path / "train.log"
    log = open_log(path, io.StringIO())
    for row in rows:
        log.info(batch_line(row["epoch"], 49, 99.5, 0.25, row["lr"]))
        for line in epoch_lines(row, style):
            log.info(line)
    log.info(batch_line(3, 49, 99.5, 0.25, 0.1))    # interrupted
    close_log(log)
    read = read_history(path)
    assert len(read) == 3
    for one, two in zip(rows, read):
        for column in ("epoch", "lr", "train_accuracy", "val_accuracy", "seconds"):
            assert two[column] == pytest.approx(one[column], abs=1e-6)
        assert math.isnan(two["train_loss"]) == (style == "imagenet")


def test_the_command_summarises_and_draws(tmp_path, capsys):
    (tmp_path / "a.log").write_text("".join(
        f"{line}\n" for epoch in range(2) for line in epoch_lines(_row(epoch), "imagenet")))
    assert main([str(tmp_path / "a.log"), "--out", str(tmp_path / "a.png")]) == 0
    assert "2 epochs" in capsys.readouterr().out
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize("name, text", [
    ("a.log", ""), ("a.log", "nothing here\n"), ("a.log", "[Epoch 0] training: accuracy=0.5\n"),
    ("metrics.csv", ""), ("metrics.csv", ",".join(COLUMNS) + "\n")])
def test_a_history_without_a_finished_epoch_is_refused(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"{name} holds no finished epoch"):
        main([str(tmp_path / name)])


def test_a_damaged_number_is_named(tmp_path):
    (tmp_path / "a.log").write_text("[Epoch 0] validation: err-top1=zero err-top5=0.5\n")
    with pytest.raises(ValueError, match="err-top1=zero"):
        read_log(tmp_path / "a.log")
