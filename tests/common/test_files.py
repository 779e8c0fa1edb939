import os

import pytest

from common.files import read_json, replacing, sha256, write_json, write_text


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"value": 0.1 + 0.2})
    assert read_json(path) == {"value": 0.1 + 0.2}
    write_json(path, {"value": 2})
    assert read_json(path) == {"value": 2}
    assert os.listdir(tmp_path) == ["file.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of the ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100000])
def test_what_is_no_json_object_is_refused(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="file.json"):
        read_json(path)


def test_sha256(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256(path).startswith("ba7816bf8f01cfea414140de5dae2223")
