"""train_cifar.py's options of data and of what is drawn at random.

The weights stand still (a rate of almost nothing), so that each epoch's losses say which
images it saw, and how they were changed.
"""
import numpy as np
import pytest

from common.errors import UserError
from data import ImageSet, get_dataset
from data.batches import Batches, Preparation
from data.cifar import MEAN
from tests.options.runs import (
    constant_network,
    covers,
    log_softmax,
    network,
    noise,
    normalised,
    patterns,
    predicted_loss,
    run,
    save,
    trained_loss,
    write_cifar,
)

SCRIPT = "train_cifar.py"
_STILL = "--blocks 1 --act-type relu --lr 1e-20 --lr-mode constant"
_IMAGES, _LABELS = patterns(10), np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
_TEST, _TEST_LABELS = noise(6, seed=1), np.arange(6)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data-options")
    write_cifar(folder / "cifar10", (_IMAGES, _LABELS), (_TEST, _TEST_LABELS))
    save(network(), folder / "start.params")
    return folder


def _run(place, *words):
    return run(SCRIPT, place, _STILL, "--data-dir", place / "cifar10", "--resume-from",
               place / "start.params", *words)


def _train_losses(batches, epochs, mixed=lambda images, targets, epoch, step: (images, targets)):
    """The train_loss that each epoch of the starting network must have."""
    net, losses = network(), []
    for epoch in range(epochs):
        parts = [trained_loss(net, *mixed(normalised(images), np.eye(10)[labels], epoch, step))
                 for step, (images, labels, _) in enumerate(batches.epoch(epoch))]
        losses.append(np.mean(parts))
    return losses


def _batches(seed=0, padding="black", size=5):
    return Batches(ImageSet(_IMAGES, _LABELS), size, seed, preparation=Preparation(padding, MEAN))


# ---- which images, and how they are cropped ------------------------------------------------------

@covers(SCRIPT, "--padding --seed --resume-from")
@pytest.mark.parametrize("words, settings", [
    ("--padding black", {"padding": "black"}), ("--padding mean", {"padding": "mean"}),
    ("--padding reflect", {"padding": "reflect"}), ("", {"padding": "black"}),
    ("--seed 3", {"seed": 3})])
def test_order_and_crops_are_those_of_padding_and_seed(words, settings, place):
    found = _run(place, "--batch-size 5 --num-epochs 2", words).column("train_loss")
    assert found == pytest.approx(_train_losses(_batches(**settings), 2), rel=1e-4)


@covers(SCRIPT, "--seed")
def test_the_seed_alone_chooses_order_and_crops(place):
    """Each by itself, whatever the code that the other tests compare with makes of a seed."""
    def different(*words):
        losses = [_run(place, *words, "--num-epochs 1 --seed", seed).column("train_loss")[0]
                  for seed in (0, 0, 1)]
        assert losses[0] == losses[1]
        return abs(losses[0] - losses[2]) > 1e-4

    # All images in one batch: the order is nothing to the loss. Crops differ.
    assert different("--batch-size 10")
    # Images of one colour, of which no crop is another: six of ten are taken.
    plain = np.broadcast_to(_IMAGES[:, :, :1, :1], _IMAGES.shape)
    write_cifar(place / "plain", (plain, _LABELS), (_TEST, _TEST_LABELS))
    words = "--padding reflect --data-dir", place / "plain"
    assert not different(*words, "--batch-size 10")
    assert different(*words, "--batch-size 6")


@covers(SCRIPT, "--limit-train --num-epochs")
def test_the_first_images_are_taken(place):
    """The last bias' step tells the labels of the batch: its gradient is shares - labels."""
    start = save(constant_network(np.zeros(10)), place / "zero.params")
    found = run(SCRIPT, place, "--blocks 1 --act-type relu --lr 1 --lr-mode constant "
                "--optimizer sgd --momentum 0 --wd 0 --num-epochs 1 --limit-train 5 "
                "--batch-size 5 --data-dir", place / "cifar10", "--resume-from", start)
    np.testing.assert_allclose(found.arrays()["output.bias"],
                               np.bincount(_LABELS[:5], minlength=10) / 5 - 0.1, atol=1e-4)
    assert len(found.rows) == 1


@covers(SCRIPT, "--val-split --seed")
@pytest.mark.parametrize("seed", [0, 1])
def test_the_held_out_images_are_those_of_the_seed(seed, place):
    found = _run(place, "--val-split 5 --batch-size 5 --num-epochs 1 --seed", seed,
                 "--padding reflect")
    dataset = get_dataset("cifar10", place / "cifar10", val_split=5, seed=seed)
    assert sorted(dataset.val.labels) == [0, 1, 2, 3, 4]
    net = network()
    batches = Batches(dataset.train, 5, seed, preparation=Preparation("reflect"))
    [[images, labels, _]] = batches.epoch(0)
    trained_loss(net, normalised(images), labels)
    [row] = found.rows
    assert row["val_loss"] == pytest.approx(
        predicted_loss(net, normalised(dataset.val.images), dataset.val.labels), rel=1e-4)
    test = found.result["test"]["last"]
    assert (found.result["val_name"], test["count"]) == ("validation", 6)
    assert test["loss"] == pytest.approx(predicted_loss(net, normalised(_TEST), _TEST_LABELS),
                                         rel=1e-4)


@covers(SCRIPT, "--dataset")
@pytest.mark.parametrize("name, column, outputs", [
    ("cifar100", 1, 100), ("cifar100-coarse", 0, 20), ("cifar100-authors", 0, 100)])
def test_each_data_set_has_its_labels_and_outputs(name, column, outputs, place):
    """Fine labels, superclasses, and superclasses under 100 outputs; read off the last bias."""
    labels = np.array([[3, 71], [3, 12], [19, 99], [0, 5]])
    folder = write_cifar(place / name, (noise(4), labels), (noise(4), labels), name)
    bias = np.linspace(-1, 1, outputs)
    start = save(constant_network(bias), place / f"{name}.params")
    [row] = run(SCRIPT, place, _STILL, "--num-epochs 1 --batch-size 4 --dataset", name,
                "--data-dir", folder, "--resume-from", start).rows
    loss = -log_softmax(bias)[labels[:, column]].mean()
    assert (row["train_loss"], row["val_loss"]) == pytest.approx((loss, loss), rel=1e-4)


# ---- mixing --------------------------------------------------------------------------------------

def mixup(images, targets, alpha, rng):
    share = rng.beta(alpha, alpha)
    return tuple(share * each + (1 - share) * each[::-1] for each in (images, targets))


def cutmix(images, targets, alpha, rng):
    side = np.sqrt(1 - rng.beta(alpha, alpha))
    row, column, half = int(rng.integers(32)), int(rng.integers(32)), int(side * 32) // 2
    box = (slice(max(row - half, 0), min(row + half, 32)),
           slice(max(column - half, 0), min(column + half, 32)))
    mixed = images.copy()
    mixed[:, :, box[0], box[1]] = images[::-1, :, box[0], box[1]]
    pasted = np.zeros((32, 32))
    pasted[box] = 1
    share = 1 - pasted.mean()
    return mixed, share * targets + (1 - share) * targets[::-1]


_MIXERS = {"--mixup": [(mixup, 0.2)], "--mixup 0.7": [(mixup, 0.7)],
           "--cutmix": [(cutmix, 1.0)], "--cutmix 0.4": [(cutmix, 0.4)],
           "--mixup 0.7 --cutmix 0.4 --seed 2": [(mixup, 0.7), (cutmix, 0.4)],
           "--mixup 0.7 --mixup-off-epoch 2": [(mixup, 0.7)]}


@covers(SCRIPT, *_MIXERS)
@pytest.mark.parametrize("words", _MIXERS)
def test_images_and_targets_are_mixed_anew_in_every_step(words, place):
    """Until the last --mixup-off-epoch epochs, by random numbers of (seed, epoch, step, device).

    A resumed run draws them again, also one that a later version takes up: so the stream is
    part of what is promised.
    """
    seed, epochs = (2 if "--seed" in words else 0), 3
    mixing = 1 if "off" in words else epochs

    def mixed(images, targets, epoch, step):
        if epoch >= mixing:
            return images, targets
        rng = np.random.Generator(np.random.PCG64([seed, epoch, step, 0]))
        mix, alpha = _MIXERS[words][int(rng.integers(len(_MIXERS[words])))]
        return mix(images, targets, alpha, rng)

    found = _run(place, "--batch-size 5 --num-epochs", epochs, words).column("train_loss")
    expected = _train_losses(_batches(seed), epochs, mixed)
    assert found == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(_train_losses(_batches(seed), epochs), rel=1e-3)


# ---- precision -----------------------------------------------------------------------------------

@covers(SCRIPT, "--dtype")
def test_half_precision_is_not_silently_full_precision(place):
    with pytest.raises(UserError, match="--dtype float16 needs a GPU"):
        _run(place, "--num-epochs 1 --batch-size 5 --dtype float16")
