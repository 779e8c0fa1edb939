"""train_imagenet.py's options: the network, its photographs, what it learns from, and how.

The smallest network that the script knows is that for small images, with three blocks a stage.
"""
from dataclasses import dataclass, field
from math import cos, pi

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data.imagenet import open_imagenet
from data.packing import pack
from data.photos import Decoding
from runs.released import released_by_name
from tests.options import formulas, test_data_options
from tests.options.runs import (
    constant_network,
    covers,
    log_softmax,
    network,
    normalised,
    patterns,
    predicted_loss,
    read_arrays,
    run,
    save,
    trained_loss,
)

SCRIPT = "train_imagenet.py"
# The authors' values, of pixels from 0 to 255.
_MEAN, _STD = np.array((123.68, 116.779, 103.939)), np.array((58.393, 57.12, 57.375))
_SMALL = "--model resnet_v2_cifar --act-type relu --input-size 32 --momentum 0.9"
_STILL = "--lr 1e-20 --lr-mode constant"
_BIAS = np.linspace(-0.5, 0.4, 10)


def write_photos(folder, images):
    """Write images (N, 3, H, W), each of a class of its own."""
    for label, image in enumerate(images):
        to = folder / f"class{label}"
        to.mkdir(parents=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(to / "photo.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with photographs of 10 classes, one a class, and a network to start from."""
    folder = tmp_path_factory.mktemp("imagenet-options")
    for part, images in (("train", patterns(10, size=40)), ("val", patterns(10, 1, size=48))):
        write_photos(folder / part, images)
    save(constant_network(_BIAS, blocks=3), folder / "constant.params")
    save(network(blocks=3), folder / "start.params")
    return folder


def _run(place, *words):
    return run(SCRIPT, place, "--data-dir", place, *words)


def _opened(place, batch_size=5, seed=0, records=None, **settings):
    """Training and validation batches."""
    decoding = Decoding(**{"size": 32, "workers": 0, **settings})
    return open_imagenet("imagenet", data_dir=place, batch_size=batch_size, decoding=decoding,
                         seed=seed, **records or {})[1:]


def normalised_photo(images):
    """(N, 3, H, W) uint8 -> float64, as the networks for photographs get them."""
    return normalised(images, _MEAN / 255, _STD / 255)


# ---- optimizer, schedule and loss ----------------------------------------------------------------

@dataclass
class Case:
    """Options, the rate of each step of each epoch, and the settings of `formulas.Learner`."""

    options: str
    rates: list
    learner: dict = field(default_factory=dict)
    seed: int = 0


def _cosine(progress, lr, final):
    return final + (lr - final) * (1 + cos(pi * progress)) / 2


_TEACHER = np.linspace(2, -3, 10)
CASES = {
    "all at once": Case(
        "--optimizer sgd --momentum 0.6 --wd 0.05 --no-wd --label-smoothing 0.3 --lr 0.4 "
        "--lr-mode cosine --final-lr 0.1 --warmup-epochs 1 --warmup-lr 0.2 --scale-lr 10 "
        "--num-epochs 3 --batch-size 5 --seed 1",
        [[0.2, 0.2], [_cosine(0, 0.2, 0.1), _cosine(1 / 4, 0.2, 0.1)],
         [_cosine(2 / 4, 0.2, 0.1), _cosine(3 / 4, 0.2, 0.1)]],
        {"rule": formulas.sgd, "momentum": 0.6, "weight_decay": 0.05, "exempt": True,
         "loss": formulas.cross_entropy(0.3)}, seed=1),
    "poly": Case("--lr 0.4 --lr-mode poly --lr-power 3 --num-epochs 2 --batch-size 5",
                 [[0.4, 0.4 * (3 / 4) ** 3], [0.4 * (2 / 4) ** 3, 0.4 * (1 / 4) ** 3]]),
    "published milestones": Case("--lr 0.4 --lr-mode step --num-epochs 4 --batch-size 10",
                                 [[0.4], [0.4], [0.04], [0.004]]),
    "milestones": Case("--lr 0.4 --lr-mode step --lr-decay 0.5 --lr-decay-epoch 1 --num-epochs 2 "
                       "--batch-size 5", [[0.4] * 2, [0.2] * 2]),
    "decay period": Case("--lr 0.4 --lr-mode step --lr-decay-period 1 --num-epochs 2 "
                         "--batch-size 5", [[0.4] * 2, [0.04] * 2]),
    # One image of each class: the accuracy never changes.
    "plateau and early stop": Case("--lr 0.4 --lr-mode plateau --lr-patience 0 --early-stop 2 "
                                   "--num-epochs 9 --batch-size 10", [[0.4], [0.4], [0.04]]),
    "teacher": Case("--teacher resnet_v2_cifar --temperature 3 --hard-weight 0.2 --lr 0.4 "
                    "--lr-mode constant --num-epochs 2 --batch-size 5", [[0.4] * 2] * 2,
                    {"loss": formulas.distillation(_TEACHER, 3, 0.2)}),
    "teacher by default": Case("--teacher resnet_v2_cifar --lr 0.04 --lr-mode constant "
                               "--num-epochs 1 --batch-size 10", [[0.04]],
                               {"loss": formulas.distillation(_TEACHER, 20, 0.5)}),
}


@covers(SCRIPT, "--resume-from", *(case.options for case in CASES.values()))
@pytest.mark.parametrize("name", CASES)
def test_weights_rates_and_figures_are_those_of_the_formulas(name, place):
    case = CASES[name]
    teacher = (["--teacher-params", save(constant_network(_TEACHER, blocks=3, activation="ChaATAC"),
                                         place / "teacher.params")]
               if "--teacher" in case.options else [])
    found = _run(place, _SMALL, case.options, *teacher, "--resume-from",
                 place / "constant.params")
    learner = formulas.Learner(read_arrays(place / "constant.params"), **case.learner)
    batches, _ = _opened(place, batch_size=10 // len(case.rates[0]), seed=case.seed)
    expected = []
    for epoch, rates in enumerate(case.rates):
        losses = [learner.step(labels, rate)
                  for rate, (_, labels, _) in zip(rates, batches.epoch(epoch))]
        expected.append((rates[-1], np.mean(losses), -log_softmax(learner.bias).mean()))
    np.testing.assert_allclose([[row[name] for name in ("lr", "train_loss", "val_loss")]
                                for row in found.rows], expected, rtol=1e-3)
    arrays = found.arrays()
    for key, array in learner.arrays.items():
        if "running" not in key:
            np.testing.assert_allclose(arrays[key], array, rtol=5e-6, err_msg=key,
                                       atol=2e-3 if key == "output.bias" else 1e-6)


# ---- photographs ---------------------------------------------------------------------------------

@covers(SCRIPT, "--input-size --crop-ratio --seed --batch-size --num-epochs --data-dir")
@pytest.mark.parametrize("words, settings", [
    ("--input-size 40 --seed 2", {"size": 40, "seed": 2}),
    ("--crop-ratio 0.6", {"crop_ratio": 0.6})])
def test_photographs_are_cut_as_the_options_say(words, settings, place):
    [row] = _run(place, _SMALL, _STILL, "--num-epochs 1 --batch-size 5", words, "--resume-from",
                 place / "start.params").rows
    net = network(blocks=3)
    train, val = _opened(place, **settings)
    losses = [trained_loss(net, normalised_photo(images), labels)
              for images, labels, _ in train.epoch(0)]
    assert row["train_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    scored = [predicted_loss(net, normalised_photo(images), labels)
              for images, labels, _ in val.epoch(0)]
    assert row["val_loss"] == pytest.approx(np.mean(scored), rel=1e-4)


@covers(SCRIPT, "--use-rec")
def test_records_are_read_where_they_are_asked_for(place):
    """Of other photographs than the folder's: the folder is there, too."""
    for part, images in (("train", patterns(10, 2, size=48)), ("val", patterns(10, 3, size=48))):
        write_photos(place / "others" / part, images)
    pack(place / "others", place / "rec", workers=1)
    records = {"use_rec": True, "rec_train": place / "rec/train.rec",
               "rec_val": place / "rec/val.rec"}
    [row] = _run(place, _SMALL, _STILL, "--num-epochs 1 --batch-size 10 --use-rec --rec-train",
                 records["rec_train"], "--rec-val", records["rec_val"], "--resume-from",
                 place / "start.params").rows
    _check(row, network(blocks=3), place, records=records)


_MIXERS = {"--mixup": ("mixup", 0.2, 1), "--mixup --mixup-alpha 0.7": ("mixup", 0.7, 1),
           "--cutmix 0.4 --mixup-off-epoch 1 --num-epochs 2": ("cutmix", 0.4, 1)}


@covers(SCRIPT, *_MIXERS)
@pytest.mark.parametrize("words", _MIXERS)
def test_images_and_targets_are_mixed(words, place):
    kind, alpha, mixing = _MIXERS[words]
    mix = {"mixup": test_data_options.mixup, "cutmix": test_data_options.cutmix}[kind]
    found = _run(place, _SMALL, _STILL, "--num-epochs 1 --batch-size 10", words, "--resume-from",
                 place / "start.params").rows
    batches, _ = _opened(place, batch_size=10)
    net = network(blocks=3)
    for epoch, row in enumerate(found):
        [[images, labels, _]] = batches.epoch(epoch)
        images, targets = normalised_photo(images), np.eye(10)[labels]
        if epoch < mixing:
            rng = np.random.Generator(np.random.PCG64([0, epoch, 0, 0]))
            rng.integers(1)    # which of the one kind
            images, targets = mix(images, targets, alpha, rng)
        assert row["train_loss"] == pytest.approx(trained_loss(net, images, targets), rel=1e-4)


# ---- networks ------------------------------------------------------------------------------------

# Options, and the network that they ask for.
_NETWORKS = {
    "activation": ("--act-type SeqATAC --reduction 4 --act-kernel-size 5 --act-dilation 2 "
                   "--act-layers 2 --act-order pre --replace-act swish",
                   {"activation": "SeqATAC", "replace_act": "swish", "act_layers": 2,
                    "act_order": "pre",
                    "act_options": {"reduction": 4, "kernel_size": 5, "dilation": 2}}),
    "gate": ("--act-type ChaATAC --no-use-relu --use-global",
             {"activation": "ChaATAC", "act_options": {"use_relu": False, "use_global": True}}),
    "gate of xUnit": ("--act-type xUnit --act-gate sigmoid",
                      {"activation": "xUnit", "act_options": {"gate": "sigmoid"}}),
    "attention": ("--act-type relu --attention CBAM --attn-reduction 8 --spatial-kernel 3",
                  {"attention": "CBAM", "attn_options": {"reduction": 8, "kernel_size": 3}}),
}


@covers(SCRIPT, "--model", *(options for options, _ in _NETWORKS.values()))
@pytest.mark.parametrize("name", _NETWORKS)
def test_a_run_trains_and_scores_the_network_that_is_asked_for(name, place):
    options, wanted = _NETWORKS[name]
    net = network(blocks=3, **wanted)
    [row] = _run(place, "--model resnet_v2_cifar --input-size 32", _STILL, options,
                 "--num-epochs 1 --batch-size 10 --resume-from",
                 save(net, place / "network.params")).rows
    _check(row, net, place)


def _check(row, net, place, **settings):
    """The figures of a run whose weights stood still are those of the network."""
    train, val = _opened(place, batch_size=10, **settings)
    for column, loss, batches in (("train_loss", trained_loss, train),
                                  ("val_loss", predicted_loss, val)):
        [[images, labels, _]] = batches.epoch(0)
        assert row[column] == pytest.approx(loss(net, normalised_photo(images), labels), rel=1e-4)


@covers(SCRIPT, "--deep-stem --avg-down --dilated --last-gamma --norm-layer --use-gn --use_se")
def test_the_options_of_the_imagenet_networks(place):
    """By the authors' names where they have some; from the initial weights of the seed."""
    found = _run(place, "--model resnet18_v1b --act-type relu --input-size 32 --deep-stem "
                 "--avg-down --dilated --last-gamma --use-gn --use_se --batch-size 10 "
                 "--num-epochs 1", _STILL)
    net = network("resnet18_v1b", seed=0, activation="relu", deep_stem=True, avg_down=True,
                  dilated=True, last_gamma=True, norm_layer="GroupNorm", attention="SE")
    arrays = found.arrays()
    for name, parameter in net._collect_params_with_prefix().items():
        np.testing.assert_allclose(arrays[name], parameter.data().asnumpy(), rtol=1e-6,
                                   atol=1e-12, err_msg=name)
    _check(found.rows[0], net, place)


@covers(SCRIPT, "--norm-layer --attention --drop-rate --final-drop")
@pytest.mark.parametrize("words", ["--drop-rate 0.9999999", "--final-drop 0.9999999"])
def test_dropout_stands_before_the_classifier(words, place):
    """Nearly all features dropped, the bias, 0, is left, and all classes are alike."""
    [row] = _run(place, "--model resnet18_v1b --act-type relu --input-size 32 --batch-size 10 "
                 "--norm-layer GroupNorm --num-epochs 1", _STILL, words).rows
    assert row["train_loss"] == pytest.approx(np.log(10), rel=1e-4)
    assert row["val_loss"] != pytest.approx(np.log(10), rel=1e-3)


@covers(SCRIPT, "--pretrained --dataset")
def test_released_weights_are_the_start(place):
    found = _run(place, _SMALL, "--pretrained --dataset cifar10 --num-epochs 1 --batch-size 10",
                 _STILL).arrays()
    for name, array in read_arrays(released_by_name("cifar10-relu-b3").path).items():
        if "running" not in name:
            np.testing.assert_allclose(found[name], array, rtol=1e-6, err_msg=name)


# ---- what is refused, and compilation ------------------------------------------------------------

@covers(SCRIPT, "--dtype --batch-norm --resume-epoch --resume-states")
@pytest.mark.parametrize("words, message", [
    ("--dtype float16", "--dtype float16 needs a GPU"), ("--batch-norm", "for VGG networks"),
    ("--resume-epoch 3", "resumed as a whole"), ("--resume-states x", "are pickles")])
def test_what_would_not_be_done_is_refused(words, message, place):
    with pytest.raises(UserError, match=message):
        _run(place, _SMALL, words)


@covers(SCRIPT, "--mode")
@pytest.mark.parametrize("mode, compiled", [("hybrid", True), ("imperative", False)])
def test_only_mode_hybrid_compiles(mode, compiled, place, hybridized):
    _run(place, _SMALL, _STILL, "--num-epochs 1 --batch-size 10 --mode", mode)
    assert (sum(hybridized) > 1) == compiled    # a loss is always compiled; it is no network
