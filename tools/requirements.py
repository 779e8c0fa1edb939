"""Write requirements.txt and requirements-cpu.txt, for pip, from uv.lock.

    python tools/requirements.py
"""
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What all that uv.lock is for has in common.
EVERYWHERE = r" ;? ?(and )?platform_machine == 'x86_64' and sys_platform == 'linux'$"
HEADS = {
    "gpu": """\
# For Linux x86-64 hosts with an NVIDIA GPU of compute capability 5.0 to 8.9 (Maxwell to Ada;
# MXNet's last wheels hold no code for later ones) and a driver of 450.80 or newer; CPython 3.10
# to 3.14. No CUDA toolkit is required, 2.3 GB are downloaded:
""",
    "cpu": "# For machines without a GPU that MXNet can use, Linux x86-64, CPython 3.10 to 3.14:\n",
}
FILES = {"gpu": "requirements.txt", "cpu": "requirements-cpu.txt"}
WHY = """\
# (`make env` does it by itself. Complete, hence --no-deps: MXNet asks for a NumPy that is older
# than those for current Pythons, GluonCV for the OpenCV that needs X11.)
# Written from uv.lock by tools/requirements.py.
"""


def find_uv():
    """The uv on PATH, beside this interpreter, or that of tools/setup_env.sh; None if none is."""
    return (shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
            or shutil.which(str(ROOT / ".uv" / "uv")))


def requirements(variant, uv):
    """The text of the file for 'cpu' or 'gpu'."""
    done = subprocess.run(
        [uv, "export", "--quiet", "--locked", "--offline", "--no-emit-project", "--no-annotate",
         "--no-header", "--no-hashes", "--extra", variant],
        cwd=ROOT, text=True, check=True, stdout=subprocess.PIPE)
    packages = re.sub(EVERYWHERE, "", done.stdout, flags=re.MULTILINE)
    return HEADS[variant] + f"#     pip install --no-deps -r {FILES[variant]}\n" + WHY + packages


def main():
    uv = find_uv()
    if uv is None:
        sys.exit("error: uv is not here: make env-dev")
    for variant, name in FILES.items():
        (ROOT / name).write_text(requirements(variant, uv))


if __name__ == "__main__":
    main()
