import argparse
import json

import pytest

import train_imagenet
from common.arguments import Parser, threads
from common.errors import UserError
from runs.options import add_run_options, add_training_options


def _parser():
    parser = Parser(prog="test")
    add_training_options(parser, num_epochs=10, batch_size=128, lr=0.2)
    add_run_options(parser, save_period=0)
    return parser


def _config(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_json_sets_defaults_and_the_command_line_wins(tmp_path):
    parser = _parser()
    parser.load_config(_config(tmp_path, {
        "lr": 0.1, "num-epochs": 3, "no_wd": True, "lr_decay_epoch": [1, 2], "name": None}))
    options = parser.parse_args(["--lr", "0.5"])
    assert (options.lr, options.num_epochs, options.no_wd) == (0.5, 3, True)
    assert options.lr_decay_epoch == (1, 2)


@pytest.mark.parametrize("content, message", [
    ({"learning": 1}, "sets unknown options: learning"),
    ({"lr": -1}, "--lr: must be a number above 0, not '-1'"),
    ({"lr": "fast"}, "--lr: must be a number above 0"),
    ({"lr": True}, "--lr cannot be True"),
    ({"lr_mode": "sine"}, "--lr-mode: invalid choice: 'sine'"),
    ({"no_wd": 1}, "--no-wd must be true or false"),
    ({"num_epochs": [1, 2]}, "must be a whole number"),
    ({"name": {"a": 1}}, "--name cannot be"),
    ({"overwrite": True}, "sets overwrite, which can only be given on the command line"),
    ({"lr": 0.1, "resume": "auto"}, "sets resume, which"),
    ({"summary": False, "help": True}, "sets help, summary, which"),
    ({"config": "other.json"}, "sets config, which"),
    ({"==SUPPRESS==": True}, "sets unknown options"),
    ({"save_dir": "a\0b"}, "--save-dir: no name or number has the characters of 'a.x00b'"),
    ({"log_dir": "\ud800"}, "--log-dir: no name or number has the characters"),
    ({"resume_from": "\0"}, "--resume-from.*: no name or number has the characters"),
    ({"num_epochs": 10 ** 400}, "from 1 to 1000000, not '10+... .401 characters"),
    ('{"num_epochs": 1' + 5000 * "0" + "}", "is not a JSON file"),
    ({"lr": 1e39}, "--lr: must be a number above 0, within float32"),
    ("[1]", "must hold a JSON object"),
    ("{", "is not a JSON file"),
])
def test_json_errors(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        _parser().load_config(_config(tmp_path, content))


def test_a_missing_config(tmp_path):
    with pytest.raises(UserError, match="cannot read --config"):
        _parser().load_config(tmp_path / "none.json")


@pytest.mark.parametrize("argv, message", [
    (["--lr", "0"], "--lr: must be a number above 0, not '0'"),
    (["--lr", "nan"], "must be a number above 0"),
    (["--num-epochs", "0"], "must be a whole number from 1 to 1000000"),
    (["--momentum", "1"], "must be a number from 0 to less than 1"),
    (["--lr-decay-epoch", "30,20"], "must be increasing epochs"),
    (["--lr-decay-epoch", "30,30"], "must be increasing epochs"),
    (["--num-epochs", 400 * "9"], "from 1 to 1000000"),
    (["--num-epochs", "2147483647"], "from 1 to 1000000"),
    (["--num-epochs", 5000 * "9"], "must be a whole number from 1"),
    (["--batch-size", "2147483648"], "at least 1, up to 2147483647"),
    (["--lr-decay-period", "1" + 400 * "0"], "at least 0, up to 2147483647"),
    (["--lr-decay-epoch", "3," + 400 * "9"], "must be increasing epochs .* not '3,9+..."),
    (["--lr", "1e39"], "--lr: must be a number above 0, within float32 .up to 3.4e38., not '1e39'"),
    (["--lr", "1e400"], "must be a number above 0"),
    (["--lr", "1e-50"], "above 0 in float32, where it is 0"),
    (["--wd", "1e39"], "at least 0, within float32"),
    (["--final-lr=-1e39"], "at least 0, within float32"),
    (["--mixup", "1e300"], "at least 0, within float32"),
    (["--momentum", "0.9999999999"], "less than 1 in float32, where it is 1"),
    (["--seed", "-1"], "must be a whole number from 0"),
    (["--batch", "3"], "unrecognized arguments: --batch 3"),
])
def test_errors_name_the_range(argv, message):
    with pytest.raises(UserError, match=message):
        _parser().parse_args(argv)


@pytest.mark.parametrize("argv, expected", [([], 0.0), (["--mixup"], 0.2), (["--mixup", "1"], 1.0)])
def test_flags_with_an_optional_number(argv, expected):
    assert _parser().parse_args(argv).mixup == expected


@pytest.mark.parametrize("text", ["1025", 400 * "9", 5000 * "9", "-1", "x"])
def test_a_range_names_both_of_its_ends_once(text):
    with pytest.raises(argparse.ArgumentTypeError, match="a whole number from 0 to 1024, not"):
        threads(text)
    assert threads("1024") == 1024


def test_a_file_sets_an_option_that_flags_set_too(tmp_path):
    parser = train_imagenet.make_parser()
    parser.load_config(_config(tmp_path, {"attention": "CBAM", "mode": "imperative"}))
    options = parser.parse_args([])
    assert (options.attention, options.mode) == ("CBAM", "imperative")
    options = parser.parse_args(["--use_se", "--use-gn"])
    assert (options.attention, options.norm_layer) == ("SE", "GroupNorm")


def test_help_says_each_default_also_if_it_is_0():
    parser = Parser(prog="test")
    for flag, default in (("--zero", 0), ("--none", None), ("--off", False), ("--some", 5)):
        parser.add_argument(flag, default=default, help=f"{flag[2:]} text")
    shown = parser.format_help()
    assert "zero text (default: 0)" in shown and "some text (default: 5)" in shown
    assert shown.count("default:") == 2
