"""The searchable unit against its reference, and the derived structures."""
import json

import numpy as np
import pytest
from mxnet import autograd, nd
from mxnet.gluon import SymbolBlock, nn

from model.attention import CBAM, MVAM
from model.resnet_v1_cifar import BasicBlock, resnet18
from model.resnet_v2_cifar import ResNetV2CIFAR
from model.structure import (
    OPERATIONS,
    SEARCHED,
    SearchableAttention,
    Structure,
    derive,
    searchable_units,
    structure_unit,
)
from runs.describe import load_structure
from tests.golden_cases import assert_close, cases, load, translate_reference_key


def _random(*shape, seed=0):
    return nd.array(np.random.default_rng(seed).standard_normal(shape), dtype="float32")


def _kind(case):
    return "MVAM" if "mvam" in case["name"] else "CBAM"


# ---- the searchable unit and its block ----

# BatchNorm's names in the reference's files -> Gluon's, and the reference's block -> ours.
_NORM = {"weight": "gamma", "bias": "beta"}
_BLOCK = {"ca": "attn", "sa": "attn", "shortcut": "downsample"}


def _block_key(key):
    """Our name in `BasicBlock` for one in the reference's block."""
    module, _, parameter = key.rpartition(".")
    if module.startswith("bn") or module == "shortcut.1":
        parameter = _NORM.get(parameter, parameter)
    root = module.split(".")[0]
    if root in ("ca", "sa"):
        return "attn." + translate_reference_key(key)
    return f"{module.replace(root, _BLOCK.get(root, root))}.{parameter}"


def _fill(net, arrays, translate):
    parameters = net._collect_params_with_prefix()
    for key, array in arrays.items():
        if key.startswith("param:") and not key.endswith("wgt"):
            parameter = parameters[translate(key[len("param:"):])]
            parameter.set_data(nd.array(array.reshape(parameter.shape)))
    return parameters


def _assert_gradients(parameters, arrays, translate, tolerance):
    for key, expected in arrays.items():
        if key.startswith("grad:"):
            parameter = parameters[translate(key[len("grad:"):])]
            assert_close(parameter.grad(), expected.reshape(parameter.shape), tolerance)


@pytest.mark.parametrize("hybridized", [False, True])
@pytest.mark.parametrize("case", cases("mixed_op"), ids=lambda case: case["name"])
def test_unit_equals_the_reference(case, hybridized):
    arrays, tolerance = load(case), case["tolerance"]
    unit = SearchableAttention(32, _kind(case))
    unit.initialize()
    parameters = _fill(unit, arrays, translate_reference_key)
    unit.alpha.set_data(nd.array(arrays["alpha"]))
    if hybridized:
        unit.hybridize(static_alloc=True, static_shape=True)
    x = nd.array(arrays["x"])
    x.attach_grad()
    with autograd.record():
        out = unit(x)
    out.backward(nd.array(arrays["g"]))

    assert_close(nd.softmax(unit.alpha.data()), arrays["p"], tolerance)
    assert_close(out, arrays["out"], tolerance)
    assert_close(x.grad, arrays["grad_x"], tolerance)
    assert_close(unit.alpha.grad(), arrays["grad_alpha"], tolerance)
    _assert_gradients(parameters, arrays, translate_reference_key, tolerance)


@pytest.mark.parametrize("case", cases("mixed_block"), ids=lambda case: case["name"])
def test_block_equals_the_reference(case):
    arrays, tolerance, made = load(case), case["tolerance"], case["constructor"]
    def relu(channels):
        return nn.Activation("relu")
    block = BasicBlock(made["in_planes"], made["planes"], made["stride"], relu, relu,
                       lambda channels: SearchableAttention(channels, _kind(case)))
    block.initialize()
    parameters = _fill(block, arrays, _block_key)
    block.attn.alpha.set_data(nd.array(arrays["alpha"]))
    x = nd.array(arrays["x"])
    assert_close(block(x), arrays["out_predict"], tolerance)
    x.attach_grad()
    with autograd.record():
        out = block(x)
    out.backward(nd.array(arrays["g"]))

    assert_close(out, arrays["out_train"], tolerance)
    assert_close(x.grad, arrays["grad_x"], tolerance)
    assert_close(block.attn.alpha.grad(), arrays["grad_alpha"], tolerance)
    _assert_gradients(parameters, arrays, _block_key, tolerance)


def test_search_begins_with_equal_weights():
    unit = SearchableAttention(4)
    unit.initialize()
    np.testing.assert_array_equal(unit.alpha.data().asnumpy(), np.zeros(5))


def test_alphas_get_a_gradient_in_the_cifar_host_and_are_told_apart():
    net = ResNetV2CIFAR(1, activation="prelu", attention=SearchableAttention,
                        channels=(4, 4, 8, 8), attn_options={"kind": "MVAM"})
    net.initialize()
    with autograd.record():
        net(_random(2, 3, 8, 8)).sum().backward()
    alphas = [unit.alpha for unit in searchable_units(net)]
    assert len(alphas) == 3 and all(np.abs(alpha.grad().asnumpy()).max() > 0 for alpha in alphas)
    # PReLU has parameters named alpha, too; the regular expression finds the structure's only.
    assert list(net.collect_params(".*structure_alpha").values()) == alphas


def test_exported(tmp_path):
    unit, x = SearchableAttention(8), _random(2, 8, 6, 5)
    unit.initialize()
    unit.hybridize()
    expected = unit(x).asnumpy()
    unit.export(str(tmp_path / "unit"), epoch=0)
    imported = SymbolBlock.imports(str(tmp_path / "unit-symbol.json"), ["data"],
                                   str(tmp_path / "unit-0000.params"))
    np.testing.assert_allclose(imported(x).asnumpy(), expected, rtol=1e-5, atol=1e-6)


# ---- derivation ----

# The two published tables: weights of Id, CA(+)SA, SA(+)CA, CA, SA and the operation. The
# third row of the second is printed as SA(+)CA, against that row's own weights (0.4613 for
# CA(+)SA, 0.4444 for SA(+)CA): the rule wins.
_PUBLISHED = [
    ("4.7375e-04 4.4295e-01 5.5134e-01 2.0592e-03 3.1687e-03", "SA(+)CA"),
    ("1.5267e-04 4.1338e-01 5.8425e-01 7.1946e-04 1.4979e-03", "SA(+)CA"),
    ("1.4487e-04 2.9350e-01 7.0241e-01 5.5964e-04 3.3896e-03", "SA(+)CA"),
    ("3.0173e-04 3.4739e-01 6.4989e-01 1.3028e-03 1.1119e-03", "SA(+)CA"),
    ("3.8662e-04 4.1580e-01 5.1593e-01 8.8905e-04 6.6994e-02", "SA(+)CA"),
    ("3.4632e-04 5.1557e-01 4.8145e-01 1.0539e-03 1.5781e-03", "CA(+)SA"),
    ("7.9483e-05 4.9560e-01 5.0244e-01 5.1867e-04 1.3604e-03", "SA(+)CA"),
    ("6.4367e-05 4.9740e-01 5.0105e-01 5.5208e-04 9.3461e-04", "SA(+)CA"),
    ("1.1785e-03 9.0141e-01 8.1482e-02 1.4495e-02 1.4338e-03", "CA(+)SA"),
    ("5.8767e-04 3.1331e-01 6.7345e-01 9.8350e-03 2.8173e-03", "SA(+)CA"),
    ("0.0071 0.4613 0.4444 0.0653 0.0218", "CA(+)SA"),
    ("0.0028 0.3896 0.5789 0.0128 0.0160", "SA(+)CA"),
    ("0.0208 0.2131 0.6099 0.0522 0.1041", "SA(+)CA"),
    ("0.0054 0.4769 0.4700 0.0235 0.0243", "CA(+)SA"),
    ("7.8822e-03 1.9313e-02 3.3015e-01 6.8491e-03 6.3580e-01", "SA"),
    ("8.3575e-03 3.1563e-04 2.3673e-03 4.5235e-04 9.8851e-01", "SA"),
]


@pytest.mark.parametrize("weights, operation", _PUBLISHED)
def test_derivation_of_the_published_rows(weights, operation):
    assert derive([float(weight) for weight in weights.split()]) == operation


@pytest.mark.parametrize("weights, operation", [
    ([0.9, 0.025, 0.025, 0.025, 0.025], "identity"),
    ([0.1, 0.1, 0.3, 0.25, 0.25], "CA||SA"),          # 0.5 > 0.3, and equal
    ([0.1, 0.1, 0.5, 0.15, 0.15], "SA(+)CA"),         # 0.3 < 0.5
    ([0.2, 0.1, 0.1, 0.36, 0.24], "CA"),              # 0.6 > 0.2, but 0.12 apart
    ([0.2, 0.1, 0.1, 0.34, 0.26], "CA||SA"),
    ([0.2, 0.1, 0.1, 0.0, 0.6], "SA"),
])
def test_derivation_rule(weights, operation):
    assert derive(weights) == operation


@pytest.mark.parametrize("weights", [[0.5, 0.5], [np.nan, 0, 0, 0, 1], [[0.2] * 5]])
def test_derivation_needs_five_finite_weights(weights):
    with pytest.raises(ValueError, match="5 finite weights"):
        derive(weights)


@pytest.mark.parametrize("kind", ["CBAM", "MVAM"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_derived_unit_is_the_searched_operation(kind, operation):
    factory = structure_unit(operation, kind, reduction=2)
    if operation == "identity":
        assert factory is None
        return
    searched, unit, x = SearchableAttention(8, kind, reduction=2), factory(8), _random(2, 8, 5, 4)
    searched.initialize()
    unit.initialize()
    alphas = np.full(5, -99.0)
    alphas[[3, 4] if operation == "CA||SA" else SEARCHED.index(operation)] = 0
    searched.alpha.set_data(nd.array(alphas))
    source = searched._collect_params_with_prefix()
    for name, parameter in unit._collect_params_with_prefix().items():
        half = {"CA": "channel.", "SA": "spatial."}.get(operation, "")
        parameter.set_data(source[half + name].data())
    np.testing.assert_allclose(unit(x).asnumpy(), searched(x).asnumpy(), rtol=1e-4, atol=1e-6)


def test_default_units_are_those_of_the_reference():
    made, mvam = structure_unit("CA(+)SA", "MVAM")(32), MVAM(32)
    shapes = [{name: p.shape for name, p in unit._collect_params_with_prefix().items()}
              for unit in (made, mvam)]
    assert shapes[0] == shapes[1] and isinstance(made, CBAM)


def test_network_of_a_structure_holds_only_the_chosen_operations():
    operations = ["identity", "CA(+)SA", "SA(+)CA", "CA", "SA", "CA||SA", "identity", "SA"]
    structure = Structure("resnet18", "CBAM", operations)
    net = resnet18(width=1 / 16, attention=structure.attention())
    net.initialize()
    assert net(_random(1, 3, 8, 8)).shape == (1, 10)
    names = net._collect_params_with_prefix()
    holds = ["".join(half for half in ("channel.", "spatial.")
                     if any(name.startswith(f"features.{3 + i // 2}.{i % 2}.attn") and half in name
                            for name in names)) for i in range(8)]
    assert holds == ["", "channel.spatial.", "channel.spatial.", "", "", "channel.spatial.", "",
                     ""]
    assert "features.4.1.attn.fc1.weight" in names and "features.5.0.attn.conv.weight" in names


# ---- structure.json ----

def test_structure_is_written_and_read(tmp_path):
    structure = Structure("resnet18", "MVAM", ["identity", "CA||SA"], {"reduction": 8},
                          {"search_epochs": 8})
    (tmp_path / "structure.json").write_text(json.dumps(structure.content()), encoding="utf-8")
    assert load_structure(tmp_path / "structure.json") == structure
    structure.check("ResNet18", 2)


@pytest.mark.parametrize("network, blocks, message", [
    ("resnet34", 2, "the structure is for resnet18, not for resnet34"),
    ("resnet18", 8, "the structure has 2 rows, but resnet18 has 8 blocks"),
])
def test_structure_for_another_network(network, blocks, message):
    with pytest.raises(ValueError, match=message):
        Structure("resnet18", "CBAM", ["identity", "SA"]).check(network, blocks)


@pytest.mark.parametrize("change, message", [
    ({"operations": ["identity", "SA+CA"]}, r"unknown operation 'SA\+CA'. Known: identity, "),
    ({"kind": "SE"}, "kind must be one of CBAM, MVAM, not 'SE'"),
    ({"kind": None}, "'kind' must be a str, not NoneType"),
    ({"operations": "SA"}, "'operations' must be a list, not str"),
    ({"operations": [["SA"]]}, r"unknown operation \['SA'\]"),
    ({"unit_options": {"ratio": 8}}, "have no option 'ratio'"),
    ({"format": "something"}, "not a structure file"),
])
def test_bad_structure_is_one_clear_line(tmp_path, change, message):
    content = {**Structure("resnet18", "CBAM", ["identity", "SA"]).content(), **change}
    path = tmp_path / "structure.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        load_structure(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text, message", [(None, "No such file"), ("{", "not a JSON file"),
                                           ("[]", "must hold a JSON object"),
                                           ("{}", "not a structure file"),
                                           ('{"format": "attention-structure 1"}',
                                            "'network' is missing")])
def test_what_is_no_structure(tmp_path, text, message):
    path = tmp_path / "structure.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_structure(path)


def test_one_row_for_each_block():
    with pytest.raises(ValueError, match="2 attention units were given for 8 blocks"):
        resnet18(width=1 / 16, attention=Structure("resnet18", "CBAM", ["CA", "SA"]).attention())
