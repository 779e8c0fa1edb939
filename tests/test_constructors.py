"""No constructor takes more than six parameters: state that belongs together is one dataclass.

The fields of a dataclass are not counted: they are documented one by one. Excepted are units and
networks of model/ whose options are those of the reference and of the papers.
"""
import ast

from tests.test_rooms import FILES, ROOT

_MOST = 6
_EXCEPTED = {"SeqATAC", "SpatialAttention", "CBAM", "GE", "AugmentedConv", "ResNetV1CIFAR",
             "ResNetV1b", "ResNetV2CIFAR"}


def _constructors(path):
    """(class, number of parameters beside self) for each ``__init__`` in a file."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        for function in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                taken = function.args
                yield node.name, len(taken.posonlyargs + taken.args + taken.kwonlyargs) - 1


def test_no_constructor_takes_more_than_six_parameters():
    many = {name: str(path) for path in FILES if path.parts[0] != "tests"
            for name, count in _constructors(path) if count > _MOST}
    assert many.keys() == _EXCEPTED and {path[:6] for path in many.values()} == {"model/"}
