"""This project as a contestant: its own loop, data and settings; and its exported files."""
from common.threads import set_threads

set_threads()

import model.mxnet_compat  # noqa: E402, F401  (comes before mxnet)
import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
from mxnet import nd  # noqa: E402

from benchmarks.networks import (  # noqa: E402
    build,
    exported,
    new_network,
    random_images,
    training_step,
)
from benchmarks.workloads import for_each  # noqa: E402
from data import get_dataset  # noqa: E402
from data.batches import Batches, Preparation  # noqa: E402
from data.cifar import MEAN, STD  # noqa: E402
from engines.gluon import GluonEngine  # noqa: E402
from engines.interface import Group, Loss, Settings  # noqa: E402
from graph.fast_cpu import hybridize  # noqa: E402
from training.history import silent_log  # noqa: E402
from training.loop import Loop, Position, TrainStep  # noqa: E402
from training.mixing import Mixing  # noqa: E402
from training.record import Record  # noqa: E402

__all__ = ["prepare"]


def prepare(mode, workload, data_dir):
    engine, _, precision = mode.partition(" ")
    kind = "step" if engine.endswith("step") else workload.kind
    if engine in ("gluon", "step"):
        return _KINDS[kind](workload, data_dir)
    if engine in ("pytorch", "pytorch-step"):
        return _on_pytorch(kind, workload, precision, data_dir)
    return _exported(workload, engine, precision)


def _batches(workload, data_dir, prefetch):
    dataset = get_dataset("cifar10", data_dir,
                          limit_train=workload.steps * workload.batch_size)
    return Batches(dataset.train, workload.batch_size, preparation=Preparation(prefetch=prefetch))


def _compiled(workload):
    net, num_params = build(workload)
    size = workload.image_size
    hybridize(net, (workload.batch_size, 3, size, size), [mx.cpu()])
    return net, num_params


def _engine(kind, workload, dtype="float32"):
    net, num_params = build(workload)
    size = workload.image_size
    return num_params, kind(
        lambda devices: new_network(workload),
        {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()},
        Settings({"weights": Group("nag", weight_decay=1e-4)}, Loss(workload.classes),
                 MEAN, STD, (workload.batch_size, 3, size, size), dtype=dtype))


def _pipeline(workload, data_dir):
    num_params, engine = _engine(GluonEngine, workload)
    return num_params, _epochs(engine, workload, data_dir)


def _epochs(engine, workload, data_dir):
    """A function that trains through the workload's batches, from the files on."""
    batches = _batches(workload, data_dir, prefetch=4)
    loop = Loop(engine, TrainStep(engine, batches, lambda number: 0.1, Mixing()),
                Record(None, silent_log(), "", 1), None)

    def run():
        loop.position = Position()
        loop._train_epoch()
        nd.waitall()
    return run


def _step(workload, _):
    net, num_params = _compiled(workload)
    batch = tuple(map(nd.array, random_images(workload)))
    return num_params, for_each([batch] * workload.steps, training_step(net), nd.waitall)


def _predictions(workload, predict):
    """A function that predicts the workload's number of batches."""
    return for_each([random_images(workload)] * workload.steps, lambda images, _: predict(images))


def _inference(workload, _):
    net, num_params = _compiled(workload)
    return num_params, _predictions(workload, lambda images: net(nd.array(images)).asnumpy())


def _exported(workload, runtime, precision):
    net, num_params = build(workload)
    image = random_images(workload)[0][:1]
    return num_params, _predictions(workload,
                                    exported(net, image, runtime, precision or "float32"))


def _on_pytorch(kind, workload, dtype, data_dir):
    from engines.pytorch import PyTorchEngine
    from engines.torch_cpu import leave_cpu_to_pytorch

    leave_cpu_to_pytorch()
    num_params, engine = _engine(PyTorchEngine, workload, dtype)
    if kind == "pipeline":
        return num_params, _epochs(engine, workload, data_dir)
    size = workload.image_size
    images = np.random.default_rng(0).integers(
        0, 256, (workload.batch_size, 3, size, size), np.uint8)
    labels = np.arange(workload.batch_size, dtype=np.int32) % workload.classes
    if kind == "step":
        return num_params, for_each(
            [((images, labels), (0, step), {"weights": 0.1}) for step in range(workload.steps)],
            engine.learn, engine.collect)

    def predict():
        for _ in engine.predict([images] * workload.steps, workload.batch_size):
            pass
    return num_params, predict


def _data(workload, data_dir):
    batches = _batches(workload, data_dir, prefetch=0)

    def run():
        for _ in batches.epoch(0):
            pass
    return 0, run


_KINDS = {"pipeline": _pipeline, "step": _step, "inference": _inference, "data": _data}
