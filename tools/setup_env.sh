#!/bin/sh
# Make .venv ready: choose a Python, then let setup_env.py build the environment with it.
#
#     tools/setup_env.sh [--dev] [--venv DIR]
#
#     PYTHON=python3.12      the interpreter to use, instead of the first that fits
#     MXNET_VARIANT=cpu|gpu  the build of MXNet to install, instead of looking for a GPU
#
# Ends with 2 and one line where something is missing. Does nothing where all is in place.

oldest=9
newest=13

here=$(dirname -- "$0")
setup=$here/setup_env.py

# Prints "VERSION IMPLEMENTATION yes|no" (can it build environments?). Runs on any Python.
probe='
import platform, sys
try:
    import ensurepip, venv
    can = "yes"
except ImportError:
    can = "no"
print("%d.%d.%d %s %s" % (sys.version_info[:3] + (platform.python_implementation(), can)))
'

fail() {
    echo "setup: $*" >&2
    exit 2
}

# Say in $problem why the interpreter $1 cannot be used; succeed if it can.
# It is run, not only looked for: a version manager's shim may be on PATH and lead nowhere.
usable() {
    problem="$1 does not run"
    facts=$("$1" -c "$probe" 2>/dev/null) && [ -n "$facts" ] || return 1
    read -r version implementation can <<EOF
$facts
EOF
    minor=${version#3.}
    minor=${minor%%.*}
    case $implementation:$version in
        CPython:3.*) ;;
        *) problem="$1 is $implementation $version, not CPython 3.$oldest to 3.$newest"; return 1 ;;
    esac
    if [ "$minor" -lt $oldest ] || [ "$minor" -gt $newest ]; then
        problem="$1 is CPython $version, not 3.$oldest to 3.$newest"
        return 1
    fi
    if [ "$can" != yes ]; then
        problem="$1 (CPython $version) cannot build environments; on Debian and Ubuntu: apt-get install python3.$minor-venv"
        bare=$problem
        return 1
    fi
}

# Put the first usable interpreter's name in $python.
choose() {
    bare=
    minor_wanted=$newest
    candidates=python3
    while [ $minor_wanted -ge $oldest ]; do
        candidates="$candidates python3.$minor_wanted"
        minor_wanted=$((minor_wanted - 1))
    done
    for python in $candidates; do
        command -v "$python" >/dev/null 2>&1 && usable "$python" && return
    done
    [ -z "$bare" ] || fail "$bare"
    fail "no CPython 3.$oldest to 3.$newest on PATH: install one, or name one with PYTHON=/path/to/python"
}

if [ -n "${PYTHON:-}" ]; then
    usable "$PYTHON" || fail "PYTHON: $problem"
    python=$PYTHON
elif [ -x "$here/../.venv/bin/python" ] &&
        "$here/../.venv/bin/python" -ISB "$setup" --check "$@" 2>/dev/null; then
    exit 0  # the common case, in a few hundredths of a second
else
    choose
fi
exec "$python" -IB "$setup" "$@"
