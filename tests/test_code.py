"""What holds of all code outside the tests."""
import ast

from tests.test_rooms import FILES, ROOT

_MOST = 6
# Units and networks of model/, whose options are those of the reference and of the papers.
_EXCEPTED = {"SeqATAC", "SpatialAttention", "CBAM", "GE", "AugmentedConv", "ResNetV1CIFAR",
             "ResNetV1b", "ResNetV2CIFAR"}
_NODES = [(path, node) for path in FILES if path.parts[0] != "tests"
          for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))]


def _parameters(node):
    """Number of a class's parameters; 0 without ``__init__``, as where fields are documented."""
    for function in node.body:
        if isinstance(function, ast.FunctionDef) and function.name == "__init__":
            taken = function.args
            return len(taken.posonlyargs + taken.args + taken.kwonlyargs) - 1
    return 0


def test_no_constructor_takes_more_than_six_parameters():
    """State that belongs together is one dataclass."""
    many = {node.name: path.parts[0] for path, node in _NODES
            if isinstance(node, ast.ClassDef) and _parameters(node) > _MOST}
    assert many == dict.fromkeys(_EXCEPTED, "model")


def test_an_option_keeps_its_value_after_parsing():
    changed = [f"{path}:{node.lineno}" for path, node in _NODES
               if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
               and isinstance(node.value, ast.Name) and node.value.id in ("options", "args")]
    # Those of ONNX Runtime have no other way.
    assert all(each.startswith("exporting/runtimes.py") for each in changed), changed
