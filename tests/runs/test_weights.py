"""Parameter files in networks: as MXNet exports them, and of networks for other classes."""
import json

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
import pytest

import evaluate
import train_cifar
import train_imagenet
from common.errors import UserError
from model import get_model, list_models
from runs.released import released_by_name
from runs.weights import WeightsError, classifier, load_weights
from tests.options.runs import network, noise, read_arrays, save, write_cifar
from tests.options.test_imagenet_options import write_photos
from tests.scripts import run


@pytest.mark.parametrize("name", list_models())
def test_the_classifier_is_what_the_number_of_classes_changes(name):
    shapes = [{key: parameter.shape for key, parameter in
               get_model(name, classes=classes)._collect_params_with_prefix().items()}
              for classes in (7, 9)]
    assert {key for key in shapes[0] if shapes[0][key] != shapes[1][key]} == set(
        classifier(shapes[0]))


# ---- files that MXNet's export wrote -------------------------------------------------------------

@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with a network as Gluon's `export` writes it, and what it says of an image."""
    folder = tmp_path_factory.mktemp("exported")
    net = get_model("resnet_v2_cifar", blocks=1, activation="relu")
    x = mx.nd.random.normal(shape=(1, 3, 32, 32))
    net.initialize(mx.init.MSRAPrelu())
    net.hybridize()
    logits = net(x).asnumpy()
    net.export(str(folder / "net"))
    return folder, x, logits


def test_a_file_of_gluons_export_is_loaded(exported):
    folder, x, logits = exported
    net = get_model("resnet_v2_cifar", blocks=1, activation="relu")
    assert {name[:4] for name in read_arrays(folder / "net-0000.params")} == {"arg:", "aux:"}
    load_weights(net, folder / "net-0000.params")
    np.testing.assert_array_equal(net(x).asnumpy(), logits)


def test_a_file_of_our_own_export_is_scored(tmp_path, capsys):
    done = run("export.py", "--pretrained", "cifar10-relu-b1", "--format", "mxnet", "--output",
               tmp_path / "net", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    write_cifar(tmp_path / "data", (noise(4), range(4)), (noise(4, 1), range(4)))
    scores = []
    for source in (["--params", str(tmp_path / "net-0000.params"), "--model", "resnet_v2_cifar",
                    "--act-type", "relu", "--blocks", "1", "--dataset", "cifar10"],
                   ["--pretrained", "cifar10-relu-b1"]):
        assert evaluate.main([*source, "--data-dir", str(tmp_path / "data")]) == 0
        scores.append(capsys.readouterr().out.splitlines()[1])
    assert scores[0] == scores[1] and "loss" in scores[0]


def test_an_export_of_another_network_is_refused(exported):
    with pytest.raises(WeightsError, match="was written by another network"):
        load_weights(get_model("resnet_v2_cifar", blocks=2), exported[0] / "net-0000.params")


# ---- other classes -------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with 100 classes in the data, and a network for 10 to start from."""
    folder = tmp_path_factory.mktemp("classes")
    labels = np.stack([np.arange(8) % 20, np.arange(8)], axis=1)
    write_cifar(folder / "data", (noise(8), labels), (noise(8, 1), labels), "cifar100")
    save(network(), folder / "ten.params")
    return folder


def _train(place, *words):
    return train_cifar.main([
        "--dataset", "cifar100", "--data-dir", str(place / "data"), "--blocks", "1", "--act-type",
        "relu", "--num-epochs", "1", "--batch-size", "8", "--lr", "1e-20", "-j", "0",
        "--num-gpus", "0", "--save-dir", str(place / "params"), "--log-dir", str(place / "logs"),
        *words])


def test_another_number_of_classes_is_refused_with_both_and_a_way(place):
    with pytest.raises(UserError, match="ten.params holds a network of 10 outputs; 100 are asked "
                                        "for: --new-classifier takes over all but"):
        _train(place, "--resume-from", str(place / "ten.params"), "--name", "refused")
    assert not (place / "logs/refused").exists()


def test_a_new_classifier_is_drawn_and_the_rest_taken_over(place):
    start = ["--resume-from", str(place / "ten.params"), "--new-classifier", "--seed", "3"]
    assert _train(place, *start, "--name", "new") == 0
    assert _train(place, "--seed", "3", "--name", "drawn") == 0
    found, drawn = (read_arrays(place / f"params/{name}/last.params") for name in ("new", "drawn"))
    for name, array in read_arrays(place / "ten.params").items():
        if "running" not in name:
            expected = drawn[name] if name.startswith("output.") else array
            np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-12, err_msg=name)
    assert found["output.weight"].shape == (100, 64)
    assert json.loads((place / "logs/new/config.json").read_text())["new_classifier"] is True


def test_a_new_classifier_needs_the_rest(place):
    with pytest.raises(UserError, match="--new-classifier has no meaning without weights"):
        _train(place, "--new-classifier", "--name", "nothing")


def test_a_released_network_is_trained_on_for_other_photographs(tmp_path, monkeypatch):
    for part in ("train", "val"):
        write_photos(tmp_path / part, noise(3))
    monkeypatch.chdir(tmp_path)
    words = ["--data-dir", ".", "--act-type", "relu", "--input-size", "32", "--pretrained",
             "--new-classifier", "--num-epochs", "1", "--batch-size", "3", "--lr", "1e-20",
             "--num-gpus", "0", "-j", "0", "--name", "run", "--model"]
    with pytest.raises(UserError, match="no parameters of this resnet18_v1b are released"):
        train_imagenet.main([*words, "resnet18_v1b"])
    assert train_imagenet.main([*words, "resnet_v2_cifar"]) == 0
    found, released = (read_arrays(path) for path in (
        "params/run/last.params", released_by_name("cifar10-relu-b3").path))
    assert found["output.weight"].shape == (3, 64)
    name = "features.2.0.conv1.weight"
    np.testing.assert_allclose(found[name], released[name], rtol=1e-6)
