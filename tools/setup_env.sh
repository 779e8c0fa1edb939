#!/bin/sh
# Make .venv ready: find uv and a Python, then let setup_env.py build the environment with them.
#
#     tools/setup_env.sh [--dev] [--extra export|openvino|pytorch] [--venv DIR]
#
#     PYTHON=python3.12      the interpreter to use, instead of the first that fits
#     MXNET_VARIANT=cpu|gpu  the build of MXNet to install, instead of looking for a GPU
#     TORCH_INDEX=URL        an index, or a folder, of PyTorch's builds for CPUs, to install one
#
# Ends with 2 and one line where something is missing. Does nothing where all is in place.

uv_version=0.13.9
fits="cpython>=3.10,<3.15"

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 2

fail() {
    echo "setup: $*" >&2
    exit 2
}

# An older uv may not read the lock file.
reads_lock() {
    "$1" export --quiet --frozen --offline --directory "$root" >/dev/null 2>&1
}

# Install uv into the project: into a folder of our own first, so that two calls at once, or one
# that is interrupted, leave no half of it.
bootstrap() {
    for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        "$python" -c "import ensurepip, venv" 2>/dev/null || continue
        echo "setup: getting uv"
        mkdir -p "$root/.uv" && part=$(mktemp -d "$root/.uv/part.XXXXXX") || exit 2
        trap 'rm -rf "$part"' EXIT
        trap 'exit 130' INT TERM
        "$python" -m venv "$part" >/dev/null 2>&1 &&
            "$part/bin/python" -m pip install --quiet --disable-pip-version-check \
                "uv==$uv_version" >/dev/null 2>&1 &&
            mv "$part/bin/uv" "$root/.uv/uv" && rm -rf "$part" && return
        fail "uv cannot be installed with pip; check the network (or PIP_INDEX_URL), or get it" \
            "from https://docs.astral.sh/uv/ and run this again"
    done
    fail "neither uv nor a python3 that can build environments is on PATH: get uv from" \
        "https://docs.astral.sh/uv/, or on Debian and Ubuntu: apt-get install python3-venv"
}

uv=$(command -v uv) && reads_lock "$uv" || uv=$root/.uv/uv
[ "$uv" != "$root/.uv/uv" ] || reads_lock "$uv" || bootstrap

# Away from pyproject.toml, whose `requires-python` would be asked as well.
wanted=${PYTHON:-$fits}
find_python() {
    (cd / && "$uv" python find --no-project --system --no-python-downloads "$wanted" 2>/dev/null)
}
case $wanted in */*) [ -x "$wanted" ] || fail "PYTHON: $wanted does not run" ;; esac
fits_here='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 15))'
if [ -z "${PYTHON:-}" ] && "$root/.venv/bin/python" -ISc "$fits_here" 2>/dev/null; then
    python=$root/.venv/bin/python
elif ! python=$(find_python); then
    [ -z "${PYTHON:-}" ] || fail "PYTHON: there is no $wanted here"
    echo "setup: no CPython 3.10 to 3.14 here: getting one"
    "$uv" python install --quiet --no-bin 3.13 >/dev/null 2>&1 && python=$(find_python) ||
        fail "no CPython 3.10 to 3.14 is here, and none can be downloaded: check the network" \
            "(or UV_PYTHON_INSTALL_MIRROR), or install one"
fi
UV=$uv exec "$python" -IB "$root/tools/setup_env.py" "$@"
