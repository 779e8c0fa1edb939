"""What a run makes of its options."""
import json

import pytest

from common.arguments import Parser
from common.errors import UserError
from runs.config import recorded_threads, resolve_options
from runs.engines import check_precision
from runs.options import add_device_options, add_run_options


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


@pytest.mark.parametrize("stored, typed, mode", [
    ("hybrid", [], "hybrid"), ("imperative", [], "imperative"),
    ("hybrid", ["--no-compile"], "imperative"), ("imperative", ["--mode", "hybrid"], "hybrid")])
def test_no_compile_is_another_word_for_the_imperative_mode(stored, typed, mode, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"mode": stored}))
    argv = ["--config", str(tmp_path / "config.json"), *typed]
    assert resolve_options(_parser(), argv).mode == mode
    assert resolve_options(_parser(), typed).mode == (mode if typed else "hybrid")


def test_both_ways_to_name_devices_stay_two(tmp_path):
    options = resolve_options(_parser(), ["--gpus", "0", "--num-gpus", "1"])
    assert (options.gpus, options.num_gpus) == ("0", 1)    # for select_contexts to refuse


def test_synchronised_normalisation_has_no_float16():
    options = _parser().parse_args(["--dtype", "float16", "--engine", "mxnet"])
    options.norm_layer = "SyncBatchNorm"
    with pytest.raises(UserError, match="computes in float32 only"):
        check_precision(options, ("gpu:0",))
    options.norm_layer = "BatchNorm"
    check_precision(options, ("gpu:0",))


@pytest.mark.parametrize("argv, expected", [
    ([], None), (["--resume", "logs/first"], 1), (["--resume", "--name", "second"], 2),
    (["--resume", "--name", "none"], None),
    # Without a name it is the run that was begun with these options.
    (["--resume", "--dtype", "float16"], 2), (["--resume", "--mode", "imperative"], None)])
def test_the_threads_of_the_run_that_is_resumed(argv, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stored = '{"threads": %d, "mode": "hybrid", "dtype": "%s"}'
    for name, text in (("damaged", "{"), ("first", stored % (1, "float32")),
                       ("second", stored % (2, "float16"))):
        (tmp_path / "logs" / name).mkdir(parents=True)
        (tmp_path / "logs" / name / "config.json").write_text(text)
    assert recorded_threads(resolve_options(_parser(), argv)) == expected


@pytest.mark.parametrize("threads", ["0", "1025", "true", "1.5", '"2"', "[2]"])
def test_a_number_of_threads_that_none_can_have_is_refused(threads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs/run").mkdir(parents=True)
    (tmp_path / "logs/run/config.json").write_text(f'{{"threads": {threads}}}')
    with pytest.raises(UserError, match="config.json: threads must be a whole number from 1 to"):
        recorded_threads(resolve_options(_parser(), ["--resume", "logs/run"]))
