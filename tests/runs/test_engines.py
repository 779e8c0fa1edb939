"""Which engine computes is chosen by option, precision and machine; what is not there is said."""
from types import SimpleNamespace

import pytest

from common.arguments import Parser, replaced
from common.errors import UserError
from runs import engines, options


def _options(**given):
    return SimpleNamespace(**{"engine": "auto", "dtype": "float32", "gpus": None,
                              "num_gpus": None, **given})


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with a GPU that MXNet finds, or not: machine(capability, found)."""
    def make(capability, found):
        cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda: "Card",
                               get_device_capability=lambda: capability, device_count=lambda: 2)
        monkeypatch.setattr(engines, "find_spec", lambda name: True)
        monkeypatch.setitem(engines.sys.modules, "torch", SimpleNamespace(cuda=cuda))
        monkeypatch.setattr(engines, "_NVIDIA", tmp_path)
        monkeypatch.setattr(engines, "count_mxnet_gpus", lambda: found)
    return make


def test_without_pytorch_mxnet_computes_and_nothing_is_said(without_torch, monkeypatch, tmp_path,
                                                            capsys):
    monkeypatch.setattr(engines, "_NVIDIA", tmp_path)
    assert engines.choose_engine(_options()) == "mxnet"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("given, what", [({"engine": "pytorch"}, "--engine pytorch"),
                                         ({"dtype": "bfloat16"}, "--dtype bfloat16")])
def test_what_needs_pytorch_says_how_to_install_it(without_torch, given, what):
    with pytest.raises(UserError, match=f"{what} needs PyTorch.*: make env EXTRAS=pytorch"):
        engines.choose_engine(_options(**given))


@pytest.mark.parametrize("capability, found, expected", [
    ((8, 6), 1, "mxnet"), ((8, 9), 1, "mxnet"), ((9, 0), 1, "pytorch"), ((12, 0), 1, "pytorch"),
    ((8, 6), 0, "pytorch")])
def test_auto_takes_pytorch_where_only_that_can_use_the_gpu(machine, capsys, capability, found,
                                                            expected):
    machine(capability, found)
    assert engines.choose_engine(_options()) == expected
    said = capsys.readouterr().err
    assert said.count("\n") == (expected == "pytorch") and ("Card" in said) == bool(said)
    for given in ({"num_gpus": 0}, {"gpus": ""}, {"engine": "mxnet"}):
        assert engines.choose_engine(_options(**given)) == "mxnet"
    assert engines.choose_engine(_options(dtype="bfloat16", num_gpus=0)) == "pytorch"


def test_pytorch_has_its_own_gpus_one_in_a_process(machine):
    machine((9, 0), 0)
    given = _options(engine="pytorch")
    assert engines.choose_devices(given) == ("gpu:0",)
    given.gpus = "1"
    assert engines.choose_devices(given) == ("gpu:1",)
    for gpus, error in (("0,1", "one device in a process"), ("2", "PyTorch finds 2 GPUs")):
        given.gpus = gpus
        with pytest.raises(UserError, match=error):
            engines.choose_devices(given)


def _parser():
    parser = Parser(prog="train_imagenet.py")
    for add in (options.add_v1b_options, options.add_run_options):
        add(parser)
    options.add_worker_options(options.add_device_options(parser))
    return parser


def test_the_engine_of_torchrun_s_processes_goes_on_with_a_run_of_the_other(machine, monkeypatch):
    """Worker 0 reads config.json after all have joined: it names the engine of before."""
    machine((8, 6), 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setattr(engines, "set_threads", lambda **options: None)
    monkeypatch.setattr(engines.torchrun, "join", lambda patience: None)
    monkeypatch.setattr(engines, "agreed_options",
                        lambda options, *rest: replaced(options, engine="mxnet"))
    assert engines.start(_parser, lambda options, script: options.engine, []) == "pytorch"


def test_synchronised_normalisation_is_refused_before_a_process_is_started(machine, monkeypatch):
    machine((9, 0), 0)
    parser = _parser()
    monkeypatch.setattr(engines, "set_threads", lambda **options: None)
    monkeypatch.setattr(engines, "_share_threads", lambda count: None)
    monkeypatch.setattr(engines.torchrun, "launch", lambda script, argv, count: count)

    def started(*words):
        return engines.start(lambda: parser, lambda options, script: "here",
                             ["--engine", "pytorch", *words])

    assert started("--num-gpus", "2") == 2
    with pytest.raises(UserError, match="each GPU normalises by its own"):
        started("--num-gpus", "2", "--norm-layer", "SyncBatchNorm")
    assert started("--num-gpus", "1", "--norm-layer", "SyncBatchNorm") == "here"


@pytest.mark.parametrize("recorded, threads", [(None, "4"), (8, "8")])
def test_a_resumed_run_s_processes_have_as_many_threads_as_before(machine, monkeypatch, recorded,
                                                                  threads):
    machine((9, 0), 0)
    monkeypatch.setattr(engines, "set_threads", lambda **options: None)
    monkeypatch.setattr(engines, "own_environment", dict)
    monkeypatch.setattr(engines, "recorded_threads", lambda options: recorded)
    monkeypatch.setattr(engines.torchrun, "launch",
                        lambda *arguments: engines.os.environ["OMP_NUM_THREADS"])
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert engines.start(_parser, None, ["--engine", "pytorch", "--num-gpus", "2"]) == threads


@pytest.mark.parametrize("given, error", [
    ({"engine": "mxnet", "dtype": "bfloat16"}, "drop --engine mxnet"),
    ({"engine": "pytorch", "kv_store": "dist_sync"}, "--kv-store and machines.launch are MXNet")])
def test_what_an_engine_cannot_do_is_refused(machine, given, error):
    machine((8, 6), 1)
    with pytest.raises(UserError, match=error):
        engines.choose_engine(_options(**given))
