"""One registry per kind of thing that is built by name.

A class or function is registered by a decorator where it stands, under the name that
users type. Look-up ignores case, so ``ChaATAC`` and ``chaatac`` are the same unit.
"""
import difflib
import inspect
from functools import partial

__all__ = ["Registry", "UserError", "check_choice", "did_you_mean"]


class UserError(ValueError):
    """Something that the user can put right; its text is one clear line.

    The root of the project's errors (`common.errors`): it stands here because these
    definitions depend on nothing else.
    """

    code = 2    # of a script that ends with it


def did_you_mean(name, known):
    """The hint at the closest of the `known` names, whatever their case; '' if none is close."""
    spelling = {each.lower(): each for each in known}
    close = difflib.get_close_matches(str(name).lower(), spelling, n=1, cutoff=0.5)
    return f" Did you mean '{spelling[close[0]]}'?" if close else ""


def check_choice(option, value, choices):
    """Raise UserError unless the value of an option is among its choices."""
    if value not in choices:
        raise UserError(f"{option} must be one of {', '.join(map(str, choices))}, not {value!r}")


class Registry:
    """Names -> factories of one kind.

    Parameters
    ----------
    kind : str
        What the names stand for ("activation", "attention", "network"); used in errors.
    """

    def __init__(self, kind):
        self.kind = kind
        self._factories = {}
        self._names = {}

    def register(self, name):
        """Return a decorator that files its argument under `name`.

        Raises
        ------
        KeyError
            If the name, in any case, is taken.
        """
        key = name.lower()
        if key in self._factories:
            raise KeyError(f"the {self.kind} '{name}' is registered twice")

        def file_under_name(factory):
            self._factories[key] = factory
            self._names[key] = name
            return factory
        return file_under_name

    def names(self):
        """All names, in the spelling of their registration, sorted without regard to case."""
        return [self._names[key] for key in sorted(self._names)]

    def canonical(self, name):
        """The registered spelling of `name`.

        Raises
        ------
        UserError
            If nothing is registered under it; lists the known names and the closest one.
        """
        key = str(name).lower()
        if key not in self._factories:
            raise UserError(f"unknown {self.kind} '{name}'.{did_you_mean(name, self.names())} "
                             f"Known: {', '.join(self.names())}.")
        return self._names[key]

    def __getitem__(self, name):
        return self._factories[self.canonical(name).lower()]

    def __contains__(self, name):
        return str(name).lower() in self._factories

    def resolve(self, what):
        """A factory: `what` itself if it is callable, else the one registered under it."""
        return what if callable(what) else self[what]

    def configure(self, what, options=None):
        """A callable of `channels` that builds `what` with `options`.

        Parameters
        ----------
        what : str or callable
            A registered name, or a factory called as ``what(channels, **options)``.
        options : dict, optional
            Options of that unit.

        Raises
        ------
        UserError
            If the name is unknown, or what stands under it has no such option.
        """
        factory, options = self.resolve(what), options or {}
        if not callable(what):
            self._check_options(self.canonical(what), factory, options)
        return partial(factory, **options)

    def _check_options(self, name, factory, options):
        parameters = inspect.signature(factory).parameters.values()
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        block = inspect.unwrap(factory)
        if takes_any and not inspect.isclass(getattr(block, "func", block)):
            return
        # The **kwargs of a block go to Gluon, which knows these two.
        known = [p.name for p in parameters
                 if p.kind is not inspect.Parameter.VAR_KEYWORD and p.name != "channels"]
        for option in options:
            if option not in known and option not in ("prefix", "params"):
                raise UserError(f"the {self.kind} '{name}' has no option '{option}'. "
                                 f"It has: {', '.join(known) or 'none'}.")
