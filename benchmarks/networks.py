"""What the contestants that run on MXNet share: networks, optimizer, random images."""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from model import zoo

__all__ = ["build", "exported", "initialized", "new_network", "random_images", "training_step"]


def new_network(workload):
    """The workload's network, with all shapes known."""
    model, options = (("resnet_v2_cifar", {"blocks": workload.blocks}) if workload.blocks
                      else ("resnet50_v1b", {}))
    return zoo.build({"model": model, "options": {"activation": workload.activation, **options}},
                     workload.classes)


def build(workload):
    """The workload's network, initialized; and its number of trained parameters."""
    return initialized(new_network(workload))


def initialized(net):
    """A network of known shapes with random weights; and its number of trained parameters."""
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())
    return net, sum(int(np.prod(p.shape)) for p in net.collect_params().values()
                    if p.grad_req != "null")


def exported(net, image, runtime, precision="float32"):
    """A function that predicts with what a network, initialized, is exported to."""
    from exporting.onnx_file import make_model
    from exporting.runtimes import RUNTIMES

    file = make_model(net, image.shape[2], {}, "")
    return RUNTIMES[runtime](file.SerializeToString(), file.graph.input[0].name, precision)


def random_images(workload):
    """Normalised images, float32 (N, 3, H, W), and labels (N,)."""
    generator = np.random.default_rng(0)
    shape = (workload.batch_size, 3, workload.image_size, workload.image_size)
    return (generator.standard_normal(shape, np.float32),
            np.arange(workload.batch_size, dtype=np.float32) % workload.classes)


def training_step(net):
    """A function that updates a network by a batch; it returns logits and losses."""
    trainer = gluon.Trainer(net.collect_params(), "nag",
                            {"learning_rate": 0.1, "momentum": 0.9, "wd": 1e-4},
                            update_on_kvstore=False)
    loss = gluon.loss.SoftmaxCrossEntropyLoss()

    def step(images, labels):
        with autograd.record():
            logits = net(images)
            losses = loss(logits, labels)
        losses.backward()
        trainer.step(len(images))
        return logits, losses
    return step
