"""Converts JSON values to the types that vLLM declares. Triton's own tools write every value as a string."""

from __future__ import annotations

import types
import typing
from typing import Any

_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off"}


class CoercionError(ValueError):
    """The value cannot be read as the type."""


def allows_none(hint: Any) -> bool:
    """Whether `None` is one of the values of a type hint."""
    return hint is Any or hint is type(None) or type(None) in typing.get_args(hint)


def coerce(value: Any, hint: Any) -> Any:
    """Read `value` as `hint`, accepting strings for booleans and numbers.

    Values of other types than bool, int, float, str, Literal, list, dict or a union of these are returned unchanged;
    vLLM checks them itself.
    """
    if hint is bool:
        return _to_bool(value)
    if hint is int:
        return _to_int(value)
    if hint is float:
        return _to_float(value)
    if hint is str:
        if isinstance(value, str):
            return value
        raise CoercionError(f"expected a string, got {_show(value)}")
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _to_union(value, typing.get_args(hint))
    if origin is typing.Literal:
        return _to_literal(value, typing.get_args(hint))
    if origin is typing.Annotated:
        return coerce(value, typing.get_args(hint)[0])
    if origin is list:
        if not isinstance(value, list):
            raise CoercionError(f"expected a list, got {_show(value)}")
        (item,) = typing.get_args(hint)
        return [coerce(entry, item) for entry in value]
    if origin is dict:
        if not isinstance(value, dict):
            raise CoercionError(f"expected an object, got {_show(value)}")
        key_hint, value_hint = typing.get_args(hint)
        return {coerce(key, key_hint): coerce(entry, value_hint) for key, entry in value.items()}
    return value


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE:
        return value.strip().lower() in _TRUE
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise CoercionError(f"expected true or false, got {_show(value)}")


def _to_int(value: Any) -> int:
    if isinstance(value, bool):
        raise CoercionError(f"expected a whole number, got {_show(value)}")
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        try:
            return int(value.strip())
        except ValueError:
            pass
    raise CoercionError(f"expected a whole number, got {_show(value)}")


def _to_float(value: Any) -> float:
    if isinstance(value, bool):
        raise CoercionError(f"expected a number, got {_show(value)}")
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value.strip())
        except ValueError:
            pass
    raise CoercionError(f"expected a number, got {_show(value)}")


def _to_literal(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if value == choice or str(value) == str(choice):
            return choice
    raise CoercionError(f"expected one of {list(choices)}, got {_show(value)}")


def _to_union(value: Any, members: tuple[Any, ...]) -> Any:
    if value is None:
        if type(None) in members:
            return None
        raise CoercionError("must not be null")
    concrete = [member for member in members if member is not type(None)]
    # A string stays a string where a string is allowed ("64" as a stop word is no number), unless a Literal matches.
    if isinstance(value, str) and str in concrete:
        return value
    failures = []
    for member in concrete:
        # To Python 3.10 `list[int]` is a type, of which nothing can be an instance.
        is_class = isinstance(member, type) and typing.get_origin(member) is None
        if is_class and not isinstance(value, bool) and isinstance(value, member):
            return value
    for member in concrete:
        try:
            return coerce(value, member)
        except CoercionError as failure:
            failures.append(str(failure))
    expected = [failure.removeprefix("expected ").removesuffix(f", got {_show(value)}") for failure in failures]
    if all(f"expected {one}, got {_show(value)}" == failure for one, failure in zip(expected, failures, strict=True)):
        raise CoercionError(f"expected {' or '.join(dict.fromkeys(expected))}, got {_show(value)}")
    raise CoercionError(" or ".join(dict.fromkeys(failures)))
