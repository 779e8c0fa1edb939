"""Networks whose every parameter and statistic is random, for tests that would miss a lost one."""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np

from model.zoo import build

CIFAR = {"name": "cifar10", "class_names": [str(k) for k in range(10)],
         "mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010], "image_size": 32}


def randomise(net, seed=0):
    """Give every parameter and statistic a value that shows if it is lost."""
    rng = np.random.default_rng(seed)
    mx.random.seed(seed)
    net.initialize(mx.init.Xavier(), force_reinit=True)
    ranges = {"gamma": (0.5, 1.5), "running_var": (0.5, 2.0), "alpha": (0.1, 0.4)}
    for name, parameter in net.collect_params().items():
        low, high = next((ranges[end] for end in ranges if name.endswith(end)), (-0.3, 0.3))
        if not name.endswith(("weight", "embedding")):
            parameter.set_data(mx.nd.array(rng.uniform(low, high, parameter.shape)))
    return net


def random_network(description, classes=10):
    return randomise(build(description, classes))
