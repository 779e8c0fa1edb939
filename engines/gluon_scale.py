"""`engines.loss_scale` for MXNet's Trainers."""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
from mxnet import nd

from .finite import all_finite
from .loss_scale import LossScale

__all__ = ["GluonLossScale"]


class GluonLossScale(LossScale):
    """The scale of a loss whose gradients MXNet's Trainers take."""

    def head_gradients(self, losses):
        """Gradients to start the backward pass of `losses` with."""
        return [nd.full(loss.shape, self.scale, ctx=loss.context, dtype=loss.dtype)
                for loss in losses]

    def step(self, trainer, batch_size):
        """Update the weights, or skip the step if a gradient is not finite.

        Parameters
        ----------
        trainer : mxnet.gluon.Trainer
            Made with ``update_on_kvstore=False``; its gradients are those of the scaled loss.
        batch_size : int
            Images of all devices.

        Returns
        -------
        bool
            Whether the weights were updated.

        Raises
        ------
        UserError
            If gradients are not finite however small the scale is.
        """
        trainer.allreduce_grads()
        # Reads from the device: whether to update must be known before updating. After the sum
        # over devices the gradients are the same on each.
        finite = all_finite(parameter.list_grad()[0] for parameter in trainer._params
                            if parameter.grad_req != "null")
        if finite:
            trainer.update(batch_size * self.scale)
        self.adjust(finite)
        return finite
