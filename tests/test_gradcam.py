"""gradcam.py, run as a user runs it, and the pictures that it draws."""
import csv
import io
import itertools
import json
from functools import cache, partial
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from PIL import Image

import gradcam
from common.errors import UserError
from data import get_dataset
from data.shapes import CLASS_NAMES as CLASSES
from engines.gluon import Normalize
from explain import report
from explain.faithfulness import enlarge
from explain.figures import Caption, Column, draw_gallery, overlay
from explain.images import Picture, dataset_pictures, file_pictures, image_files
from explain.networks import Subject, class_index
from model import get_model
from tests import scripts

DATA = {"name": "shapes", "classes": 10, "class_names": CLASSES, "mean": [0.5] * 3,
        "std": [0.25] * 3, "image_size": 32}


def network(activation, seed):
    mx.random.seed(seed)
    np.random.seed(seed)
    net = get_model("resnet_v2_cifar", blocks=1, classes=10, activation=activation)
    net.initialize(mx.init.MSRAPrelu())
    return net


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs with untrained networks, one file without a description, and images."""
    folder = tmp_path_factory.mktemp("gradcam")
    for seed, activation in enumerate(("ChaATAC", "relu")):
        run = folder / "params" / activation
        run.mkdir(parents=True)
        network(activation, seed).save_parameters(str(run / "best.params"))
        (run / "best.json").write_text(json.dumps({
            "model": "resnet_v2_cifar", "options": {"blocks": 1, "activation": activation},
            "dataset": DATA}))
    other = folder / "params" / "other"
    other.mkdir()
    (other / "best.params").write_bytes((folder / "params/relu/best.params").read_bytes())
    described = {"model": "resnet_v2_cifar", "options": {"blocks": 1, "activation": "relu"},
                 "dataset": {**DATA, "name": "letters", "class_names": list("abcdefghij")}}
    (other / "best.json").write_text(json.dumps(described))
    photos = folder / "params/photos"
    photos.mkdir()
    (photos / "best.params").write_bytes((folder / "params/relu/best.params").read_bytes())
    described["dataset"]["name"] = "imagenet"
    (photos / "best.json").write_text(json.dumps(described))
    (folder / "folder.png").mkdir()
    damaged = folder / "params/damaged"
    damaged.mkdir()
    (damaged / "best.params").write_bytes((folder / "params/relu/best.params").read_bytes())
    described["dataset"]["class_names"] = {"a": 1}
    (damaged / "best.json").write_text(json.dumps(described))
    (folder / "bare.params").write_bytes((folder / "params/relu/best.params").read_bytes())
    images = folder / "images" / "star"
    images.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / "one.png")
    Image.fromarray(pixels).convert("L").save(folder / "images" / "two.jpg")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs the script within this process; returns what it printed."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("data.get_dataset", drawn_once)

    def run(*arguments):
        assert gradcam.main([*map(str, arguments), "--num-gpus", "0"]) == 0
        return capsys.readouterr().out
    return run


@cache
def drawn_once(*arguments):
    return get_dataset(*arguments)


def size(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def test_everything_at_once(folder, run):
    said = run("--run", "ChaATAC", "relu", "--count", 2, "--gates", 3, "--faithfulness", 2,
               "--method", "grad-cam++", "--output", "all.png")
    width, height = size(folder / "all.png")
    assert width > 800 and height > 200
    for name in ("ChaATAC", "relu"):
        assert min(size(folder / f"all-gates-{name}.png")) > 500
        with open(folder / f"all-gates-{name}.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert [row["unit"] for row in rows] == [name] * 7
    with open(folder / "all-faithfulness.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["network"] for row in rows] == ["ChaATAC", "relu"]
    assert all(0 <= float(row["deletion"]) <= 1 and row["images"] == "2" for row in rows)
    for word in ("gallery:      all.png", "| network", "| features.6 ", "random deletion"):
        assert word in said
    assert not list(folder.glob(".*"))


def test_files_and_a_file_without_a_description(folder, run):
    run("--params", "bare.params", "--model", "atac", "--act-type", "relu", "--blocks", 1,
        "--dataset", "shapes", "--images", "images", "--class", "Star",
        "--layer", "features.3", "--output", "files.png")
    assert min(size(folder / "files.png")) > 200


def test_layers_are_listed(folder):
    result = scripts.run("gradcam.py", "--run", "ChaATAC", "--list-layers", "--num-gpus", 0,
                         cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "features.4.0.act1" in result.stdout
    default, = (line for line in result.stdout.splitlines() if "(default)" in line)
    assert default.split()[:2] == ["features.6", "ChaATAC"] and "64 x 8 x 8" in default


@pytest.mark.parametrize("arguments, words", [
    ([], ["--params or --run"]),
    (["--run", "none"], ["there is no file params/none/best.params"]),
    (["--params", "bare.params"], ["no description beside it", "--model"]),
    (["--params", "bare.params", "--model", "atac", "--blocks", "1", "--dataset", "shape"],
     ["unknown data set 'shape'", "shapes"]),
    (["--params", "bare.params", "--model", "atac", "--blocks", "2", "--dataset", "shapes"],
     ["written by another network"]),
    (["--run", "photos"], ["photos/best.params was trained on imagenet", "--images"]),
    (["--run", "relu", "other"], ["different classes (shapes and letters)"]),
    (["--run", "relu", "--layer", "features.9"],
     ["no layer 'features.9'", "Did you mean 'features.", "--list-layers"]),
    (["--run", "relu", "--class", "stra"], ["unknown class 'stra'", "Did you mean 'star'?"]),
    (["--run", "relu", "--class", "10"], ["unknown class '10'", "0 to 9"]),
    (["--run", "relu", "--indices", "3,2000"], ["no test image 2000", "2,000"]),
    (["--run", "relu", "--indices", "3,x"], ["--indices", "not 'x'"]),
    (["--run", "relu", "--images", "broken.png"], ["broken.png cannot be read as an image"]),
    (["--run", "relu", "--images", "params/relu/best.json"], ["cannot be read as an image"]),
    (["--run", "relu", "--images", "nothing.png"], ["there is no image nothing.png"]),
    (["--run", "relu", "--images", "empty"], ["empty holds no image files"]),
    (["--run", "relu", "--images", "images", "--indices", "1"], ["give one of them"]),
    (["--run", "relu", "--output", "out.jpg"], ["must end in .png"]),
    (["--run", "relu", "--output", "folder.png"], ["folder.png cannot be written"]),
    (["--run", "relu", "--images", "images", "--count", "1"], ["--count takes the first"]),
    (["--run", "damaged"], ["class_names of its data set must be a list of names"]),
    (["--run", "relu", "--output", "away/out.png"], ["there is no folder away"]),
], ids=lambda value: " ".join(value)[:40])
def test_bad_input(arguments, words, run):
    with pytest.raises(UserError) as error:
        run(*arguments)
    assert all(word in str(error.value) for word in words), error.value


def test_a_disk_that_is_full_is_one_line(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("explain.report.gallery", full)
    with pytest.raises(UserError, match="cannot write .*No space left"):
        run("--run", "relu", "--count", 1)


def test_a_cut_photo_is_refused_and_a_deep_one_scaled(tmp_path, monkeypatch):
    """Also where GluonCV has told Pillow to fill what is missing."""
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        content, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(content.getvalue()[:-900])
    with pytest.raises(UserError, match="cut.jpg cannot be read as an image"):
        file_pictures([tmp_path / "cut.jpg"], 32, [])
    Image.fromarray(np.full((32, 32), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    picture, = file_pictures([tmp_path / "deep.png"], 32, [])
    assert abs(int(picture.pixels.mean()) - 128) <= 1


def test_bad_input_ends_in_one_line(folder):
    result = scripts.run("gradcam.py", "--run", "relu", "--layer", "features.9",
                         "--images", "images", "--num-gpus", 0, cwd=folder)
    scripts.assert_user_error(result, "no layer 'features.9'", "--list-layers")


# ---- parts ------------------------------------------------------------------------------------

def test_the_gallery_s_size_follows_its_contents(tmp_path):
    pixels = np.zeros((3, 32, 32), np.uint8)
    picture = Picture(pixels, pixels.transpose(1, 2, 0), "an image", None)
    sizes = {}
    for networks in (1, 2, 4):
        for images in (1, 6):
            columns = [Column("a long name of a run, of two lines at least", np.zeros(
                (images, 8, 8), np.float32), [Caption("disc 50 %", None)] * images)] * networks
            path = tmp_path / f"{networks}-{images}.png"
            draw_gallery(path, [picture] * images, columns, "title")
            sizes[networks, images] = size(path)
    assert sizes[1, 6][0] > sizes[1, 1][0]              # several images side by side
    assert sizes[4, 6][1] > 3 * sizes[4, 1][1]          # or one below the other
    assert sizes[4, 1][0] > sizes[2, 1][0]
    assert not list(tmp_path.glob(".*"))


_LONG = ["resnet18 CBAM at block", "a run WITH WIDE CAPITALS IN ITS NAME", "unbroken" * 20,
         "cifar10-resnet_v2_cifar-b1-ChaATAC-seed0 (epoch-100)"]


@pytest.mark.parametrize("networks, images", [(1, 1), (1, 4), (4, 2)])
def test_no_text_of_a_gallery_reaches_into_another(networks, images, tmp_path, monkeypatch):
    """However long the names of networks, classes and files are; probabilities stay readable."""
    figures = []
    monkeypatch.setattr("explain.figures.save_figure", lambda figure, *_, **__: figures.append(
        figure))
    pixels = np.zeros((3, 32, 32), np.uint8)
    picture = Picture(pixels, pixels.transpose(1, 2, 0), "a file.jpg", "great white shark")
    columns = [Column(name, np.ones((images, 8, 8), np.float32),
                      [Caption(f"GREAT {name} 100 %", True)] * images)
               for name in _LONG[:networks]]
    draw_gallery(tmp_path / "gallery.png", [picture] * images, columns, f"Grad-CAM of {_LONG[3]}"
                 ": what speaks for the predicted class")
    [figure] = figures
    boxes = [text.get_window_extent() for text in figure.texts]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    assert all(figure.bbox.containsx(x) for box in boxes for x in (box.x0, box.x1))
    assert sum(text.get_text().endswith("100 %") for text in figure.texts) == networks * images


def test_captions_tell_right_from_wrong():
    net = network("relu", 0)
    subject = Subject("a", net, partial(Normalize([0.5] * 3, [0.25] * 3), ctx=mx.cpu()), DATA)
    image = drawn_once("shapes", None, None).test.images[0]
    x = subject.to_input(image[None])
    label = int(net(x).asnumpy().argmax())
    cam = report.grad_cam(net, x)
    for name, right in ((CLASSES[label], True), (CLASSES[label - 1], False), (None, None)):
        caption, = report._captions(cam, [Picture(image, image, "", name)], CLASSES)
        assert caption.right is right and caption.text.startswith(CLASSES[label])


def test_overlay_is_grey_where_cold_and_coloured_where_hot():
    image = np.full((16, 16, 3), 128, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 5
    drawn = overlay(image, heat)
    assert drawn.shape == (16, 16, 3) and drawn.min() >= 0 and drawn.max() <= 1
    assert np.ptp(drawn[-1, -1]) < 0.02 < np.ptp(drawn[0, 0])
    assert np.ptp(overlay(image, heat * 0), axis=-1).max() < 0.02    # no heat, no colour
    assert enlarge(heat, 16, 16).argmax() == 0


def test_pictures_of_a_data_set():
    dataset = drawn_once("shapes", None, None)
    first, second = dataset_pictures(dataset, [7, 0])
    np.testing.assert_array_equal(first.pixels, dataset.test.images[7])
    np.testing.assert_array_equal(first.shown, dataset.test.images[7].transpose(1, 2, 0))
    assert second.label == dataset.class_names[dataset.test.labels[0]]


@pytest.mark.parametrize("chosen, expected", [
    ({"indices": (7, 2)}, (7, 2)), ({"count": 3}, (0, 1, 2)), ({}, range(9))])
def test_pictures_are_those_that_the_options_name(chosen, expected):
    dataset = drawn_once("shapes", None, None)
    options = SimpleNamespace(**{"images": None, "indices": None, "count": None, **chosen})
    pictures, _ = gradcam.get_pictures(options, None, lambda: dataset)
    np.testing.assert_array_equal([picture.pixels for picture in pictures],
                                  dataset.test.images[list(expected)])


def test_pictures_of_files_that_the_options_name(folder):
    options = SimpleNamespace(images=[folder / "images"])
    pictures, more = gradcam.get_pictures(options, {"image_size": 32, "class_names": CLASSES}, None)
    expected = file_pictures(image_files(options.images), 32, CLASSES)
    np.testing.assert_array_equal(more(1), [expected[0].pixels])
    assert len(pictures) == len(expected)


def test_pictures_of_files(folder):
    one, two = file_pictures(image_files([folder / "images"]), 32, CLASSES)
    assert (one.label, two.label) == ("star", None)
    assert one.pixels.shape == (3, 32, 32) and one.shown.shape == (50, 50, 3)
    assert one.pixels.dtype == np.uint8 and one.pixels.flags.c_contiguous
    assert (two.pixels[0] == two.pixels[1]).all()       # a grey file
    with pytest.raises(UserError, match="no image"):
        image_files([folder / "none"])


def test_classes_by_name_and_number():
    assert class_index("STAR", CLASSES) == class_index("5", CLASSES) == 5
    assert class_index("2", ["0", "2", "1"]) == 1       # a name comes first
