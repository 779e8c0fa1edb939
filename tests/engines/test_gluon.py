"""MXNet's engine: what it computes, on networks small enough to check by hand."""
import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd

from data.batches import Batches, Preparation
from engines.gluon import Normalize, to_device
from engines.interface import Group, Loss, Mix, OtherNetwork
from training.scores import evaluate

from .small import MEAN, STD, drawn, engine, images, linear, loop, normed


def test_normalize():
    pixels = images(4).images
    expected = ((pixels / 255.0 - np.reshape(MEAN, (1, 3, 1, 1)))
                / np.reshape(STD, (1, 3, 1, 1)))
    out = Normalize(MEAN, STD)(pixels, mx.cpu())
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.asnumpy(), expected, rtol=1e-4, atol=1e-5)
    assert Normalize((0.5,) * 3, (0.2,) * 3, "float16")(pixels, mx.cpu()).dtype == np.float16


def test_images_go_to_the_device_without_a_copy():
    pixels = np.zeros((2, 3, 4, 4), np.uint8)
    on_device = to_device(pixels, mx.cpu(), np.uint8)
    assert not pixels.flags.writeable
    np.testing.assert_array_equal(on_device.asnumpy(), pixels)
    assert to_device(np.arange(3), mx.cpu(), np.int32).dtype == np.int32


# ---- predicting ----------------------------------------------------------------------------

@pytest.mark.parametrize("devices", [("cpu",), ("cpu:0", "cpu:1")], ids=["one", "two"])
@pytest.mark.parametrize("batch_size", [16, 50, 64])
def test_every_image_is_scored_once(batch_size, devices):
    data, trained = images(50), engine(devices=devices, compiled=True)
    scores = evaluate(trained, Batches(data, batch_size, train=False))
    pixels = (data.images / 255.0 - np.reshape(MEAN, (1, 3, 1, 1))) / np.reshape(STD, (1, 3, 1, 1))
    weights = drawn(linear)
    logits = pixels.reshape(50, -1) @ weights["1.weight"].T.astype(np.float64)
    order = np.argsort(-logits, axis=1)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert scores["count"] == 50
    assert scores["accuracy"] == pytest.approx(np.mean(order[:, 0] == data.labels))
    assert scores["top5_accuracy"] == pytest.approx(
        np.mean((order[:, :5] == data.labels[:, None]).any(axis=1)))
    assert scores["loss"] == pytest.approx(-log_p[np.arange(50), data.labels].mean(), rel=1e-4)


def test_top5_of_fewer_classes():
    scores = evaluate(engine(lambda devices: linear(outputs=3), loss=Loss(3)),
                      Batches(images(8, classes=3), 4, train=False))
    assert scores["top5_accuracy"] == 1.0


def test_a_prediction_has_the_weights_of_its_moment():
    """Of several devices, whose normalisations saw different images, the mean."""
    trained, data = engine(normed, ("cpu:0", "cpu:1")), images(48)
    for step, (pixels, labels, _) in enumerate(Batches(data, 16).epoch(0)):
        trained.learn((pixels, labels), (0, step), {"weights": 0.1})
    nd.waitall()
    means = [part.asnumpy() for part in trained._net[0].running_mean.list_data()]
    assert (means[0] != means[1]).any()
    weights = trained.weights()
    np.testing.assert_allclose(weights["0.running_mean"], np.mean(means, axis=0), rtol=1e-6)
    list(trained.predict([data.images[:16]], 16))
    for name, parameter in trained._predictor.net._collect_params_with_prefix().items():
        for part in parameter.list_data():
            np.testing.assert_array_equal(part.asnumpy(), weights[name], err_msg=name)


# ---- learning ------------------------------------------------------------------------------

def test_two_devices_do_what_one_does():
    results = []
    for devices in (("cpu",), ("cpu:0", "cpu:1")):
        trained = engine(devices=devices)
        loop(trained, Batches(images(48), 16))._train_epoch()
        results.append(trained.weights()["1.weight"])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-3, atol=1e-5)


class _Unread:
    """A result on the device that keeps a record of who waits for it."""

    def __init__(self, number, record):
        self.number, self.record = number, record

    def wait_to_read(self):
        self.record.append(("waited", self.number))

    def asscalar(self):
        self.record.append(("read", self.number))
        return 1.0


def test_the_loop_reads_only_at_intervals_and_the_engine_stays_few_steps_ahead(monkeypatch):
    record, trained = [], engine()

    def backward(images, labels, mixes):
        number = sum(what == "step" for what, _ in record)
        record.append(("step", number))
        return [_Unread(number, record)], [_Unread(number, record)]

    monkeypatch.setattr(trained, "_backward", backward)
    monkeypatch.setattr(trained, "_update", lambda trainer, images: None)
    batches = Batches(images(100), 10, preparation=Preparation(prefetch=0))
    loop(trained, batches, log_interval=8)._train_epoch()
    done = [number for what, number in record if what == "step"]
    assert done == list(range(10))
    first_read = record.index(("read", 0))
    assert ("step", 7) in record[:first_read] and ("step", 8) not in record[:first_read]
    for number in range(4, 8):    # step n + 1 waits for step n - 3, so four are under way at most
        assert ("waited", number - 3) in record[:record.index(("step", number)) + 2]


def test_added_gradients_are_those_of_the_mean_loss():
    data = images(16)
    added = np.random.default_rng(0).normal(size=(10, 3072)).astype(np.float32)
    for devices in (("cpu",), ("cpu:0", "cpu:1")):
        results = []
        for add in (None, {"1.weight": added}):
            trained = engine(devices=devices)
            trained.learn((data.images, data.labels), (0, 0), {"weights": 0.5}, add=add)
            results.append(trained.weights()["1.weight"])
        np.testing.assert_allclose(results[0] - results[1], 0.5 * added, rtol=1e-3, atol=1e-5)


def test_only_named_groups_learn_and_uncounted_steps_are_not_collected():
    groups = {"weights": Group("sgd", 0.0), "bias": Group("adam", names=("1.bias",))}
    trained = engine(group=groups["weights"])
    trained.settings.groups.update(groups)
    trained._trainers = trained._make_trainers()
    data, before = images(16), trained.weights()
    trained.learn((data.images, data.labels), (0, 0), {"bias": 0.1}, update=("bias",),
                  counted=False)
    after = trained.weights()
    assert (after["1.bias"] != before["1.bias"]).all()
    np.testing.assert_array_equal(after["1.weight"], before["1.weight"])
    assert trained.collect() == []
    trained.learn((data.images, data.labels), (0, 1), {"weights": 0.1}, update=("weights",))
    (_, _, count), = trained.collect()
    np.testing.assert_array_equal(trained.weights()["1.bias"], after["1.bias"])
    assert count == 16 and (trained.weights()["1.weight"] != before["1.weight"]).any()


def test_workers_draw_masks_of_their_own(monkeypatch):
    """Dropout's stream is tied to seed, epoch, step and worker."""
    seeds, data, trained = [], images(16), engine(dropout=True)
    monkeypatch.setattr("engines.gluon.mx.random.seed", seeds.append)
    for trained.workers.rank in range(3):
        trained.learn((data.images, data.labels), (1, 2), {"weights": 0.1})
    assert len(set(seeds)) == len(seeds) == 3


# ---- the loss ------------------------------------------------------------------------------

def _loss(**settings):
    trained = engine(loss=Loss(4, **settings))
    return trained._loss


def _batch(n=6, classes=4):
    x = nd.array(np.random.default_rng(0).normal(size=(n, 3, 8, 8)))
    return x, nd.array(np.arange(n) % classes, dtype="int32")


def _softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_plain_cross_entropy():
    x, label = _batch()
    loss = _loss()
    same_x, target = loss.prepare(x, label, None)
    assert same_x is x and target is label
    logits = nd.array(np.random.default_rng(2).normal(size=(6, 4)))
    expected = -np.log(_softmax(logits.asnumpy())[np.arange(6), label.asnumpy()])
    np.testing.assert_allclose(loss(logits, target).asnumpy(), expected, rtol=1e-5)


def test_label_smoothing_spreads_its_share():
    _, target = _loss(label_smoothing=0.2).prepare(*_batch(), None)
    target = target.asnumpy()
    np.testing.assert_allclose(target.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(target[np.arange(6), _batch()[1].asnumpy()], 0.85, rtol=1e-6)
    np.testing.assert_allclose(target.min(axis=1), 0.05, rtol=1e-6)


def test_a_blend_is_one_of_images_and_targets_alike():
    x, label = _batch()
    mixed_x, mixed = _loss(mixed=True).prepare(x, label, Mix(0.3))
    one_hot = np.eye(4)[label.asnumpy()]
    np.testing.assert_allclose(mixed_x.asnumpy(), 0.3 * x.asnumpy() + 0.7 * x.asnumpy()[::-1],
                               rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(mixed.asnumpy(), 0.3 * one_hot + 0.7 * one_hot[::-1], rtol=1e-5,
                               atol=1e-6)


def test_a_pasted_box_is_the_one_that_was_drawn():
    x, label = _batch()
    mixed_x, mixed = _loss(mixed=True).prepare(x, label, Mix(1 - 6 / 64, (1, 3, 2, 5)))
    expected = x.asnumpy().copy()
    expected[:, :, 1:3, 2:5] = x.asnumpy()[::-1][:, :, 1:3, 2:5]
    np.testing.assert_array_equal(mixed_x.asnumpy(), expected)
    one_hot, share = np.eye(4)[label.asnumpy()], 1 - 6 / 64
    np.testing.assert_allclose(mixed.asnumpy(), share * one_hot + (1 - share) * one_hot[::-1],
                               rtol=1e-5, atol=1e-6)


def test_the_loss_is_float32_whatever_the_logits():
    loss = _loss(mixed=True)
    _, target = loss.prepare(*_batch(), Mix(0.2))
    assert loss(nd.ones((6, 4), dtype="float16"), target).dtype == np.float32


def test_gradient_of_smoothed_targets():
    trained = engine(loss=Loss(3, label_smoothing=0.3))
    _, target = trained._loss.prepare(nd.zeros((1, 3, 2, 2)), nd.array([1], dtype="int32"), None)
    logits = nd.array([[0.5, -1.0, 2.0]])
    logits.attach_grad()
    with mx.autograd.record():
        value = trained._loss(logits, target)
    value.backward()
    np.testing.assert_allclose(logits.grad.asnumpy(),
                               nd.softmax(logits).asnumpy() - [[0.1, 0.8, 0.1]], atol=1e-5)


def test_distillation_is_its_formula_and_leaves_the_teacher_alone():
    x, label = _batch()
    teacher = gluon.nn.HybridSequential()
    teacher.add(gluon.nn.BatchNorm(in_channels=3), gluon.nn.Flatten(),
                gluon.nn.Dense(4, in_units=3 * 64), gluon.nn.Dropout(0.5))
    teacher.initialize(mx.init.Normal(0.1))
    before = [p.data().asnumpy() for p in teacher.collect_params().values()]
    loss = _loss(teacher=lambda: teacher, temperature=3.0, hard_weight=0.25, label_smoothing=0.1)
    logits = nd.array(np.random.default_rng(2).normal(size=(6, 4)))
    logits.attach_grad()
    with mx.autograd.record():    # the engine prepares outside; inside, the teacher still predicts
        _, target = loss.prepare(x, label, None)
        value = loss(logits, target)
    value.backward()
    z = logits.asnumpy()
    shares = _softmax(teacher(x).asnumpy() / 3)    # no dropout, running statistics
    soft = -(shares * np.log(_softmax(z / 3))).sum(axis=1)
    hard = -(target[0].asnumpy() * np.log(_softmax(z))).sum(axis=1)
    np.testing.assert_allclose(value.asnumpy(), 0.25 * hard + 0.75 * 9 * soft, rtol=1e-5)
    expected = (0.25 * (_softmax(z) - target[0].asnumpy()) + 0.75 * 3 * (_softmax(z / 3) - shares))
    np.testing.assert_allclose(logits.grad.asnumpy(), expected, rtol=1e-4, atol=1e-5)
    for one, two in zip(before, teacher.collect_params().values()):
        np.testing.assert_array_equal(one, two.data().asnumpy())


# ---- state ---------------------------------------------------------------------------------

class _Scale(gluon.nn.HybridBlock):
    """Logits that are scaled means: MXNet has no float16 convolutions on a CPU."""

    def __init__(self, devices=1):
        super().__init__()
        self.weight = self.params.get("weight", shape=(1, 3))

    def hybrid_forward(self, F, x, weight):
        return F.broadcast_mul(F.mean(x, axis=(2, 3)), weight)


def _train(trained, steps, outputs):
    data = images(16, classes=outputs)
    for step in steps:
        trained.learn((data.images, (data.labels + step) % outputs), (0, step), {"weights": 0.1})


@pytest.mark.parametrize("group", [
    Group("nag", weight_decay=1e-3), Group("sgd"), Group("sgd", momentum=0.0), Group("adam")],
    ids=["nag", "sgd", "plain", "adam"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("before", [0, 3], ids=["from the first update", "from the fourth"])
def test_a_state_goes_on_with_the_same_bits(group, dtype, before):
    """float16 keeps its float32 masters; a state may be from before the first update."""
    build, outputs = (_Scale, 3) if dtype == "float16" else (normed, 10)
    one, two = (engine(build, group=group, dtype=dtype, seed=seed, loss=Loss(outputs))
                for seed in (0, 9))
    _train(one, range(before), outputs)
    two.load_state(one.state())
    for trained in (one, two):
        _train(trained, range(before, before + 4), outputs)
    for name, value in one.weights().items():
        np.testing.assert_array_equal(two.weights()[name], value, err_msg=name)
    assert one.state().scaling == two.state().scaling


def test_what_is_not_decayed():
    start = {name: array + np.float32(0.1) for name, array in drawn(normed).items()}
    weights = []
    for decay_all in (True, False):
        trained = engine(normed, weights=start, group=Group(
            "sgd", 0.0, weight_decay=0.5, decay_all=decay_all))
        _train(trained, range(1), 10)
        weights.append(trained.weights())
    for name in ("2.weight", "2.bias", "0.gamma", "0.beta"):
        difference = weights[1][name] - weights[0][name]
        expected = 0 if name == "2.weight" else 0.1 * 0.5 * start[name]
        np.testing.assert_allclose(difference, np.broadcast_to(expected, difference.shape),
                                   atol=1e-6, err_msg=name)


def test_another_network_s_or_optimizer_s_state_is_refused():
    state = engine(group=Group("nag")).state()
    with pytest.raises(OtherNetwork, match="belongs to another network: .* is not in it"):
        engine(normed).load_state(state)
    with pytest.raises(OtherNetwork, match=r"1.bias is \(10,\), not \(3,\)"):
        engine(lambda devices: linear(outputs=3), loss=Loss(3)).load_state(state)
    trained = engine(group=Group("nag"))
    _train(trained, range(1), 10)
    with pytest.raises(OtherNetwork, match="written by another optimizer .1.bias has"):
        engine(group=Group("adam")).load_state(trained.state())
    with pytest.raises(OtherNetwork, match="written by another optimizer .1.bias has"):
        engine(group=Group("sgd", momentum=0.0)).load_state(trained.state())
