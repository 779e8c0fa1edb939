"""Grad-CAM against the reference arrays, and both methods against their formulas."""
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from explain.cam import channel_weights, grad_cam
from explain.layers import default_layer, find_layer, imperative, named_layers, trace
from model import get_model
from runs.weights import load_weights
from tests import golden_cases
from tests.explain.toys import random_net

CASES = golden_cases.cases("grad_cam")


def golden_network(case):
    net = get_model("resnet_v2_cifar", blocks=1, classes=10, activation="relu")
    load_weights(net, golden_cases.FOLDER / case["params_file"])
    return net


@pytest.fixture
def x():
    return mx.nd.array(np.random.default_rng(1).normal(size=(3, 3, 8, 8)))


@pytest.mark.parametrize("hybridize", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_maps_are_the_reference_s(case, hybridize):
    arrays, net = golden_cases.load(case), golden_network(case)
    if hybridize:
        net.hybridize(static_alloc=True, static_shape=True)
        net(mx.nd.array(arrays["x"]))
    cam = grad_cam(net, mx.nd.array(arrays["x"]), int(arrays["class"]), "features.4")
    for ours, theirs in (("maps", "cam"), ("signed", "cam_before_relu"), ("weights", "weights"),
                         ("features", "features"), ("logits", "logits")):
        golden_cases.assert_close(getattr(cam, ours).reshape(arrays[theirs].shape),
                                  arrays[theirs], case["tolerance"], ours)


def test_the_training_gradient_would_be_something_else():
    """The trap: backward() takes BatchNorm's training gradient after a recorded prediction."""
    case = CASES[0]
    arrays, net = golden_cases.load(case), golden_network(case)
    features = mx.nd.array(arrays["features"])
    features.attach_grad()
    gradients = {}
    for train_mode in (False, True):
        with autograd.record(train_mode=False):
            out = features
            for layer in net.features[5:]:
                out = layer(out)
            score = net.output(out)[0, int(arrays["class"])]
        score.backward(train_mode=train_mode)
        gradients[train_mode] = features.grad.asnumpy().mean(axis=(2, 3))[0]
    golden_cases.assert_close(gradients[False], arrays["weights"], case["tolerance"])
    wrong = np.abs(gradients[True] - arrays["weights"]).max()
    assert wrong > 0.5 * np.abs(arrays["weights"]).max()


def test_grad_cam_plus_plus_is_its_formula(x):
    net = random_net()
    cam = grad_cam(net, x, [0, 3, 4], method="grad-cam++")
    assert cam.layer == "6" and cam.maps.shape == (3, 4, 4)
    dense = net[8].weight.data().asnumpy().astype(np.float64)
    for features, label, weights, maps in zip(cam.features, cam.classes, cam.weights, cam.maps):
        expected = np.zeros(features.shape[0])
        for k, channel in enumerate(features.astype(np.float64)):
            g = dense[label, k] / channel.size          # the same at all places
            for _ in range(channel.size):
                alpha = g ** 2 / (2 * g ** 2 + channel.sum() * g ** 3)
                expected[k] += alpha * max(g, 0)
        np.testing.assert_allclose(weights, expected, rtol=1e-4)
        np.testing.assert_allclose(
            maps, np.maximum(np.tensordot(expected, features, 1), 0), rtol=1e-4, atol=1e-6)


def test_plus_plus_takes_the_derivatives_of_the_exponential():
    """Of Y = exp(S) by differences, where S is linear in each place, as after a ReLU."""
    a, slope, h = np.array([[0.4, 0.7], [0.2, 0.1]]), np.array([[0.8, 0.3], [-0.1, 0.5]]), 1e-2
    expected = 0
    for place in np.ndindex(2, 2):
        def y(steps, place=place):
            moved = a.copy()
            moved[place] += steps * h
            return np.exp((slope * moved).sum())

        second = (y(1) - 2 * y(0) + y(-1)) / h ** 2
        third = (y(2) - 2 * y(1) + 2 * y(-1) - y(-2)) / (2 * h ** 3)
        alpha = second / (2 * second + a.sum() * third)    # the paper's equation 19
        expected += alpha * max(slope[place], 0)
    weights = channel_weights("grad-cam++", a[None, None], slope[None, None])
    np.testing.assert_allclose(weights, [[expected]], rtol=1e-3)


def test_a_gradient_of_zero_gives_no_weight():
    zeros = np.zeros((1, 2, 3, 3))
    assert (channel_weights("grad-cam++", zeros, zeros) == 0).all()


def test_a_linear_head_gives_the_class_activation_map(x):
    """Before a global mean and a linear layer, Grad-CAM is CAM: the layer's own weights."""
    net = random_net()
    cam = grad_cam(net, x)
    dense = net[8].weight.data().asnumpy()
    np.testing.assert_array_equal(cam.classes, cam.logits.argmax(axis=1))
    np.testing.assert_allclose(cam.weights, dense[cam.classes] / 16, rtol=1e-4)
    np.testing.assert_allclose(cam.probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("method", ["grad-cam", "grad-cam++"])
def test_batches_and_compilation_change_nothing(method, x):
    net = random_net()
    whole = grad_cam(net, x, 2, "4", method)
    pieces = grad_cam(net, x, [2, 2, 2], "4", method, batch_size=2)
    net.hybridize(static_alloc=True, static_shape=True)
    net(x)
    compiled = grad_cam(net, x, 2, "4", method)
    for other in (pieces, compiled):
        np.testing.assert_allclose(whole.maps, other.maps, rtol=1e-4, atol=1e-6)


def test_the_network_is_left_as_it_was(x):
    net = random_net(hybridize=True)
    before = net(x).asnumpy()
    parameters = {name: p.data().asnumpy() for name, p in net.collect_params().items()}
    for p in net.collect_params().values():
        if p.grad_req != "null":
            p.grad()[:] = 7
    grad_cam(net, x)
    assert net._active and all(not block._forward_hooks for _, block in named_layers(net))
    for name, p in net.collect_params().items():
        np.testing.assert_array_equal(p.data().asnumpy(), parameters[name])
        assert p.grad_req == "null" or (p.grad().asnumpy() == 7).all()
    np.testing.assert_array_equal(net(x).asnumpy(), before)


def test_hooks_and_compilation_come_back_after_an_error(x):
    net = random_net(hybridize=True)
    with pytest.raises(ValueError, match="class 5 is out of range.*0 to 4"):
        grad_cam(net, x, 5)
    assert net._active and all(not block._forward_hooks for _, block in named_layers(net))
    with pytest.raises(ZeroDivisionError), imperative(net):
        raise ZeroDivisionError
    assert net._active


@pytest.mark.parametrize("name, expected", [
    ("resnet_v2_cifar", "features.6"), ("resnet18", "features.6"), ("resnet18_v1b", "layer4")])
def test_default_layers(name, expected):
    net = get_model(name)
    net.initialize()
    side = 64 if "v1b" in name else 32
    layer = default_layer(trace(net, mx.nd.zeros((1, 3, side, side))))
    assert layer.name == expected and layer.shape[1] > 1


def test_any_gluon_classifier():
    from mxnet.gluon.model_zoo import vision

    net = vision.mobilenet_v2_0_25(classes=4)
    net.initialize()
    cam = grad_cam(net, mx.nd.ones((2, 3, 64, 64)))
    assert cam.layer.startswith("features.") and cam.maps.shape == (2, 2, 2)


def test_unknown_names(x):
    net = random_net()
    with pytest.raises(ValueError, match="no layer '44'.*Did you mean '4'.*--list-layers"):
        find_layer(trace(net, x), "44")
    with pytest.raises(ValueError, match="unknown method 'cam'. Known: grad-cam, grad-cam"):
        grad_cam(net, x, method="cam")
    with pytest.raises(ValueError, match="no layer of this network"):
        grad_cam(random_net()[8], mx.nd.zeros((1, 6)))
