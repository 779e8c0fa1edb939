"""The network options of the scripts for small images: each reaches the network it names.

What a script trained and scored is compared with a network that is built by hand.
"""
import json
import signal

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
import pytest

from model.structure import Structure
from tests.options.runs import (
    covers,
    log_softmax,
    network,
    noise,
    normalised,
    predicted_loss,
    run,
    save,
    stops_after,
    trained_loss,
    write_cifar,
)

SCRIPT = "train_cifar.py"
_STILL = "--num-epochs 1 --batch-size 10 --padding reflect --lr 1e-20 --lr-mode constant"
_TRAIN = np.broadcast_to(noise(10)[:, :, :1, :1], (10, 3, 32, 32))    # no crop changes these
_TRAIN_LABELS = np.arange(10)
_TEST, _TEST_LABELS = noise(6, seed=1), np.arange(6)

# Options, and the network that they ask for.
CASES = {
    "activation": ("--act-type SeqATAC --reduction 4 --act-kernel-size 5 --act-dilation 2 "
                   "--act-layers 2 --act-order pre --replace-act swish --blocks 1",
                   {"activation": "SeqATAC", "replace_act": "swish", "act_layers": 2,
                    "act_order": "pre",
                    "act_options": {"reduction": 4, "kernel_size": 5, "dilation": 2}}),
    "last layers by default": ("--act-type swish --act-layers 1 --blocks 1",
                               {"activation": "swish", "act_layers": 1}),
    "no ReLU in the gate": ("--act-type ChaATAC --no-use-relu --blocks 1",
                            {"activation": "ChaATAC", "act_options": {"use_relu": False}}),
    "global gate": ("--act-type ChaATAC --use-global --blocks 1",
                    {"activation": "ChaATAC", "act_options": {"use_global": True}}),
    "gate of xUnit": ("--act-type xUnit --act-gate sigmoid --blocks 1",
                      {"activation": "xUnit", "act_options": {"gate": "sigmoid"}}),
    "attention": ("--act-type ChaATAC --reduction 4 --attention CBAM --attn-reduction 8 "
                  "--spatial-kernel 3 --blocks 1",
                  {"activation": "ChaATAC", "act_options": {"reduction": 4},
                   "attention": "CBAM", "attn_options": {"reduction": 8, "kernel_size": 3}}),
    "blocks": ("--act-type relu --blocks 2", {"blocks": 2}),
    "host": ("--model resnet18 --width 0.1 --stem conv7 --attention SE --attention-at "
             "identity,classifier",
             {"model": "resnet18", "width": 0.1, "stem": "conv7", "attention": "SE",
              "attention_at": ["identity", "classifier"]}),
}
for _options, _ in CASES.values():
    covers(SCRIPT, _options)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network-options")
    write_cifar(folder / "data", (_TRAIN, _TRAIN_LABELS), (_TEST, _TEST_LABELS))
    return folder


def _vary(net, seed=3):
    """Scales and shifts that are not 1 and 0, so that nothing is hidden by them."""
    rng = np.random.RandomState(seed)
    for name, parameter in net._collect_params_with_prefix().items():
        if name.endswith((".gamma", ".beta", ".bias", ".alpha")):
            value = parameter.data()
            parameter.set_data(value + mx.nd.array(0.3 * rng.randn(*value.shape)))
    return net


def _check(found, net):
    """A run whose weights stood still: its figures are those of the network."""
    [row] = found.rows
    for column, expected in (
            ("train_loss", trained_loss(net, normalised(_TRAIN), _TRAIN_LABELS)),
            ("val_loss", predicted_loss(net, normalised(_TEST), _TEST_LABELS))):
        assert row[column] == pytest.approx(expected, rel=1e-4), column


@pytest.mark.parametrize("name", CASES)
def test_a_run_trains_and_scores_the_network_that_is_asked_for(name, place):
    options, wanted = CASES[name]
    net = _vary(network(**wanted))
    start = save(net, place / f"{name}.params".replace(" ", "-"))
    _check(run(SCRIPT, place, options, _STILL, "--data-dir", place / "data", "--resume-from",
               start), net)


@covers(SCRIPT, "--structure")
def test_a_structure_gives_each_block_its_attention(place):
    operations = ["SA", "identity", "CA"]
    structure = Structure("resnet_v2_cifar", "CBAM", operations, {"kernel_size": 3})
    (place / "structure.json").write_text(json.dumps(structure.content()))
    net = _vary(network(structure={"kind": "CBAM", "operations": operations,
                                   "unit_options": {"kernel_size": 3}}))
    _check(run(SCRIPT, place, "--act-type relu --blocks 1", _STILL, "--data-dir", place / "data",
               "--structure", place / "structure.json", "--resume-from",
               save(net, place / "structure.params")), net)


@covers(SCRIPT, "--drop-rate")
def test_dropout_stands_before_the_classifier_and_draws_anew_in_every_step(place, monkeypatch):
    """Nearly all features dropped, the bias is left; half of them, and every mask differs."""
    net = _vary(network())
    start = save(net, place / "dropout.params")
    options = ("--act-type relu --blocks 1", _STILL, "--data-dir", place / "data",
               "--resume-from", start)
    [row] = run(SCRIPT, place, *options, "--drop-rate 0.9999999").rows
    logs = log_softmax(net.output.bias.data().asnumpy())
    assert row["train_loss"] == pytest.approx(-logs[_TRAIN_LABELS].mean(), rel=1e-4)
    assert row["val_loss"] != pytest.approx(-logs[_TEST_LABELS].mean(), rel=1e-2)

    half = run(SCRIPT, place, *options, "--drop-rate 0.5 --num-epochs 3").column("train_loss")
    assert min(abs(np.diff(sorted(half)))) > 1e-3
    words = *options, "--drop-rate 0.5 --num-epochs 3 --name stopped"
    stops_after(1, monkeypatch)
    run(SCRIPT, place, *words, code=128 + signal.SIGTERM)
    monkeypatch.undo()
    assert run(SCRIPT, place, *words, "--resume").column("train_loss") == half
    # Ten copies of one image, whose order is nothing to the loss; with another seed; and twenty
    # in two steps, whose mean is the first one's loss if both have its mask.
    write_cifar(place / "copies", (_TRAIN[:1].repeat(20, axis=0), [3] * 20),
                (_TEST, _TEST_LABELS))
    one, other, two = (
        run(SCRIPT, place, *options, "--drop-rate 0.5 --data-dir", place / "copies", words)
        .column("train_loss")[0] for words in ("--limit-train 10", "--limit-train 10 --seed 1", ""))
    assert min(abs(one - other), abs(one - two)) > 1e-3


@covers(SCRIPT, "--seed")
@pytest.mark.parametrize("seed", [0, 5])
def test_initial_weights_are_those_of_the_seed(seed, place):
    found = run(SCRIPT, place, "--act-type ChaATAC --blocks 1 --seed", seed, _STILL, "--data-dir",
                place / "data").arrays()
    expected = network(activation="ChaATAC", seed=seed)._collect_params_with_prefix()
    for name, parameter in expected.items():
        if "running" not in name:
            np.testing.assert_allclose(found[name], parameter.data().asnumpy(), rtol=1e-6,
                                       atol=1e-12, err_msg=name)


@covers(SCRIPT, "--mode")
@pytest.mark.parametrize("mode, compiled", [("hybrid", True), ("imperative", False)])
def test_only_mode_hybrid_compiles(mode, compiled, place, hybridized):
    """And both compute the same."""
    start = save(network(), place / "mode.params")
    found = run(SCRIPT, place, "--act-type relu --blocks 1 --mode", mode, _STILL, "--data-dir",
                place / "data", "--resume-from", start)
    assert (sum(hybridized) > 1) == compiled    # a loss is always compiled; it is no network
    _check(found, network())
