"""docs/atac_pytorch.py, which people copy, computes what the definitions do."""
import runpy

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed "
                                            "(make env EXTRAS=pytorch)")

import model.mxnet_compat  # noqa: E402, F401  (comes before mxnet)
import numpy as np  # noqa: E402
from mxnet import nd  # noqa: E402

from graph.pytorch import to_pytorch  # noqa: E402
from model.activation import get_activation  # noqa: E402
from tests.random_networks import randomise  # noqa: E402
from tests.scripts import ROOT  # noqa: E402

_COPY = runpy.run_path(str(ROOT / "docs" / "atac_pytorch.py"))


def _renamed(name):
    return name.replace("gamma", "weight").replace("beta", "bias")


def _close(found, expected):
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name, options", [
    ("ChaATAC", {}), ("ChaATAC", {"reduction": 4}), ("SpaATAC", {}),
    ("SpaATAC", {"kernel_size": 5, "dilation": 2}), ("SeqATAC", {}),
    ("SeqATAC", {"reduction": 3, "kernel_size": 5, "dilation": 2})], ids=str)
def test_the_copy_is_the_unit(name, options):
    net = randomise(get_activation(name, 7, **options))
    x = torch.tensor(np.random.default_rng(0).normal(size=(3, 7, 9, 8)), dtype=torch.float32)
    net(nd.array(x.numpy()))
    unit, copy = to_pytorch(net, (7, 9, 8)), _COPY[name](7, **options)
    copy.load_state_dict({_renamed(key): value for key, value in unit.state_dict().items()},
                         strict=False)    # it also counts batches
    assert copy.state_dict().keys() - {_renamed(key) for key in unit.state_dict()} == {
        key for key in copy.state_dict() if key.endswith("num_batches_tracked")}
    with torch.no_grad():
        expected = torch.tensor(net(nd.array(x.numpy())).asnumpy())
        _close(copy.eval()(x), expected)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    head = torch.randn(3, 7, 9, 8, generator=torch.Generator().manual_seed(0))
    for module, given in zip((unit, copy.train()), inputs):
        (module.double()(given.double()) * head).sum().backward()
    _close(inputs[1].grad, inputs[0].grad)
    own = dict(copy.named_parameters())
    for key, parameter in unit.named_parameters():
        _close(own[_renamed(key)].grad, parameter.grad)
    for key, statistic in unit.named_buffers():
        count = x[:, 0].numel() if key.endswith("running_var") else 0
        # The unbiased variance's new share is larger by 1 / (count - 1).
        old = dict(net._collect_params_with_prefix())[key].data().asnumpy()
        new = (statistic - 0.9 * torch.tensor(old)) * (count / (count - 1) if count else 1)
        _close(copy.state_dict()[key], 0.9 * torch.tensor(old) + new)
