"""PyTorch's engine computes what MXNet's does, and takes up where the other left off."""
import copy
import os
import shutil

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import model.mxnet_compat  # noqa: E402, F401  (comes before mxnet)
import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
from mxnet import gluon  # noqa: E402

from data.batches import Batches  # noqa: E402
from engines import pytorch  # noqa: E402
from engines.gluon import GluonEngine  # noqa: E402
from engines.interface import Group, Loss, Mix, OtherNetwork  # noqa: E402
from engines.pytorch import PyTorchEngine  # noqa: E402
from model.activation import get_activation  # noqa: E402
from model.zoo import build as build_network  # noqa: E402
from training.scores import evaluate  # noqa: E402

from .small import Blocked, drawn, engine, images, linear, normed  # noqa: E402

KINDS = (GluonEngine, PyTorchEngine)
NAG = Group("nag", weight_decay=1e-3)


def _network(**options):
    """A function that builds resnet_v2_cifar, b = 1."""
    description = {"model": "resnet_v2_cifar", "options": {"blocks": 1, **options}}
    return lambda devices: build_network(description, 10, devices)


def _both(build, init=None, **settings):
    """An engine of each kind with the same weights."""
    weights = drawn(build, init=init)
    return [engine(build, kind=kind, weights=weights, **settings) for kind in KINDS]


def _learn(trained, steps, rate=0.05, size=16, **options):
    """Steps on batches that follow from their numbers; the losses."""
    for step in steps:
        data = images(size, seed=step)
        trained.learn((data.images, data.labels), (0, step),
                      dict.fromkeys(trained.settings.groups, rate), **options)
    return [loss / count for loss, _, count in trained.collect()]


def _assert_close(one, two, tolerance, least=1e-2):
    """Of each array, differences beside its largest value, or beside `least`."""
    assert one.keys() == two.keys()
    for name in one:
        limit = tolerance * max(np.abs(one[name]).max(), least)
        assert np.abs(one[name] - two[name]).max() <= limit, name


def _assert_same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


# ---- as MXNet's engine -------------------------------------------------------------------------

# CBAM's maxima amplify roundings: beyond 5 steps, or at higher rates, MXNet in float32 is as far
# from MXNet in float64.
@pytest.mark.parametrize("options, steps, rate", [
    ({"activation": "relu"}, 20, 5e-3), ({"activation": "ChaATAC"}, 20, 0.01),
    ({"activation": "relu", "attention": "SE"}, 20, 5e-3),
    ({"activation": "relu", "attention": "CBAM"}, 5, 1e-3)], ids=["relu", "ChaATAC", "SE", "CBAM"])
def test_networks_learn_alike(options, steps, rate):
    """Running statistics, among them the input's, included."""
    trained = _both(_network(**options), mx.init.MSRAPrelu(), group=NAG)
    losses = [_learn(each, range(steps), rate) for each in trained]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    before = drawn(_network(**options), init=mx.init.MSRAPrelu())
    weights = [each.weights() for each in trained]
    _assert_close(*weights, 1e-3, least=0.1)    # a shift of 0.1 of what is normalised to 1
    moved = [name for name in before if (weights[1][name] != before[name]).any()]
    assert "features.0.running_mean" in moved and "features.0.running_var" in moved
    data = images(20, seed=99)
    logits = [np.concatenate(list(each.predict([data.images[:16], data.images[16:]], 16)))
              for each in trained]
    assert logits[1].shape == (20, 10) and logits[1].dtype == np.float32
    np.testing.assert_allclose(logits[1], logits[0], rtol=2e-3, atol=2e-3)


OPTIMIZERS = {
    "nag": NAG, "sgd": Group("sgd", weight_decay=1e-2), "plain": Group("sgd", momentum=0.0),
    "plain nag": Group("nag", momentum=0.0, weight_decay=1e-2),
    "adam": Group("adam", betas=(0.5, 0.99), weight_decay=1e-2),
    "exempt": Group("nag", weight_decay=0.5, decay_all=False)}


def _tolerance(group):
    """Adam divides by the root of a mean of squares, however small."""
    return 2e-3 if group.optimizer == "adam" else 1e-4


@pytest.mark.parametrize("group", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_update_alike(group):
    """Where the rate changes, too, and to the optimizer's own arrays."""
    trained = _both(normed, group=group)
    for each in trained:
        _learn(each, range(3), 0.01)
        _learn(each, range(3, 6), 0.002)
    _assert_close(*(each.weights() for each in trained), _tolerance(group))
    states = [each.state() for each in trained]
    _assert_close(states[0].optimizer, states[1].optimizer, 1e-3)
    assert states[0].update_counts == states[1].update_counts
    assert states[0].num_updates == states[1].num_updates == [6]


def _teacher():
    mx.random.seed(3)
    teacher = normed()
    teacher.initialize(mx.init.Normal(0.1))
    return teacher


@pytest.mark.parametrize("loss, mix", [
    (Loss(10), None), (Loss(10, label_smoothing=0.2), None), (Loss(10, mixed=True), Mix(0.3)),
    (Loss(10, 0.1, mixed=True), Mix(0.75, (4, 20, 8, 24))), (Loss(10, mixed=True), None),
    (Loss(10, 0.1, teacher=_teacher, temperature=3.0, hard_weight=0.25), None),
    (Loss(10, mixed=True, teacher=_teacher), Mix(0.6))],
    ids=["plain", "smoothed", "mixup", "cutmix, smoothed", "mixed no longer", "distilled",
         "distilled, mixup"])
def test_losses_and_hits_are_alike(loss, mix):
    trained, data = _both(normed, loss=loss), images(16)
    results = []
    for each in trained:
        for step in range(3):
            each.learn((data.images, data.labels), (0, step), {"weights": 0.01}, mixes=[mix])
        results.append(each.collect())
    assert len(results[1]) == 3
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4)
    _assert_close(*(each.weights() for each in trained), 1e-4)


def test_groups_learn_alike_one_by_one_and_from_added_gradients():
    added = {"2.bias": np.random.default_rng(0).normal(size=10).astype(np.float32)}
    groups = {"weights": Group("sgd", weight_decay=1e-3),
              "bias": Group("adam", betas=(0.5, 0.999), names=("2.bias",))}
    trained = _both(normed, groups=groups)
    for each in trained:
        before = each.weights()
        assert not _learn(each, range(2), update=("bias",), add=added, counted=False)
        after = each.weights()
        assert (after["2.bias"] != before["2.bias"]).all()
        np.testing.assert_array_equal(after["2.weight"], before["2.weight"])
        _learn(each, range(2, 4), update=("weights",))
        np.testing.assert_array_equal(each.values(["2.bias"])[0], after["2.bias"])
        assert each.state().num_updates == [2, 2]
    _assert_close(*(each.weights() for each in trained), 1e-3)


def test_parameters_without_a_gradient_decay_alike():
    trained = _both(Blocked, group=Group("nag", weight_decay=0.5))
    for each in trained:
        _learn(each, range(3), 0.01)
    weights = [each.weights() for each in trained]
    _assert_close(*weights, 1e-4)
    shrunk = weights[1]["blocked.weight"] / drawn(Blocked)["blocked.weight"]
    assert shrunk.max() < 1 and shrunk.max() - shrunk.min() < 1e-5
    half = engine(Blocked, kind=PyTorchEngine, dtype="float16")
    _learn(half, range(1))
    assert half.state().num_updates == [1]


def test_every_image_is_scored_alike_and_training_goes_on_as_if_it_were_not():
    trained, data = _both(normed), images(50)
    scores = [evaluate(each, Batches(data, 16, train=False)) for each in trained]
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)
    alone = engine(normed, kind=PyTorchEngine)
    for each in (trained[1], alone):
        _learn(each, range(2))
    _assert_same(alone.weights(), trained[1].weights())


def test_a_prediction_has_the_weights_of_its_moment():
    trained, data = engine(normed, kind=PyTorchEngine), images(32)
    expected = list(trained.predict([data.images], 32))[0]
    begun = trained.predict([data.images], 32)
    _learn(trained, range(2))
    np.testing.assert_array_equal(next(begun), expected)
    fresh = engine(normed, kind=PyTorchEngine, weights=trained.weights())
    found, = trained.predict([data.images], 32)
    np.testing.assert_allclose(found, next(fresh.predict([data.images], 32)), rtol=1e-5)
    assert np.abs(found - expected).max() > 1e-3


def test_a_gpu_copies_beside_what_it_computes(monkeypatch):
    """The order of what is asked of CUDA, which is not here."""
    asked = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            asked.append(f"{self.name} waits for {other.name}")

        def __enter__(self):
            asked.append(f"on {self.name}")

        def __exit__(self, *error):
            asked.append("done")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copies"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("computes"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    for name in ("pin_memory", "to", "record_stream"):
        def note(self, *words, name=name, **options):
            asked.append(" ".join([name, *(getattr(word, "name", "") for word in words)]).strip())
            return self
        monkeypatch.setattr(torch.Tensor, name, note)
    pytorch._copy_stream.cache_clear()
    found = pytorch.to_device(np.arange(3), torch.device("cuda", 0))
    pytorch._copy_stream.cache_clear()
    assert found.tolist() == [0, 1, 2]
    assert asked == ["on copies", "pin_memory", "to", "done", "computes waits for copies",
                     "record_stream computes"]


def test_figures():
    trained = _both(_network())
    assert trained[0].num_trained == trained[1].num_trained
    assert trained[1].is_finite() and trained[1].loss_scale is None
    weights = trained[1].weights()
    weights["output.bias"][0] = np.inf
    trained[1].load_weights(weights)
    assert not trained[1].is_finite()
    _assert_same(trained[1].weights(), weights)


# ---- state -------------------------------------------------------------------------------------

@pytest.mark.parametrize("group", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("before", [0, 3], ids=["from the first update", "from the fourth"])
@pytest.mark.parametrize("begins", [0, 1], ids=["MXNet's", "PyTorch's"])
def test_a_state_is_taken_up_by_the_other_engine(group, before, begins):
    first = engine(normed, kind=KINDS[begins], group=group)
    _learn(first, range(before), 0.01)
    second = engine(normed, kind=KINDS[1 - begins], group=group, seed=9)
    second.load_state(copy.deepcopy(first.state()))
    _assert_same(second.state().weights, first.state().weights)
    _assert_same(second.state().optimizer, first.state().optimizer)
    for each in (first, second):
        _learn(each, range(before, before + 4), 0.01)
    _assert_close(first.weights(), second.weights(), _tolerance(group))
    assert first.state().update_counts == second.state().update_counts


def _dropping(devices=1):
    """For float16, too, whose convolutions take seconds on a CPU."""
    net = normed()
    net.add(gluon.nn.Dropout(0.5))
    return net


@pytest.mark.parametrize("build, dtype", [
    (_network(activation="ChaATAC", drop_rate=0.5), "float32"),
    (_network(activation="ChaATAC", drop_rate=0.5), "bfloat16"), (_dropping, "float16")],
    ids=["float32", "bfloat16", "float16"])
def test_a_state_goes_on_with_the_same_bits(build, dtype):
    """Dropout's masks, the loss scale and the running statistics included."""
    one, two = (engine(build, kind=PyTorchEngine, group=NAG, dtype=dtype, seed=seed, dropout=True)
                for seed in (0, 9))
    _learn(one, range(2))
    two.load_state(one.state())
    losses = [_learn(each, range(2, 4)) for each in (one, two)]
    assert losses[0] == losses[1]
    _assert_same(one.weights(), two.weights())
    assert one.state().scaling == two.state().scaling


def test_dropout_depends_on_the_step_alone():
    build = _network(drop_rate=0.5)
    losses = []
    for numbers in ((0, 1), (1,), (2,)):
        trained = engine(build, kind=PyTorchEngine, dropout=True)
        data = images(16)
        for step in numbers:
            trained.learn((data.images, data.labels), (0, step), {"weights": 0.0})
        losses.append(trained.collect()[-1][0])
    assert losses[0] == losses[1] != losses[2]


def test_another_network_s_or_optimizer_s_state_is_refused():
    state = engine(kind=PyTorchEngine, group=NAG).state()
    with pytest.raises(OtherNetwork, match="belongs to another network: .* is not in it"):
        engine(normed, kind=PyTorchEngine).load_state(state)
    with pytest.raises(OtherNetwork, match=r"1.bias is \(10,\), not \(3,\)"):
        engine(lambda devices: linear(outputs=3), kind=PyTorchEngine,
               loss=Loss(3)).load_state(state)
    trained = engine(kind=PyTorchEngine, group=NAG)
    _learn(trained, range(1))
    for group in (Group("adam"), Group("sgd", momentum=0.0)):
        with pytest.raises(OtherNetwork, match="written by another optimizer .1.weight has"):
            engine(kind=PyTorchEngine, group=group).load_state(trained.state())


# ---- precision and compiling -------------------------------------------------------------------

def test_bfloat16_learns_and_its_weights_are_float32():
    build = _network(activation="ChaATAC")
    losses, data = [], images(16)
    for dtype in ("float32", "bfloat16"):
        trained = engine(build, kind=PyTorchEngine, group=NAG, dtype=dtype,
                         weights=drawn(build, init=mx.init.MSRAPrelu()))
        for step in range(12):
            trained.learn((data.images, data.labels), (0, step), {"weights": 0.1})
        losses.append([loss for loss, _, _ in trained.collect()])
        assert {array.dtype for array in trained.weights().values()} == {np.dtype("float32")}
        assert trained.loss_scale is None
    assert losses[1] != losses[0] and losses[1][0] == pytest.approx(losses[0][0], rel=0.02)
    assert losses[1][-1] < 0.5 * losses[1][0]


class _Steep(gluon.nn.HybridBlock):
    """Logits whose gradient times the first loss scale is more than float16 holds."""

    def __init__(self, devices=1):
        super().__init__()
        self.dense = gluon.nn.Dense(10, in_units=3 * 32 * 32)

    def hybrid_forward(self, F, x):
        return self.dense(x) * 100


def test_a_step_whose_gradients_overflow_is_skipped_and_the_scale_halved():
    trained = engine(_Steep, kind=PyTorchEngine, group=NAG, dtype="float16")
    before = trained.weights()
    scales = []
    for step in range(12):
        skipped = trained.loss_scale.skipped
        _learn(trained, [step], 1e-4)
        scales.append(trained.loss_scale.scale)
        if trained.loss_scale.skipped > skipped:
            assert scales[-1] == 2.0 ** (16 - trained.loss_scale.skipped)
            _assert_same(trained.weights(), before)
    assert 0 < trained.loss_scale.skipped < 12 and trained.is_finite()
    assert trained.state().num_updates == [12 - trained.loss_scale.skipped]
    assert (trained.weights()["dense.weight"] != before["dense.weight"]).any()


def test_the_loss_scale_leaves_the_updates_as_they_are():
    """Powers of two are exact; gradients of a linear network do not overflow."""
    weights = []
    for scale in (2.0 ** 8, 2.0 ** 10):
        trained = engine(kind=PyTorchEngine, group=NAG, dtype="float16")
        trained.loss_scale.scale = scale
        _learn(trained, range(3), 0.01, add={"1.bias": np.ones(10, np.float32)})
        weights.append(trained.weights())
    _assert_close(*weights, 1e-3)


def _unit(devices=1):
    """A convolution and an ATAC: little to compile."""
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.BatchNorm(in_channels=3, scale=False, center=False),
            gluon.nn.Conv2D(16, 3, 2, 1, in_channels=3), get_activation("ChaATAC", 16),
            gluon.nn.GlobalAvgPool2D(), gluon.nn.Flatten(), gluon.nn.Dense(10, in_units=16))
    return net


@pytest.mark.slow
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-3), ("bfloat16", 2e-2)])
def test_compiled_it_computes_the_same_and_is_compiled_once(dtype, tolerance):
    weights, data = drawn(_unit, init=mx.init.MSRAPrelu()), images(20)
    plain, fast = (engine(_unit, kind=PyTorchEngine, group=NAG, weights=weights, dtype=dtype,
                          compiled=compiled) for compiled in (False, True))
    logits = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for each in (plain, fast):
            for steps in (range(3), range(3, 6)):
                _learn(each, steps, 0.01)
                logits.append(list(each.predict([data.images[:16], data.images[16:]], 16)))
    _assert_close(plain.weights(), fast.weights(), tolerance)
    _assert_close({"": np.concatenate(logits[1])}, {"": np.concatenate(logits[3])}, tolerance)


@pytest.mark.parametrize("missing", ["compiler", "headers"])
def test_without_a_compiler_it_computes_uncompiled_and_says_so(missing, monkeypatch, capsys):
    if missing == "compiler":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    else:
        monkeypatch.setattr("sysconfig.get_path", lambda name: "/nowhere")
    monkeypatch.setattr(torch, "compile", None)
    trained = engine(kind=PyTorchEngine, compiled=True)
    _learn(trained, range(1))
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and "PyTorch computes uncompiled" in text


@pytest.mark.parametrize("home, own, expected", [
    ("home", None, "home/.cache/torchinductor"), ("file/home", None, None),
    ("home", "elsewhere", "elsewhere")], ids=["home", "no home", "the user's own"])
def test_what_was_compiled_is_kept_in_the_home_folder(home, own, expected, monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path / home))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / (own or "")))
    if own is None:
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]
    pytorch.compiled(torch.nn.Identity())
    found = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    assert found == (expected and str(tmp_path / expected))
