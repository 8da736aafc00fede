"""Advice for errors in options: the closest known name."""

import difflib
import inspect
import pkgutil
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import equinox as eqx

from nnef_dists.families import ExponentialFamily

if TYPE_CHECKING:
    import jsonargparse

# Names of value types in messages.
_KINDS = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "a string",
    "dict": "a mapping",
    "list": "a list",
    "tuple": "a list",
    "NoneType": "null",
}


def explain(error: Exception, *parsers: "jsonargparse.ArgumentParser") -> str:
    """Returns the message of an error in options, with advice if there is any.

    The advice is the closest known name of the same kind: a module, class, command or option. For
    an unknown option of a section or argument of a class, it also lists the known ones.
    """
    message = _in_words(str(error))
    wrong = [
        (r"No module named '([\w.]+)'", _advise_module),
        (r"module '([\w.]+)' has no attribute '(\w+)'", _advise_attribute),
        (r"Expected a dot import path string: (\w+)", _advise_class),
        (r"invalid choice: '(\w*)' \(choose from ([^)]*)\)", _advise_choice),
        (
            r"Expected one of (.*); got (\w*)",
            lambda text, *found: _advise_choice(text, *found[::-1]),
        ),
    ]
    for pattern, advise in wrong:
        match = re.search(pattern, message)
        if match:
            advice = advise(message, *match.groups())
            return f"{message}\n{advice}" if advice else message
    if "; got " in message:
        return message
    advice = _advise_argument(message) or _advise_field(message, parsers)
    if advice:
        return f"{message}\n{advice}"
    close = _close_option(message, parsers)
    return f"{message}\n{_did_you_mean(close)}" if close else message


def _advise_module(message: str, missing: str) -> str | None:
    asked = re.search(r"(?:class_path '|Got value: )([\w.]+)", message)
    if asked is None or not f"{asked[1]}.".startswith(f"{missing}."):
        return None  # The user's module imports the missing one.
    parent, _, name = missing.rpartition(".")
    close = _closest(name, _modules_in(parent))
    if close:
        return _did_you_mean(f"{parent}.{close}" if parent else close)
    return "Run the command where Python finds the module, or add its folder to PYTHONPATH."


def _advise_attribute(message: str, owner: str, missing: str) -> str | None:
    modules = _modules_in(owner)
    public = {name for name in dir(sys.modules.get(owner)) if not name.startswith("_")}
    close = _closest(missing, public | modules)
    if close is None:
        return None
    return _did_you_mean(f"{owner}.{close}" if close in modules else close)


def _advise_class(message: str, missing: str) -> str:
    # Suggest only classes of the kind that the key takes: families for a family.
    classes = _concrete_classes(ExponentialFamily if '"family' in message else eqx.Module)
    close = _closest(missing, {cls.__name__ for cls in classes})
    own = "A class of your own goes by its import path, such as my_module.MyFamily."
    return _did_you_mean(close) if close else own


def _advise_choice(message: str, missing: str, choices: str) -> str | None:
    close = _closest(missing, set(re.findall(r"\w+", choices)))
    return _did_you_mean(close) if close else None


def _advise_argument(message: str) -> str | None:
    """Returns the arguments of a class if the message rejects an unknown one."""
    refused = re.search(r"Option '(\w+)' is not accepted", message)
    named = re.search(r"class_path[ =]'([\w.]+)'", message)
    if refused is None or named is None:
        return None
    # If a script calls the class, the script passes the arguments without a default.
    called = "expects a function or a callable class" in message
    name = named[1].rpartition(".")[2]
    for cls in _concrete_classes(eqx.Module):
        if cls.__name__ == name:
            arguments = list(inspect.signature(cls).parameters.values())
            names = [a.name for a in arguments if a.default is not a.empty or not called]
            if not names:
                return f"{name} takes no arguments."
            return _advise_among(refused[1], names, f"arguments of {name}")
    return None


def _advise_field(message: str, parsers: Sequence["jsonargparse.ArgumentParser"]) -> str | None:
    """Returns the options of a section if the message rejects an unknown one."""
    refused = re.search(
        r"Group '([\w.]+)' does not accept option '([\w.]+)'"
        r"|Subcommand '\w+' does not accept option '([\w.]+)\.(\w+)'"
        r"|(?:unrecognized arguments: --|Option ')([\w.]+)\.(\w+)",
        message,
    )
    if refused is None:
        return None
    parts = ".".join(part for part in refused.groups() if part).split(".")
    start = f"--{'.'.join(parts[:-1])}."
    options = re.findall(rf"{re.escape(start)}(\w+)", "".join(p.format_help() for p in parsers))
    names = list(dict.fromkeys(options))
    if not names:
        return None
    return _advise_among(parts[-1], names, f"options of {start[2:-1]}", start[2:])


def _advise_among(wrong: str, names: Sequence[str], kind: str, start: str = "") -> str:
    close = _closest(wrong, set(names))
    advice = f"{_did_you_mean(start + close)} " if close else ""
    return f"{advice}The {kind} are {', '.join(names)}."


def _in_words(message: str) -> str:
    """Returns a message with the types of values in words: `draws: Expected an integer; got x`."""
    kind = r"(?:<class ')?(\w+)(?:'>|\[[^\[\]]*\])?"
    union = (
        r"Does not validate against any of the Union subtypes\n"
        rf"\s*Subtypes: [\[(]({kind}(?:, {kind})*)[\])]\n(?:.*\n)*?\s*Given value: "
    )

    def name(found: re.Match[str]) -> str:
        words: list[str] = re.findall(kind, found[1])
        kinds = dict.fromkeys(_KINDS.get(word, word) for word in words)
        return f"Expected {' or '.join(kinds)}; got "

    message = re.sub(union, name, message)
    message = re.sub(r"Expected a (<class '\w+'>)\. Got value: ", name, message)
    literal = r"Expected a typing\.Literal\[(.*)\]\. Got value: "
    message = re.sub(literal, r"Expected one of \1; got ", message)
    count = r"Not of type NonNegativeInt: (?:.* base 10: '(.*)'|(.*) does not conform.*)"
    message = re.sub(count, r"Expected an integer >= 0; got \1\2", message)
    return re.sub(r'Parser key "([\w.]+)":\n\s*(Expected .*; got )', r"\1: \2", message)


def _did_you_mean(name: str) -> str:
    return f"Did you mean {name!r}?"


def _closest(word: str, known: set[str]) -> str | None:
    """Returns the closest known name, ignoring case, or None if no name is close."""
    lower = {name.lower(): name for name in sorted(known, reverse=True)}
    close = difflib.get_close_matches(word.lower(), sorted(lower), 1)
    return lower[close[0]] if close else None


def _modules_in(package: str) -> set[str]:
    """Returns the names of the modules in a package, or on the search path if it is empty."""
    path = None
    if package:
        path = getattr(sys.modules.get(package), "__path__", [])
    return {module.name for module in pkgutil.iter_modules(path)}


def _close_option(message: str, parsers: Sequence["jsonargparse.ArgumentParser"]) -> str | None:
    classes = _concrete_classes(eqx.Module)
    known = {name for cls in classes for name in list(inspect.signature(cls.__init__).parameters)}
    known -= {"self"}
    for parser in parsers:
        known |= _option_names(parser)
    names = {cls.__name__ for cls in classes}
    names |= {"ExponentialFamily", "AbstractMomentNetwork"}
    quoted = r"(?:--|(?<!Subcommand )(?<!<class )['\"])([A-Za-z_][\w.]*)"
    for word in re.findall(quoted, message):
        if word not in known and word.rpartition(".")[2] not in names:
            close = difflib.get_close_matches(word, sorted(known), 1)
            if close:
                return close[0]
    return None


def _concrete_classes(base: type[eqx.Module]) -> list[type[eqx.Module]]:
    classes = [base]
    for cls in classes:
        classes += cls.__subclasses__()
    return [cls for cls in classes if not cls.__abstractmethods__ | cls.__abstractvars__]


def _option_names(parser: "jsonargparse.ArgumentParser") -> set[str]:
    """Returns the names of options in messages, with and without their sections."""
    found = set()
    for option in re.findall(r"--([\w.]+)", parser.format_help()):
        parts = option.split(".")
        starts = range(len(parts))
        found |= {".".join(parts[i:j]) for i in starts for j in range(i + 1, len(parts) + 1)}
    return found
