"""Build the project's environment, once: .venv with MXNet for this machine.

Run through `setup_env.sh`, which picks the interpreter (CPython 3.9 to 3.13). Uses the
standard library only. Chooses between requirements.txt (GPU) and requirements-cpu.txt,
installs it, checks that MXNet imports, and last of all writes a stamp into the
environment: without a stamp that fits, an environment is not taken for finished but
built again from the start.
"""
import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = {"cpu": "requirements-cpu.txt", "gpu": "requirements.txt"}
DEV = "requirements-dev.txt"

# MXNet's last wheels hold machine code for 5.0, 6.0, 7.0, 8.0 and 8.6, which also runs on
# later devices of the same major version, and no PTX that a driver could compile for newer.
OLDEST_GPU, NEWEST_GPU = (5, 0), (8, 9)
OLDEST_CUDA = 11000
CU_ATTRIBUTE_MAJOR, CU_ATTRIBUTE_MINOR = 75, 76

# Shared objects that the wheels expect from the system, and their Debian packages.
SYSTEM_LIBRARIES = {"libgomp.so.1": "libgomp1", "libquadmath.so.0": "libquadmath0",
                    "libstdc++.so.6": "libstdc++6", "libz.so.1": "zlib1g"}


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


def choose_variant(forced):
    """'cpu' or 'gpu': what MXNET_VARIANT forces, else what the machine suggests."""
    capabilities, problem = probe_gpus() if forced != "cpu" else ([], None)
    if forced == "gpu" and problem:
        # Said before gigabytes are downloaded: the GPU build does not import without a driver.
        raise SetupError(f"MXNET_VARIANT is gpu, but {problem}")
    if forced:
        variant, reason = forced, "MXNET_VARIANT says so"
    else:
        variant, reason = decide_variant(capabilities, problem)
    say(f"{variant.upper()} build of MXNet, because {reason}")
    return variant


# --- is everything in place? ------------------------------------------------------------

def requirement_files(name):
    """`name` and the files it includes, in a fixed order."""
    included = re.findall(r"^-r\s+(\S+)", (ROOT / name).read_text(), flags=re.M)
    return [ROOT / name] + [path for other in included for path in requirement_files(other)]


def fingerprint(name):
    """A hash over a requirement file and what it includes."""
    digest = hashlib.sha256()
    for path in requirement_files(name):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def this_python():
    """Version and home of the running interpreter, the same inside and outside a venv."""
    return "{}.{} {}".format(*sys.version_info[:2], os.path.realpath(sys.base_prefix))


def python_of(venv):
    """`this_python()` as the environment's own interpreter says it; None if it does not run."""
    try:
        done = subprocess.run([str(venv / "bin" / "python"), "-ISB", __file__, "--identify"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def read_stamp(venv):
    """The stamp of a finished environment, or an empty dict."""
    try:
        return json.loads((venv / "setup.json").read_text())
    except (OSError, ValueError):
        return {}


def write_stamp(venv, stamp):
    """Write the stamp in one step: it is there in full or not at all."""
    temporary = venv / "setup.json.part"
    temporary.write_text(json.dumps(stamp, indent=1) + "\n")
    os.replace(temporary, venv / "setup.json")


def runtime_current(stamp, installed, forced, wanted):
    """Whether an environment is finished, intact and what is asked for.

    Parameters
    ----------
    stamp : dict
    installed : str or None
        The interpreter that the environment has now.
    forced, wanted : str or None
        The variant and the interpreter that the user asked for; None takes what is there.
    """
    variant, python = stamp.get("variant"), stamp.get("python")
    return (variant in REQUIREMENTS and forced in (None, variant)
            and python == installed and wanted in (None, python)
            and stamp.get("runtime") == fingerprint(REQUIREMENTS[variant]))


def dev_current(stamp):
    return stamp.get("dev") == fingerprint(DEV)


# --- building ---------------------------------------------------------------------------

def create_venv(venv):
    """A fresh environment in `venv`, in place of the one that was there."""
    there = {path.name for path in venv.iterdir()} if venv.is_dir() else set()
    # One whose building was killed may lack all of them but its folders.
    if "pyvenv.cfg" not in there and there - {"bin", "include", "lib", "lib64"}:
        raise SetupError(f"{venv} is there and is no environment: it is left as it is; choose "
                         "another folder with --venv")
    # Resolved, since `sys.executable` may be a link in the very environment that is cleared.
    inside = sys.prefix != sys.base_prefix
    python = os.path.realpath(sys.executable) if inside else sys.executable
    done = subprocess.run([python, "-I", "-m", "venv", "--clear", str(venv)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SetupError(f"{python} cannot build an environment in {venv}: "
                         f"{last_line(done.stdout)}")


def last_line(text):
    """The last line of `text` that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()),
                "no message")


def install(venv, name):
    """Install a requirement file, saying which package it is at."""
    total = sum(bool(re.match(r"\w", line)) for path in requirement_files(name)
                for line in path.read_text().splitlines())
    command = [str(venv / "bin" / "python"), "-I", "-m", "pip", "install", "--no-deps",
               "--progress-bar", "off", "--no-input", "-r", str(ROOT / name)]
    # A user's own --user setting would be refused inside an environment.
    environment = {**os.environ, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    log = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=environment) as pip:
        for line in pip.stdout:
            log.append(line)
            show_progress(line, sum(entry.startswith("Collecting") for entry in log), total)
    if sys.stdout.isatty():
        print("\r\033[K", end="", flush=True)
    if pip.returncode:
        raise SetupError(explain_pip(log))


def show_progress(line, done, total):
    """Turn a line of pip's into progress: one line that changes, or a few plain ones."""
    collecting = re.match(r"Collecting ([^\s;]+)", line)
    large = re.match(r"\s*Downloading (?:\S*/)?([^-\s]+-[^-\s]+).*\((\d{2,}[\d.]* MB|[\d.]+ GB)\)",
                     line)
    if collecting:
        text = f"package {done} of at most {total}: {collecting[1]}"
    elif large:
        text = f"downloading {large[1]}, {large[2]}"
    elif line.startswith("Installing collected packages"):
        text = "unpacking"
    else:
        return
    if sys.stdout.isatty():
        print(f"\r\033[Ksetup: {text}", end="", flush=True)
    elif not collecting:
        say(text)


def explain_pip(log):
    """One line for a failed installation."""
    errors = [line.strip() for line in log if line.startswith("ERROR:")]
    missing = re.search(r"requirement (\S+)", " ".join(errors))
    if missing and any("(from versions: none)" in line for line in errors):
        return (f"no package index can be reached, or none has {missing[1]}; check the network "
                "(or PIP_INDEX_URL) and run this again")
    if any(re.search(r"ConnectionError|Max retries|timed out|resolution", line) for line in log):
        return "the connection to the package index broke off; run this again"
    return f"pip failed: {errors[-1] if errors else last_line(''.join(log))}"


def check_import(venv):
    """Raise SetupError unless the installed MXNet imports."""
    done = subprocess.run([str(venv / "bin" / "python"), "-c", "import model.mxnet_compat, mxnet"],
                          cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode == 0:
        return
    problem = last_line(done.stdout)
    library = problem.replace("OSError: ", "").split(":")[0]
    package = SYSTEM_LIBRARIES.get(library)
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


def set_up(venv, dev, forced, wanted):
    """Bring the environment in `venv` up to date; do only what is missing."""
    stamp = read_stamp(venv)
    if not runtime_current(stamp, python_of(venv), forced, wanted):
        variant = choose_variant(forced)
        say(f"building {venv.name} with Python {platform.python_version()}")
        create_venv(venv)
        install(venv, REQUIREMENTS[variant])
        check_import(venv)
        stamp = {"python": this_python(), "variant": variant,
                 "runtime": fingerprint(REQUIREMENTS[variant])}
        write_stamp(venv, stamp)
        say("ready")
    if dev and not dev_current(stamp):
        say("adding the tools for tests and lint")
        install(venv, DEV)
        write_stamp(venv, {**stamp, "dev": fingerprint(DEV)})


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="with the tools for tests and lint")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where (default: .venv)")
    parser.add_argument("--check", action="store_true",
                        help="only say by the exit status whether all is in place; to be run by "
                             "the environment's own interpreter")
    parser.add_argument("--identify", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run(args, forced, wanted):
    """Do what the command line asks; return the exit status."""
    if forced not in (None, *REQUIREMENTS):
        raise SetupError(f"MXNET_VARIANT is {forced!r}; it can be cpu or gpu")
    if args.identify:
        print(this_python())
    elif args.check:
        stamp = read_stamp(args.venv)
        return 0 if (runtime_current(stamp, this_python(), forced, wanted)
                     and (dev_current(stamp) or not args.dev)) else 1
    else:
        with locked(args.venv):
            set_up(args.venv, args.dev, forced, wanted)
    return 0


def main(argv=None):
    args = parse_args(argv)
    args.venv = args.venv.absolute()
    try:
        return run(args, os.environ.get("MXNET_VARIANT") or None,
                   this_python() if os.environ.get("PYTHON") else None)
    except (SetupError, OSError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run it again to start over", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
