"""A vLLM model for Triton, built as the upstream vLLM backend is built: one of the peers that the benchmark measures.

The upstream backend does not load on vLLM 0.32. What this one shares with it is where the work is done: requests come
on the stub's thread, an asyncio loop on a second thread holds vLLM's `AsyncLLM`, the engine core and its worker are
processes of their own, and a third thread sends the responses and asks after each whether its request was cancelled.
vLLM is imported at the top, so twice in Triton's start: once for `auto_complete_config`.

vLLM's settings are its defaults. What it takes to run here at all is the locale: the interpreter in the stub starts in
C, where torch can't be imported. Usage statistics are turned off, so that a measurement reports to nobody.
"""

from __future__ import annotations

import asyncio
import json
import locale
import os
import queue
import threading
import uuid
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.sampling_params import SamplingParams  # noqa: E402
from vllm.v1.engine.async_llm import AsyncLLM  # noqa: E402

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def _first(request: Any, name: str) -> Any:
    """Return an input's only element, None where the request does not have it."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()[0]


def _text(texts: Iterable[str]) -> Any:
    """Wrap texts as a response."""
    return pb_utils.InferenceResponse([pb_utils.Tensor("text_output", np.asarray(list(texts), dtype=np.object_))])


class TritonPythonModel:
    """One vLLM engine: `text_input`, `stream` and `sampling_parameters` in, `text_output` out, decoupled."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Complete the model's configuration with the tensors that `execute` reads and writes."""
        for name, kind in (("text_input", "STRING"), ("stream", "BOOL"), ("sampling_parameters", "STRING")):
            config.add_input({"name": name, "data_type": f"TYPE_{kind}", "dims": [1], "optional": name != "text_input"})
        config.add_output({"name": "text_output", "data_type": "TYPE_STRING", "dims": [-1]})
        config.set_model_transaction_policy({"decoupled": True})
        config.set_max_batch_size(0)
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Start the threads and the engine; returns when it is ready, raises what it raised."""
        folder = Path(pb_utils.get_model_dir())
        settings = json.loads((folder / "model.json").read_text())
        self._adapters: dict[str, str] = {}
        if settings.get("enable_lora"):
            self._adapters = json.loads((folder / "multi_lora.json").read_text())
        self._responses: queue.Queue[tuple[dict[str, Any], Any, int] | None] = queue.Queue()
        self._sending = threading.Thread(target=self._send_responses)
        started: Future[None] = Future()
        self._events = threading.Thread(target=lambda: asyncio.run(self._hold_engine(settings, started)))
        self._events.start()
        started.result()
        self._sending.start()

    async def _hold_engine(self, settings: dict[str, Any], started: Future[None]) -> None:
        """Run the engine on this thread's loop until `finalize`."""
        try:
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**settings))
            self._loop = asyncio.get_running_loop()
            self._shutdown = asyncio.Event()
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        await self._shutdown.wait()
        self._engine.shutdown()

    def execute(self, requests: list[Any]) -> None:
        """Hand the requests to the loop; responses are sent as they come."""
        for request in requests:
            asyncio.run_coroutine_threadsafe(self._infer(request), self._loop)

    async def _infer(self, request: Any) -> None:
        """Serve one request from its first to its last response."""
        state = {"sender": request.get_response_sender(), "cancelled": False, "last": False}
        try:
            prompt, params, lora = self._read(request)
            stream = bool(_first(request, "stream"))
            name = uuid.uuid4().hex
            sent = 0
            output: Any = None
            async for output in self._engine.generate(prompt, params, name, lora_request=lora):
                if state["cancelled"] or (not stream and state["sender"].is_cancelled()):
                    await self._engine.abort(name)
                    cancelled = pb_utils.TritonError("Request was cancelled", pb_utils.TritonError.CANCELLED)
                    self._put(state, pb_utils.InferenceResponse(error=cancelled), True)
                    return
                if stream:
                    # vLLM's outputs are cumulative by default, and upstream cuts the new part off.
                    whole = output.outputs[0].text
                    self._put(state, _text([whole[sent:]]), output.finished)
                    sent = len(whole)
            if not stream:
                self._put(state, _text(prompt + choice.text for choice in output.outputs), True)
        except Exception as error:  # whatever it is, the request is answered
            failed = pb_utils.TritonError(f"Error generating stream: {error}")
            self._put(state, pb_utils.InferenceResponse(error=failed), True)

    def _read(self, request: Any) -> tuple[str, Any, Any]:
        """Return a request's prompt, sampling parameters and adapter. Raises ValueError for an unknown adapter."""
        given = json.loads(_first(request, "sampling_parameters") or b"{}")
        lora_name = given.pop("lora_name", None)
        lora = None
        if lora_name is not None:
            if lora_name not in self._adapters:
                raise ValueError(f"LoRA {lora_name} is not supported, we currently support {list(self._adapters)}")
            lora = LoRARequest(lora_name, list(self._adapters).index(lora_name) + 1, self._adapters[lora_name])
        return _first(request, "text_input").decode(), SamplingParams(**given), lora

    def _put(self, state: dict[str, Any], response: Any, last: bool) -> None:
        """Queue a response for the thread that sends."""
        state["last"] = state["last"] or last
        self._responses.put_nowait((state, response, _FINAL if last else 0))

    def _send_responses(self) -> None:
        """Send what is queued until None comes, so that vLLM goes on while Triton takes a response over."""
        while (item := self._responses.get()) is not None:
            state, response, flags = item
            try:
                state["sender"].send(response, flags)
                if not state["last"]:
                    state["cancelled"] = state["sender"].is_cancelled()
            except Exception as error:  # one request's failure must not end the thread
                pb_utils.Logger.log_error(f"A response was not sent: {error}")

    def finalize(self) -> None:
        """End the engine and both threads."""
        self._loop.call_soon_threadsafe(self._shutdown.set)
        self._events.join()
        self._responses.put(None)
        self._sending.join()
