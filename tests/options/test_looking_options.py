"""The options of the scripts that look at networks: evaluate.py, export.py and gradcam.py."""
import csv
import json
from functools import partial

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
import onnx
import onnxruntime
import pytest

import evaluate
import export
import gradcam
from common.errors import UserError
from data.imagenet import validation_batches
from data.photos import Decoding
from exporting import opening, runtimes
from tests.options.runs import (
    covers,
    log_softmax,
    network,
    noise,
    normalised,
    patterns,
    predicted_loss,
    save,
    write_cifar,
)
from tests.options.test_imagenet_options import normalised_photo, write_photos

_TEST, _LABELS = noise(6, seed=1), np.arange(6)

# Options that describe a network, and the network that they ask for.
NETWORKS = {
    "activation": ("--model resnet_v2_cifar --act-type SeqATAC --reduction 4 --act-kernel-size 5 "
                   "--act-dilation 2 --act-layers 2 --act-order pre --replace-act swish "
                   "--blocks 1",
                   {"activation": "SeqATAC", "replace_act": "swish", "act_layers": 2,
                    "act_order": "pre",
                    "act_options": {"reduction": 4, "kernel_size": 5, "dilation": 2}}),
    "gate": ("--model resnet_v2_cifar --act-type ChaATAC --no-use-relu --use-global --blocks 1",
             {"activation": "ChaATAC", "act_options": {"use_relu": False, "use_global": True}}),
    "gate of xUnit": ("--model resnet_v2_cifar --act-type xUnit --act-gate sigmoid --blocks 2",
                      {"activation": "xUnit", "act_options": {"gate": "sigmoid"}, "blocks": 2}),
    "host": ("--model resnet18 --width 0.1 --stem conv7 --attention CBAM --attention-at "
             "identity,block --attn-reduction 8 --spatial-kernel 3",
             {"model": "resnet18", "width": 0.1, "stem": "conv7", "attention": "CBAM",
              "attention_at": ["identity", "block"],
              "attn_options": {"reduction": 8, "kernel_size": 3}}),
}

_V1B = ("--model resnet18_v1b --act-type relu --deep-stem --avg-down --dilated",
        {"model": "resnet18_v1b", "activation": "relu", "deep_stem": True, "avg_down": True,
         "dilated": True})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looking-options")
    write_cifar(folder / "data", (patterns(8), np.arange(8)), (_TEST, _LABELS))
    write_photos(folder / "photos/val", patterns(10, 1, size=48))
    for name, (_, wanted) in NETWORKS.items():
        save(network(**wanted), folder / f"{name}.params")
    save(network(), folder / "small.params")
    return folder


_SMALL = "--model resnet_v2_cifar --act-type relu --blocks 1"


def _words(*words):
    return [part for word in words
            for part in (word.split() if isinstance(word, str) else [str(word)])]


# ---- evaluate.py -------------------------------------------------------------------------------

def _scores(place, *words):
    """The row that evaluate.py appends to a table."""
    table = place / "scores.csv"
    table.unlink(missing_ok=True)
    assert evaluate.main(["--csv", str(table), *_words(*words)]) == 0
    with open(table, newline="") as stream:
        [row] = csv.DictReader(stream)
    return row


@covers("evaluate.py", "--params --csv --dataset --batch-size --mode --norm-layer", _V1B[0],
        *(options for options, _ in NETWORKS.values()))
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_that_is_described_is_scored(name, place):
    options, wanted = NETWORKS[name]
    expected = predicted_loss(network(**wanted), normalised(_TEST), _LABELS)
    for mode in ("hybrid", "imperative"):
        row = _scores(place, options, "--params", place / f"{name}.params", "--dataset cifar10 "
                      "--batch-size 4 --num-gpus 0 --mode", mode, "--data-dir", place / "data")
        assert float(row["loss"]) == pytest.approx(expected, rel=1e-4)
        assert row["images"] == "6"


@covers("evaluate.py", "--input-size --crop-ratio --crops --data-dir")
@pytest.mark.parametrize("words, settings", [
    ("--input-size 40", {"size": 40}), ("--input-size 32 --crop-ratio 0.6", {"crop_ratio": 0.6}),
    ("--input-size 32 --crops 10", {"crops": 10})])
def test_photographs_are_cut_as_the_options_say(words, settings, place):
    """Of ten crops the predicted shares are averaged."""
    row = _scores(place, _SMALL, "--params", place / "small.params", "--dataset imagenet "
                  "--num-gpus 0 -j 0", words, "--data-dir", place / "photos")
    _, batches = validation_batches(data_dir=place / "photos", batch_size=10, decoding=Decoding(
        **{"size": 32, "workers": 0, **settings}))
    [[images, labels, _]] = batches.epoch(0)
    crops = images.reshape((10, -1, *images.shape[-3:]))
    logits = [network()(mx.nd.array(normalised_photo(one))).asnumpy() for one in crops]
    shares = np.exp(log_softmax(logits)).mean(axis=1)
    assert float(row["loss"]) == pytest.approx(-np.log(shares[np.arange(10), labels]).mean(),
                                               rel=1e-4)
    assert (row["images"], row["crops"]) == ("10", str(settings.get("crops", 1)))


# ---- export.py -----------------------------------------------------------------------------------

def _exported(place, *words):
    """A session that runs what export.py wrote, and the file's opset."""
    path = place / "net.onnx"
    assert export.main(["--output", str(path), "--overwrite", *_words(*words)]) == 0
    opset = onnx.load_model(str(path)).opset_import[0].version
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]), opset


@covers("export.py", "--params --output --overwrite --classes --dataset --opset "
        "--with-normalisation", _V1B[0], *(options for options, _ in NETWORKS.values()))
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_that_is_described_is_written(name, place):
    """As a file that takes pixels, and as one that takes normalised images."""
    options, wanted = NETWORKS[name]
    expected = network(**wanted)(mx.nd.array(normalised(_TEST))).asnumpy()
    words = (options, "--params", place / f"{name}.params", "--dataset cifar10 --classes 10",
             "--data-dir", place / "data")
    for more, images in (("--with-normalisation --opset 15", _TEST),
                         ("", normalised(_TEST).astype(np.float32))):
        session, opset = _exported(place, *words, more)
        [logits] = session.run(None, {session.get_inputs()[0].name: images})
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())
        assert opset == (15 if more else 13)


@covers("export.py", "--input-size --format")
def test_the_size_and_the_kind_of_the_file(place):
    words = _SMALL, "--params", place / "small.params", "--dataset cifar10 --classes 10"
    session, _ = _exported(place, *words, "--input-size 40")
    assert session.get_inputs()[0].shape[1:] == [3, 40, 40]
    assert export.main([*_words(*words), "--format", "mxnet", "--output", str(place / "mx")]) == 0
    block = mx.gluon.SymbolBlock.imports(str(place / "mx-symbol.json"), ["images"],
                                         str(place / "mx-0000.params"))
    images = mx.nd.array(normalised(_TEST))
    np.testing.assert_allclose(block(images).asnumpy(), network()(images).asnumpy(), rtol=1e-4,
                               atol=1e-5)


def test_the_options_of_the_imagenet_networks(place):
    """With group normalisation, which is not exported, scored; without it, written."""
    options, wanted = _V1B
    data = "--dataset cifar10 --data-dir", place / "data"
    net = network(**wanted, norm_layer="GroupNorm")
    row = _scores(place, options, "--norm-layer GroupNorm --num-gpus 0", *data, "--params",
                  save(net, place / "v1b.params"))
    assert float(row["loss"]) == pytest.approx(predicted_loss(net, normalised(_TEST), _LABELS),
                                               rel=1e-4)
    net = network(**wanted)
    session, _ = _exported(place, options, "--classes 10", *data, "--params",
                           save(net, place / "v1b.params"))
    [logits] = session.run(None, {"images": normalised(_TEST).astype(np.float32)})
    expected = net(mx.nd.array(normalised(_TEST))).asnumpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())


@covers("evaluate.py", "--onnx --runtime")
def test_the_chosen_runtime_runs_the_file(place, monkeypatch):
    """A stand-in for OpenVINO, to which all classes are alike."""
    _exported(place, _SMALL, "--params", place / "small.params", "--dataset cifar10 --classes 10",
              "--data-dir", place / "data")
    words = "--dataset cifar10 --data-dir", place / "data", "--onnx", place / "net.onnx"
    monkeypatch.setitem(runtimes.RUNTIMES, "openvino",
                        lambda *_: lambda images: np.zeros((len(images), 10)))
    monkeypatch.setattr(opening, "open_file", partial(_opened_by_the_usual_one, opening.open_file))
    row = _scores(place, *words, "--runtime openvino")
    assert float(row["loss"]) == pytest.approx(np.log(10), rel=1e-4)
    assert float(_scores(place, *words)["loss"]) == pytest.approx(
        predicted_loss(network(), normalised(_TEST), _LABELS), rel=1e-4)


def _opened_by_the_usual_one(open_file, path, _runtime):
    return open_file(path)


@covers("evaluate.py", "--dtype")
def test_half_precision_is_not_silently_full_precision(place):
    with pytest.raises(UserError, match="--dtype float16 needs a GPU"):
        _scores(place, _SMALL, "--params", place / "small.params", "--dtype float16 --num-gpus 0")


# ---- gradcam.py ----------------------------------------------------------------------------------

@covers("gradcam.py", "--params --dataset --faithfulness --output --count",
        *(options for options, _ in NETWORKS.values()))
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_that_is_described_is_looked_into(name, place):
    """By the options as by the description beside another copy of the file."""
    options, wanted = NETWORKS[name]
    (place / "beside").mkdir(exist_ok=True)
    copy = place / "beside" / f"{name}.params"
    copy.write_bytes((place / f"{name}.params").read_bytes())
    given = {"model": "resnet_v2_cifar", **wanted}
    copy.with_suffix(".json").write_text(json.dumps({
        "model": given.pop("model"), "options": {"blocks": 1, **given} if "width" not in given
        else given, "dataset": {"name": "cifar10"}}))
    assert gradcam.main(_words(
        options, "--num-gpus 0 --count 1 --faithfulness 3 --dataset cifar10 --data-dir",
        place / "data", "--output", place / "looked.png", "--params", copy,
        place / f"{name}.params")) == 0
    with open(place / "looked-faithfulness.csv", newline="") as stream:
        described, by_options = csv.DictReader(stream)
    for row in (described, by_options):
        del row["network"]
    assert described == by_options and described["images"] == "3"


@covers("gradcam.py", "--method --layer --class")
def test_each_way_of_looking_is_another(place):
    """They differ in what is hidden first, and so in how fast the class is lost."""
    found = []
    for words in ("", "--method grad-cam++", "--layer features.2", "--class 3", ""):
        assert gradcam.main(_words(
            _SMALL, "--num-gpus 0 --count 1 --faithfulness 3 --dataset cifar10 --data-dir",
            place / "data", "--output", place / "ways.png", "--params", place / "small.params",
            words)) == 0
        found.append((place / "ways-faithfulness.csv").read_text())
    assert found[0] == found[-1] and len(set(found)) == 4
