import pytest

from training.history import (
    COLUMNS,
    History,
    close_log,
    draw_curves,
    epoch_line,
    open_log,
    read_metrics,
)


def _row(epoch, accuracy=0.5):
    return {"epoch": epoch, "lr": 0.1, "train_loss": 1.5 - epoch / 10, "train_accuracy": accuracy,
            "val_loss": 1 / 3, "val_accuracy": accuracy, "val_top5_accuracy": 0.9,
            "images_per_s": 1234.5, "seconds": 2.25}


def test_metrics_read_back_bit_for_bit(tmp_path):
    history = History(tmp_path / "metrics.csv")
    for epoch in range(3):
        history.add(_row(epoch))
    history.write()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    assert read_metrics(tmp_path / "metrics.csv") == history.rows


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
