"""Command-line options: their types, what they are about, and the JSON that may set them.

Nothing here imports MXNet or NumPy: ``--help`` must answer at once. Names of units and
networks are therefore checked later, against their registries.
"""
import argparse
import enum
import math
import os
import struct

from .errors import UserError
from .files import read_json

__all__ = ["RECORDED_THREADS", "Parser", "Scope", "as_arguments", "check_known", "epochs",
           "fraction", "given", "list_of", "milestones", "names", "natural", "network_size",
           "non_negative", "positive_float", "positive_fraction", "positive_int", "replaced",
           "seed", "threads", "whole_number"]


class Scope(enum.Flag):
    """What an option is about; one that is about nothing else says how to run."""

    HOW = 0
    COMPUTES = 1        # what is computed: runs that differ in it are different
    MACHINE = 2         # where things are: each of several machines may have it its own way
    INVOCATION = 4      # one call of a script: no file can ask for it
    NETWORK = 8         # which network is computed: its description says it, too


RECORDED_THREADS = "threads"    # what a run's config.json says beside its options


# ---- types: each names its range in the error -------------------------------------------

_MOST = 2 ** 31 - 1    # what MXNet's integers hold


def _refusal(text, wanted):
    shown = text if len(text) <= 40 else f"{text[:20]}... ({len(text)} characters)"
    return argparse.ArgumentTypeError(f"must be {wanted}, not '{shown}'")


def whole_number(least, most=None):
    """The type of integers from `least` to `most`, or up to what 32 bits hold with a sign."""
    wanted = f"a whole number of at least {least}" if most is None else (
        f"a whole number from {least} to {most}")

    def convert(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < least or (most is not None and value > most):
            raise _refusal(text, wanted)
        if value > _MOST:
            raise _refusal(text, f"{wanted}, up to {_MOST}")
        return value
    return convert


def _number(accepts, wanted):
    """The type of floats that are what they are in float32, too, as which networks get them."""
    def convert(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        try:
            rounded, = struct.unpack("<f", struct.pack("<f", value))
        except OverflowError:
            raise _refusal(text, f"{wanted}, within float32 (up to 3.4e38)") from None
        if not math.isfinite(value) or not accepts(value):
            raise _refusal(text, wanted)
        if not accepts(rounded):
            raise _refusal(text, f"{wanted} in float32, where it is {rounded:g}")
        return value
    return convert


def list_of(convert):
    """The type of values separated by commas: '0,5,9'."""
    return lambda text: [convert(part.strip()) for part in text.split(",")]


positive_int = whole_number(1)
natural = whole_number(0)
# What a description of a network may hold; more would take hours to build.
network_size = whole_number(1, 1024)
epochs = whole_number(1, 1_000_000)
threads = whole_number(0, 1024)     # 0: the work is done by the thread that there is
seed = whole_number(0, _MOST)       # what every random generator here accepts

positive_float = _number(lambda v: v > 0, "a number above 0")
non_negative = _number(lambda v: v >= 0, "a number of at least 0")
fraction = _number(lambda v: 0 <= v < 1, "a number from 0 to less than 1")
positive_fraction = _number(lambda v: 0 < v <= 1, "a number above 0, up to 1")


def milestones(text):
    """Increasing epochs, separated by commas: '300,350'."""
    try:
        epochs = tuple(int(part) for part in str(text).split(",") if part.strip())
    except ValueError:
        epochs = (0,)
    if (any(not 1 <= epoch <= _MOST for epoch in epochs)
            or list(epochs) != sorted(set(epochs))):
        raise _refusal(text, "increasing epochs such as 300,350")
    return epochs


def names(text):
    """Names separated by commas: 'block,classifier'."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"must be names separated by commas, not '{text}'")
    return parts


def check_known(flag, chosen, known):
    """Raise UserError if an option names something that is not known."""
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise UserError(f"{flag} knows {', '.join(known)}, not {unknown[0]}")


# ---- the parser ----------------------------------------------------------------------------

class _HelpFormatter(argparse.HelpFormatter):
    """Adds the default to an option's help, where there is one and the help is silent on it."""

    def _get_help_string(self, action):
        silent = action.default in (None, argparse.SUPPRESS) or action.default is False
        if silent or "default:" in action.help:
            return action.help
        return f"{action.help} (default: %(default)s)"


class _Scoped:
    """Options are declared with their `Scope`."""

    def add_argument(self, *flags, scope=Scope.COMPUTES, **options):
        action = super().add_argument(*flags, **options)
        action.scope = scope
        return action


class _Group(_Scoped, argparse._ArgumentGroup):
    pass


class Parser(_Scoped, argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, and that takes defaults from JSON."""

    def __init__(self, **kwargs):
        super().__init__(formatter_class=_HelpFormatter, add_help=False,
                         allow_abbrev=False, **kwargs)
        self.add_argument("-h", "--help", action="help", help="show this and exit",
                          scope=Scope.INVOCATION)

    def add_argument_group(self, *arguments, **options):
        self._action_groups.append(_Group(self, *arguments, **options))
        return self._action_groups[-1]

    def scopes(self):
        """Name of each option -> its `Scope`."""
        return {name: action.scope for name, action in self._by_name().items()}

    def _by_name(self):
        """Name of each option -> its action; the one with a value, where a flag sets it, too."""
        return {action.dest: action
                for action in sorted(self._actions, key=lambda action: action.nargs != 0)}

    def error(self, message):
        raise UserError(f"{message} (see --help)")

    def _get_value(self, action, arg_string):
        try:
            possible = "\0" not in arg_string and os.fsencode(arg_string) is not None
        except UnicodeEncodeError:
            possible = False
        if not possible:
            raise argparse.ArgumentError(action, f"no name or number has the characters of "
                                                 f"{arg_string!a}")
        return super()._get_value(action, arg_string)

    def load_config(self, path):
        """Take the defaults of options from a JSON file: a run's config.json is such a file.

        Raises
        ------
        UserError
            If the file cannot be read, names an unknown option or holds an unfit value.
        """
        config = read_json(path, "--config")
        config.pop(RECORDED_THREADS, None)    # of the run itself: see `runs.config`
        actions = self._by_name()
        actions.pop(argparse.SUPPRESS, None)
        unknown = [key for key in config if key.replace("-", "_") not in actions]
        if unknown:
            raise UserError(f"{path} sets unknown options: {', '.join(sorted(unknown))}")
        refused = [key for key in config
                   if actions[key.replace("-", "_")].scope & Scope.INVOCATION]
        if refused:
            raise UserError(f"{path} sets {', '.join(sorted(refused))}, which can only be given "
                            "on the command line")
        self.set_defaults(**{
            key.replace("-", "_"): self._checked(actions[key.replace("-", "_")], value, path)
            for key, value in config.items()})

    def _checked(self, action, value, path):
        """`value` as the command line would have it."""
        if value is None:
            return None
        flag = action.option_strings[0]
        if action.nargs == 0:
            if not isinstance(value, bool):
                raise UserError(f"{path}: {flag} must be true or false, not {value!r}")
            return value
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        if isinstance(value, (bool, dict)):
            raise UserError(f"{path}: {flag} cannot be {value!r}")
        try:
            value = self._get_value(action, text)
            self._check_value(action, value)
        except argparse.ArgumentError as error:
            raise UserError(f"{path}: {error}") from None
        return value


def replaced(options, **values):
    """Options of which some have other values; `options` stay as they are."""
    return argparse.Namespace(**{**vars(options), **values})


def given(options, *names):
    """Those of the named options that have a value: name -> value."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def as_arguments(options):
    """Options as they are typed.

    >>> as_arguments({"use_relu": False, "last_gamma": True, "attention_at": ["block"]})
    ['--no-use-relu', '--last-gamma', '--attention-at', 'block']
    """
    arguments = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            many = isinstance(value, (list, tuple))
            arguments += [f"--{flag}", ",".join(map(str, value)) if many else str(value)]
    return arguments
