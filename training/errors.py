"""How scripts tell their user that something is wrong: one line, exit code 2."""
import sys

__all__ = ["UserError", "run_script"]


class UserError(Exception):
    """Something that the user can put right; its text is one clear line."""


def run_script(main, *known):
    """Run a script's `main` and exit with its code.

    A `UserError`, or an exception of one of the `known` types, becomes one line on standard
    error and exit code 2. Anything else is a bug and keeps its traceback.
    """
    try:
        code = main()
    except (UserError, *known) as error:
        line = " ".join(str(error).split())
        print(f"error: {line}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
