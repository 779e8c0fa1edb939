import hashlib

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd

import model
from runs.weights import WeightsError, load_weights
from tests import golden_cases
from tests.model import units

_COUNTS = golden_cases.index()["tables"]["resnet20v2_param_counts"]["rows"]


def _options(constructor):
    act = constructor["act_type"]
    options = {"reduction": constructor["r"]} if act == "ChaATAC" else {}
    return {"blocks": constructor["layers"][0], "activation": act, "act_options": options,
            "act_layers": constructor["act_layers"], "act_order": constructor["act_order"],
            "replace_act": constructor["replace_act"]}


@pytest.mark.parametrize("static", [False, True], ids=["imperative", "static"])
@pytest.mark.parametrize("case", golden_cases.cases("resnet20v2_atac"),
                         ids=lambda case: case["name"])
def test_files_of_the_reference_load_and_give_its_logits(case, static):
    path = golden_cases.FOLDER / case["params_file"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == case["params_sha256"]
    arrays = golden_cases.load(case)
    net = model.get_model("resnet_v2_cifar", classes=10, **_options(case["constructor"]))
    load_weights(net, path)
    if static:
        net.hybridize(static_alloc=True, static_shape=True)
    golden_cases.assert_close(net(nd.array(arrays["x"])).asnumpy(), arrays["out_predict"],
                              case["tolerance"], case["name"])


@pytest.mark.parametrize("row", _COUNTS,
                         ids=lambda row: f"{row['act']}-b{row['b']}-{row['classes']}")
def test_parameter_counts(row):
    act, _, scope = row["act"].partition("-")
    options = {"reduction": row["r"], "use_global": scope == "global"} if act == "ChaATAC" else {}
    net = model.get_model("resnet_v2_cifar", classes=row["classes"], blocks=row["b"],
                          activation=act, act_options=options)
    sizes = [(int(np.prod(p.shape)), p.grad_req != "null") for p in net.collect_params().values()]
    assert sum(size for size, trained in sizes if trained) == row["trainable"]
    assert sum(size for size, _ in sizes) == row["total"]


@pytest.mark.parametrize("name", model.list_activations())
def test_any_unit_fits(name):
    net = model.get_model("resnet_v2_cifar", classes=7, blocks=1, activation=name)
    net.initialize(mx.init.MSRAPrelu())
    net.hybridize(static_alloc=True, static_shape=True)
    with autograd.record():
        out = net(units.image((2, 3, 19, 23)))
    out.backward()
    assert out.shape == (2, 7)
    for key, parameter in net._collect_params_with_prefix().items():
        if parameter.grad_req != "null":
            assert np.isfinite(parameter.grad().asnumpy()).all(), key


def test_exported_is_reimported(tmp_path):
    net = model.get_model("resnet_v2_cifar", blocks=1)
    units.check_exported(units.initialized(net), (2, 3, 32, 32), tmp_path)


def test_dropout_only_where_asked_for():
    assert len(model.get_model("resnet_v2_cifar", blocks=1).features) == 8
    assert len(model.get_model("resnet_v2_cifar", blocks=1, drop_rate=0.5).features) == 9


@pytest.mark.parametrize("options, message", [
    ({"blocks": 0}, "blocks must be a positive integer"),
    ({"classes": 0}, "classes must be a positive integer"),
    ({"activation": "relux"}, "unknown activation 'relux'. Did you mean 'relu'"),
    ({"attention": "CBUM"}, "unknown attention 'CBUM'"),
    ({"act_layers": 5}, "act_layers must lie in 0 ... 4"),
    ({"depth": 3}, "resnet_v2_cifar has no option depth"),
])
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        model.get_model("resnet_v2_cifar", **options)


def test_a_file_of_another_network_is_refused_with_names(tmp_path):
    path = golden_cases.FOLDER / "resnet20v2_relu_b1_cifar10.params"
    with pytest.raises(WeightsError, match="30 of the network's .* are not in the file"):
        net = model.get_model("resnet_v2_cifar", blocks=1, act_layers=2)
        load_weights(net, path)
    with pytest.raises(WeightsError, match="a network of 10 outputs; 100 are asked for"):
        load_weights(model.get_model("resnet_v2_cifar", classes=100, blocks=1, activation="relu"),
                     path)
    garbage = tmp_path / "garbage.params"
    garbage.write_bytes(b"not a parameter file")
    with pytest.raises(WeightsError, match="cannot read parameters from"):
        load_weights(net, garbage)
