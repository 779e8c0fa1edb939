import fcntl
import os
import subprocess
import sys

import pytest

from common import files
from common.errors import FileError
from common.files import (
    append_rows,
    check_not_input,
    read_json,
    replacing,
    scratch_folder,
    sha256,
    write_json,
    write_text,
)
from tests.scripts import ROOT


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


@pytest.mark.parametrize("encoding, message", [
    ("utf-8-sig", None), ("utf-16", "not UTF-8 text but UTF-16: save it as UTF-8"),
    ("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16"),
    ("latin-1", "not UTF-8 text but another encoding, such as Latin-1")])
def test_a_json_file_of_another_encoding_is_named_with_it(encoding, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes('{"name": "größer"}'.encode(encoding))
    if message is None:
        assert read_json(path) == {"name": "größer"}
        return
    with pytest.raises(FileError, match=message):
        read_json(path)


def test_sha256(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256(path).startswith("ba7816bf8f01cfea414140de5dae2223")


# ---- what killed processes leave ---------------------------------------------------------------

_WRITING = """
import sys
from pathlib import Path
from common.files import replacing, scratch_folder
out = Path(sys.argv[1])
with scratch_folder(out, "set") as folder, replacing(out / "net.onnx") as temporary:
    for path in (folder / "part", temporary):
        path.write_bytes(bytes(1000))
    print("written", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_by_the_next_and_nothing_else(tmp_path):
    strange = [".other.77.tmp.onnx", ".net.onnx.old", ".net.onnx.7.tmpfile", ".a.partial",
               ".set.12.partial"]
    for name in strange:
        (tmp_path / name).touch()
    processes = [subprocess.Popen([sys.executable, "-c", _WRITING, tmp_path], cwd=ROOT, text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                 for _ in range(2)]
    try:
        for process in processes:
            assert process.stdout.readline() == "written\n"
        processes[0].kill()
        processes[0].wait()
        with scratch_folder(tmp_path, "another"):
            write_text(tmp_path / "net.onnx", "text")
        left = {path.name for path in tmp_path.iterdir()} - {*strange, "net.onnx"}
        pid = processes[1].pid
        assert {name[:name.index(str(pid))] for name in left} == {".set.", ".net.onnx."}
        processes[1].communicate("")
        assert {path.name for path in tmp_path.iterdir()} == {*strange, "net.onnx"}
        assert (tmp_path / "net.onnx").read_bytes() == bytes(1000)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_another_process_may_remove_a_temporary_file_before_it_is_locked(tmp_path, monkeypatch):
    lock, removed = fcntl.flock, []

    def flock(descriptor, operation):
        if not removed:    # another process takes it for left behind
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    write_text(tmp_path / "net.json", "text")
    assert removed and [path.name for path in tmp_path.iterdir()] == ["net.json"]
    assert (tmp_path / "net.json").read_text() == "text"


def test_a_temporary_file_of_a_writing_process_is_left_alone(tmp_path):
    with replacing(tmp_path / "net.json") as first:
        first.write_text("first")
        files._remove_left(tmp_path, lambda name: True)
        assert first.read_text() == "first"


def test_a_scratch_folder_goes_with_its_block_and_may_become_another(tmp_path):
    with pytest.raises(KeyError), scratch_folder(tmp_path / "new", "set") as folder:
        (folder / "part").touch()
        raise KeyError
    with scratch_folder(tmp_path / "new", "set") as folder:
        (folder / "part").touch()
        folder.rename(tmp_path / "new" / "set")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "new", "new/set", "new/set/part"]


def test_rows_of_several_processes_are_all_there(tmp_path):
    program = ("import sys; from common.files import append_rows\n"
               "for row in range(25): append_rows(sys.argv[1], 'a,b', f'{sys.argv[2]},{row}\\n')")
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "table.csv"),
                                 str(number)], cwd=ROOT)
               for number in range(4)]
    assert [writer.wait() for writer in writers] == 4 * [0]
    header, *rows = (tmp_path / "table.csv").read_text().splitlines()
    assert header == "a,b"
    assert sorted(rows) == sorted(f"{n},{row}" for n in range(4) for row in range(25))


def test_a_row_that_finds_no_room_leaves_the_table_as_it_was(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n")
    program = ("import resource, sys; from common.files import append_rows\n"
               "resource.setrlimit(resource.RLIMIT_FSIZE, (12, 12))\n"
               "append_rows(sys.argv[1], 'a,b', '1234,5678\\n', '--csv')")
    done = subprocess.run([sys.executable, "-c", program, str(path)], text=True,
                          capture_output=True, cwd=ROOT)
    assert "FileError: cannot write --csv" in done.stderr and "too large" in done.stderr
    assert path.read_text() == "a,b\n1,2\n"


def test_a_table_cut_short_gets_whole_rows(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2")
    append_rows(path, "a,b", "3,4\n")
    assert path.read_text() == "a,b\n1,2\n3,4\n"
    append_rows(tmp_path / "new.csv", "a,b", "")
    assert (tmp_path / "new.csv").read_text() == "a,b\n"
    with pytest.raises(FileError, match="is another table"):
        append_rows(path, "a", "3\n")


def test_an_output_is_no_input(tmp_path):
    path = tmp_path / "net.params"
    path.write_text("weights")
    for other in ("link", "hard"):
        getattr(os, {"link": "symlink", "hard": "link"}[other])(path, tmp_path / other)
        with pytest.raises(FileError, match="is read, and cannot be written"):
            check_not_input(tmp_path / other, tmp_path / "absent", path)
    check_not_input(tmp_path / "new", path)
