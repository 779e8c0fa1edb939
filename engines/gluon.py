"""The engine that computes with MXNet: networks in Gluon, on a CPU or on older GPUs.

See `engines.interface` for what each method promises.
"""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd

from graph.fast_cpu import hybridize

from .arrays import KeepsState, check_arrays
from .finite import all_finite
from .gluon_scale import GluonLossScale
from .gluon_state import TrainerState
from .input_statistics import keep_input_statistics
from .predictor import Predictor
from .workers import SingleWorker

__all__ = ["GluonEngine", "GluonPredictor", "Normalize", "make_predictor", "set_weights",
           "to_contexts", "to_device"]

_AHEAD = 3          # steps that wait in MXNet's queue at most; each holds its images


def to_contexts(devices):
    """MXNet's contexts for names such as ``cpu`` and ``gpu:0``."""
    return [mx.Context(kind, int(number or 0))
            for kind, _, number in (name.partition(":") for name in devices)]


def to_device(array, ctx, dtype):
    """A NumPy array on a device, without waiting for it.

    ``nd.array`` copies in the calling thread, and waits for the engine to let it: the device
    would idle until the next step is dispatched. On a CPU the result shares `array`'s memory,
    which is write-protected from then on.
    """
    array = np.ascontiguousarray(array, dtype)
    return nd.from_numpy(array).as_in_context(ctx)


class Normalize:
    """Bring a batch of uint8 images to a device and normalise it there.

    Parameters
    ----------
    mean, std : sequence of 3 floats
        Of the channels, with pixels in [0, 1].
    dtype : str, default 'float32'
        Type of the result.
    """

    def __init__(self, mean, std, dtype="float32"):
        self._shift = 255.0 * np.asarray(mean, np.float32).reshape(1, 3, 1, 1)
        self._scale = 1.0 / (255.0 * np.asarray(std, np.float32).reshape(1, 3, 1, 1))
        self._dtype = dtype
        self._constants = {}

    def __call__(self, images, ctx):
        """(N, 3, H, W) uint8 on the host -> (N, 3, H, W) floats on `ctx`."""
        if ctx not in self._constants:
            self._constants[ctx] = (nd.array(self._shift, ctx), nd.array(self._scale, ctx))
        shift, scale = self._constants[ctx]
        x = to_device(images, ctx, np.uint8).astype("float32")
        return nd.broadcast_mul(nd.broadcast_sub(x, shift), scale).astype(self._dtype, copy=False)


class GluonPredictor(Predictor):
    """A Gluon network that predicts.

    Parameters
    ----------
    net : mxnet.gluon.Block
        Maps (N, 3, H, W) to logits (N, outputs).
    normalize : callable
        ``normalize(images, ctx)``: uint8 images to the network's input.
    contexts : list of mxnet.Context
        Batches go to them in turn.
    """

    _ahead = 16

    def __init__(self, net, normalize, contexts):
        self.net, self.normalize, self.contexts = net, normalize, contexts

    def _begin(self, images, number):
        ctx = self.contexts[number % len(self.contexts)]
        return self.net(self.normalize(images, ctx)).astype("float32")

    def _end(self, result):
        return result.asnumpy()


def make_predictor(net, batch_shape, contexts, dtype, mean, std, compiled=True):
    """What predicts with a Gluon network.

    Parameters
    ----------
    net : mxnet.gluon.HybridBlock
        Initialised on the contexts, in float32.
    batch_shape : (N, 3, H, W)
    contexts : list of mxnet.Context
    dtype : {'float32', 'float16'}
    mean, std : sequence of 3 floats
        See `Normalize`.
    compiled : bool, default True

    Returns
    -------
    GluonPredictor
    """
    net.cast(dtype)
    if compiled:
        hybridize(net, batch_shape, contexts, dtype)
    return GluonPredictor(net, Normalize(mean, std, dtype), contexts)


class GluonEngine(KeepsState):
    """A network, its optimizers, and the twin that predicts.

    The network that trains must never predict on a CPU: MXNet then reorders its convolution
    weights in place, at a moment that depends on timing, and the updates that follow round
    differently. A second network that predicts keeps training reproducible bit for bit.

    Parameters
    ----------
    build : callable
        ``build(devices)`` -> an uninitialised HybridBlock for so many devices.
    weights : dict of str to array
        The initial weights, by structural name.
    settings : engines.interface.Settings
    workers : engines.workers.SingleWorker, optional
    """

    room = 0    # MXNet gets images batch by batch

    def __init__(self, build, weights, settings, workers=None):
        self.settings, self.workers = settings, workers or SingleWorker()
        self._contexts = to_contexts(settings.devices)
        self._normalize = Normalize(settings.mean, settings.std, settings.dtype)
        self._net, twin = (self._make(build, weights) for _ in range(2))
        self._predictor = GluonPredictor(twin, self._normalize, self._contexts)
        if settings.compiled:
            for net in (self._net, twin):
                hybridize(net, settings.batch_shape, self._contexts, settings.dtype)
        keep_input_statistics(self._net)
        self._loss = _Loss(settings, self._contexts)
        self._trainers = self._make_trainers()
        self.loss_scale = GluonLossScale() if settings.dtype == "float16" else None
        self._pending = []

    # ---- building ------------------------------------------------------------------------

    def _make(self, build, weights):
        net = build(len(self._contexts))
        net.initialize(ctx=self._contexts)
        set_weights(net, weights)
        if self.settings.dtype != "float32":
            net.cast(self.settings.dtype)
        return net

    def _make_trainers(self):
        parameters = self._net._collect_params_with_prefix()
        trainers = {}
        for which, group in self.settings.groups.items():
            own = [(name, parameters[name]) for name in self.settings.members(which, parameters)]
            for name, parameter in own:
                if not group.decays(name):
                    parameter.wd_mult = 0.0
            trainers[which] = gluon.Trainer(
                {p.name: p for _, p in own}, group.optimizer, self._optimizer(group),
                # On the devices, so that the optimizer's arrays can be saved.
                kvstore=self.workers.kvstore, update_on_kvstore=False)
            self.workers.start(trainers[which])
        return trainers

    def _optimizer(self, group):
        settings = {"wd": group.weight_decay}
        if group.optimizer == "adam":
            settings.update(zip(("beta1", "beta2"), group.betas))
        else:
            settings["momentum"] = group.momentum
        if self.settings.dtype != "float32":
            settings["multi_precision"] = True
        return settings

    # ---- training ------------------------------------------------------------------------

    def learn(self, batch, at, rates, update=None, add=None, mixes=None, counted=True):
        """One update; see `engines.interface`."""
        images, labels = batch
        for group, rate in rates.items():
            self._trainers[group].set_learning_rate(rate)
        if self.settings.dropout:
            # Dropout draws from MXNet's own stream: tie it to the step, so that a resumed
            # run draws the same masks.
            mx.random.seed(self.settings.dropout_seed(at, self.workers.rank))
        results = self._backward(images, labels, mixes)
        if add:
            self._add(add, len(labels))
        for group in update or self._trainers:
            self._update(self._trainers[group], len(labels) * self.workers.count)
        if counted:
            self._pending.append((*results, len(labels)))
            if len(self._pending) > _AHEAD:
                self._pending[-1 - _AHEAD][0][0].wait_to_read()

    def _backward(self, images, labels, mixes):
        """Compute the gradients; returns each device's summed loss and hits, unread."""
        outputs, count = [], len(self._contexts)
        parts = zip(self._contexts, np.array_split(images, count), np.array_split(labels, count),
                    mixes or [None] * count)
        for ctx, own_images, own_labels, mix in parts:
            x, target = self._loss.prepare(self._normalize(own_images, ctx),
                                           to_device(own_labels, ctx, np.int32), mix)
            with autograd.record():
                logits = self._net(x)
                loss = self._loss(logits, target)
            outputs.append((loss, logits, target))
        losses = [loss for loss, _, _ in outputs]
        autograd.backward(losses,
                          self.loss_scale.head_gradients(losses) if self.loss_scale else None)
        return ([loss.sum() for loss in losses],
                [_hits(logits, target) for _, logits, target in outputs])

    def _add(self, gradients, images):
        """Add to the gradients of the mean loss; those here are sums over a device's images."""
        parameters = self._net._collect_params_with_prefix()
        shares = [len(part) for part in np.array_split(np.arange(images), len(self._contexts))]
        for name, gradient in gradients.items():
            for ctx, share in zip(self._contexts, shares):
                grad = parameters[name].grad(ctx)
                grad += to_device(gradient * share, ctx, np.float32)

    def _update(self, trainer, images):
        if self.loss_scale:
            self.loss_scale.step(trainer, images)
        else:
            trainer.step(images)

    def collect(self):
        """(loss, hits, images) of each step; see `engines.interface`."""
        results = [(sum(float(part.asscalar()) for part in losses),
                    sum(float(part.asscalar()) for part in hits), count)
                   for losses, hits, count in self._pending]
        self._pending.clear()
        return results

    # ---- predicting ----------------------------------------------------------------------

    def predict(self, images, batch_size):
        """Logits of each array of images; see `engines.interface`."""
        set_weights(self._predictor.net, self.weights())
        return self._predictor.predict(images, batch_size)

    # ---- arrays --------------------------------------------------------------------------

    def _own_weights(self):
        """float32 arrays of this worker by structural name, averaged over its devices."""
        # BatchNorm's running statistics are written by the backward pass behind the engine's
        # back: waiting for the arrays themselves does not wait for it.
        nd.waitall()
        masters = {name: master for trainer in self._optimizer_states()
                   for name, master in trainer.masters()}
        return {name: masters.get(name, parameter._reduce()).asnumpy().astype(np.float32)
                for name, parameter in self._net._collect_params_with_prefix().items()}

    def load_weights(self, weights):
        """Set all parameters; see `engines.interface`."""
        nd.waitall()
        set_weights(self._net, weights)

    def values(self, names):
        """Parameters as they are now; see `engines.interface`."""
        parameters = self._net._collect_params_with_prefix()
        return [parameters[name].data(self._contexts[0]).asnumpy() for name in names]

    def is_finite(self):
        """Whether all parameters are."""
        return all_finite(parameter.data(self._contexts[0])
                          for parameter in self._net.collect_params().values())

    @property
    def num_trained(self):
        """How many numbers are trained."""
        return sum(int(np.prod(parameter.shape)) for parameter
                   in self._net.collect_params().values() if parameter.grad_req != "null")

    def _optimizer_states(self):
        return [TrainerState(trainer, self._net) for trainer in self._trainers.values()]


class _Loss:
    """`engines.interface.Loss`, computed."""

    def __init__(self, settings, contexts):
        self._settings = settings.loss
        self._cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss(
            sparse_label=not self._settings.soft)
        self._cross_entropy.hybridize()
        self._teacher = None
        if self._settings.teacher:
            self._teacher = self._settings.teacher()
            self._teacher.collect_params().reset_ctx(contexts)
            if settings.dtype != "float32":
                self._teacher.cast(settings.dtype)
            if settings.compiled:
                self._teacher.hybridize(static_alloc=True, static_shape=True)

    def prepare(self, x, labels, mix):
        """The images as they are mixed, and their targets.

        Returns
        -------
        x : NDArray (N, C, H, W)
        target : NDArray (N,) of class numbers, or (N, outputs) of shares; with a teacher, a
            pair of such a target and the teacher's shares.
        """
        x, target = self._soften(x, labels, mix)
        if self._teacher is None:
            return x, target
        with autograd.pause(train_mode=False):
            logits = self._teacher(x).astype("float32")
            return x, (target, nd.softmax(logits / self._settings.temperature))

    def _soften(self, x, labels, mix):
        if not self._settings.soft:
            return x, labels
        off = self._settings.label_smoothing / self._settings.outputs
        target = nd.one_hot(labels, self._settings.outputs,
                            on_value=1 - self._settings.label_smoothing + off, off_value=off)
        if mix is None:
            return x, target
        return _mixed(x, mix), mix.share * target + (1 - mix.share) * target[::-1]

    def __call__(self, logits, target):
        """Loss of each image, (N,), in float32."""
        logits = logits.astype("float32")
        if self._teacher is None:
            return self._cross_entropy(logits, target)
        target, shares = target
        temperature, hard = self._settings.temperature, self._settings.hard_weight
        soft = -(shares * nd.log_softmax(logits / temperature)).sum(axis=1)
        return hard * self._cross_entropy(logits, target) + (1 - hard) * temperature ** 2 * soft


def _mixed(x, mix):
    """Images (N, C, H, W), mixed with those in reverse order."""
    if mix.box is None:
        return mix.share * x + (1 - mix.share) * x[::-1]
    top, bottom, left, right = mix.box
    inside = nd.zeros((1, 1, *x.shape[2:]), ctx=x.context, dtype=x.dtype)
    inside[:, :, top:bottom, left:right] = 1
    return nd.where(nd.broadcast_like(inside, x), x[::-1], x)


def _hits(logits, target):
    """How many images are given their class (their larger share, where targets are mixed)."""
    if isinstance(target, tuple):    # the images' own, and a teacher's
        target = target[0]
    target = target.argmax(axis=1) if target.ndim == 2 else target.astype("float32")
    return (logits.argmax(axis=1).astype("float32") == target).sum()


def set_weights(net, weights):
    """Set all parameters of a network from arrays by structural name."""
    parameters = net._collect_params_with_prefix()
    check_arrays({name: parameter.shape for name, parameter in parameters.items()}, weights)
    for name, parameter in parameters.items():
        parameter.set_data(nd.array(weights[name], dtype=parameter.dtype))
