"""tools/setup_env.*: which Python, which build of MXNet, what if something is missing."""
import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("sh", "dirname", "env")  # what setup_env.sh finds on a bare PATH
CPU = {"PYTHON": sys.executable, "MXNET_VARIANT": "cpu"}

spec = importlib.util.spec_from_file_location("setup_env", ROOT / "tools" / "setup_env.py")
setup_env = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup_env)


# --- the interpreter --------------------------------------------------------------------

def make_project(folder):
    """A copy of the set-up in a project whose requirements are empty, with a bare PATH.

    Its MXNet is a stub that imports.
    """
    project = folder / "project"
    shutil.copytree(ROOT / "tools", project / "tools",
                    ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("requirements.txt", "requirements-cpu.txt", "requirements-dev.txt"):
        (project / name).write_text("# nothing\n")
    (project / "model").mkdir()
    for name in ("model/mxnet_compat.py", "mxnet.py"):
        (project / name).touch()
    (folder / "bin").mkdir()
    for tool in TOOLS:
        (folder / "bin" / tool).symlink_to(shutil.which(tool))
    return project


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path)


def add_python(project, name, says=None, status=0):
    """Put an interpreter on the project's PATH that only `says` something, and exits.

    Without `says` it is the real one as far as the choice goes, but instead of building an
    environment it prints its name.
    """
    path = project.parent / "bin" / name
    if says is None:
        body = (f'case "$1" in -c) exec "{sys.executable}" "$@" ;; *) echo "chose {name}" ;; esac')
    else:
        body = f'echo "{says}"; exit {status}'
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def set_up(project, *arguments, **environment):
    """Run the project's set-up on its own PATH, with a clean environment."""
    return subprocess.run([str(project / "tools" / "setup_env.sh"), *arguments],
                          env={"PATH": str(project.parent / "bin"), "HOME": str(project.parent),
                               **environment},
                          cwd=project, capture_output=True, text=True, timeout=300)


def assert_one_line(done, *fragments):
    """The set-up ended with 2, saying all `fragments` in one line and nothing like a traceback."""
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("setup: "), done.stderr
    for fragment in fragments:
        assert fragment in done.stderr


def test_the_default_python3_comes_first(project):
    add_python(project, "python3.13")
    add_python(project, "python3")
    assert set_up(project).stdout == "chose python3\n"


@pytest.mark.parametrize("says, status", [
    ("3.8.18 CPython yes", 0),
    ("3.14.0 CPython yes", 0),
    ("2.7.18 CPython no", 0),
    ("3.11.2 CPython no", 0),
    ("3.10.14 PyPy yes", 0),
    ("no such version", 127),
    ("", 0),
])
def test_an_unfit_python3_is_passed_over(project, says, status):
    add_python(project, "python3", says, status)
    add_python(project, "python3.12", "command not found", 127)
    add_python(project, "python3.10")
    add_python(project, "python3.9")
    assert set_up(project).stdout == "chose python3.10\n"


def test_no_python_at_all_is_one_line(project):
    assert_one_line(set_up(project), "no CPython 3.9 to 3.13 on PATH", "PYTHON=")


def test_a_python_that_lacks_venv_names_the_package(project):
    add_python(project, "python3", "3.11.2 CPython no")
    assert_one_line(set_up(project), "apt-get install python3.11-venv")


def test_PYTHON_overrides(project):
    add_python(project, "python3")
    add_python(project, "python3.9")
    assert set_up(project, PYTHON="python3.9").stdout == "chose python3.9\n"


@pytest.mark.parametrize("says, status, fragment", [
    ("3.8.18 CPython yes", 0, "is CPython 3.8.18, not 3.9 to 3.13"),
    ("3.10.14 PyPy yes", 0, "is PyPy 3.10.14, not CPython"),
    ("", 1, "does not run"),
])
def test_PYTHON_that_does_not_fit_is_one_line(project, says, status, fragment):
    add_python(project, "python3")
    add_python(project, "mine", says, status)
    assert_one_line(set_up(project, PYTHON="mine"), "PYTHON: mine", fragment)


def test_PYTHON_that_does_not_exist_is_one_line(project):
    assert_one_line(set_up(project, PYTHON="/nowhere/python"), "/nowhere/python does not run")


# --- the build of MXNet -----------------------------------------------------------------

@pytest.mark.parametrize("capabilities, variant", [
    ([(7, 5)], "gpu"), ([(5, 0)], "gpu"), ([(8, 9)], "gpu"), ([(9, 0), (8, 0)], "gpu"),
    ([(9, 0)], "cpu"), ([(12, 0)], "cpu"), ([(3, 7)], "cpu"), ([], "cpu"),
])
def test_the_gpu_decides_the_build(capabilities, variant):
    chosen, reason = setup_env.decide_variant(capabilities, machine="Linux x86_64")
    assert chosen == variant and reason and "\n" not in reason


def test_a_newer_gpu_gets_a_sentence():
    _, reason = setup_env.decide_variant([(9, 0)], machine="Linux x86_64")
    assert "9.0, newer than MXNet's last wheels hold code for (5.0 to 8.9)" in reason


def test_there_are_gpu_wheels_for_one_platform_only():
    assert setup_env.decide_variant([(8, 0)], machine="Linux aarch64")[0] == "cpu"


class FakeDriver:
    """Answers as libcuda.so.1 does, for GPUs of the given compute capabilities."""

    def __init__(self, capabilities, version=12000, status=0):
        self.capabilities, self.version, self.status = capabilities, version, status

    def cuInit(self, flags):
        return self.status

    def cuDriverGetVersion(self, version):
        version._obj.value = self.version

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.capabilities)

    def cuDeviceGet(self, device, index):
        device._obj.value = index

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = self.capabilities[device.value][attribute - 75]


@pytest.mark.parametrize("driver, capabilities, fragment", [
    (FakeDriver([(7, 5), (9, 0)]), [(7, 5), (9, 0)], None),
    (FakeDriver([(7, 5)], version=10020), [], "older than CUDA 11"),
    (FakeDriver([], status=100), [], "finds no GPU"),
])
def test_the_driver_is_asked(monkeypatch, driver, capabilities, fragment):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    found, problem = setup_env.probe_gpus()
    assert found == capabilities
    assert problem is None if fragment is None else fragment in problem


def test_without_a_driver_it_is_the_cpu_build(monkeypatch, capsys):
    def missing(name):
        raise OSError(name)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert setup_env.choose_variant(None) == "cpu"
    assert capsys.readouterr().out == (
        "setup: CPU build of MXNet, because no NVIDIA driver is installed\n")


def test_MXNET_VARIANT_forces_the_build(monkeypatch, capsys):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver([(9, 0)]))
    for variant in ("gpu", "cpu"):
        assert setup_env.choose_variant(variant) == variant
        assert "MXNET_VARIANT" in capsys.readouterr().out


def test_the_gpu_build_is_refused_where_it_would_not_import(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver([], status=100))
    with pytest.raises(setup_env.SetupError, match="MXNET_VARIANT is gpu, but the NVIDIA driver"):
        setup_env.choose_variant("gpu")


def test_an_unknown_MXNET_VARIANT_is_one_line(project):
    done = set_up(project, PYTHON=sys.executable, MXNET_VARIANT="tpu")
    assert_one_line(done, "'tpu'", "cpu or gpu")


# --- the stamp --------------------------------------------------------------------------

@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    project = make_project(tmp_path_factory.mktemp("finished"))
    assert built(set_up(project, **CPU))
    return project


@pytest.fixture
def finished(finished_once, tmp_path):
    """The project with a finished environment; a copy, since building one takes seconds."""
    shutil.copytree(finished_once.parent, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path / "project"


def built(done):
    """Whether a set-up that succeeded built the environment anew."""
    assert done.returncode == 0, done
    return "building" in done.stdout


def test_a_second_call_does_nothing_and_is_quick(finished):
    started = time.perf_counter()
    done = set_up(finished)
    seconds = time.perf_counter() - started
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert seconds < 1  # 0.05 on an idle machine


def test_the_stamp_says_what_is_installed(finished):
    stamp = json.loads((finished / ".venv" / "setup.json").read_text())
    assert stamp["variant"] == "cpu"
    assert stamp["python"].startswith("{}.{} ".format(*sys.version_info[:2]))
    assert not built(set_up(finished, **CPU))


def test_a_changed_requirement_builds_again(finished):
    (finished / "requirements-cpu.txt").write_text("# changed\n")
    assert built(set_up(finished, **CPU))
    assert not built(set_up(finished))


def test_an_activated_environment_is_rebuilt_from_outside(finished):
    (finished / ".venv" / "setup.json").unlink()  # as if interrupted
    path = f"{finished / '.venv' / 'bin'}:{finished.parent / 'bin'}"
    assert built(set_up(finished, MXNET_VARIANT="cpu", PATH=path))
    assert not built(set_up(finished))


@pytest.mark.parametrize("change, installed, forced, wanted", [
    ({}, "3.9 /usr", "gpu", None),                # the other build is asked for
    ({}, "3.9 /usr", None, "3.12 /usr"),          # another Python is asked for
    ({}, "3.12 /usr", None, None),                # the system's Python has moved on
    ({}, None, None, None),                       # or is gone
    ({"runtime": "other"}, "3.9 /usr", None, None),
    ({"variant": None}, "3.9 /usr", None, None),  # no stamp: never finished
])
def test_what_makes_an_environment_unfit(change, installed, forced, wanted):
    stamp = {"python": "3.9 /usr", "variant": "cpu",
             "runtime": setup_env.fingerprint("requirements-cpu.txt")}
    assert setup_env.runtime_current(stamp, "3.9 /usr", None, None)
    assert setup_env.runtime_current(stamp, "3.9 /usr", "cpu", "3.9 /usr")
    assert not setup_env.runtime_current({**stamp, **change}, installed, forced, wanted)


def test_a_broken_environment_has_no_python(tmp_path):
    assert setup_env.python_of(tmp_path) is None
    assert setup_env.python_of(Path(sys.prefix)) == setup_env.this_python()


def test_included_requirement_files_count(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    (tmp_path / "a.txt").write_text("-r b.txt\nmxnet==1.9.1\n")
    (tmp_path / "b.txt").write_text("numpy==2.0.2\n")
    before = setup_env.fingerprint("a.txt")
    (tmp_path / "b.txt").write_text("numpy==2.2.6\n")
    assert setup_env.fingerprint("a.txt") != before


def test_tools_for_tests_are_added_without_building_again(finished):
    assert not built(set_up(finished, "--dev", **CPU))
    assert "dev" in json.loads((finished / ".venv" / "setup.json").read_text())
    assert set_up(finished, "--dev").stdout == ""


# --- what goes wrong --------------------------------------------------------------------

UNREACHABLE = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "",
               "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0",
               "PIP_DEFAULT_TIMEOUT": "2"}


def test_no_network_is_one_line_and_leaves_nothing_finished(project):
    (project / "requirements-cpu.txt").write_text("mxnet==1.9.1\n")
    done = set_up(project, **CPU, **UNREACHABLE)
    assert_one_line(done, "no package index can be reached", "mxnet==1.9.1")
    assert (project / ".venv").exists() and not (project / ".venv" / "setup.json").exists()
    (project / "requirements-cpu.txt").write_text("# nothing\n")
    assert built(set_up(project, **CPU))


def test_a_missing_system_library_names_its_package(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mxnet_compat.py").write_text(
        "raise OSError('libquadmath.so.0: cannot open shared object file: No such file')\n")
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    with pytest.raises(setup_env.SetupError, match="apt-get install libquadmath0"):
        setup_env.check_import(Path(sys.prefix))


def test_pip_errors_are_told_apart():
    explain = setup_env.explain_pip
    assert "broke off" in explain(["WARNING: Retrying after ConnectionError\n",
                                   "ERROR: Exception:\n"])
    assert "No space left" in explain(["ERROR: Could not install packages: No space left\n"])


@pytest.mark.parametrize("target", ["help", "env"])
def test_make_calls_the_set_up(target):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert ("make test" if target == "help" else "tools/setup_env.sh") in done.stdout


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("three years")
    with pytest.raises(setup_env.SetupError, match="is no environment"):
        setup_env.create_venv(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "three years"
