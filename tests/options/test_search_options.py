"""search_attention.py's options: the network it searches, its data, and both optimizers."""
import csv
import json
from functools import partial

import numpy as np
import pytest

from common.errors import UserError
from data import ImageSet
from data.batches import Batches, Preparation
from data.cifar import MEAN
from data.streams import permutation
from model.structure import SearchableAttention
from tests.options import formulas
from tests.options.runs import (
    covers,
    log_softmax,
    network,
    noise,
    normalised,
    patterns,
    predicted_loss,
    run,
    trained_loss,
    write_cifar,
)

SCRIPT = "search_attention.py"
_IMAGES, _LABELS = patterns(20), np.full(20, 3)
_TEST, _TEST_LABELS = noise(6, seed=1), np.arange(6)
_SMALL = "--model resnet_v2_cifar --blocks 1 --act-type relu --dataset cifar10"
_STILL = "--lr 1e-20 --warmup-epochs 1 --search-epochs 1"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search-options")
    write_cifar(folder / "data", (_IMAGES, _LABELS), (_TEST, _TEST_LABELS))
    return folder


def _run(place, *words):
    return run(SCRIPT, place, "--data-dir", place / "data", *words)


def _searchable(kind="CBAM", seed=0, unit_options=None, **options):
    return network(seed=seed, attention=partial(SearchableAttention, kind=kind,
                                                **(unit_options or {})), **options)


# Options, and the network that they ask for.
_NETWORKS = {
    "activation": ("--model resnet_v2_cifar --blocks 1 --act-type SeqATAC --reduction 4 "
                   "--act-kernel-size 5 --act-dilation 2 --act-layers 2 --act-order pre "
                   "--replace-act swish",
                   {"activation": "SeqATAC", "replace_act": "swish", "act_layers": 2,
                    "act_order": "pre",
                    "act_options": {"reduction": 4, "kernel_size": 5, "dilation": 2}}),
    "gate": ("--model resnet_v2_cifar --blocks 1 --act-type ChaATAC --no-use-relu --use-global",
             {"activation": "ChaATAC", "act_options": {"use_relu": False, "use_global": True}}),
    "gate of xUnit": ("--model resnet_v2_cifar --blocks 1 --act-type xUnit --act-gate sigmoid",
                      {"activation": "xUnit", "act_options": {"gate": "sigmoid"}}),
    "attention": ("--model resnet_v2_cifar --blocks 2 --act-type relu --attention MVAM "
                  "--attn-reduction 4 --spatial-kernel 5",
                  {"blocks": 2, "kind": "MVAM",
                   "unit_options": {"reduction": 4, "kernel_size": 5}}),
    "host": ("--width 0.1 --stem conv7 --seed 4",
             {"model": "resnet18", "width": 0.1, "stem": "conv7", "seed": 4}),
}


@covers(SCRIPT, *(options for options, _ in _NETWORKS.values()), "--dataset --model")
@pytest.mark.parametrize("name", _NETWORKS)
def test_the_searched_network_is_the_one_that_is_asked_for(name, place):
    options, wanted = _NETWORKS[name]
    found = _run(place, options, _STILL, "--dataset cifar10 --batch-size 10").rows[0]
    seed = wanted.get("seed", 0)
    net = _searchable(**wanted)
    images = Batches(ImageSet(_IMAGES, _LABELS), 10, seed=seed)
    losses = [trained_loss(net, normalised(batch), labels) for batch, labels, _ in images.epoch(0)]
    assert found["train_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found["val_loss"] == pytest.approx(
        predicted_loss(net, normalised(_TEST), _TEST_LABELS), rel=1e-4)


@covers(SCRIPT, "--padding --limit-train --alpha-split --seed --batch-size")
@pytest.mark.parametrize("words, settings, kept", [
    ("--padding mean --seed 2", {"seed": 2, "preparation": Preparation("mean", MEAN)}, slice(None)),
    ("--padding reflect --limit-train 12", {"preparation": Preparation("reflect")}, slice(12)),
    ("--alpha-split 0.4 --seed 1", {"seed": 1}, permutation(20, 1, "alpha split")[8:])])
def test_the_weights_learn_from_the_images_that_are_left_to_them(words, settings, kept, place):
    found = _run(place, _SMALL, _STILL, words, "--batch-size 4").rows[0]
    net = _searchable(seed=settings.get("seed", 0))
    batches = Batches(ImageSet(_IMAGES[kept], _LABELS[kept]), 4, **settings)
    losses = [trained_loss(net, normalised(images), labels)
              for images, labels, _ in batches.epoch(0)]
    assert found["train_loss"] == pytest.approx(np.mean(losses), rel=1e-4)


# ---- both optimizers -----------------------------------------------------------------------------

# With all features dropped the logits are the last bias, and no gradient of the loss reaches
# the structure: the penalty's is left.
_DROPPED = "--drop-rate 0.9999999"


def _alphas(found):
    """(epochs, blocks, 5)."""
    with open(found.logs / "alphas.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    values = [[float(value) for key, value in row.items() if key.startswith("alpha ")]
              for row in rows]
    return np.reshape(values, (-1, 3, 5))


@covers(SCRIPT, _DROPPED, "--lr --momentum --weight-decay --warmup-epochs --search-epochs")
def test_the_weights_learn_as_the_formulas_say(place):
    """SGD; the rate rises in the first epoch; while searching, every second batch is not theirs."""
    found = _run(place, _SMALL, _DROPPED, "--lr 0.5 --momentum 0.6 --wd 0.3 --warmup-epochs 2 "
                 "--search-epochs 1 --batch-size 5")
    learner = formulas.Learner({"output.bias": np.zeros(10)}, formulas.sgd, 0.6, 0.3)
    expected = []
    for rates in ([0, 0.125, 0.25, 0.375], [0.5] * 4, [0.5, 0, 0.5, 0]):
        losses = []
        for step, rate in enumerate(rates):
            if len(expected) == 2 and step % 2:
                losses.append(learner.loss(learner.bias, np.array([3]))[0].mean())
            else:
                losses.append(learner.step([3], rate))
        expected.append(np.mean(losses))
    assert found.column("train_loss") == pytest.approx(expected, rel=1e-3)
    assert found.column("lr") == [0.375, 0.5, 0.5]
    moved = np.abs(_alphas(found)).max(axis=(1, 2)) > 0
    assert moved.tolist() == [False, False, True]


@covers(SCRIPT, "--alpha-lr --penalty-weight --penalty-power --penalty-ratio")
@pytest.mark.parametrize("words, weight, power, ratio, lr", [
    # So small a penalty that Adam's epsilon, and with it the penalty's size, counts; so high a
    # rate that the slope differs from step to step, or its moving average would be the same.
    ("--penalty-weight 3e-8 --penalty-power 1.7 --penalty-ratio 1,5,2,3,1 --alpha-lr 2",
     3e-8, 1.7, (1, 5, 2, 3, 1), 2),
    ("", 0.1, 1.1, (4, 1, 1, 2, 2), 0.1)], ids=["given", "default"])
def test_the_structure_learns_as_the_formulas_say(words, weight, power, ratio, lr, place):
    """Adam with betas 0.5 and 0.999 on w / B * sum_b sum_i r_i p_bi^m."""
    found = _run(place, _SMALL, _DROPPED, "--warmup-epochs 0 --search-epochs 2 --batch-size 5",
                 words)
    alpha, state, expected = np.zeros(5), {}, []
    for _ in range(2):
        for _ in range(2):
            p = np.exp(log_softmax(alpha))
            slope = weight / 3 * power * np.array(ratio) * p ** (power - 1)
            alpha = formulas.adam(alpha, p * (slope - p @ slope), state, lr, 0, beta1=0.5)
        expected.append(np.stack([alpha] * 3))
    np.testing.assert_allclose(_alphas(found), expected, rtol=2e-3, atol=1e-6)


def test_without_dropout_the_loss_moves_the_structure(place):
    """Of each block in its own way; and the held-out images are what moves it."""
    words = _SMALL, "--warmup-epochs 0 --search-epochs 1 --penalty-weight 0 --batch-size 5"
    alphas = _alphas(_run(place, *words, "--alpha-lr 0.01"))[0]
    assert 0.005 < np.abs(alphas).max() < 0.021    # two steps of Adam
    assert len(np.unique(np.round(alphas, 5), axis=0)) == 3


# ---- others --------------------------------------------------------------------------------------

@covers(SCRIPT, "--random --seed")
def test_a_random_structure_is_that_of_the_seed(place):
    def drawn(seed):
        found = run(SCRIPT, place, _SMALL, "--random --seed", seed)
        return json.loads((found.logs / "structure.json").read_text())["operations"]

    assert drawn(1) == ["SA(+)CA", "SA(+)CA", "SA"] != drawn(2)


@covers(SCRIPT, "--dtype --attention-at")
@pytest.mark.parametrize("words, message", [
    ("--dtype float16", "a search is made in float32"),
    ("--attention-at classifier", "for the slots 'block' only")])
def test_what_is_not_searched_is_refused(words, message, place):
    with pytest.raises(UserError, match=message):
        _run(place, _SMALL, words)


@covers(SCRIPT, "--mode")
@pytest.mark.parametrize("mode, compiled", [("hybrid", True), ("imperative", False)])
def test_only_mode_hybrid_compiles(mode, compiled, place, hybridized):
    _run(place, _SMALL, _STILL, "--batch-size 10 --mode", mode)
    assert (sum(hybridized) > 1) == compiled    # a loss is always compiled; it is no network
