"""Options of a training from the plain values of a YAML file, with errors that name the key."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

from ..codec.config import check_keys
from ..errors import InputError


def made(what: str, kind: Any, values: Any) -> Any:
    """An object of a dataclass, of plain values; one that is such an object already is left as it is.

    Raises:
        InputError: an unknown key of `what` (near ones are named), or a value that the dataclass refuses.
    """
    if isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        raise InputError(f"{what} is a group of keys, not {values!r}")
    check_keys(what, values, [one.name for one in fields(kind)])
    try:
        return kind(**values)
    except TypeError as error:  # a text where a number belongs
        raise InputError(f"{what}: {error}") from error


def check_types(value: Any) -> None:
    """Raises InputError for a number, a choice or a switch that is something else."""
    for one in fields(value):
        given, kind = getattr(value, one.name), one.type
        if get_origin(kind) is Literal:
            if given not in get_args(kind):
                raise InputError(f"{one.name} must be one of {', '.join(get_args(kind))}, not {given!r}")
        elif kind in (int, float):
            right = isinstance(given, int) or (kind is float and isinstance(given, float))
            if not right or isinstance(given, bool):
                hint = " (YAML reads 1e-4 as a text: write 1.0e-4)" if isinstance(given, str) else ""
                wanted = "a whole number" if kind is int else "a number"
                raise InputError(f"{one.name} must be {wanted}, not {given!r}{hint}")
        elif kind in (bool, str):
            if not isinstance(given, kind):
                raise InputError(f"{one.name} must be {'true or false' if kind is bool else 'a text'}, not {given!r}")
        elif is_dataclass(kind) and not isinstance(given, kind):  # type: ignore[arg-type]
            raise InputError(f"{one.name} must be a {kind.__name__}, not {given!r}")  # type: ignore[union-attr]
