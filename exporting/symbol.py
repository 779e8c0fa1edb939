"""Networks as MXNet's own graphs."""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np

__all__ = ["network_symbol"]


def network_symbol(net):
    """The graph of a network and its parameters.

    Returns
    -------
    (mxnet.symbol.Symbol, dict of str to numpy.ndarray)
        With the input ``images``; parameters in float32.
    """
    symbol = net(mx.sym.var("images"))
    params = {name: parameter.data(parameter.list_ctx()[0]).asnumpy().astype(np.float32)
              for name, parameter in net.collect_params().items()}
    used = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    return symbol, {name: array for name, array in params.items() if name in used}
