"""Errors with the Triton error code that they are sent with (TRITONSERVER_Error_Code, tritonserver.h)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BackendError(Exception):
    """Base: `code` is the attribute name on `pb_utils.TritonError`."""

    code = "INTERNAL"


class InvalidRequestError(BackendError):
    code = "INVALID_ARG"


class NotFoundError(BackendError):
    code = "NOT_FOUND"


class UnsupportedError(BackendError):
    code = "UNSUPPORTED"


class AlreadyExistsError(BackendError):
    code = "ALREADY_EXISTS"


class UnavailableError(BackendError):
    code = "UNAVAILABLE"


class CancelledError(BackendError):
    code = "CANCELLED"


class SettingsError(BackendError):
    """A file of the model (model.json, multi_lora.json, an adapter) cannot be used; the load fails."""

    code = "INVALID_ARG"


def well_formed(text: str) -> str:
    """The text with "?" for each lone surrogate. JSON can contain them; UTF-8 and Triton do not allow them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest known name, or an empty string."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{nearest[0]}'?)" if nearest else ""
