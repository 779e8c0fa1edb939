"""PyTorch as a contestant: the same networks and optimizer, a usual DataLoader.

Runs in an environment of its own, .venv-torch; imports nothing that needs MXNet.
"""
import numpy as np
import torch
from torch import nn

from benchmarks.torch_networks import UNITS, CIFARResNet, ResNet50V1b
from benchmarks.workloads import for_each
from data import get_dataset

__all__ = ["prepare"]


class _Images(torch.utils.data.Dataset):
    """CIFAR with the transforms of one image at a time: pad, crop, mirror, normalise."""

    def __init__(self, dataset):
        self._images = torch.from_numpy(dataset.train.images)
        self._labels = dataset.train.labels.astype(np.int64)
        self._mean, self._std = (torch.tensor(each, dtype=torch.float32).reshape(3, 1, 1)
                                 for each in (dataset.mean, dataset.std))

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        image = nn.functional.pad(self._images[index], (4, 4, 4, 4))
        top, left = torch.randint(0, 9, (2,)).tolist()
        image = image[:, top:top + 32, left:left + 32]
        if torch.rand(1) < 0.5:
            image = image.flip(2)
        return (image.float() / 255 - self._mean) / self._std, self._labels[index]


def _loader(workload, data_dir):
    dataset = get_dataset("cifar10", data_dir,
                          limit_train=workload.steps * workload.batch_size)
    return torch.utils.data.DataLoader(_Images(dataset), workload.batch_size, shuffle=True,
                                       drop_last=True, num_workers=2, persistent_workers=True)


class _Network:
    """A network in one of the modes; images are brought to its memory format."""

    def __init__(self, mode, workload):
        torch.manual_seed(0)
        unit = UNITS[workload.activation]
        self.net = (CIFARResNet(workload.blocks, unit) if workload.blocks
                    else ResNet50V1b(unit, workload.classes))
        self.num_params = sum(p.numel() for p in self.net.parameters())
        self.format = (torch.channels_last if "channels_last" in mode or "bf16" in mode
                       else torch.contiguous_format)
        self.net.to(memory_format=self.format)
        self.forward = torch.compile(self.net) if "compiled" in mode else self.net
        self.autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in mode)

    def __call__(self, images):
        with self.autocast:
            return self.forward(images.to(memory_format=self.format))


def _training(mode, workload):
    net = _Network(mode, workload)
    optimizer = torch.optim.SGD(net.net.parameters(), lr=0.1, momentum=0.9, nesterov=True,
                                weight_decay=1e-4)

    def train(images, labels):
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(net(images).float(), labels)
        loss.backward()
        optimizer.step()
    return net.num_params, train


def _inference(mode, workload):
    net = _Network(mode, workload)
    net.net.eval()

    @torch.inference_mode()
    def predict(images, _):
        net(images).float().numpy()
    return net.num_params, predict


def _fixed(workload):
    shape = (workload.batch_size, 3, workload.image_size, workload.image_size)
    return torch.randn(shape), torch.arange(workload.batch_size) % workload.classes


def prepare(mode, workload, data_dir):
    num_params, use = {"inference": _inference, "data": lambda *_: (0, lambda *batch: None)}.get(
        workload.kind, _training)(mode, workload)
    batches = (_loader(workload, data_dir) if workload.kind in ("pipeline", "data")
               else [_fixed(workload)] * workload.steps)
    return num_params, for_each(batches, use)
