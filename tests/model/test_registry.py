import pytest

from model.registry import Registry


def _registry():
    registry = Registry("thing")
    registry.register("Alpha")(lambda: 1)
    registry.register("beta")(lambda: 2)
    return registry


def test_names_keep_their_spelling_and_look_up_ignores_case():
    registry = _registry()
    assert registry.names() == ["Alpha", "beta"]
    assert registry["ALPHA"]() == 1
    assert registry.canonical("BETA") == "beta"
    assert "alpha" in registry and "gamma" not in registry


def test_a_name_is_taken_once():
    with pytest.raises(KeyError, match="thing 'ALPHA' is registered twice"):
        _registry().register("ALPHA")


def test_an_unknown_name_lists_the_known_and_the_closest():
    with pytest.raises(ValueError, match="unknown thing 'alpa'. Did you mean 'Alpha'.*Alpha, beta"):
        _registry()["alpa"]


def test_callables_pass_through():
    assert _registry().resolve(len) is len
