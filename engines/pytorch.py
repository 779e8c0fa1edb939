"""The engine that computes with PyTorch: on a CPU, or on any GPU that PyTorch knows.

Networks are defined in Gluon and translated by `graph.pytorch`; see `engines.interface` for what
each method promises. A process has one device: several GPUs are several workers.
"""
import contextlib
import copy
import os
import shutil
import sys
import sysconfig
from collections import deque
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils._triton import has_triton

from graph.pytorch import to_pytorch
from graph.pytorch import weights as arrays_of
from graph.torch_gate import fuse_gate

from .arrays import KeepsState, check_arrays
from .loss_scale import LossScale
from .predictor import Predictor
from .torch_optimizers import Optimizer
from .workers import SingleWorker

__all__ = ["Normalize", "PyTorchEngine", "TorchPredictor", "can_compile", "compiled",
           "make_predictor", "to_torch_device", "translated"]

_AHEAD = 3    # steps and predictions that wait in a GPU's queue at most


def to_torch_device(name):
    """PyTorch's device for a name such as ``cpu`` and ``gpu:0``."""
    kind, _, number = name.partition(":")
    if kind == "cpu":
        return torch.device("cpu")
    # float32 means float32, in matrix products as in convolutions; who wants it faster asks for
    # bfloat16.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda", int(number or 0))
    torch.cuda.set_device(device)
    return device


def translated(net, weights, image_shape, device, rules=()):
    """A Gluon network with these weights, by structural name, as a PyTorch module on a device."""
    from .gluon import set_weights

    net.initialize()
    set_weights(net, weights)
    return to_pytorch(net, image_shape, rules=rules).to(device, memory_format=torch.channels_last)


def can_compile(device):
    """Whether what ``torch.compile`` needs is there; if not, says so."""
    missing = [what for what, there in (
        ("C++ compiler (g++, or what CXX names)", shutil.which(os.environ.get("CXX", "g++"))),
        ("Python.h (python3-dev)",
         os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h"))),
        ("Triton for this GPU", device.type == "cpu" or has_triton())) if not there]
    if missing:
        print(f"there is no {' and no '.join(missing)}: PyTorch computes uncompiled, which takes "
              "longer", file=sys.stderr)
    return not missing


def compiled(module):
    """A module, compiled as a whole for inputs of one shape; what that gives is kept for later."""
    with contextlib.suppress(OSError, RuntimeError):    # no home, or none to write in
        folder = Path("~/.cache/torchinductor").expanduser()    # PyTorch's own choice is in /tmp
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    return torch.compile(module, dynamic=False, fullgraph=True)


class Normalize:
    """Bring a batch of uint8 images to a device and normalise it there.

    Parameters
    ----------
    mean, std : sequence of 3 floats
        Of the channels, with pixels in [0, 1].
    device : torch.device
    """

    def __init__(self, mean, std, device):
        def constant(values):
            return torch.tensor(values, dtype=torch.float32, device=device).reshape(1, 3, 1, 1)

        self._device = device
        self._shift = 255 * constant(mean)
        self._scale = 1 / (255 * constant(std))

    def __call__(self, images):
        """(N, 3, H, W) uint8, an array or on the device -> (N, 3, H, W) float32 there."""
        x = images if torch.is_tensor(images) else to_device(images, self._device)
        x = x.to(torch.float32, memory_format=torch.channels_last)
        return x.sub_(self._shift).mul_(self._scale)


def to_device(array, device):
    """A NumPy array on a device, without waiting for it: a GPU copies while it computes."""
    tensor = torch.from_numpy(np.require(array, requirements="CW"))
    if device.type == "cpu":
        return tensor
    copies, computes = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        tensor = tensor.pin_memory().to(device, non_blocking=True)
    computes.wait_stream(copies)
    tensor.record_stream(computes)    # its memory is not another copy's before it was read
    return tensor


@cache
def _copy_stream(device):
    return torch.cuda.Stream(device)


class TorchPredictor(Predictor):
    """A module that predicts.

    Parameters
    ----------
    module : torch.nn.Module
        Maps (N, 3, H, W) to logits (N, outputs).
    normalize : callable
        ``normalize(images)``: uint8 images to the module's input.
    autocast : callable
        Returns a context in which the module is called.
    """

    _ahead = _AHEAD

    def __init__(self, module, normalize, autocast=contextlib.nullcontext):
        self.module, self.normalize, self._autocast = module, normalize, autocast

    def _begin(self, images, number):
        """A copy on the host that is under way, and the event at its end, if it is a GPU's."""
        with torch.inference_mode(), self._autocast():
            logits = self.module(self.normalize(images)).float()
        host = logits.to("cpu", non_blocking=True)
        return host, torch.cuda.current_stream().record_event() if logits.is_cuda else None

    def _end(self, result):
        host, event = result
        if event:
            event.synchronize()
        return host.numpy()


def make_predictor(net, image_shape, device, dtype, mean, std):
    """What predicts with a Gluon network; uncompiled: most test sets take less than compiling.

    Parameters
    ----------
    net : mxnet.gluon.HybridBlock
        Initialised on the CPU.
    image_shape : (3, H, W)
    device : str
        Such as ``cpu`` or ``gpu:0``.
    dtype : {'float32', 'float16', 'bfloat16'}
    mean, std : sequence of 3 floats
        Of the channels, with pixels in [0, 1].

    Returns
    -------
    TorchPredictor
    """
    device = to_torch_device(device)
    module = to_pytorch(net, image_shape).to(device, memory_format=torch.channels_last).eval()
    return TorchPredictor(module, Normalize(mean, std, device), autocast(device, dtype))


def autocast(device, dtype):
    """A function that makes a context, in which a module computes in that precision."""
    dtype = getattr(torch, dtype)
    return partial(torch.autocast, device.type, dtype, enabled=dtype != torch.float32)


class PyTorchEngine(KeepsState):
    """A module, its optimizers, and the twin that predicts with the workers' mean statistics.

    Parameters
    ----------
    build : callable
        ``build(devices)`` -> an uninitialised HybridBlock for so many devices.
    weights : dict of str to array
        The initial weights, by structural name.
    settings : engines.interface.Settings
        With one device.
    workers : engines.workers.SingleWorker, optional
    """

    def __init__(self, build, weights, settings, workers=None):
        self.settings, self.workers = settings, workers or SingleWorker()
        name, = settings.devices
        self._device = to_torch_device(name)
        self._normalize = Normalize(settings.mean, settings.std, self._device)
        self._autocast = autocast(self._device, settings.dtype)
        can = settings.compiled and can_compile(self._device)
        fuses = can and self._device.type == "cpu" and settings.dtype != "float16"
        self._module = translated(build(1), weights, settings.batch_shape[1:], self._device,
                                  (fuse_gate,) if fuses else ())
        self._twin = copy.deepcopy(self._module).eval()
        prepare = compiled if can else lambda module: module
        # Around what is compiled: DistributedDataParallel itself is not compiled as a whole.
        self._forward = self.workers.parallel(prepare(self._module))
        self._predictor = TorchPredictor(prepare(self._twin), self._normalize, self._autocast)
        self._loss = _Loss(settings, self._device, prepare)
        self._optimizers = self._make_optimizers()
        self.loss_scale = LossScale() if settings.dtype == "float16" else None
        self._pending, self._events = [], deque()

    def _make_optimizers(self):
        parameters = dict(self._module.named_parameters())
        return {which: Optimizer(group, {name: parameters[name] for name
                                         in self.settings.members(which, parameters)})
                for which, group in self.settings.groups.items()}

    # ---- training ------------------------------------------------------------------------

    @property
    def room(self):
        """Bytes of training images that it may keep; see `engines.interface`."""
        # A border of 4 makes images of 32 half as large again: they then take a fifth.
        return torch.cuda.mem_get_info()[0] // 8 if self._device.type == "cuda" else 0

    def keep(self, images):
        """Keep images on the device; see `engines.interface`."""
        self._kept = to_device(images, self._device)

    def learn(self, batch, at, rates, update=None, add=None, mixes=None, counted=True):
        """One update; see `engines.interface`."""
        images, labels = batch
        if not isinstance(images, np.ndarray):
            images = _cut(self._kept, images)
        if self.settings.dropout:
            # So that a resumed run draws the same masks.
            torch.manual_seed(self.settings.dropout_seed(at, self.workers.rank))
        mix, = mixes or [None]
        results = self._backward(images, labels, mix)
        scale = 1 / self.loss_scale.scale if self.loss_scale else 1.0
        for name, gradient in (add or {}).items():
            parameter = self._module.get_parameter(name)
            parameter.grad += to_device(gradient, self._device).float() / scale
        if self._may_update():
            for which in update or self._optimizers:
                self._optimizers[which].step(rates[which], scale)
        if counted:
            self._pending.append((*results, len(labels)))
        self._bound_queue()

    def _backward(self, images, labels, mix):
        """Compute the gradients of the mean loss; returns the summed loss and hits, unread."""
        self._module.zero_grad()
        with self._autocast():
            x, target = self._loss.prepare(self._normalize(images),
                                           to_device(labels, self._device), mix)
            logits = self._forward(x)
        losses = self._loss(logits, target)
        (losses.mean() * (self.loss_scale.scale if self.loss_scale else 1.0)).backward()
        for parameter in self._module.parameters():
            if parameter.grad is None:    # the loss does not depend on it: as in MXNet it decays
                parameter.grad = torch.zeros_like(parameter)
        with torch.no_grad():
            return losses.sum(), _hits(logits, target)

    def _may_update(self):
        """Whether all gradients are finite, where their loss was scaled: reads from the device."""
        if not self.loss_scale:
            return True
        finite = _all_finite(parameter.grad for parameter in self._module.parameters())
        self.loss_scale.adjust(finite)
        return finite

    def _bound_queue(self):
        if self._device.type == "cuda":
            self._events.append(torch.cuda.current_stream().record_event())
            if len(self._events) > _AHEAD:
                self._events.popleft().synchronize()

    def collect(self):
        """(loss, hits, images) of each step; see `engines.interface`."""
        results = [(float(loss), float(hits), count) for loss, hits, count in self._pending]
        self._pending.clear()
        return results

    # ---- predicting ----------------------------------------------------------------------

    def predict(self, images, batch_size):
        """Logits of each array of images; see `engines.interface`."""
        _set(self._twin, self.weights())
        return self._predictor.predict(images, batch_size)

    # ---- arrays --------------------------------------------------------------------------

    def _own_weights(self):
        return arrays_of(self._module)

    def _optimizer_states(self):
        return list(self._optimizers.values())

    def load_weights(self, weights):
        """Set all parameters; see `engines.interface`."""
        _set(self._module, weights)

    def values(self, names):
        """Parameters as they are now; see `engines.interface`."""
        return [self._module.get_parameter(name).detach().cpu().numpy().copy() for name in names]

    def is_finite(self):
        """Whether all parameters are."""
        return _all_finite(self._module.state_dict().values())

    @property
    def num_trained(self):
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self._module.parameters())


class _Loss:
    """`engines.interface.Loss`, computed."""

    def __init__(self, settings, device, prepare):
        self._settings = settings.loss
        self._teacher = None
        if self._settings.teacher:
            teacher = self._settings.teacher()
            shape = settings.batch_shape[1:]
            self._teacher = prepare(to_pytorch(teacher, shape).to(
                device, memory_format=torch.channels_last).eval())

    def prepare(self, x, labels, mix):
        """The images as they are mixed, and their targets.

        Returns
        -------
        x : Tensor (N, C, H, W)
        target : Tensor (N,) of class numbers, or (N, outputs) of shares; with a teacher, a
            pair of such a target and the teacher's shares.
        """
        x, target = self._soften(x, labels.long(), mix)
        if self._teacher is None:
            return x, target
        with torch.no_grad():
            logits = self._teacher(x).float()
            return x, (target, F.softmax(logits / self._settings.temperature, 1))

    def _soften(self, x, labels, mix):
        if not self._settings.soft:
            return x, labels
        target = F.one_hot(labels, self._settings.outputs).float()
        smoothing = self._settings.label_smoothing
        target = (1 - smoothing) * target + smoothing / self._settings.outputs
        if mix is None:
            return x, target
        return _mixed(x, mix), mix.share * target + (1 - mix.share) * target.flip(0)

    def __call__(self, logits, target):
        """Loss of each image, (N,), in float32."""
        logits = logits.float()
        if self._teacher is None:
            return F.cross_entropy(logits, target, reduction="none")
        target, shares = target
        temperature, hard = self._settings.temperature, self._settings.hard_weight
        soft = F.cross_entropy(logits / temperature, shares, reduction="none")
        return (hard * F.cross_entropy(logits, target, reduction="none")
                + (1 - hard) * temperature ** 2 * soft)


def _mixed(x, mix):
    """Images (N, C, H, W), mixed with those in reverse order."""
    if mix.box is None:
        return mix.share * x + (1 - mix.share) * x.flip(0)
    top, bottom, left, right = mix.box
    mixed = x.clone()
    mixed[:, :, top:bottom, left:right] = x.flip(0)[:, :, top:bottom, left:right]
    return mixed


def _cut(images, crops):
    """What `data.batches.Crops` say of images (N, 3, H', W'): uint8 (B, 3, H, W), there."""
    numbers = to_device(np.stack(crops[:4]), images.device)    # in one copy
    indices, tops, lefts, mirrored = numbers[..., None, None, None]    # each (B, 1, 1, 1)
    channels, rows, columns = (torch.arange(size, device=images.device)
                               for size in crops.shape[1:])
    columns = torch.where(mirrored > 0, columns.flip(0), columns)
    return images[indices, channels[:, None, None], tops + rows[:, None], lefts + columns]


def _hits(logits, target):
    """How many images are given their class (their larger share, where targets are mixed)."""
    if isinstance(target, tuple):    # the images' own, and a teacher's
        target = target[0]
    return (logits.argmax(1) == (target.argmax(1) if target.ndim == 2 else target)).sum()


def _all_finite(tensors):
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def _set(module, weights):
    """Set all that a module holds from arrays by structural name."""
    own = module.state_dict()
    check_arrays({name: tensor.shape for name, tensor in own.items()}, weights)
    for name, tensor in own.items():
        tensor.copy_(torch.from_numpy(np.array(weights[name])))
