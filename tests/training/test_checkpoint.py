import os
import resource

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

from training.checkpoint import (
    CheckpointError,
    SaveError,
    list_checkpoints,
    load_checkpoint,
    newest_state,
    save_checkpoint,
)


def _network(units=4, optimizer="nag", seed=0, **settings):
    mx.random.seed(seed)
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.Dense(units, in_units=3), gluon.nn.BatchNorm(in_channels=units),
            gluon.nn.Dense(2, in_units=units))
    net.initialize(mx.init.Xavier())
    trainer = gluon.Trainer(net.collect_params(), optimizer, {"learning_rate": 0.1, **settings},
                            update_on_kvstore=False)
    return net, trainer


def _train(net, trainer, steps, start=0):
    for step in range(start, start + steps):
        x = nd.array(np.random.default_rng(step).normal(size=(8, 3)))
        with autograd.record():
            loss = (net(x) ** 2).sum()
        loss.backward()
        trainer.step(8)


def _params(net):
    return {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()}


def _no_warning(message):
    raise AssertionError(message)


@pytest.mark.parametrize("optimizer, settings", [
    ("nag", {"momentum": 0.9, "wd": 1e-3}), ("sgd", {"momentum": 0.9}), ("sgd", {}),
    ("adam", {})])
def test_going_on_gives_the_same_bits(tmp_path, optimizer, settings):
    net, trainer = _network(optimizer=optimizer, **settings)
    _train(net, trainer, 3)
    save_checkpoint(tmp_path, 3, net, trainer, {"note": "three"})
    _train(net, trainer, 4, start=3)
    expected = _params(net)

    net, trainer = _network(optimizer=optimizer, seed=9, **settings)
    path, state = newest_state(tmp_path, _no_warning)
    assert state["note"] == "three"
    load_checkpoint(path, state, net, trainer)
    _train(net, trainer, 4, start=3)
    for name, value in _params(net).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("optimizer, settings", [("nag", {"momentum": 0.9}), ("adam", {})])
def test_one_from_before_the_first_update(tmp_path, optimizer, settings):
    """As after skipped float16 steps, or in the warm-up of a search."""
    net, trainer = _network(optimizer=optimizer, **settings)
    save_checkpoint(tmp_path, 0, net, trainer, {})
    _train(net, trainer, 3)
    expected = _params(net)

    net, trainer = _network(optimizer=optimizer, seed=9, **settings)
    load_checkpoint(*newest_state(tmp_path, _no_warning), net, trainer)
    _train(net, trainer, 3)
    for name, value in _params(net).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_float16_keeps_its_master_weights(tmp_path):
    """A network of products: MXNet has no float16 convolutions or dense layers on a CPU."""
    class Scale(gluon.nn.HybridBlock):
        def __init__(self):
            super().__init__()
            self.weight = self.params.get("weight", shape=(1, 3))

        def hybrid_forward(self, F, x, weight):
            return F.broadcast_mul(x, weight)

    def build(seed):
        mx.random.seed(seed)
        net = Scale()
        net.initialize(mx.init.Normal(1))
        net.cast("float16")
        return net, gluon.Trainer(net.collect_params(), "nag", {
            "learning_rate": 1e-3, "momentum": 0.9, "multi_precision": True},
            update_on_kvstore=False)

    def train(net, trainer, steps):
        for step in range(steps):
            x = nd.array(np.random.default_rng(step).normal(size=(4, 3)), dtype="float16")
            with autograd.record():
                loss = (net(x).astype("float32") ** 2).sum()
            loss.backward()
            trainer.step(4)

    net, trainer = build(0)
    train(net, trainer, 3)
    save_checkpoint(tmp_path, 3, net, trainer, {})
    train(net, trainer, 5)
    expected = _params(net)
    net, trainer = build(1)
    load_checkpoint(*newest_state(tmp_path, _no_warning), net, trainer)
    train(net, trainer, 5)
    for name, value in _params(net).items():
        np.testing.assert_array_equal(value, expected[name])


def test_only_the_newest_stay(tmp_path):
    net, trainer = _network()
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, net, trainer, {}, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-000000002", "step-000000003"]


def test_saving_a_step_again_replaces_it(tmp_path):
    net, trainer = _network()
    for note in ("first", "second"):
        save_checkpoint(tmp_path, 5, net, trainer, {"note": note})
    assert newest_state(tmp_path, _no_warning)[1]["note"] == "second"


@pytest.mark.parametrize("name", ["net.params", "optimizer.params", "state.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path, name, harm):
    net, trainer = _network(momentum=0.9)
    _train(net, trainer, 1)
    for step in (1, 2):
        save_checkpoint(tmp_path, step, net, trainer, {})
    path = tmp_path / "step-000000002" / name
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 0x20
        path.write_bytes(content)
    elif harm == "truncate":
        os.truncate(path, len(content) // 2)
    else:
        path.unlink()
    warnings = []
    found, _ = newest_state(tmp_path, warnings.append)
    if name == "state.json" and harm == "flip" and not warnings:
        pytest.skip("the flipped bit left a JSON file with the same meaning")
    assert found.name == "step-000000001"
    assert len(warnings) == 1 and "step-000000002 is damaged" in warnings[0]


def test_all_damaged_is_an_error_and_none_is_not(tmp_path):
    assert newest_state(tmp_path / "nothing", _no_warning) is None
    net, trainer = _network()
    path = save_checkpoint(tmp_path, 1, net, trainer, {})
    (path / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="every checkpoint in .* is damaged"):
        newest_state(tmp_path, lambda _: None)


def test_half_written_ones_do_not_count(tmp_path):
    net, trainer = _network()
    save_checkpoint(tmp_path, 1, net, trainer, {})
    (tmp_path / ".step-000000002.123.tmp").mkdir()
    assert newest_state(tmp_path, _no_warning)[0].name == "step-000000001"


def test_another_network_or_optimizer_is_refused(tmp_path):
    net, trainer = _network()
    _train(net, trainer, 1)
    path = save_checkpoint(tmp_path, 1, net, trainer, {})
    state = newest_state(tmp_path, _no_warning)[1]
    with pytest.raises(CheckpointError, match="another network"):
        load_checkpoint(path, state, *_network(units=5))
    with pytest.raises(CheckpointError, match="another optimizer"):
        load_checkpoint(path, state, *_network(momentum=0.9))


def test_two_optimizers_of_one_network(tmp_path):
    """As in a structure search: SGD for some parameters, Adam for one other."""
    def build(seed):
        net, _ = _network(seed=seed)
        last = net[2].bias
        weights = [p for p in net.collect_params().values() if p is not last]
        settings = {"learning_rate": 0.05}
        return net, [gluon.Trainer(weights, "sgd", {**settings, "momentum": 0.9},
                                   update_on_kvstore=False),
                     gluon.Trainer([last], "adam", settings, update_on_kvstore=False)]

    def train(net, trainers, steps):
        for step in steps:
            x = nd.array(np.random.default_rng(step).normal(size=(8, 3)))
            with autograd.record():
                loss = (net(x) ** 2).sum()
            loss.backward()
            for trainer in trainers[:1 + step % 2]:    # the second every other time
                trainer.step(8, ignore_stale_grad=True)

    net, trainers = build(0)
    train(net, trainers, range(5))
    save_checkpoint(tmp_path, 5, net, trainers, {})
    train(net, trainers, range(5, 9))
    expected = _params(net)
    net, trainers = build(9)
    load_checkpoint(*newest_state(tmp_path, _no_warning), net, trainers)
    assert [trainer._optimizer.num_update for trainer in trainers] == [5, 2]
    train(net, trainers, range(5, 9))
    for name, value in _params(net).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_no_space_is_an_error_and_keeps_the_one_before(tmp_path):
    net, trainer = _network(units=300)
    save_checkpoint(tmp_path, 1, net, trainer, {}, keep=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for largest in (0, 10, 4096, 5000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
            with pytest.raises(SaveError, match="written to its end|File too large"):
                save_checkpoint(tmp_path, 2, net, trainer, {}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["step-000000001"]
    newest_state(tmp_path, _no_warning)
    save_checkpoint(tmp_path, 2, net, trainer, {}, keep=1)
    assert os.listdir(tmp_path) == ["step-000000002"]


def test_any_change_of_the_state_is_found(tmp_path):
    net, trainer = _network()
    path = save_checkpoint(tmp_path, 1, net, trainer, {"epoch": 3}) / "state.json"
    path.write_text(path.read_text().replace('"epoch": 3', '"epoch": 2'))
    with pytest.raises(CheckpointError):
        newest_state(tmp_path, lambda line: None)
