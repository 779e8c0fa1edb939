"""export.py without what a format needs, or with options of another format."""
from types import SimpleNamespace

import numpy as np
import pytest

import export
from common.errors import UserError
from data.dataset import ImageSet
from exporting.command import calibration_batches
from tests.scripts import ROOT, assert_user_error, run

RELEASED = ROOT / "params" / "cifar10-relu-b1.params"


@pytest.mark.parametrize("form, argv", [
    ("mxnet", ["--check"]), *((form, argv) for form in ("mxnet", "pytorch") for argv in (
        ["--int8"], ["--with-normalisation"], ["--opset", "13"], ["--calibration-images", "9"]))])
def test_options_of_another_format_are_refused_by_name(form, argv):
    with pytest.raises(UserError, match=f"{argv[0]} is for --format onnx"):
        export.main(["--params", "a.params", "--format", form, *argv])


def test_nothing_is_calibrated_but_8_bits():
    with pytest.raises(UserError, match="--calibration-images says how many calibrate --int8"):
        export.main(["--params", "a.params", "--calibration-images", "9"])


def test_without_pytorch_a_line_says_what_to_install(tmp_path):
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError('No module named torch', name='torch')")
    done = run("export.py", "--params", RELEASED, "--output", tmp_path / "net", "--format",
               "pytorch", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert_user_error(done, "torch is not installed", "make env EXTRAS=pytorch")
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".py"] == ["torch.py"]
    assert not list(tmp_path.glob("net*"))


def test_as_many_images_calibrate_as_are_asked_for_from_all_over_the_training_set():
    images = np.arange(200, dtype=np.uint8).reshape(-1, 1, 1, 1)
    dataset = SimpleNamespace(train=ImageSet(images, images))
    found = list(calibration_batches(
        SimpleNamespace(calibration_images=100, with_normalisation=True), {}, dataset))
    assert [len(batch) for batch in found] == [64, 36]
    np.testing.assert_array_equal(np.concatenate(found).ravel(),
                                  np.linspace(0, 199, 100).astype(int))
