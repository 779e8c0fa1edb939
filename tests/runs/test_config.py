"""What a run makes of its options."""
import json

import pytest

from common.arguments import Parser
from common.errors import UserError
from runs.config import resolve_options
from runs.options import add_device_options, add_run_options
from runs.train import check_precision


def _parser():
    parser = Parser(prog="test")
    add_device_options(parser)
    add_run_options(parser, save_period=0)
    return parser


@pytest.mark.parametrize("stored, typed, expected", [
    ({"num_gpus": 2}, ["--gpus", "0,1"], ("0,1", None)),
    ({"gpus": "3"}, ["--num-gpus", "0"], (None, 0)),
    ({"gpus": "3"}, [], ("3", None)),
    ({"num_gpus": 2}, ["--num-gpus", "1"], (None, 1)),
])
@pytest.mark.parametrize("how", ["--resume", "--config"])
def test_typed_devices_replace_those_of_a_file(how, stored, typed, expected, tmp_path,
                                               monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "logs/run"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(stored))
    path = "logs/run" if how == "--resume" else "logs/run/config.json"
    options = resolve_options(_parser(), [how, path, *typed])
    assert (options.gpus, options.num_gpus) == expected


def test_both_ways_to_name_devices_stay_two(tmp_path):
    options = resolve_options(_parser(), ["--gpus", "0", "--num-gpus", "1"])
    assert (options.gpus, options.num_gpus) == ("0", 1)    # for select_contexts to refuse


def test_synchronised_normalisation_has_no_float16():
    options = _parser().parse_args(["--dtype", "float16"])
    options.norm_layer = "SyncBatchNorm"
    with pytest.raises(UserError, match="computes in float32 only"):
        check_precision(options, ("gpu:0",))
    options.norm_layer = "BatchNorm"
    check_precision(options, ("gpu:0",))
