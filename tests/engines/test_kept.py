"""Images that the PyTorch engine keeps: the batches that they are cut into, bit for bit."""
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from data import get_dataset  # noqa: E402
from data.batches import PADDINGS, Batches, Crops, Preparation  # noqa: E402
from data.shapes import draw_split  # noqa: E402
from engines.gluon import GluonEngine  # noqa: E402
from engines.interface import Group, Loss  # noqa: E402
from engines.pytorch import PyTorchEngine, _cut, to_device  # noqa: E402
from tests import scripts  # noqa: E402
from tests.data.cifar_files import LAYOUTS, write_set  # noqa: E402
from tests.options.runs import run  # noqa: E402
from training.loop import TrainStep  # noqa: E402
from training.mixing import Mixing  # noqa: E402

from .small import MEAN, engine, images, normed  # noqa: E402


def _both(source, padding="black", **options):
    """The same batches, of pixels and of crops, and what is to be kept for these."""
    pixels, crops = (Batches(source, 16, 3, preparation=Preparation(padding, MEAN), **options)
                     for _ in range(2))
    return pixels, crops, crops.keep()


def _assert_cut_alike(source, **options):
    pixels, crops, kept = _both(source, **options)
    kept = to_device(kept, torch.device("cpu"))
    for epoch in range(2):
        count = 0
        for one, two in zip(pixels.epoch(epoch), crops.epoch(epoch), strict=True):
            assert isinstance(two[0], Crops) and two[0].shape == one[0].shape
            np.testing.assert_array_equal(_cut(kept, two[0]).numpy(), one[0])
            np.testing.assert_array_equal(two[1], one[1])
            np.testing.assert_array_equal(two[2], one[2])
            count += 1
        assert count == len(pixels) > 0


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shard", [(0, 1), (0, 3), (2, 3)])
def test_images_are_cut_as_batches_are(padding, shard):
    _assert_cut_alike(images(100), padding=padding, shard=shard)


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_of_every_cifar_are_cut_alike(name, tmp_path):
    write_set(tmp_path, LAYOUTS[name])
    _assert_cut_alike(get_dataset(name, str(tmp_path)).train, padding="reflect")


def test_drawn_shapes_are_cut_alike():
    _assert_cut_alike(draw_split("train", 40))


def test_images_that_are_scored_are_never_cut():
    batches = Batches(images(40), 16, train=False)
    batches.keep()
    assert all(isinstance(each, np.ndarray) for each, _, _ in batches.epoch(0))


def _train(trained, batches, start, stop):
    """Steps of an epoch, as a run takes them."""
    step = TrainStep(trained, batches, lambda number: 0.05, Mixing(0.2, 1.0, epochs=1))
    for index, (pixels, labels, _) in enumerate(batches.epoch(0, start), start):
        if index < stop:
            step(0, index, pixels, labels)
    return [(loss, hits, count) for loss, hits, count in trained.collect()]


def test_training_on_kept_images_has_the_same_bits_also_resumed_amid_an_epoch():
    one, two, resumed = (engine(normed, kind=PyTorchEngine, group=Group("nag"), seed=seed,
                                loss=Loss(10, mixed=True)) for seed in (0, 0, 9))
    pixels, crops, kept = _both(images(100))
    two.keep(kept)
    resumed.keep(kept)
    expected = _train(one, pixels, 0, 6)
    found = _train(two, crops, 0, 3)
    resumed.load_state(two.state())
    assert found + _train(resumed, crops, 3, 6) == expected and len(expected) == 6
    for name, array in one.weights().items():
        np.testing.assert_array_equal(resumed.weights()[name], array, err_msg=name)


def test_a_run_asks_its_engine_to_keep_them(tmp_path, monkeypatch):
    """If it has room; and ends alike."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data, runs = scripts.drawn_cifar(tmp_path / "data", train=32, test=16), []
    for name, room in (("brought", 32 * 3 * 32 * 32 - 1), ("kept", 32 * 3 * 32 * 32)):
        monkeypatch.setattr(PyTorchEngine, "room", room)
        runs.append(run("train_cifar.py", tmp_path, "--data-dir", str(data), "--blocks 1",
                        "--act-type relu --batch-size 16 --num-epochs 1 --lr 0.01 --mixup 0.2",
                        "--padding mean --engine pytorch --no-compile --name", name))
        said = (runs[-1].logs / "train.log").read_text()
        assert ("images are kept on cpu" in said) == (name == "kept")
    for name, array in runs[0].arrays().items():
        np.testing.assert_array_equal(runs[1].arrays()[name], array, err_msg=name)


def test_on_a_cpu_nothing_is_kept_of_itself():
    assert engine(kind=PyTorchEngine).room == engine(kind=GluonEngine).room == 0
