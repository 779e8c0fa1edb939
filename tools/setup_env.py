"""Build the project's environment: .venv with MXNet for this machine.

Run through `setup_env.sh`, which finds uv and the interpreter (CPython 3.10 to 3.14). Uses the
standard library only. Chooses the build of MXNet, lets uv install what uv.lock says, lays
beside MXNet the system libraries that are missing, checks that MXNet imports, and last of all
marks the environment as finished: one of ours that is not is built again, from what uv has
already downloaded.
"""
import argparse
import configparser
import contextlib
import ctypes
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 14)
# In an environment of ours: its build of MXNet and its interpreter; nothing until all is installed.
MARK = "setup.txt"
# Says which interpreter runs it, the same inside and outside a venv.
IDENTIFY = "import os, sys; print(*sys.version_info[:2], os.path.realpath(sys.base_prefix))"

# MXNet's last wheels hold machine code for 5.0, 6.0, 7.0, 8.0 and 8.6, which also runs on
# later devices of the same major version, and no PTX that a driver could compile for newer.
OLDEST_GPU, NEWEST_GPU = (5, 0), (8, 9)
OLDEST_CUDA = 11000
CU_ATTRIBUTE_MAJOR, CU_ATTRIBUTE_MINOR = 75, 76

# Shared objects that MXNet expects from the system: their Debian packages, and where wheels
# carry them too: the file, as a pattern, and the locked group whose wheel is fetched for it.
SYSTEM_PACKAGES = {"libgomp.so.1": "libgomp1", "libquadmath.so.0": "libquadmath0",
                   "libstdc++.so.6": "libstdc++6", "libz.so.1": "zlib1g"}
IN_WHEELS = {"libquadmath.so.0": ("*.libs/libquadmath*.so.0*", None),
             "libgomp.so.1": ("*.libs/libgomp*.so.1*", "libraries")}

# pip's settings, what uv calls them, and what joins several.
FROM_PIP = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX",
            "find-links": "UV_FIND_LINKS", "cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY",
            "trusted-host": "UV_INSECURE_HOST", "timeout": "UV_HTTP_TIMEOUT",
            "no-index": "UV_NO_INDEX"}


class SetupError(Exception):
    """Something the user has to put right; its text is the one line to show."""


def say(text):
    print(f"setup: {text}", flush=True)


# --- which build of MXNet ---------------------------------------------------------------

def probe_gpus():
    """Ask the NVIDIA driver for the compute capability of every GPU.

    Returns
    -------
    capabilities : list of (int, int)
    problem : str or None
        Why there are none, or why the driver cannot be used.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return [], "no NVIDIA driver is installed"
    if cuda.cuInit(0) != 0:
        return [], "the NVIDIA driver does not start or finds no GPU"
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    if version.value < OLDEST_CUDA:
        return [], "the NVIDIA driver is older than CUDA 11 (450.80)"
    cuda.cuDeviceGetCount(ctypes.byref(count))
    return [_capability(cuda, i) for i in range(count.value)], None


def _capability(cuda, index):
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), CU_ATTRIBUTE_MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), CU_ATTRIBUTE_MINOR, device)
    return major.value, minor.value


def decide_build(capabilities, problem=None):
    """Choose what computes on the GPUs found.

    Returns
    -------
    (extras, reason) : of pyproject.toml, and a sentence that says why.
    """
    if problem or not capabilities:
        return {"cpu"}, problem or "there is no NVIDIA GPU"
    found = ", ".join(f"{major}.{minor}" for major, minor in capabilities)
    if any(OLDEST_GPU <= c <= NEWEST_GPU for c in capabilities):
        return {"gpu"}, f"a GPU here can be used (compute capability {found}; 5.0 to 8.9 can)"
    known = f"than what MXNet's last build has code for (compute capability {found}; 5.0 to 8.9)"
    if max(capabilities) > NEWEST_GPU:
        return {"cpu", "pytorch"}, f"this GPU is newer {known}; PyTorch trains on it"
    return {"cpu"}, f"this GPU is older {known}"


def choose_build(forced, parts):
    """The extras to add to `parts`: what MXNET_VARIANT forces, else what the machine suggests."""
    pytorch = "pytorch" in parts
    if pytorch and forced == "gpu":
        raise SetupError("MXNET_VARIANT is gpu, but PyTorch's cuDNN 9 and the cuDNN 8 of MXNet's "
                         "GPU build cannot share a process: leave one of the two out")
    capabilities, problem = probe_gpus() if forced != "cpu" and not pytorch else ([], None)
    if forced == "gpu" and problem:
        # Said before gigabytes are downloaded: the GPU build does not import without a driver.
        raise SetupError(f"MXNET_VARIANT is gpu, but {problem}")
    if forced:
        extras, reason = {forced}, "MXNET_VARIANT says so"
    elif pytorch:
        extras, reason = {"cpu"}, "PyTorch, beside it, needs another cuDNN than the GPU build"
    else:
        extras, reason = decide_build(capabilities, problem)
    say(f"{'GPU' if 'gpu' in extras else 'CPU'} build of MXNet, because {reason}")
    return extras


# --- what is there ----------------------------------------------------------------------

def identify(python):
    """Version and home of an interpreter: "3 12 /usr"; None if it does not run."""
    try:
        done = subprocess.run([str(python), "-ISc", IDENTIFY], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def installed_build(venv, wanted):
    """'cpu' or 'gpu', which a finished environment has; None if it is to be built (again).

    Parameters
    ----------
    venv : pathlib.Path
    wanted : str or None
        The interpreter that the user asks for, as `identify` says it.
    """
    if not (venv / MARK).is_file():
        return None
    build, _, built_with = (venv / MARK).read_text().strip().partition(" ")
    # The system's Python, to which bin/python is a link, may be gone, or another by now.
    python = identify(venv / "bin" / "python")
    return build if built_with == python and wanted in (None, python) else None


# --- what uv is told --------------------------------------------------------------------

def pip_settings(environ=os.environ):
    """pip's settings, from its files and its environment variables, the strongest last."""
    home = Path(environ.get("HOME") or os.path.expanduser("~"))    # of some users there is none
    files = [*(Path(folder, "pip", "pip.conf")
               for folder in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")),
             Path("/etc/pip.conf"), home / ".pip" / "pip.conf",
             Path(environ.get("XDG_CONFIG_HOME") or home / ".config", "pip", "pip.conf")]
    named = environ.get("PIP_CONFIG_FILE")
    files = [] if named == os.devnull else files + ([Path(named)] if named else [])
    parser = configparser.RawConfigParser()
    for file in files:
        with contextlib.suppress(configparser.Error, UnicodeDecodeError):
            parser.read(file, encoding="utf-8")
    settings = {key.replace("_", "-"): value for section in ("global", "install")
                if parser.has_section(section) for key, value in parser.items(section)}
    settings.update({key[4:].lower().replace("_", "-"): value for key, value in environ.items()
                     if key.startswith("PIP_")})
    return {key: " ".join(value.split()) for key, value in settings.items() if value.strip()}


def uv_environment(environ=os.environ):
    """The environment for uv: what pip is told, unless uv itself is told something."""
    ours = {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
    for key, value in pip_settings(environ).items():
        name = FROM_PIP.get(key)
        if key == "find-links":
            value = ",".join(value.split())
        if name and not environ.get(name):
            ours[name] = value
    if "UV_INDEX" in ours:
        # pip looks for a version in all indexes, uv in the first that has the package.
        ours.setdefault("UV_INDEX_STRATEGY", environ.get("UV_INDEX_STRATEGY", "unsafe-best-match"))
    return {**environ, **ours}


def run_uv(*command):
    """Run uv, away from pyproject.toml's overrides, showing its progress.

    Raises
    ------
    SetupError
        If it fails, with one line of why.
    """
    log = []
    with subprocess.Popen([os.environ.get("UV", "uv"), *map(str, command)], cwd="/", text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=uv_environment()) as uv:
        for line in uv.stdout:
            log.append(line)
            if line.startswith(("Downloading ", "Building ", "Prepared ")):
                say(line.strip()[0].lower() + line.strip()[1:])
    if uv.returncode:
        raise SetupError(explain(log))
    return "".join(log)


def explain(log):
    """One line for what uv could not do."""
    text = " ".join("".join(log).split())
    if re.search(r"error sending request|dns error|[Tt]imed? ?out|[Cc]ould not connect|"
                 r"[Ff]ailed to fetch|[Nn]etwork (connectivity|was disabled)", text):
        return ("the package index cannot be reached; check the network (or PIP_INDEX_URL) and "
                "run this again")
    start = re.search(r"error: |× ", text)
    return f"uv failed: {text[start.end() if start else 0:][:300] or 'no message'}"


# --- building ---------------------------------------------------------------------------

def create(venv):
    """A fresh environment in `venv`, in place of the one of ours that was there."""
    there = list(venv.iterdir()) if venv.is_dir() else []
    ours = any((venv / name).is_file() for name in (MARK, "setup.json"))   # of earlier versions
    if there and not ours:
        raise SetupError(f"{venv} is there and was not built by this: it is left as it is; choose "
                         "another folder with --venv")
    venv.mkdir(parents=True, exist_ok=True)
    (venv / MARK).touch()     # ours from here on, whatever interrupts
    for path in there:
        if path.name != MARK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    # Resolved, since `sys.executable` may be a link in the very environment that was cleared.
    python = Path(sys.base_prefix, "bin", "python{}.{}".format(*sys.version_info[:2]))
    run_uv("venv", "--no-project", "--allow-existing", "--python",
           python if python.exists() else os.path.realpath(sys.executable), venv)


def export(*options):
    """The locked requirements, with hashes, as text."""
    return run_uv("export", "--quiet", "--frozen", "--offline", "--no-emit-project",
                  "--no-annotate", "--no-header", "--directory", ROOT, *options)


def install(venv, requirements, *options):
    """Install requirements given as text; what they depend on is among them.

    By `uv pip`, not `uv sync`, which takes each file from where uv.lock says, whatever mirror
    the machine is told to use; the hashes hold for the mirror too.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        return run_uv("pip", "install", "--python", venv / "bin" / "python", "-r", file.name,
                      *options)


def wanted_packages(parts):
    """The requirements of the `parts`, each with the options of its installation."""
    index = os.environ.get("TORCH_INDEX") if "pytorch" in parts else None
    options = [word for part in sorted(parts) if not (index and part == "pytorch")
               for word in ("--group" if part == "dev" else "--extra", part)]
    yield export(*options), "--no-deps"
    if index:
        version = re.search(r'name = "torch"\nversion = "([^"]+)"', (ROOT / "uv.lock").read_text())
        yield (f"torch=={version[1]}+cpu\n",
               "--find-links" if Path(index).is_dir() else "--index", index)


def add_libraries(venv):
    """Lay beside libmxnet.so, which looks there first, what the system lacks and wheels carry."""
    site = next(venv.glob("lib/python3*/site-packages"))
    for name, (pattern, group) in IN_WHEELS.items():
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            continue
        with tempfile.TemporaryDirectory(dir=venv) as extra:
            found = sorted(site.glob(pattern))
            if not found and group:
                install(venv, export("--only-group", group), "--no-deps", "--target", extra)
                found = sorted(Path(extra).glob(pattern))
            if found:
                say(f"{name} is not on this system: taken from {found[0].parent.name[:-5]}'s wheel")
                shutil.copy(found[0], site / "mxnet" / name)


def check_import(venv):
    """Raise SetupError unless the installed MXNet imports."""
    done = subprocess.run([str(venv / "bin" / "python"), "-c", "import model.mxnet_compat, mxnet"],
                          cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode == 0:
        return
    problem = next((line.strip() for line in reversed(done.stdout.splitlines()) if line.strip()),
                   "no message")
    library = problem.replace("OSError: ", "").split(":")[0]
    package = SYSTEM_PACKAGES.get(library)
    if package:
        raise SetupError(f"MXNet needs {library} from the system; on Debian and Ubuntu: "
                         f"apt-get install {package}")
    raise SetupError(f"the installed MXNet does not import: {problem}")


@contextlib.contextmanager
def locked(venv):
    """Keep a second set-up of the same environment waiting."""
    venv.parent.mkdir(parents=True, exist_ok=True)
    with open(venv.parent / f"{venv.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def set_up(venv, parts, forced, wanted):
    """Bring the environment in `venv` up to date; do only what is missing."""
    build = installed_build(venv, wanted)
    there = build is not None and forced in (None, build)
    parts = parts | ({build} if there else choose_build(forced, parts))
    if parts >= {"gpu", "pytorch"}:
        raise SetupError(f"{venv} has the GPU build of MXNet, whose cuDNN 8 cannot share a "
                         "process with PyTorch's cuDNN 9: choose another folder with --venv")
    packages = list(wanted_packages(parts))
    if there and all("no changes" in install(venv, *each, "--dry-run") for each in packages):
        return
    if there:
        say(f"bringing {venv.name} up to date")
        (venv / MARK).write_text("")
    else:
        say(f"building {venv.name} with Python {platform.python_version()}")
        create(venv)
    for each in packages:
        install(venv, *each)
    add_libraries(venv)
    check_import(venv)
    build = "gpu" if "gpu" in parts else "cpu"
    (venv / MARK).write_text(f"{build} {identify(venv / 'bin' / 'python')}\n")
    say("ready")


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="with the tools for tests and lint")
    parser.add_argument("--extra", action="append", default=[], help="with this too",
                        choices=("export", "openvino", "pytorch"))
    parser.add_argument("--venv", type=lambda text: Path(text).absolute(), default=ROOT / ".venv",
                        help="where (default: .venv)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    venv, forced = args.venv, os.environ.get("MXNET_VARIANT") or None
    # The tests export networks and run what they exported.
    parts = {*args.extra, *(("dev", "export") if args.dev else ())}
    try:
        if forced not in (None, "cpu", "gpu"):
            raise SetupError(f"MXNET_VARIANT is {forced!r}; it can be cpu or gpu")
        if not OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
            raise SetupError(f"this is Python {platform.python_version()}; 3.10 to 3.14 can be "
                             "used")
        with locked(venv):
            set_up(venv, parts, forced,
                   identify(sys.executable) if os.environ.get("PYTHON") else None)
    except (SetupError, OSError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
