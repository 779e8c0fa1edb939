from explain.networks import _labels


def _description(**options):
    return {"model": "resnet18", "options": {"activation": "relu", **options}}


def test_networks_are_called_by_their_runs():
    assert _labels(["params/a/best.params", "params/b/best.params"],
                   [_description(), _description(attention="SE")]) == ["a", "b"]


def test_long_names_of_runs_give_way_to_what_tells_the_networks_apart():
    names = ["study-of-attention-modelresnet18", "study-of-attention-CBAM-atblock-modelresnet18"]
    paths = [f"params/{name}/best.params" for name in names]
    one, two = _description(), _description(attention="CBAM", attention_at=["block"])
    assert _labels(paths, [one, two]) == ["resnet18 relu", "resnet18 CBAM at block"]
    assert _labels(paths, [one, one]) == names
    assert _labels(paths[:1], [one]) == names[:1]
