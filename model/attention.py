"""Units for attention slots: what re-weights a residual branch before the addition.

Every unit maps (N, C, H, W) to the same shape, for any H and W.
"""
from .registry import Registry

__all__ = ["ATTENTIONS", "get_attention", "list_attentions"]

ATTENTIONS = Registry("attention")


def get_attention(name, channels, **options):
    """Build the attention unit registered under `name`.

    Parameters
    ----------
    name : str or callable
        A name from `list_attentions` (case is ignored), or a factory that is called as
        ``name(channels, **options)``.
    channels : int
        Number of channels of the feature map that the unit will re-weight.
    **options
        The unit's own options.

    Returns
    -------
    mxnet.gluon.HybridBlock
        Maps (N, channels, H, W) to the same shape.

    Raises
    ------
    ValueError
        If the name is unknown or an option is out of range.
    """
    return ATTENTIONS.resolve(name)(channels, **options)


def list_attentions():
    """The names that `get_attention` knows."""
    return ATTENTIONS.names()
