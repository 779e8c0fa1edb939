"""How scripts tell their user that something is wrong: one line, and an exit code.

    0    done
    2    something that the user can put right, a loss that is not finite among it
    3    trained to the end, but the end could not be saved
    130  stopped by Ctrl-C
    143  stopped by SIGTERM
"""
import sys

__all__ = ["UserError", "run_script"]


class UserError(Exception):
    """Something that the user can put right; its text is one clear line."""

    code = 2


def run_script(main, *known):
    """Run a script's `main` and exit with its code.

    A `UserError`, or an exception of one of the `known` types, becomes one line on standard
    error and its exit code. Anything else is a bug and keeps its traceback.
    """
    try:
        code = main()
    except (UserError, *known) as error:
        line = " ".join(str(error).split())
        print(f"error: {line}", file=sys.stderr)
        code = getattr(error, "code", 2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
