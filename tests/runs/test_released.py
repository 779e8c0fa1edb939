"""Released parameters are verified before they are read."""
import hashlib

import pytest

import evaluate
from model.zoo import build
from runs import released as listed
from runs.released import Released, find_released, released_by_name
from runs.weights import WeightsError


@pytest.fixture
def released(tmp_path, monkeypatch):
    content = b"parameters"
    (tmp_path / "net.params").write_bytes(content)
    entry = Released("net-cifar10", "net.params", len(content),
                     hashlib.sha256(content).hexdigest(), "cifar10", 10, "resnet_v2_cifar",
                     {"blocks": 1, "activation": "ChaATAC"}, {"val_accuracy": 0.9, "epoch": 0})
    monkeypatch.setattr(listed, "_PARAMS_FOLDER", tmp_path)
    monkeypatch.setattr(listed, "RELEASED", [entry])
    return entry


def test_a_released_file_is_found_by_name_and_by_network(released):
    assert released_by_name("NET-cifar10") is released
    assert find_released(released.description, "cifar10") is released


@pytest.mark.parametrize("content, message", [
    (b"parameterz", "its SHA-256 is"), (b"short", "it has 5 bytes instead of 10")])
def test_a_changed_file_is_refused(content, message, released):
    released.path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        released_by_name("net-cifar10")


def test_a_missing_file_is_named(released):
    released.path.unlink()
    with pytest.raises(WeightsError, match=r"no file .*net\.params"):
        released.verify()


def test_what_is_not_released_is_said(released):
    with pytest.raises(WeightsError, match="named other; released: net-cifar10"):
        released_by_name("other")
    with pytest.raises(WeightsError, match="no parameters of this resnet_v2_cifar on cifar100"):
        find_released(released.description, "cifar100")


def test_what_is_released_is_listed(released, capsys):
    [row] = listed.list_released()
    assert (row["name"], row["data set"], row["test accuracy %"]) == ("net-cifar10", "cifar10",
                                                                     "90.00")
    assert evaluate.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert all(str(value) in said for value in row.values())


def test_all_entries_build_and_their_files_are_whole():
    for entry in listed.RELEASED:
        build(entry.description, classes=10)
        entry.verify()
