"""Build a plug-in from the options of a scenario, checked against its own signature."""

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedsim.errors import InputError
from fedsim.registry import suggest

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raise InputError(`key = value: allowed: ...`) unless the condition holds."""
    if not condition:
        raise InputError(f"{key} = {value!r}: allowed: {allowed}")


def path_of(key: str, text: str) -> Path:
    """Return the path that a key names, ~ followed. Raises InputError for a ~user that there is not."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{key} = {text!r}: allowed: a path ({error})") from None


def option_names(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the keyword-only parameters of a plug-in: what a scenario may set."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def check_options(
    factory: Callable[..., Any], options: Mapping[str, Any], where: str, also: Collection[str] = ()
) -> dict[str, Any]:
    """Return `options` with their types checked; `where` is the key in the scenario, such as `defenses.0`.

    `also` are keys of the same table that are not the plug-in's: they are suggested too.
    Raises InputError for an unknown option (nearest valid name suggested), a missing one or a wrong type.
    """
    known = option_names(factory)
    hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    checked = {}
    for name, value in options.items():
        if name not in known:
            names = [*known, *also]
            what = suggest(name, names) if names else "it takes no options"
            raise InputError(f"{where}.{name} = {value!r}: unknown key; {what}")
        checked[name] = _typed(hints.get(name, Any), value, f"{where}.{name}")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in options:
            raise InputError(f"{where}.{name} is missing: allowed: {_type_name(hints.get(name, Any))}")
    return checked


def build(
    factory: Callable[..., Any],
    options: Mapping[str, Any],
    where: str,
    *positional: Any,
    also: Collection[str] = (),
) -> Any:
    """Call `factory(*positional, **options)`, options checked; its range errors get `where` in front."""
    checked = check_options(factory, options, where, also)
    try:
        return factory(*positional, **checked)
    except InputError as error:
        raise InputError(f"{where}.{error}") from None


def _typed(annotation: Any, value: Any, key: str) -> Any:
    config = ConfigDict(arbitrary_types_allowed=True)
    try:
        return TypeAdapter(annotation, config=config).validate_python(value)
    except ValidationError:
        raise InputError(f"{key} = {value!r}: allowed: {_type_name(annotation)}") from None


def _type_name(annotation: Any) -> str:
    """Return a type in the words of a scenario's author."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin is typing.Literal:
        return ", ".join(repr(choice) for choice in arguments)
    if origin in (types.UnionType, typing.Union):
        return ", or ".join(_type_name(a) for a in arguments if a is not types.NoneType)
    if origin in (list, tuple, collections.abc.Sequence):
        return f"a list, each entry {_type_name(arguments[0])}"
    plain = None if origin else getattr(annotation, "__name__", None)
    return plain or str(annotation).replace("typing.", "")
