"""Downloading from a real server on this machine, and unpacking with suspicion."""
import gzip
import http.server
import io
import os
import resource
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

import data
from data import download
from data.cifar import _NAMES_FILES
from data.download import fetch, unpack
from tests.scripts import ROOT

from .cifar_files import LAYOUTS, archive, good_members, member

LAYOUT = LAYOUTS["cifar10"]


@pytest.fixture
def serve():
    """A server of the files put into the returned dict: path -> bytes.

    A path under /short promises twice the bytes it sends.
    """
    files = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path not in files:
                self.send_error(404)
                return
            content = files[self.path]
            self.send_response(200)
            promised = len(content) * (2 if self.path.startswith("/short") else 1)
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_args):
            """Keep the test's output quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield files, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def get(url, folder, lines=None):
    log = (lambda line: None) if lines is None else lines.append
    return data.get_dataset("cifar10", data_dir=folder, data_url=url, log=log)


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name != LAYOUT.subfolder]


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_good_archive_is_unpacked_once(name, serve, tmp_path):
    files, url = serve
    content, md5 = archive(good_members(LAYOUTS[name]))
    files["/set.tar.gz"] = content
    lines = []
    for _ in range(2):    # the second time without the server
        dataset = data.get_dataset(name, data_dir=tmp_path / "new" / "folder",
                                   data_url=f"{url}/set.tar.gz#md5={md5}", log=lines.append)
        files.clear()
    assert len(dataset.train) == 5 * len(LAYOUTS[name].train_files)
    assert dataset.class_names[0] == "class0"
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == [
        LAYOUTS[name].subfolder]
    assert sum("downloading" in line for line in lines) == 1
    assert any("MB/s" in line for line in lines)


def test_without_a_sum_of_its_own_the_official_one_holds(serve, tmp_path):
    files, url = serve
    files["/set.tar.gz"], _ = archive(good_members(LAYOUT))
    with pytest.raises(data.DataError, match=f"instead of {LAYOUT.md5}: a wrong or damaged"):
        get(f"{url}/set.tar.gz", tmp_path)
    assert leftovers(tmp_path) == []


def test_a_broken_transfer(serve, tmp_path):
    files, url = serve
    content, md5 = archive(good_members(LAYOUT))
    files["/short.tar.gz"] = content
    with pytest.raises(data.DataError, match="broke off after .* of"):
        get(f"{url}/short.tar.gz#md5={md5}", tmp_path)
    assert leftovers(tmp_path) == []


def test_the_error_is_one_line_with_the_ways_out(serve, tmp_path):
    _, url = serve
    with pytest.raises(data.DataError) as caught:
        get(f"{url}/nothing.tar.gz", tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(tmp_path), "Not Found", "data_batch_1.bin", "test_batch.bin",
                 "--data-dir", "--data-url", "--dataset shapes"):
        assert part in message


@pytest.mark.parametrize("url, message", [
    ("http://127.0.0.1:1/set.tar.gz", "refused"),
    ("gopher://127.0.0.1/set.tar.gz", "unknown url type"),
    ("no-url", "unknown url type"),
    ("http://127.0.0.1:1/set.tar.gz#md5=123", "32 hexadecimal digits"),
    ("http://127.0.0.1:1/set.tar.gz#none", "32 hexadecimal digits"),
])
def test_urls_that_lead_nowhere(url, message, tmp_path):
    with pytest.raises(data.DataError, match=message):
        get(url, tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(data.DataError, match="could not be downloaded"):
        get("http://127.0.0.1:1/set.tar.gz", tmp_path / "file" / "folder")


def test_a_silent_server_times_out(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/set"
        with pytest.raises(data.DataError, match="timed out"):
            fetch(url, LAYOUT.md5, tmp_path / "set", timeout_s=0.2)


def _trickle(connection, head):
    """Send `head` at once, then a byte now and then, until the other end is gone."""
    connection.recv(1 << 16)
    connection.sendall(head)
    try:
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)
    except OSError:
        connection.close()


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ",
                                  b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"],
                         ids=["status", "header", "content"])
def test_a_server_that_sends_byte_by_byte_has_a_deadline(head, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as slow:
        server = threading.Thread(target=lambda: _trickle(slow.accept()[0], head), daemon=True)
        server.start()
        url = f"http://127.0.0.1:{slow.getsockname()[1]}/set"
        with pytest.raises(data.DataError, match="the transfer took more than 0.3 s"):
            fetch(url, LAYOUT.md5, tmp_path / "set", timeout_s=5, deadline_s=0.3)


def test_a_server_s_words_are_no_commands_to_the_screen(tmp_path):
    def answer():
        connection, _ = server.accept()
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 404 \x1b[31mred\x07\r\n\r\n")
        connection.close()
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(data.DataError) as caught:
            get(f"http://127.0.0.1:{server.getsockname()[1]}/\x1bset", tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_a_file_url_of_no_archive(kind, tmp_path):
    path = tmp_path / "set.tar.gz"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with open(path, "wb") as stream:
            stream.truncate(1 << 40)
    with pytest.raises(data.DataError, match="it is no regular file|bytes, more than the"):
        get(f"{path.as_uri()}#md5={'0' * 32}", tmp_path / "out")


def test_a_killed_download_is_cleaned_up_by_the_next(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/set"
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys, data; data.get_dataset('cifar10', *sys.argv[1:])",
             tmp_path, url], cwd=ROOT)
        try:
            connection, _ = silent.accept()     # it has come as far as the server
            assert len(leftovers(tmp_path)) == 1
        finally:
            process.kill()
            process.wait()
        connection.close()
    content, md5 = archive(good_members(LAYOUT))
    (tmp_path / "set.tar.gz").write_bytes(content)
    get(f"{(tmp_path / 'set.tar.gz').as_uri()}#md5={md5}", tmp_path)
    assert leftovers(tmp_path) == ["set.tar.gz"]


def test_an_endless_transfer_is_cut_off(serve, tmp_path, monkeypatch):
    files, url = serve
    files["/set"] = bytes(1 << 20)
    monkeypatch.setattr(download, "MAX_ARCHIVE_BYTES", 1 << 19)
    with pytest.raises(data.DataError, match="more than 524,288 bytes"):
        fetch(f"{url}/set", LAYOUT.md5, tmp_path / "set", log=lambda line: None)


def test_a_file_url(tmp_path):
    content, md5 = archive(good_members(LAYOUT))
    (tmp_path / "set.tar.gz").write_bytes(content)
    url = (tmp_path / "set.tar.gz").as_uri()
    assert len(get(f"{url}#md5={md5}", tmp_path / "unpacked").train) == 25


def test_downloads_side_by_side(serve, tmp_path):
    files, url = serve
    content, md5 = archive(good_members(LAYOUT))
    files["/set.tar.gz"] = content
    counts = []
    threads = [threading.Thread(target=lambda: counts.append(
        len(get(f"{url}/set.tar.gz#md5={md5}", tmp_path).train))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [25] * 6
    assert leftovers(tmp_path) == []


def evil(extra):
    """A good archive with one more member."""
    return good_members(LAYOUT) + [extra]


LARGEST = LAYOUT.max_bytes["test_batch.bin"]


@pytest.mark.parametrize("members, message", [
    (evil(member("../../escaped.bin", b"x")), "leads out"),
    (evil(member("cifar-10-batches-bin/../../test_batch.bin", b"x")), "leads out"),
    (evil(member("/tmp/escaped.bin", b"x")), "leads out"),
    (evil(member("..\\escaped.bin", b"x")), "leads out"),
    (evil(member("link.bin", type=tarfile.SYMTYPE, linkname="/etc/passwd")), "link or device"),
    (evil(member("link.bin", type=tarfile.LNKTYPE, linkname="/etc/passwd")), "link or device"),
    (evil(member("null", type=tarfile.CHRTYPE)), "link or device"),
    (evil(member("pipe", type=tarfile.FIFOTYPE)), "link or device"),
    (evil(member("test_batch.bin", b"x")), "test_batch.bin twice"),
    (evil(member("huge", bytes(LARGEST + 1))), "a member of 30,730,001 bytes"),
    (evil(member("batches.meta.txt.d", b"x"))[:-2], "lacks test_batch.bin"),
    ([member(f"file{number}") for number in range(101)], "more than 100 members"),
    ([member("batches.meta.txt", bytes(70000))], "70,000 bytes, more than"),
    ([], "lacks data_batch_1.bin, data_batch_2.bin"),
], ids=["up", "up-inside", "absolute", "backslash", "symlink", "hardlink", "device", "fifo",
        "twice", "huge", "missing", "many", "long-names", "empty"])
def test_archives_that_are_refused(members, message, serve, tmp_path):
    files, url = serve
    content, md5 = archive(members)
    files["/evil.tar.gz"] = content
    (tmp_path / "outer").mkdir()
    with pytest.raises(data.DataError, match=message):
        get(f"{url}/evil.tar.gz#md5={md5}", tmp_path / "outer" / "inner")
    assert [path.name for path in tmp_path.rglob("*")] == ["outer", "inner"]


@pytest.mark.parametrize("damage", [
    lambda content: content[:len(content) // 2],
    lambda content: content[:2000] + bytes(500) + content[2500:],
    lambda content: b"<html>not an archive</html>",
    lambda content: b"",
], ids=["half", "zeros", "html", "nothing"])
def test_archives_that_are_damaged(damage, tmp_path):
    content, _ = archive(good_members(LAYOUT))
    (tmp_path / "archive.tar.gz").write_bytes(damage(content))
    (tmp_path / "out").mkdir()
    with pytest.raises(data.DataError, match="cannot be unpacked|lacks"):
        unpack(tmp_path / "archive.tar.gz", tmp_path / "out", LAYOUT.max_bytes)


# ---- archives that are made to be read without end ---------------------------------------------

def _unpacked(plain, folder):
    """The names that are written from a tar of so many bytes, with little memory to do it in."""
    (folder / "archive.tar.gz").write_bytes(gzip.compress(plain, 1))
    (folder / "out").mkdir()
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 28), before[1]))
    try:
        unpack(folder / "archive.tar.gz", folder / "out", LAYOUT.max_bytes, _NAMES_FILES)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    return {path.name for path in (folder / "out").iterdir()}


def _header(kind, size, name="x"):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def _tar(members, format):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_every_tar_are_read(format, tmp_path):
    members = good_members(LAYOUT)
    for info, _ in members:
        info.mtime = 1234567890.25      # for which PAX has an extended header
        info.uname = "nobody" if format != tarfile.PAX_FORMAT else "néant"
    assert _unpacked(_tar(members, format), tmp_path) == {*LAYOUT.files, LAYOUT.names_file}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME,
                                  tarfile.GNUTYPE_LONGLINK])
def test_extended_headers_are_small_and_few(kind, tmp_path):
    good = _tar(good_members(LAYOUT), tarfile.GNU_FORMAT)
    for part in ("large", "huge", "many"):
        (tmp_path / part).mkdir()
    with pytest.raises(data.DataError, match="extended header of 1,048,576 bytes"):
        _unpacked(_header(kind, 1 << 20) + bytes(1 << 20) + good, tmp_path / "large")
    with pytest.raises(data.DataError, match="extended header of 8,000,000,000 bytes"):
        _unpacked(_header(kind, 8 * 10 ** 9) + bytes(1 << 20), tmp_path / "huge")
    with pytest.raises(data.DataError, match="more than 100 members"):
        _unpacked(_header(kind, 0) * 5000 + good, tmp_path / "many")


def test_sparse_members_are_refused(tmp_path):
    content = _header(tarfile.GNUTYPE_SPARSE, 512, "cifar-10-batches-bin/data_batch_1.bin")
    with pytest.raises(data.DataError, match="sparse file"):
        _unpacked(content + bytes(1 << 16), tmp_path)


def test_sizes_below_nothing_are_refused(tmp_path):
    block = bytearray(_header(tarfile.REGTYPE, 0))
    block[124:136] = b"\xff" * 12       # -1 in the notation of large numbers
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(data.DataError, match="a member of -1 bytes"):
        _unpacked(bytes(block) + bytes(1 << 12), tmp_path)


def test_what_is_not_expected_is_little(tmp_path):
    members = [member(f"other{k}", bytes(LAYOUT.max_bytes["test_batch.bin"])) for k in range(9)]
    with pytest.raises(data.DataError, match="more than the files that are expected"):
        _unpacked(_tar(members, tarfile.GNU_FORMAT), tmp_path)
