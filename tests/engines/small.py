"""Small networks in an engine, and a loop around it."""
import logging
from types import SimpleNamespace

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
from mxnet import gluon

from data import ImageSet
from data.batches import Batches
from engines.gluon import GluonEngine
from engines.interface import Group, Loss, Settings
from training.loop import Loop, TrainStep
from training.mixing import Mixing
from training.record import Record

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def images(count=50, classes=10, seed=0):
    """Random pixels and labels."""
    rng = np.random.default_rng(seed)
    return ImageSet(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8),
                    rng.integers(0, classes, count).astype(np.int32))


def linear(devices=1, outputs=10):
    """A linear classifier; its weight is ``1.weight``."""
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.Flatten(), gluon.nn.Dense(outputs, in_units=3 * 32 * 32))
    return net


def normed(devices=1):
    """The same behind a batch normalisation."""
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.BatchNorm(in_channels=3), gluon.nn.Flatten(),
            gluon.nn.Dense(10, in_units=3 * 32 * 32))
    return net


class Blocked(gluon.nn.HybridBlock):
    """A linear classifier beside another one, which no gradient reaches."""

    def __init__(self, devices=1):
        super().__init__()
        self.learns, self.blocked = (gluon.nn.Dense(10, in_units=3 * 32 * 32) for _ in range(2))

    def hybrid_forward(self, F, x):
        return self.learns(x) + F.BlockGrad(self.blocked(x))


def drawn(build, seed=0, init=None):
    """Initial weights of a network."""
    mx.random.seed(seed)
    np.random.seed(seed)
    net = build(1)
    net.initialize(init or mx.init.Normal(0.01))
    return {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()}


def engine(build=linear, devices=("cpu",), seed=0, loss=None, group=None, kind=GluonEngine,
           weights=None, groups=None, **settings):
    """A `GluonEngine`, or another kind; by default plain SGD on cross-entropy."""
    settings = {"batch_shape": (16, 3, 32, 32), "compiled": False, **settings}
    return kind(build, weights or drawn(build, seed), Settings(
        groups or {"weights": group or Group("sgd", momentum=0.0)}, loss or Loss(10), MEAN, STD,
        devices=devices, **settings))


def loop(engine, batches, rate=lambda number: 0.1, epochs=1, run=None, val=None, **options):
    """A `Loop` of a record that writes nothing."""
    run = run or SimpleNamespace(checkpoints=None)
    record = Record(run, logging.getLogger("test"), "test", epochs)
    step = TrainStep(engine, batches, rate, Mixing(), len(engine.settings.devices))
    return Loop(engine, step, record, val or Batches(batches.source, 16, train=False), **options)
