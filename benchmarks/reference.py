"""Training as the published scripts for MXNet do it, written from its description.

A Gluon DataLoader with transforms of one image at a time in worker processes, `hybridize()`
without static allocation, loss and metric read back after every batch, and the threads that
MXNet takes by itself. Same networks as ours.
"""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
from mxnet import gluon, nd
from mxnet.gluon.data.vision import transforms

from benchmarks.networks import build, random_images, training_step
from benchmarks.workloads import for_each
from data import get_dataset

__all__ = ["prepare"]


class _Crop(gluon.Block):
    """A random 32x32 window of an image (32, 32, 3) with 4 black pixels around it."""

    def forward(self, image):
        padded = np.zeros((40, 40, 3), np.uint8)
        padded[4:36, 4:36] = image.asnumpy()
        top, left = np.random.randint(0, 9, 2)
        return nd.array(padded[top:top + 32, left:left + 32], dtype="uint8")


def _loader(workload, data_dir):
    dataset = get_dataset("cifar10", data_dir,
                          limit_train=workload.steps * workload.batch_size)
    images = gluon.data.ArrayDataset(
        nd.array(dataset.train.images.transpose(0, 2, 3, 1), dtype="uint8"),
        dataset.train.labels.astype(np.float32))
    transform = transforms.Compose([_Crop(), transforms.RandomFlipLeftRight(),
                                    transforms.ToTensor(),
                                    transforms.Normalize(dataset.mean, dataset.std)])
    return gluon.data.DataLoader(images.transform_first(transform), workload.batch_size,
                                 shuffle=True, last_batch="discard", num_workers=2)


def prepare(_, workload, data_dir):
    num_params, use = (0, _await) if workload.kind == "data" else _training(workload)
    batches = ([tuple(map(nd.array, random_images(workload)))] * workload.steps
               if workload.kind == "step" else _loader(workload, data_dir))
    return num_params, for_each(batches, use)


def _await(images, _):
    images.wait_to_read()


def _training(workload):
    net, num_params = build(workload)
    net.hybridize()
    step, metric = training_step(net), mx.metric.Accuracy()

    def train(*batch):
        images, labels = (each.as_in_context(mx.cpu()) for each in batch)
        logits, losses = step(images, labels)
        metric.update([labels], [logits])
        return float(losses.sum().asscalar())
    return num_params, train
