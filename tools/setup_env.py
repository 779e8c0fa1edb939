"""Build the project's environment, once: .venv with MXNet for this machine.

Run through `setup_env.sh`, which finds uv and the interpreter (CPython 3.10 to 3.14). Uses the
standard library only. Chooses the build of MXNet, lets uv install what uv.lock says, lays
beside MXNet the system libraries that are missing, checks that MXNet imports, and last of all
writes a stamp into the environment: without a stamp that fits, an environment of ours is built
again, from what uv has already downloaded.
"""
import argparse
import configparser
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = ("cpu", "gpu")
EXTRAS = ("export", "openvino", "pytorch")
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 14)
STAMP = "setup.json"

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


def decide_variant(capabilities, problem=None, machine=None):
    """Choose the build of MXNet for the GPUs found.

    Returns
    -------
    (variant, reason) : 'gpu' or 'cpu', and a sentence that says why.
    """
    machine = machine or f"{platform.system()} {platform.machine()}"
    if problem or not capabilities:
        return "cpu", problem or "there is no NVIDIA GPU"
    if machine != "Linux x86_64":
        return "cpu", f"there is no GPU wheel of MXNet for {machine}"
    found = ", ".join(f"{major}.{minor}" for major, minor in capabilities)
    if any(OLDEST_GPU <= c <= NEWEST_GPU for c in capabilities):
        return "gpu", f"a GPU here can be used (compute capability {found}; 5.0 to 8.9 can)"
    age = "newer" if max(capabilities) > NEWEST_GPU else "older"
    return "cpu", (f"the GPU here has compute capability {found}, {age} than MXNet's last wheels "
                   "hold code for (5.0 to 8.9)")


def choose_variant(forced, pytorch=False):
    """'cpu' or 'gpu': what MXNET_VARIANT forces, else what the machine suggests."""
    if pytorch and forced == "gpu":
        raise SetupError("MXNET_VARIANT is gpu, but PyTorch's cuDNN 9 and the cuDNN 8 of MXNet's "
                         "GPU build cannot share a process: leave one of the two out")
    capabilities, problem = probe_gpus() if forced != "cpu" and not pytorch else ([], None)
    if forced == "gpu" and problem:
        # Said before gigabytes are downloaded: the GPU build does not import without a driver.
        raise SetupError(f"MXNET_VARIANT is gpu, but {problem}")
    if forced:
        variant, reason = forced, "MXNET_VARIANT says so"
    elif pytorch:
        variant, reason = "cpu", "PyTorch, beside it, needs another cuDNN than the GPU build"
    else:
        variant, reason = decide_variant(capabilities, problem)
    say(f"{variant.upper()} build of MXNet, because {reason}")
    return variant


# --- is everything in place? ------------------------------------------------------------

def fingerprint():
    """A hash over what decides which packages are installed."""
    return hashlib.sha256((ROOT / "uv.lock").read_bytes()
                          + (ROOT / "pyproject.toml").read_bytes()).hexdigest()


def this_python():
    """Version and home of the running interpreter, the same inside and outside a venv."""
    return "{}.{} {}".format(*sys.version_info[:2], os.path.realpath(sys.base_prefix))


def read_stamp(venv):
    """The stamp of an environment of ours, empty if it is unfinished; None if there is none."""
    try:
        return json.loads((venv / STAMP).read_text())
    except ValueError:
        return {}
    except OSError:
        return None


def write_stamp(venv, stamp):
    """Write the stamp in one step: it is there in full or not at all."""
    temporary = venv / f"{STAMP}.part"
    temporary.write_text(json.dumps(stamp, indent=1) + "\n")
    os.replace(temporary, venv / STAMP)


def runs_in(venv):
    """`this_python()` as the environment's own interpreter says it; None if it does not run."""
    try:
        done = subprocess.run([str(venv / "bin" / "python"), "-ISB", __file__, "--identify"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def keeps(stamp, installed, forced, wanted):
    """Whether the environment can be added to: finished, intact, of the build and Python asked for.

    Parameters
    ----------
    stamp : dict or None
    installed : str or None
        The interpreter that the environment has now.
    forced, wanted : str or None
        The variant and the interpreter that the user asked for; None takes what is there.
    """
    stamp = stamp or {}
    return (stamp.get("variant") in VARIANTS and forced in (None, stamp["variant"])
            and stamp.get("python") == installed and wanted in (None, installed))


def holds(stamp, parts):
    """Whether all `parts` of the present lock file are installed."""
    return stamp.get("lock") == fingerprint() and set(parts) <= set(stamp.get("parts", ()))


# --- what uv is told --------------------------------------------------------------------

def pip_settings(environ=os.environ):
    """pip's settings, from its files and its environment variables, the strongest last."""
    home = Path(environ.get("HOME") or os.path.expanduser("~"))    # of some users there is none
    folders = [*environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":"), "/etc"]
    files = [Path(folder, name) for folder, name in zip(
        folders, ["pip/pip.conf"] * (len(folders) - 1) + ["pip.conf"])]
    files += [home / ".pip" / "pip.conf",
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
    there = [path for path in venv.iterdir()] if venv.is_dir() else []
    if there and read_stamp(venv) is None:
        raise SetupError(f"{venv} is there and was not built by this: it is left as it is; choose "
                         "another folder with --venv")
    venv.mkdir(parents=True, exist_ok=True)
    write_stamp(venv, {})  # ours from here on, whatever interrupts
    for path in there:
        if path.name != STAMP:
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
        run_uv("pip", "install", "--python", venv / "bin" / "python", "-r", file.name, *options)


def install_parts(venv, variant, parts):
    options = ["--extra", variant]
    for part in sorted(parts):
        cpu_torch = part == "pytorch" and os.environ.get("TORCH_INDEX")
        if not cpu_torch:
            options += ["--group", "dev"] if part == "dev" else ["--extra", part]
    install(venv, export(*options), "--no-deps")
    if "pytorch" in parts and os.environ.get("TORCH_INDEX"):
        version = re.search(r'name = "torch"\nversion = "([^"]+)"', (ROOT / "uv.lock").read_text())
        index = os.environ["TORCH_INDEX"]
        install(venv, f"torch=={version[1]}+cpu\n",
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
    stamp = read_stamp(venv)
    if keeps(stamp, runs_in(venv), forced, wanted):
        if holds(stamp, parts):
            return
        variant, parts = stamp["variant"], set(parts) | set(stamp["parts"])
        if variant == "gpu" and "pytorch" in parts:
            raise SetupError(f"{venv} has the GPU build of MXNet, whose cuDNN 8 cannot share a "
                             "process with PyTorch's cuDNN 9: choose another folder with --venv")
        write_stamp(venv, {})
        say(f"bringing {venv.name} up to date")
        python = stamp["python"]
    else:
        variant = choose_variant(forced, "pytorch" in parts)
        say(f"building {venv.name} with Python {platform.python_version()}")
        create(venv)
        python = this_python()
    install_parts(venv, variant, parts)
    add_libraries(venv)
    check_import(venv)
    write_stamp(venv, {"python": python, "variant": variant, "lock": fingerprint(),
                       "parts": sorted(parts)})
    say("ready")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="with the tools for tests and lint")
    parser.add_argument("--extra", action="append", default=[], choices=EXTRAS,
                        help="with this too")
    parser.add_argument("--venv", type=lambda text: Path(text).absolute(), default=ROOT / ".venv",
                        help="where (default: .venv)")
    parser.add_argument("--check", action="store_true",
                        help="only say by the exit status whether all is in place; to be run by "
                             "the environment's own interpreter")
    parser.add_argument("--identify", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run(args, forced, wanted):
    """Do what the command line asks; return the exit status."""
    if forced not in (None, *VARIANTS):
        raise SetupError(f"MXNET_VARIANT is {forced!r}; it can be cpu or gpu")
    if args.identify:
        print(this_python())
        return 0
    # The tests export networks and run what they exported.
    parts = set(args.extra) | ({"dev", "export"} if args.dev else set())
    if args.check:
        stamp = read_stamp(args.venv)
        return 0 if keeps(stamp, this_python(), forced, wanted) and holds(stamp, parts) else 1
    if not OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        raise SetupError(f"this is Python {platform.python_version()}; 3.10 to 3.14 can be used")
    with locked(args.venv):
        set_up(args.venv, parts, forced, wanted)
    return 0


def main(argv=None):
    args = parse_args(argv)
    try:
        return run(args, os.environ.get("MXNET_VARIANT") or None,
                   this_python() if os.environ.get("PYTHON") else None)
    except (SetupError, OSError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run it again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
