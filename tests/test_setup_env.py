"""tools/setup_env.*: which Python, which build of MXNet, what if something is missing."""
import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools import requirements

ROOT = Path(__file__).resolve().parent.parent
UV = requirements.find_uv()
needs_uv = pytest.mark.skipif(UV is None, reason="uv is not here (make env-dev)")
CPU = {"PYTHON": sys.executable, "MXNET_VARIANT": "cpu"}
LOCK = """version = 1
requires-python = ">=3.10"

[[package]]
name = "project"
version = "1"
source = { virtual = "." }

[package.optional-dependencies]
cpu = []
export = []

[package.dev-dependencies]
dev = []

[package.metadata]
provides-extras = ["cpu", "export"]
"""
ADDED = """
[[package]]
name = "added"
version = "1"
source = { registry = "." }
wheels = [{ path = "added-1-py3-none-any.whl" }]
"""
PROJECT = """[project]
name = "project"
version = "1"
requires-python = ">=3.10"
[project.optional-dependencies]
cpu = []
export = []
[dependency-groups]
dev = []
"""

spec = importlib.util.spec_from_file_location("setup_env", ROOT / "tools" / "setup_env.py")
setup_env = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup_env)


@pytest.fixture
def project(tmp_path):
    """A copy of the set-up in a project that needs no packages; its MXNet is a stub.

    On its PATH are uv and what the shell part calls, and no Python.
    """
    project = tmp_path / "project"
    shutil.copytree(ROOT / "tools", project / "tools",
                    ignore=shutil.ignore_patterns("__pycache__"))
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "uv.lock").write_text(LOCK)
    (project / "model").mkdir()
    for name in ("model/mxnet_compat.py", "mxnet.py"):
        (project / name).touch()
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "dirname", "mkdir", "mktemp", "rm", "mv"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    if UV:
        (tmp_path / "bin" / "uv").symlink_to(os.path.realpath(UV))
    return project


def command(project, *arguments, **environment):
    """What runs the project's set-up on its own PATH, with a clean environment."""
    home = project.parent / "home"
    return {"args": [str(project / "tools" / "setup_env.sh"), *map(str, arguments)],
            "env": {"PATH": str(project.parent / "bin"), "HOME": str(home), **environment},
            "cwd": project, "text": True}


def set_up(project, *arguments, **environment):
    return subprocess.run(**command(project, *arguments, **environment), capture_output=True,
                          timeout=300)


def assert_one_line(done, *fragments):
    """The set-up ended with 2, saying all `fragments` in one line and nothing like a traceback."""
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("setup: "), done.stderr
    for fragment in fragments:
        assert fragment in done.stderr


def built(done):
    """Whether a set-up that succeeded built the environment anew."""
    assert done.returncode == 0, done
    return "building" in done.stdout


def write_wheel(folder, name):
    """A wheel of one empty module."""
    info = f"{name}-1.dist-info"
    files = {f"{name}.py": "",
             f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)


# --- uv and the interpreter -------------------------------------------------------------

def test_neither_uv_nor_python_is_one_line(project):
    (project.parent / "bin" / "uv").unlink(missing_ok=True)
    assert_one_line(set_up(project), "neither uv nor a python3", "apt-get install python3-venv")


def test_uv_that_cannot_be_fetched_is_one_line_and_leaves_nothing(project):
    (project.parent / "bin" / "uv").unlink(missing_ok=True)
    (project.parent / "bin" / "python3").symlink_to(sys.executable)
    done = set_up(project, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0",
                  PIP_CONFIG_FILE=os.devnull, PIP_DEFAULT_TIMEOUT="2")
    assert_one_line(done, "uv cannot be installed with pip")
    assert not list((project / ".uv").iterdir())


@needs_uv
def test_no_python_and_no_network_is_one_line(project):
    done = set_up(project, UV_PYTHON_INSTALL_MIRROR="http://127.0.0.1:9", UV_HTTP_RETRIES="0",
                  UV_PYTHON_INSTALL_DIR=str(project / "pythons"))
    assert_one_line(done, "no CPython 3.10 to 3.14 is here, and none can be downloaded")


@needs_uv
@pytest.mark.parametrize("python", ["/nowhere/python", "python3.77"])
def test_PYTHON_that_does_not_exist_is_one_line(project, python):
    assert_one_line(set_up(project, PYTHON=python), "PYTHON: ", python)


@needs_uv
def test_an_unknown_MXNET_VARIANT_is_one_line(project):
    done = set_up(project, PYTHON=sys.executable, MXNET_VARIANT="tpu")
    assert_one_line(done, "'tpu'", "cpu or gpu")


# --- the build of MXNet -----------------------------------------------------------------

@pytest.mark.parametrize("capabilities, extras", [
    ([(7, 5)], {"gpu"}), ([(5, 0)], {"gpu"}), ([(8, 9)], {"gpu"}), ([(9, 0), (8, 0)], {"gpu"}),
    ([(9, 0)], {"cpu", "pytorch"}), ([(12, 0)], {"cpu", "pytorch"}), ([(3, 7)], {"cpu"}),
    ([], {"cpu"})])
def test_the_gpu_decides_the_build(capabilities, extras):
    chosen, reason = setup_env.decide_build(capabilities)
    assert chosen == extras and reason and "\n" not in reason


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
    assert setup_env.choose_build(None, {"dev"}) == {"cpu"}
    assert capsys.readouterr().out == (
        "setup: CPU build of MXNet, because no NVIDIA driver is installed\n")


def test_a_newer_gpu_gets_pytorch_and_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver([(9, 0)]))
    assert setup_env.choose_build(None, set()) == {"cpu", "pytorch"}
    assert capsys.readouterr().out == (
        "setup: CPU build of MXNet, because this GPU is newer than what MXNet's last build has "
        "code for (compute capability 9.0; 5.0 to 8.9); PyTorch trains on it\n")


def test_MXNET_VARIANT_forces_the_build(monkeypatch, capsys):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver([(9, 0)]))
    for variant in ("gpu", "cpu"):
        assert setup_env.choose_build(variant, set()) == {variant}
        assert "MXNET_VARIANT" in capsys.readouterr().out


def test_the_gpu_build_is_refused_where_it_would_not_import(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver([], status=100))
    with pytest.raises(setup_env.SetupError, match="MXNET_VARIANT is gpu, but the NVIDIA driver"):
        setup_env.choose_build("gpu", set())


def test_pytorch_and_the_gpu_build_are_kept_apart(monkeypatch, capsys):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver([(8, 0)]))
    with pytest.raises(setup_env.SetupError, match="cannot share a process"):
        setup_env.choose_build("gpu", {"pytorch"})
    assert setup_env.choose_build(None, {"pytorch"}) == {"cpu"}
    assert "PyTorch" in capsys.readouterr().out


# --- what is there ----------------------------------------------------------------------

@needs_uv
def test_what_is_in_place_is_left_and_what_is_missing_is_added(project):
    assert built(set_up(project, **CPU))
    mark = project / ".venv" / "setup.txt"
    assert mark.read_text() == f"cpu {setup_env.identify(sys.executable)}\n"
    again = set_up(project, "--dev")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    write_wheel(project, "added")
    (project / "uv.lock").write_text(LOCK.replace("dev = []", 'dev = [{ name = "added" }]') + ADDED)
    assert set_up(project).stdout == ""
    done = set_up(project, "--dev", UV_FIND_LINKS=str(project), UV_OFFLINE="1")
    assert not built(done) and "up to date" in done.stdout and "ready" in done.stdout
    assert list((project / ".venv").rglob("added.py"))
    assert set_up(project, "--dev").stdout == ""


@needs_uv
def test_an_interrupted_one_is_built_again(project):
    assert built(set_up(project, **CPU))
    (project / ".venv" / "setup.txt").write_text("")  # as `create` leaves it
    (project / ".venv" / "half").touch()
    assert built(set_up(project, **CPU))
    assert not (project / ".venv" / "half").exists()
    (project / ".venv" / "setup.txt").rename(project / ".venv" / "setup.json")  # as it was called
    assert built(set_up(project, **CPU))


@pytest.mark.parametrize("mark, wanted, build", [
    ("cpu {here}", None, "cpu"), ("gpu {here}", "{here}", "gpu"),
    ("cpu {here}", "3 12 /other", None),    # another Python is asked for
    ("cpu 3 9 /usr", None, None),           # the system's Python has moved on
    ("", None, None)])                      # never finished
def test_what_makes_an_environment_unfit(mark, wanted, build, tmp_path):
    here = setup_env.identify(sys.executable)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "setup.txt").write_text(mark.format(here=here))
    assert setup_env.installed_build(tmp_path, wanted and wanted.format(here=here)) == build
    (tmp_path / "bin" / "python").unlink()    # or is gone
    assert setup_env.installed_build(tmp_path, None) is None


@needs_uv
def test_two_at_once_do_not_disturb_each_other(project):
    both = [subprocess.Popen(**command(project, **CPU), stdout=subprocess.PIPE) for _ in range(2)]
    outputs = [each.communicate()[0] for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert sum("building" in output for output in outputs) == 1


@needs_uv
@pytest.mark.parametrize("file", ["thesis.tex", "pyvenv.cfg", "conda-meta/history"])
def test_a_folder_of_somebody_else_is_left_alone(project, file):
    foreign = project.parent / "mine"
    (foreign / file).parent.mkdir(parents=True)
    (foreign / file).write_text("three years")
    assert_one_line(set_up(project, "--venv", foreign, **CPU), "was not built by this")
    assert (foreign / file).read_text() == "three years"
    assert len([path for path in foreign.rglob("*") if path.is_file()]) == 1


# --- what uv is told, and what goes wrong -----------------------------------------------

def test_uv_hears_what_pip_is_told(tmp_path):
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://mirror/simple\nextra-index-url = https://a/s\n  https://b/s\n"
        "find-links = /wheels /more\n[install]\ntrusted-host = mirror\n")
    pip = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
           "XDG_CONFIG_DIRS": str(tmp_path), "PIP_CERT": "/ca.pem"}
    told = setup_env.uv_environment(pip)
    assert told["UV_DEFAULT_INDEX"] == "https://mirror/simple"
    assert told["UV_INDEX"] == "https://a/s https://b/s"
    assert told["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert told["UV_FIND_LINKS"] == "/wheels,/more"
    assert told["UV_INSECURE_HOST"] == "mirror" and told["SSL_CERT_FILE"] == "/ca.pem"
    own = setup_env.uv_environment({**pip, "PIP_INDEX_URL": "https://c/s", "UV_INDEX": "https://d/s"})
    assert own["UV_DEFAULT_INDEX"] == "https://c/s" and own["UV_INDEX"] == "https://d/s"


@needs_uv
def test_no_network_is_one_line_and_leaves_nothing_finished(project):
    for name in ("uv.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, project / name)
    done = set_up(project, **CPU, UV_DEFAULT_INDEX="http://127.0.0.1:9/simple", UV_HTTP_RETRIES="0",
                  PIP_CONFIG_FILE=os.devnull, UV_CACHE_DIR=str(project / "cache"))
    assert_one_line(done, "the package index cannot be reached", "PIP_INDEX_URL")
    assert (project / ".venv" / "setup.txt").read_text() == ""


def test_a_library_that_the_system_lacks_comes_from_a_wheel(tmp_path, monkeypatch):
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for folder, file in (("scipy.libs", "libquadmath-96973f99.so.0.0.0"), ("mxnet", "libmxnet.so")):
        (site / folder).mkdir(parents=True)
        (site / folder / file).write_text(file)

    def cdll(name):
        if name == "libquadmath.so.0":
            raise OSError(name)
    monkeypatch.setattr(ctypes, "CDLL", cdll)
    setup_env.add_libraries(tmp_path)
    assert sorted(path.name for path in (site / "mxnet").iterdir()) == [
        "libmxnet.so", "libquadmath.so.0"]


def test_a_missing_system_library_names_its_package(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mxnet_compat.py").write_text(
        "raise OSError('libquadmath.so.0: cannot open shared object file: No such file')\n")
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    with pytest.raises(setup_env.SetupError, match="apt-get install libquadmath0"):
        setup_env.check_import(Path(sys.prefix))


# --- the lock ---------------------------------------------------------------------------

@needs_uv
@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_the_files_for_pip_say_what_the_lock_says(variant):
    assert (ROOT / requirements.FILES[variant]).read_text() == \
        requirements.requirements(variant, UV)


def test_the_lock_names_the_public_index_alone():
    text = (ROOT / "uv.lock").read_text()
    hosts = {url.split("/")[2] for url in text.split('"') if "://" in url}
    assert hosts == {"pypi.org", "files.pythonhosted.org"} and "file:" not in text


@pytest.mark.parametrize("target", ["help", "env"])
def test_make_calls_the_set_up(target):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert ("make test" if target == "help" else "tools/setup_env.sh") in done.stdout
