"""ChaATAC's gate as one operator of PyTorch computes what its layers compute."""
import shutil

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
if not shutil.which("g++"):
    pytest.skip("there is no C++ compiler", allow_module_level=True)

import model.mxnet_compat  # noqa: E402, F401  (comes before mxnet)
import numpy as np  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from mxnet import nd  # noqa: E402
from mxnet.gluon import nn  # noqa: E402

from common.errors import UserError  # noqa: E402
from graph import torch_gate  # noqa: E402
from graph.graph import trace  # noqa: E402
from graph.pytorch import to_pytorch  # noqa: E402
from graph.torch_gate import GATE, fuse_gate, gate  # noqa: E402
from model.activation import get_activation  # noqa: E402
from model.zoo import get_model  # noqa: E402
from tests.random_networks import randomise  # noqa: E402

EPS = 1e-5


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """A folder of these tests' own for what is compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _drawn(shape, hidden, dtype=torch.float32, seed=0):
    """A map, a gradient of its gated one, and the parameters."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=generator)

    channels = shape[1]
    x, dy = ((0.7 * normal(*shape) + 0.3).to(dtype, memory_format=torch.channels_last)
             for _ in range(2))
    parameters = [normal(hidden, channels, 1, 1), 1 + 0.3 * normal(hidden), normal(hidden),
                  normal(channels, hidden, 1, 1), 1 + 0.3 * normal(channels), normal(channels)]
    return x, dy, parameters


def _layers(x, w1, gamma1, beta1, w2, gamma2, beta2, dtype=torch.float32):
    """The formula, with z1 as a map in `dtype` has it, and its normalisations' statistics."""
    z1 = F.conv2d(x, w1)
    if dtype == torch.bfloat16:    # rounding decides on which side of the ReLU a few values are
        z1 = z1 + (z1.to(dtype) - z1).detach()
    z2 = F.conv2d(F.relu(F.batch_norm(z1, None, None, gamma1, beta1, True, 0, EPS)), w2)
    y = x * torch.sigmoid(F.batch_norm(z2, None, None, gamma2, beta2, True, 0, EPS))
    found = []
    for z in (z1, z2):
        found += [z.mean((0, 2, 3)), 1 / (z.var((0, 2, 3), unbiased=False) + EPS).sqrt()]
    return y, found


def _difference(found, expected):
    """The mean difference beside the mean of the expected values."""
    found = found.detach().double()
    return float((found - expected).abs().mean() / expected.abs().mean())


@pytest.mark.parametrize("shape, hidden", [
    ((4, 16, 9, 9), 8), ((3, 32, 16, 16), 16), ((2, 64, 8, 8), 32), ((2, 16, 8, 8), 16),
    ((5, 12, 3, 7), 3), ((2, 7, 1, 33), 3), ((1, 64, 5, 7), 4)], ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-6), (torch.bfloat16, 5e-3)],
                         ids=["float32", "bfloat16"])
def test_it_gives_the_layers_values_statistics_and_gradients(shape, hidden, dtype, tolerance):
    x, dy, parameters = _drawn(shape, hidden, dtype)
    exact = [each.double().requires_grad_() for each in (x, *parameters)]
    expected, statistics = _layers(*exact, dtype)
    expected.backward(dy.double())
    own = [each.detach().requires_grad_() for each in (x, *parameters)]
    y, *found, _ = gate(*own, EPS)
    y.backward(dy)
    assert y.dtype == own[0].grad.dtype == dtype
    pairs = [(y, expected), *zip(found, statistics),
             *((mine.grad, theirs.grad) for mine, theirs in zip(own, exact))]
    for number, (mine, theirs) in enumerate(pairs):
        assert mine.shape == theirs.shape, number
        assert _difference(mine, theirs) < tolerance, number


def test_a_mean_far_from_zero_costs_the_variance_no_digits():
    x, _, (w1, *others) = _drawn((8, 16, 16, 16), 8)
    x += 300
    found = gate(x, w1, *others, EPS)[2]
    expected = _layers(x.double(), w1.double(), *(each.double() for each in others))[1][1]
    assert _difference(found, expected) < 1e-4


def test_large_and_tiny_inputs_of_the_sigmoid_are_finite():
    x, dy, parameters = _drawn((2, 16, 8, 8), 8)
    parameters[5] = torch.linspace(-500, 500, 16)
    own = [each.detach().requires_grad_() for each in (x, *parameters)]
    y = gate(*own, EPS)[0]
    y.backward(dy)
    assert all(each.grad.isfinite().all() for each in own)
    assert torch.equal(y[:, -1], x[:, -1]) and y[:, 0].abs().max() < 1e-30


@pytest.mark.parametrize("bits", [0x7fc00000, 0x7fc00001, 0x7fffffff, 0x7f800000])
def test_what_is_not_finite_stays_so(bits):
    x, dy, parameters = _drawn((2, 16, 8, 8), 8)
    parameters[5][:] = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    x[0, 3, 2, 2] = parameters[5][0]
    own = [each.detach().requires_grad_() for each in (x, *parameters)]
    y = gate(*own, EPS)[0]
    y.backward(dy)
    assert not y.isfinite().all() and not own[1].grad.isfinite().all()


def test_maps_in_another_memory_format_are_brought_into_the_one_it_needs():
    x, dy, parameters = _drawn((2, 16, 6, 5), 8)
    results = []
    for order in (torch.channels_last, torch.contiguous_format):
        own = x.clone(memory_format=order).requires_grad_()
        y = gate(own, *parameters, EPS)[0]
        y.backward(dy.contiguous(memory_format=order))
        results.append((y, own.grad))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("change", [
    lambda x, p: (x.half(), p), lambda x, p: (x[:, :8], p),
    lambda x, p: (x, [*p[:1], p[1][:1], *p[2:]]),
    lambda x, p: (x, [each.bfloat16() for each in p])],
    ids=["type", "channels", "shape", "parameters"])
def test_other_types_and_shapes_are_refused(change):
    x, _, parameters = _drawn((2, 16, 6, 5), 8)
    x, parameters = change(x, parameters)
    with pytest.raises(ValueError, match="a gate of maps of .* channels needs"):
        gate(x, *parameters, EPS)


def test_parameters_may_lie_anyhow_in_memory():
    x, _, parameters = _drawn((2, 16, 6, 5), 8)
    apart = [torch.stack([each, each], -1)[..., 0] for each in parameters]
    assert torch.equal(gate(x, *apart, EPS)[0], gate(x, *parameters, EPS)[0])


def test_one_number_of_threads_gives_the_same_bits_and_another_the_same_values():
    x, dy, parameters = _drawn((8, 16, 20, 20), 8)
    results = []
    for count in (1, 2, 2, 3):
        torch.set_num_threads(count)
        own = [each.detach().requires_grad_() for each in (x, *parameters)]
        y = gate(*own, EPS)[0]
        y.backward(dy)
        results.append([y.detach(), *(each.grad for each in own)])
    one, two, again, three = results
    assert all(map(torch.equal, two, again))
    for other in (two, three):
        assert all(_difference(a, b.double()) < 1e-6 for a, b in zip(one, other))


# ---- the rule ----------------------------------------------------------------------------------

def _gates(net, size=8):
    graph = trace(net, (net.in_channels if hasattr(net, "in_channels") else 3, size, size))
    return sum(node.op == GATE for node in graph.rewrite(fuse_gate).nodes)


def _unit(**options):
    unit = nn.HybridSequential()
    unit.add(nn.Conv2D(32, 1, in_channels=3), get_activation("ChaATAC", 32, **options))
    return unit


def test_every_chaatac_of_the_papers_network_becomes_one_node():
    assert _gates(get_model("resnet_v2_cifar", blocks=2), 32) == 13
    assert _gates(get_model("resnet_v2_cifar", blocks=2, act_layers=1), 32) == 1
    assert _gates(_unit()) == _gates(_unit(reduction=8)) == 1


@pytest.mark.parametrize("options", [
    {"use_relu": False}, {"use_global": True}, {"norm_kwargs": {"use_global_stats": True}},
    {"norm_kwargs": {"scale": False}}], ids=str)
def test_what_it_does_not_compute_stays_as_it_is(options):
    assert _gates(_unit(**options)) == 0


@pytest.mark.parametrize("name", ["SpaATAC", "SeqATAC", "swish", "xUnitS"])
def test_other_units_stay_as_they_are(name):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(32, 1, in_channels=3), get_activation(name, 32))
    assert _gates(net) == 0


def test_wide_maps_are_left_to_pytorchs_products_of_matrices():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(128, 1, in_channels=3), get_activation("ChaATAC", 128))
    assert _gates(net) == 0


def test_a_gate_that_somebody_else_reads_stays_as_it_is():
    class Watched(nn.HybridBlock):
        def __init__(self):
            super().__init__()
            with self.name_scope():
                self.conv = nn.Conv2D(16, 1, in_channels=3)
                self.unit = get_activation("ChaATAC", 16)

        def hybrid_forward(self, F, x):
            x = self.conv(x)
            gate = self.unit.gate(F, x)
            return x * gate + gate

    assert _gates(Watched()) == 0


def test_a_network_with_it_has_the_names_and_trains_and_predicts_as_without():
    net = get_model("resnet_v2_cifar", blocks=1)
    net.initialize()
    net(nd.zeros((1, 3, 32, 32)))
    randomise(net)
    plain, fused = (to_pytorch(net, (3, 32, 32), rules=rules) for rules in ((), (fuse_gate,)))
    assert list(plain.state_dict()) == list(fused.state_dict())
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 3, 20, 24)).astype(np.float32))
    for each in (plain, fused):
        for _ in range(2):
            each.zero_grad()
            each(x).square().sum().backward()
    for (name, mine), (_, theirs) in zip(fused.named_parameters(), plain.named_parameters()):
        assert _difference(mine.grad, theirs.grad.double()) < 1e-4, name
    for (name, mine), (_, theirs) in zip(fused.named_buffers(), plain.named_buffers()):
        assert (mine - theirs).abs().max() < 1e-5, name
    with torch.no_grad():
        assert _difference(fused.eval()(x), plain.eval()(x).double()) < 1e-5


# ---- compiling ---------------------------------------------------------------------------------

def test_a_compiler_that_fails_is_named_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(UserError, match="^false cannot compile gate.cpp") as caught:
        torch_gate._compiled(24, 12, "float")
    assert str(caught.value).endswith(": exit code 1") and not list(tmp_path.iterdir())


def test_the_line_is_the_compilers_first_error(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch_gate, "_FLAGS", (*torch_gate._FLAGS, "-Dsigmoid=1"))
    with pytest.raises(UserError, match="goes without it.: .*error: expected") as caught:
        torch_gate._compiled.__wrapped__(4, 2, "float")
    assert "\n" not in str(caught.value)


def test_it_is_compiled_once_for_each_number_of_channels_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch_gate._compiled.__wrapped__(4, 2, "float")
    kept, = tmp_path.iterdir()
    monkeypatch.setattr(torch_gate.subprocess, "run", None)
    torch_gate._compiled.__wrapped__(4, 2, "float")
    assert list(tmp_path.iterdir()) == [kept]
