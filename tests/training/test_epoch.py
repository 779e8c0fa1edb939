"""The loop: what it computes, on networks small enough to check by hand."""
import io

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd

from common.progress import Progress, format_seconds
from data import ImageSet
from data.batches import Batches
from training.epoch import (
    NonFiniteLoss,
    Normalize,
    Step,
    Totals,
    copy_parameters,
    evaluate,
    to_device,
    train_epoch,
)
from training.objective import Objective

_CPU = [mx.cpu()]


def _images(count=50, seed=0):
    rng = np.random.default_rng(seed)
    return ImageSet(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8),
                    rng.integers(0, 10, count).astype(np.int32))


def _normalize():
    return Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def _linear(classes=10, seed=0):
    mx.random.seed(seed)
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.Flatten(), gluon.nn.Dense(classes, in_units=3 * 32 * 32))
    net.initialize(mx.init.Normal(0.01))
    return net


def test_normalize():
    images = _images(4).images
    expected = ((images / 255.0 - np.reshape((0.5, 0.4, 0.3), (1, 3, 1, 1)))
                / np.reshape((0.2, 0.3, 0.4), (1, 3, 1, 1)))
    out = _normalize()(images, mx.cpu())
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.asnumpy(), expected, rtol=1e-4, atol=1e-5)
    assert Normalize((0.5,) * 3, (0.2,) * 3, "float16")(images, mx.cpu()).dtype == np.float16


@pytest.mark.parametrize("contexts", [[mx.cpu()], [mx.cpu(0), mx.cpu(1)]], ids=["one", "two"])
@pytest.mark.parametrize("batch_size", [16, 50, 64])
def test_evaluate_counts_every_image_once(batch_size, contexts):
    images, net, normalize = _images(50), _linear(), _normalize()
    net.collect_params().reset_ctx(contexts)
    net.hybridize(static_alloc=True, static_shape=True)
    scores = evaluate(net, Batches(images, batch_size, train=False), normalize, contexts)
    logits = net(normalize(images.images, contexts[0])).asnumpy().astype(np.float64)
    order = np.argsort(-logits, axis=1)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert scores["count"] == 50
    assert scores["accuracy"] == pytest.approx(np.mean(order[:, 0] == images.labels))
    assert scores["top5_accuracy"] == pytest.approx(
        np.mean((order[:, :5] == images.labels[:, None]).any(axis=1)))
    assert scores["loss"] == pytest.approx(-log_p[np.arange(50), images.labels].mean(), rel=1e-4)


def test_top5_of_fewer_classes():
    images = ImageSet(_images(8).images, (np.arange(8) % 3).astype(np.int32))
    scores = evaluate(_linear(classes=3), Batches(images, 4, train=False), _normalize(), _CPU)
    assert scores["top5_accuracy"] == 1.0


def _step(net, contexts=_CPU, **settings):
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1, **settings},
                            update_on_kvstore=False)
    return Step(net, trainer, Objective(10), _normalize(), contexts, seed=0, reseed=False)


def _progress():
    return Progress("test", 3, stream=io.StringIO())


def test_the_epoch_s_figures_are_those_of_its_batches():
    """With a rate of (nearly) nothing the weights stay, so the figures can be computed."""
    images, net = _images(48), _linear()
    batches = Batches(images, 16, augment=False)
    step = _step(net)
    totals = Totals()
    train_epoch(step, batches, 0, lambda index: step.trainer.set_learning_rate(1e-12), totals,
                _progress(), log_interval=2)
    scores = evaluate(net, Batches(images, 16, train=False), _normalize(), _CPU)
    assert (totals.images, totals.step) == (48, 3)
    assert totals.loss / 48 == pytest.approx(scores["loss"], rel=1e-5)
    assert totals.correct / 48 == pytest.approx(scores["accuracy"])


def test_the_rate_is_set_before_each_step():
    asked = []
    step = _step(_linear())
    train_epoch(step, Batches(_images(48), 16), 0, asked.append, Totals(), _progress())
    assert asked == [0, 1, 2]


def test_two_devices_do_what_one_does():
    one, two = _linear(), _linear()
    contexts = [mx.cpu(0), mx.cpu(1)]
    two.collect_params().reset_ctx(contexts)
    batches = Batches(_images(48), 16)
    for net, where in ((one, _CPU), (two, contexts)):
        step = _step(net, where)
        totals = Totals()
        train_epoch(step, batches, 0, lambda _: None, totals, _progress())
        assert totals.images == 48
    np.testing.assert_allclose(two[1].weight.data(mx.cpu(1)).asnumpy(),
                               one[1].weight.data().asnumpy(), rtol=1e-3, atol=1e-5)


def test_reading_more_often_changes_nothing():
    """The log interval is for the eyes: weights and totals have the same bits."""
    results = []
    for interval in (1, 2, 20):
        net, totals = _linear(), Totals()
        train_epoch(_step(net, momentum=0.9), Batches(_images(48), 8), 0, lambda _: None, totals,
                    _progress(), log_interval=interval)
        results.append((totals.loss, totals.correct, net[1].weight.data().asnumpy().tobytes()))
    assert results[0] == results[1] == results[2]


def test_a_loss_that_is_not_finite_stops_the_run_and_is_located():
    net = _linear()
    net[1].weight.set_data(nd.full((10, 3072), np.nan))
    with pytest.raises(NonFiniteLoss, match="the loss is nan in epoch 4, step 0 .images "):
        train_epoch(_step(net), Batches(_images(48), 16), 4, lambda _: None, Totals(),
                    _progress())


# ---- progress ------------------------------------------------------------------------------------

class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_it_disappears():
    stream = _Terminal()
    progress = Progress("epoch 1/2", 10, later=10, stream=stream)
    progress.update(1, 100, "loss 2.0")
    progress.update(5, 100, "loss 1.0")
    shown = stream.getvalue()
    assert "epoch 1/2 [############............]  50 % loss 1.0" in shown
    assert "images/s, ETA 0:0" in shown
    progress.close()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_no_terminal_gets_plain_lines_at_intervals(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("common.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress("epoch 1/1", 100, stream=stream)
    for done in range(1, 101):
        now[0] += 1
        progress.update(done, 10)
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3 and "\r" not in stream.getvalue()
    assert lines[0].endswith("10 images/s, ETA 1:10")


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (59.6, "1:00"), (3600, "1:00:00"),
                                           (3725, "1:02:05")])
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


class _Unread:
    """A result on the device that keeps a record of who waits for it."""

    def __init__(self, number, record):
        self.number, self.record = number, record

    def wait_to_read(self):
        self.record.append(("waited", self.number))

    def asscalar(self):
        self.record.append(("read", self.number))
        return 1.0


def test_the_loop_reads_only_at_intervals_and_stays_few_steps_ahead():
    record = []

    def step(_, index, images, labels):
        record.append(("step", index))
        return [_Unread(index, record)], [_Unread(index, record)]

    train_epoch(step, Batches(_images(100), 10, prefetch=0), 0, lambda index: None, Totals(),
                Progress("", 10, stream=io.StringIO()), log_interval=8)
    done = [what for what in record if what[0] == "step"]
    assert [number for _, number in done] == list(range(10))
    first_read = record.index(("read", 0))
    assert ("step", 7) in record[:first_read] and ("step", 8) not in record[:first_read]
    for number in range(4, 8):    # step n + 1 waits for step n - 3, so four are under way at most
        assert ("waited", number - 3) in record[:record.index(("step", number)) + 2]


def test_images_go_to_the_device_without_a_copy():
    images = np.zeros((2, 3, 4, 4), np.uint8)
    on_device = to_device(images, mx.cpu(), np.uint8)
    assert not images.flags.writeable
    np.testing.assert_array_equal(on_device.asnumpy(), images)
    assert to_device(np.arange(3), mx.cpu(), np.int32).dtype == np.int32


def test_the_predictor_gets_what_is_saved(tmp_path):
    """Of several devices, whose normalisations saw different images, the mean."""
    def network(contexts):
        net = gluon.nn.HybridSequential()
        net.add(gluon.nn.BatchNorm(in_channels=3), gluon.nn.Flatten(),
                gluon.nn.Dense(10, in_units=3 * 32 * 32))
        net.initialize(ctx=contexts)
        return net

    devices = [mx.cpu(0), mx.cpu(1)]
    net, predictor = network(devices), network(devices)
    train_epoch(_step(net, devices), Batches(_images(48), 16), 0, lambda _: None, Totals(),
                _progress())
    means = [part.asnumpy() for part in net[0].running_mean.list_data()]
    assert (means[0] != means[1]).any()
    copy_parameters(net, predictor)
    net.save_parameters(str(tmp_path / "net.params"))
    saved = nd.load(str(tmp_path / "net.params"))
    for name, parameter in predictor._collect_params_with_prefix().items():
        for part in parameter.list_data():
            np.testing.assert_array_equal(part.asnumpy(), saved[name].asnumpy(), err_msg=name)
