"""Dynamic loss scaling for float16 (P. Micikevicius et al., arXiv 1710.03740, section 3.2).

Small gradients vanish in float16. So the loss is multiplied by a scale before the backward
pass, and the float32 master weights get the gradients divided by it. Where a gradient
overflows, the step is skipped and the scale halved; after many steps without an overflow it
is doubled.
"""
from common.errors import UserError

__all__ = ["LossScale"]

_SMALLEST = 2.0 ** -10


class LossScale:
    """The scale, and how many steps it has cost.

    Parameters
    ----------
    scale : float, default 65536
        To begin with.
    window : int, default 2000
        Steps without an overflow before the scale is doubled.
    largest : float, default 2**24
        The scale is not doubled beyond this.

    Attributes
    ----------
    skipped : int
        Steps that were skipped.
    """

    def __init__(self, scale=2.0 ** 16, window=2000, largest=2.0 ** 24):
        self.scale, self.window, self.largest = scale, window, largest
        self.skipped = self._since = 0

    @property
    def state(self):
        """What a checkpoint must keep; JSON-compatible."""
        return {"scale": self.scale, "skipped": self.skipped, "since": self._since}

    @state.setter
    def state(self, values):
        self.scale, self.skipped = values["scale"], values["skipped"]
        self._since = values["since"]

    def adjust(self, finite):
        """Note whether the gradients of a step were finite, and change the scale accordingly.

        Raises
        ------
        UserError
            If gradients are not finite however small the scale is.
        """
        if finite:
            self._since += 1
            if self._since >= self.window:
                self.scale, self._since = min(2 * self.scale, self.largest), 0
            return
        self.skipped += 1
        self.scale, self._since = self.scale / 2, 0
        if self.scale < _SMALLEST:
            raise UserError("gradients are not finite whatever the loss is scaled by: "
                            "training stops; the last checkpoint is kept. A lower --lr, a "
                            "longer --warmup-epochs or --dtype float32 may help")
