import json
from argparse import Namespace

import mxnet as mx
import pytest

import model
from model.zoo import build
from runs.describe import describe, script_options


def _options(**given):
    return Namespace(**{"model": "resnet_v2_cifar", "act_type": None, "attention": None, **given})


def _built(**given):
    """The network of a description that went through JSON, as beside a parameter file."""
    description = json.loads(json.dumps(describe(_options(**given))))
    return build(description, classes=5), description


def test_the_networks_of_the_studies_are_known():
    assert {"resnet_v2_cifar", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
            "resnet50_v1b", "resnet50_v1b_atac", "aa_resnet50", "fa_resnet50"} <= set(
        model.list_models())


@pytest.mark.parametrize("name", model.list_models())
def test_every_network_is_built_from_its_description(name):
    net, description = _built(model=name.upper())
    assert description["model"] == name
    shapes = [p.shape for key, p in net._collect_params_with_prefix().items()
              if key.endswith(".bias")]
    assert (5,) in shapes


def test_a_network_has_its_own_number_of_classes():
    assert model.get_model("resnet_v2_cifar").output.weight.shape[0] == 10
    assert model.get_model("resnet18_v1b").fc.weight.shape[0] == 1000


def test_defaults_are_written_out():
    assert describe(_options()) == {"model": "resnet_v2_cifar", "options": {
        "activation": "ChaATAC", "replace_act": "relu", "blocks": 3}}


def test_the_authors_name_for_their_network():
    assert describe(_options(model="atac"))["model"] == "resnet_v2_cifar"


@pytest.mark.parametrize("given, act_options, attn_options", [
    (dict(reduction=4), {"reduction": 4}, None),
    (dict(reduction=4, attention="se"), {"reduction": 4}, None),
    (dict(reduction=4, attention="se", act_type="relu"), None, {"reduction": 4}),
    (dict(reduction=4, attn_reduction=8, attention="cbam"), {"reduction": 4}, {"reduction": 8}),
    (dict(spatial_kernel=7, attention="CBAM"), None, {"kernel_size": 7}),
    (dict(act_type="seqatac", act_kernel_size=5, act_dilation=2, use_relu=False),
     {"kernel_size": 5, "dilation": 2, "use_relu": False}, None),
])
def test_unit_options_go_to_the_unit_that_takes_them(given, act_options, attn_options):
    _, description = _built(blocks=1, **given)
    assert description["options"].get("act_options") == act_options
    assert description["options"].get("attn_options") == attn_options


@pytest.mark.parametrize("model, name", [("resnet18", "drop_rate"), ("resnet18_v1b", "final_drop")])
@pytest.mark.parametrize("option", ["drop_rate", "final_drop"])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropout_has_two_names(model, name, option, rate):
    options = describe(_options(model=model, **{option: rate}))["options"]
    assert {key: value for key, value in options.items() if "drop" in key} == {name: rate}


def test_attention_of_the_cifar_resnets():
    net, _ = _built(model="resnet18", attention="CBAM", attention_at=["classifier"], width=0.25,
                    spatial_kernel=3, reduction=4)
    net.initialize()
    assert net(mx.nd.zeros((2, 3, 32, 32))).shape == (2, 5)
    assert any(".attn." in name for name in net._collect_params_with_prefix())


@pytest.mark.parametrize("given, message", [
    (dict(model="resnet_v2_cifra"), "Did you mean 'resnet_v2_cifar'"),
    (dict(act_type="relu", reduction=2), "relu has no option reduction"),
    (dict(act_type="relu", attention="ZAM", reduction=2), "relu and ZAM have no option reduction"),
    (dict(spatial_kernel=7), "needs a unit in the attention slots"),
    (dict(model="resnet18", blocks=3), "--blocks has no meaning for resnet18"),
    (dict(attention_at=["block"]), "--attention-at has no meaning for resnet_v2_cifar"),
    (dict(attention="CBUM"), "unknown attention 'CBUM'"),
    (dict(model="resnet18", attention_at=["classifier"]), "name the unit, too"),
    (dict(model="resnet18", drop_rate=0.1, final_drop=0.1), "are the same: give one"),
    (dict(model="resnet18_v1b", drop_rate=0.0, final_drop=0.1), "are the same: give one"),
])
def test_errors(given, message):
    with pytest.raises(ValueError, match=message):
        describe(_options(**given))


@pytest.mark.parametrize("name, options, message", [
    ("resnet18", dict(attn_options={"reduction": 4}), "name one with attention"),
    ("resnet18", dict(drop_rate=2), r"drop_rate must lie in \[0, 1\), not 2"),
    ("resnet_v2_cifar", dict(drop_rate=-0.5), r"drop_rate must lie in \[0, 1\)"),
    ("resnet_v2_cifar", dict(act_options={"reduction": 2.0}), "a positive integer, not 2.0"),
    ("resnet_v2_cifar", dict(activation="relu", act_options={"reduction": 2}),
     "'relu' has no option 'reduction'. It has: none"),
    ("resnet_v2_cifar", dict(activation="elu", act_options={"beta": 2}), "It has: alpha"),
    ("resnet18_v1b", dict(activation="ChaATAC", act_options={"beta": 2}), "has no option 'beta'"),
])
def test_options_that_would_do_nothing_or_fail_later(name, options, message):
    with pytest.raises(ValueError, match=message):
        model.get_model(name, **options)


@pytest.mark.parametrize("given", [
    {}, dict(act_type="swish", drop_rate=0.5), dict(reduction=4, use_relu=False),
    dict(model="resnet18", attention="CBAM", attention_at=["block", "classifier"],
         attn_reduction=8, spatial_kernel=3, width=0.5),
    dict(model="resnet50_v1b", act_type="SeqATAC", act_kernel_size=5, last_gamma=True),
])
def test_script_options_are_the_inverse_of_describe(given):
    description = describe(_options(**given))
    found = script_options(description)
    assert describe(_options(model=description["model"], **found)) == description


def test_synchronised_normalisation_waits_for_the_devices_that_train():
    description = {"model": "resnet18_v1b", "options": {"norm_layer": "syncbatchnorm"}}
    for devices in (1, 3):
        norm = build(description, 10, devices).bn1
        assert norm._kwargs["ndev"] == devices
    assert "norm_kwargs" not in description["options"]


def test_the_package_imports_mxnet_with_its_first_name():
    assert set(dir(model)) >= {"get_activation", "get_attention", "get_model", "list_models"}
    with pytest.raises(AttributeError, match="has no attribute 'get_modle'"):
        _ = model.get_modle
