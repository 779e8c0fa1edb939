"""common/params.py against MXNet itself, and against files that are not sound."""
import pickle
import struct

import mxnet as mx
import numpy as np
import pytest

from common.params import (
    ParamsError,
    check_params,
    difference,
    parse_params,
    read_params,
    write_params,
)
from runs.weights import WeightsError, read_weights
from tests import golden_cases
from tests.torture import fuzz_params

GOLDEN = sorted(golden_cases.FOLDER.glob("*.params"))
_HEAD = struct.pack("<QQQ", 0x112, 0, 1)


def _record(shape=(2,), data=bytes(8), magic=0xF993FAC9, storage=0, device=1, flag=0, ndim=None):
    ndim = len(shape) if ndim is None else ndim
    return (struct.pack("<Iii", magic, storage, ndim) + struct.pack(f"<{len(shape)}q", *shape)
            + struct.pack("<iii", device, 0, flag) + data)


def _names(*names, count=None):
    return struct.pack("<Q", len(names) if count is None else count) + b"".join(
        struct.pack("<Q", len(name)) + name for name in names)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_it_reads_what_mxnet_reads(path):
    ours, mxnets = read_params(path), mx.nd.load(str(path))
    assert list(ours) == list(mxnets)
    for name, array in mxnets.items():
        np.testing.assert_array_equal(ours[name], array.asnumpy())
        assert ours[name].dtype == array.dtype


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int32", "int8",
                                   "int64"])
def test_every_type_that_mxnet_writes(tmp_path, dtype):
    value = np.arange(6).reshape(1, 2, 3).astype(dtype)
    mx.nd.save(str(tmp_path / "a"), {"v": mx.nd.array(value, dtype=dtype)})
    read = read_params(tmp_path / "a")["v"]
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, value)


def test_nothing_and_nameless(tmp_path):
    mx.nd.save(str(tmp_path / "nothing"), {})
    assert read_params(tmp_path / "nothing") == {}
    mx.nd.save(str(tmp_path / "nameless"), [mx.nd.zeros(2)])
    assert [record.name for record in check_params(tmp_path / "nameless")] == [None]
    with pytest.raises(ParamsError, match="have no names"):
        read_params(tmp_path / "nameless")


@pytest.mark.parametrize("content", [
    struct.pack("<IiqiiiI", 0xF993FAC8, 1, 1, 1, 0, 0, 0x3F800000),
    struct.pack("<IIiiiI", 1, 1, 1, 0, 0, 0x3F800000),
], ids=["0.11", "before"])
def test_older_records_as_mxnet_reads_them(tmp_path, content):
    path = tmp_path / "old.params"
    path.write_bytes(_HEAD + content + _names(b"w"))
    assert read_params(path)["w"].tolist() == [1.0]
    assert mx.nd.load(str(path))["w"].asnumpy().tolist() == [1.0]


def test_saved_with_numpy_semantics(tmp_path):
    with mx.util.np_shape(True), mx.util.np_array(True):
        mx.npx.save(str(tmp_path / "np"), {"w": mx.np.array([[1.0, 2.0]])})
    assert read_params(tmp_path / "np")["w"].tolist() == [[1.0, 2.0]]


_FAULTS = [
    (b"", "ends inside its header, after 0 bytes"),
    (b"\x12\x01", "ends inside its header"),
    (b"{}" * 20, "is not a .params file"),
    (pickle.dumps({}), "it is a Python pickle"),
    (b"PK\3\4" + bytes(40), "is a ZIP archive"),
    (struct.pack("<QQQ", 0x112, 7, 0) + _names(), "reserved field 0x7"),
    (struct.pack("<QQQ", 0x112, 0, 1 << 60), "claims to hold 1,152,921,504,606,846,976 arrays"),
    (_HEAD, "ends inside its array 0"),
    (_HEAD + _record(storage=1) + _names(b"w"), "not stored densely"),
    (_HEAD + _record(shape=(), data=b"") + _names(b"w"), "has 0 dimensions"),
    (_HEAD + _record(ndim=-1) + _names(b"w"), "has -1 dimensions"),
    (_HEAD + _record(ndim=1 << 30) + _names(b"w"), "1073741824 dimensions"),
    (_HEAD + _record(shape=(2, 0)) + _names(b"w"), r"impossible shape \(2, 0\)"),
    (_HEAD + _record(shape=(-2, -4)) + _names(b"w"), "impossible shape"),
    (_HEAD + _record(shape=(1 << 62, 1 << 62)) + _names(b"w"), "are left in the file"),
    (_HEAD + _record(shape=(10,)) + _names(b"w"), "has 40 bytes, but 25 are left"),
    (_HEAD + _record(flag=9) + _names(b"w"), "unknown type"),
    (_HEAD + _record(device=77) + _names(b"w"), "unknown device"),
    (_HEAD + _record(), "ends inside its list of names"),
    (_HEAD + _record() + _names(b"w", b"v"), "1 arrays, but 2 names"),
    (_HEAD + _record() + _names(b""), "has 0 bytes; 1 to"),
    (_HEAD + _record() + struct.pack("<QQ", 1, 1 << 50), "bytes; 1 to"),
    (_HEAD + _record() + _names(b"\xff\xfe"), "not UTF-8"),
    (_HEAD + _record() + _names(b"a\nb"), r"not printable: 'a\\nb'"),
    (_HEAD + _record() + _names(b"w") + b"!", "1 bytes follow its end"),
    (struct.pack("<QQQ", 0x112, 0, 2) + 2 * _record() + _names(b"w", b"w"),
     "'w' twice, as arrays 0 and 1"),
]


@pytest.mark.parametrize("content, message", _FAULTS, ids=[m for _, m in _FAULTS])
def test_each_fault_has_its_line(tmp_path, content, message):
    path = tmp_path / "net.params"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=message):
        read_params(path)
    with pytest.raises(WeightsError, match=message) as caught:
        read_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_pickle_is_refused_with_what_to_use(tmp_path):
    net = mx.gluon.nn.Dense(1, in_units=1)
    net.initialize()
    trainer = mx.gluon.Trainer(net.collect_params(), "nag", {"momentum": 0.9},
                               update_on_kvstore=False)
    trainer.save_states(str(tmp_path / "net.states"))
    with pytest.raises(WeightsError, match="run any program hidden in it.*--resume"):
        read_weights(tmp_path / "net.states")


def test_not_a_file(tmp_path):
    with pytest.raises(ParamsError, match="No such file"):
        check_params(tmp_path / "none")
    with pytest.raises(ParamsError, match="directory"):
        check_params(tmp_path)


def test_mutations_of_real_files_do_no_harm():
    """The short form of ``python -m tests.torture.fuzz_params``."""
    lines = []
    counts, bad = fuzz_params.fuzz(306, seed=1, log=lines.append)
    assert bad == 0, "\n".join(lines)
    assert counts["refused"] > 150 and counts["loaded"] > 10


@pytest.mark.parametrize("names", [0, 1, 3])
def test_what_is_written_is_what_mxnet_writes(names, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"stage{k}.weight": rng.normal(size=(k + 1, 3, 2)[:k + 1]).astype(dtype)
              for k, dtype in zip(range(names), ("float32", "float16", "int32"))}
    write_params(tmp_path / "ours.params", arrays)
    mx.nd.save(str(tmp_path / "theirs.params"),
               {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()})
    content = (tmp_path / "ours.params").read_bytes()
    assert content == (tmp_path / "theirs.params").read_bytes()
    found = parse_params(content)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("shapes, expected", [
    ({"a": (2, 3), "b": ()}, None), ({"a": (2, 3)}, "the network has no b"),
    ({"a": (2, 3), "b": (), "c": (1,)}, "c is not in it"),
    ({"a": (3, 2), "c": ()}, r"a is (2, 3), not (3, 2)")])
def test_the_first_difference_from_a_network_by_name(shapes, expected):
    assert difference(shapes, {"b": np.zeros(()), "a": np.zeros((2, 3))}) == expected
