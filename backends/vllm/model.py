"""Triton's Python-based backend for vLLM: the class that Triton's stub loads.

Imports of torch and vLLM happen in `initialize`: Triton starts the stub a second time for `auto_complete_config`.
"""

from __future__ import annotations

import gc
import os
import sys

# Triton puts this folder on sys.path when it is the backend's; a model.py linked elsewhere needs it too.
# Where that has a non-ASCII letter, the links in Triton's private folder come first: the interpreter that Triton embeds
# decodes paths as ASCII, and torch's C++ code refuses the surrogates that it makes of other letters.
sys.path.insert(0, os.path.dirname(__file__))
sys.path.insert(0 if os.path.realpath(__file__).isascii() else 1, os.path.dirname(os.path.realpath(__file__)))

from typing import Any

import triton_python_backend_utils as pb_utils
from tritonode.contract import tensors as contract
from tritonode.engine import environment, page_cache
from tritonode.ranks import server
from tritonode.triton import progress


class TritonPythonModel:
    """One instance of a vLLM model. See `tritonode.service` for what it does."""

    @classmethod
    def auto_complete_config(cls, auto_complete_model_config: Any) -> Any:
        return contract.complete(auto_complete_model_config)

    def initialize(self, args: dict[str, str]) -> None:
        from tritonode.triton.host_watch import watch_host

        watch_host(os.getppid())
        environment.prepare()
        # Engine arguments can name Python classes (`logits_processors`); they are looked for beside model.json, for the
        # interpreter that Triton embeds does not read PYTHONPATH.
        sys.path.append(pb_utils.get_model_dir())
        if server.is_of_use(pb_utils.get_model_dir()):
            environment.waiting_is_ours(paced=False)
            server.RankServer.start()
        page_cache.read_ahead(pb_utils.get_model_dir())
        progress.report(args["model_name"], "import", warm="tritonode.service" in sys.modules)
        # Nothing that is imported goes away again: collections need not look at it, now or later. vLLM asks for five
        # full ones while it starts.
        gc.disable()
        warning = environment.prepare_vllm()
        if warning is not None:
            pb_utils.Logger.log_warn(f"[vllm] {warning}")
        from tritonode.service import Service

        gc.freeze()
        gc.enable()
        # A class from beside model.json would leave a `__pycache__` there, and Triton takes a model whose folder has
        # changed for a new version: it would load this one again, once an ensemble over it is loaded.
        sys.dont_write_bytecode = True
        environment.report_crashes()
        self._service = Service(args, pb_utils)

    def execute(self, requests: list[Any]) -> None:
        self._service.execute(requests)

    def finalize(self) -> None:
        self._service.close()
