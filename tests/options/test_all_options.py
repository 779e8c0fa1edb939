"""Every option of every script that changes what is computed has a test that looks at it."""
import importlib
from pathlib import Path

import pytest

from tests.options.runs import COVERED, computing
from tests.scripts import ROOT

for _path in sorted(Path(__file__).parent.glob("test_*_options.py")):
    importlib.import_module(f"tests.options.{_path.stem}")


# What other files test, and what predicting networks do not have.
_RELEASED, _EXPORT, _GRADCAM = ("tests/test_released.py", "tests/test_export.py",
                                "tests/test_gradcam.py")
_INT8 = (_EXPORT, "test_check_and_int8")
_OF_TRAINING = ("tests/options/test_imagenet_options.py",
                "test_dropout_stands_before_the_classifier")
_CUT = ("tests/options/test_looking_options.py",    # export.py opens data by evaluate.py
        "test_photographs_are_cut_as_the_options_say")
_RECORDS = ("tests/test_train_imagenet.py", "test_evaluation_counts_and_tabulates")
_AT_ONCE = (_GRADCAM, "test_everything_at_once")
ELSEWHERE = {
    "evaluate.py": {
        "all_released": (_RELEASED,
                         "test_all_released_files_are_scored_beside_their_listed_figures"),
        "pretrained": (_RELEASED, "test_a_released_network_scores_exactly_what_is_listed"),
        "use_rec": _RECORDS, "drop_rate": _OF_TRAINING, "final_drop": _OF_TRAINING,
        "last_gamma": _OF_TRAINING},
    "export.py": {
        "pretrained": (_RELEASED, "test_a_released_network_is_exported_by_name"),
        "check": _INT8, "int8": _INT8, "limit_test": _INT8, "calibration_images": _INT8,
        "use_rec": _RECORDS, "crop_ratio": _CUT, "drop_rate": _OF_TRAINING,
        "norm_layer": ("tests/options/test_looking_options.py",    # read by evaluate.py
                       "test_the_options_of_the_imagenet_networks"),
        "final_drop": _OF_TRAINING, "last_gamma": _OF_TRAINING},
    "gradcam.py": {
        "gates": _AT_ONCE, "run": _AT_ONCE, "list_layers": (_GRADCAM, "test_layers_are_listed"),
        "images": (_GRADCAM, "test_pictures_of_files"),
        "indices": (_GRADCAM, "test_bad_input"), "drop_rate": _OF_TRAINING},
    "train_cifar.py": {"new_classifier": (
        "tests/runs/test_weights.py", "test_a_new_classifier_is_drawn_and_the_rest_taken_over")},
    "train_imagenet.py": {"new_classifier": (
        "tests/runs/test_weights.py",
        "test_a_released_network_is_trained_on_for_other_photographs")}}


@pytest.mark.parametrize("script", sorted(COVERED))
def test_every_option_that_computes_has_a_test(script):
    elsewhere = ELSEWHERE.get(script, {})
    for path, test in elsewhere.values():
        assert f"def {test}(" in (ROOT / path).read_text(), f"{path} has lost {test}"
    missing = computing(script) - COVERED[script] - elsewhere.keys()
    assert not missing, f"nothing here fails if {script} reads and drops {sorted(missing)}"
