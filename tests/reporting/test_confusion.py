import json
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest

from data import ImageSet
from data.batches import Batches
from engines.gluon import GluonPredictor, Normalize
from reporting.confusion import confusion_matrix, most_confused, to_csv
from reporting.report import confusions
from reporting.runs import load_run
from tests.reporting.run_folders import write_run


class _Brightness(mx.gluon.nn.HybridBlock):
    """Class 0 for dark images, 1 for grey ones, 2 for bright ones."""

    def hybrid_forward(self, F, x):
        value = x.mean(axis=(1, 2, 3))
        return F.stack(0.3 - value, 0 * value, value - 0.7, axis=1)


def test_every_image_counts_once_under_its_class():
    values = np.array([0, 0, 128, 255, 255, 255, 128], np.uint8)
    labels = np.array([0, 1, 1, 2, 2, 0, 1], np.int64)
    images = np.broadcast_to(values[:, None, None, None], (7, 3, 32, 32)).copy()
    batches = Batches(ImageSet(images, labels), 4, train=False)
    predictor = GluonPredictor(_Brightness(), Normalize([0] * 3, [1] * 3), [mx.cpu()])
    matrix = confusion_matrix(predictor, batches, 3)
    assert matrix.tolist() == [[1, 0, 1], [1, 2, 0], [0, 0, 2]]
    assert most_confused(matrix, ["dark", "grey", "bright"]) == [
        ("dark", "bright", 0.5), ("grey", "dark", 1 / 3)]
    assert to_csv(matrix, ["dark", "grey", "a,b"]).splitlines()[1:] == [
        "dark,1,0,1", "grey,1,2,0", '"a,b",0,0,2']


@pytest.mark.parametrize("of, doubted", [("test", True), ("validation", False)])
def test_only_an_accuracy_on_the_same_images_can_be_in_doubt(of, doubted, tmp_path, monkeypatch):
    folder = write_run(tmp_path, "run", accuracy=0.5)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "val_name": of}))
    monkeypatch.setattr("reporting.confusion.evaluate_run",
                        lambda *_: (np.diag([5, 5]), ["a", "b"]))
    shown = confusions(SimpleNamespace(data_dir=None), [load_run(folder)], tmp_path)
    assert "accuracy 100.00 % of 10 images" in shown
    assert ("params or data are not what they were" in shown) == doubted
