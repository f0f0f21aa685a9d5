"""Serving one request: generation, embedding; errors and cancellation included."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from tritonode.contract.requests import RawRequest, decode_images, prepends_input
from tritonode.contract.responses import ResponseState, embedding_tensors
from tritonode.contract.sampling import parse_object, parse_sampling_parameters
from tritonode.engine.run_request import run_request
from tritonode.errors import BackendError, CancelledError, InvalidRequestError, UnavailableError, UnsupportedError
from tritonode.lora.adapter import Adapter
from tritonode.lora.registry import AdapterRegistry
from tritonode.vllm.engine import EngineDeadError
from tritonode.vllm.requests import (
    OVERLOAD_ERRORS,
    REQUEST_ERRORS,
    EmbeddingRequestOutput,
    PoolingParams,
    pooling_error,
)

from .output_sender import OutputSender
from .senders import Sender


class Generator:
    """Answers requests on the engine's loop."""

    def __init__(self, llm: Any, adapters: AdapterRegistry | None, model_name: str, pb_utils: Any) -> None:
        self._llm = llm
        self._adapters = adapters
        self._model_name = model_name
        self._pb_utils = pb_utils

    async def serve(self, raw: RawRequest, sender: Sender) -> None:
        """Answer one request; raises BackendError for everything that has a name."""
        task = "generate" if raw.embedding is None else "embed"
        if task not in await self._llm.get_supported_tasks():
            raise UnsupportedError(f"Model {self._model_name} does not support '{task}' request")
        with _named_errors():
            if raw.embedding is None:
                await self._generate(raw, sender)
            else:
                await self._embed(raw, raw.embedding, sender)

    async def _generate(self, raw: RawRequest, sender: Sender) -> None:
        prepend = prepends_input(raw)
        parameters = parse_sampling_parameters(raw.parameters, stream=raw.stream)
        prompt: Any = raw.text if raw.token_ids is None else {"prompt_token_ids": raw.token_ids}
        if raw.images:
            text = {"prompt": raw.text} if raw.token_ids is None else prompt
            prompt = text | {"multi_modal_data": {"image": decode_images(raw.images)}}
        sampling = parameters.sampling
        state = ResponseState(
            raw.returns, sampling.n, raw.text if prepend else "", with_logprobs=sampling.logprobs is not None
        )
        if "return_cumulative_logprob" in raw.returns and sampling.logprobs is None:
            # vLLM sums up log probabilities only if they are requested; 0 means those of the chosen tokens only.
            sampling.logprobs = 0
        lora = (parameters.lora_name, parameters.lora_path, parameters.lora_scale)
        async with self._adapter(*lora, state) as adapter:
            output_sender = OutputSender(sender, state, self._pb_utils, stream=raw.stream)
            await run_request(
                self._llm,
                prompt,
                sampling,
                # The caller's id may not be unique; vLLM's must be.
                f"{raw.request_id or 'request'}-{uuid.uuid4().hex[:12]}",
                lora_request=adapter.request if adapter else None,
                priority=parameters.priority,
                on_output=output_sender.add,
            )

    async def _embed(self, raw: RawRequest, text: str, sender: Sender) -> None:
        request = parse_object(text, "embedding_request")
        prompt = request.get("input")
        if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
            prompt = {"prompt_token_ids": prompt}
        elif not isinstance(prompt, str):
            raise InvalidRequestError(f"embedding_request: 'input' must be a text or token ids, got {prompt!r:.80}")
        dimensions = (request.get("pooling_params") or {}).get("dimensions")
        if isinstance(dimensions, list):
            dimensions = dimensions[0] if dimensions else None
        params = PoolingParams(task="embed", dimensions=None if dimensions is None else int(dimensions))
        state = ResponseState(raw.returns)
        async with self._adapter(request.get("lora_name"), request.get("lora_path"), None, state) as adapter:
            outputs = self._llm.encode(
                prompt, params, uuid.uuid4().hex, lora_request=adapter.request if adapter else None
            )
            # An embedding comes in one piece: the last output is the only one.
            output = [output async for output in outputs][-1]
            error = pooling_error(output)
            if error is not None:
                raise BackendError(f"vLLM ended the request with an error: {error}")
            embedding = EmbeddingRequestOutput.from_base(output).outputs.embedding
            tensors = embedding_tensors(self._pb_utils, embedding, raw.returns, len(output.prompt_token_ids))
            await sender.send(self._pb_utils.InferenceResponse(output_tensors=tensors), final=True)

    @contextlib.asynccontextmanager
    async def _adapter(
        self, name: str | None, path: str | None, scale: float | None, state: ResponseState
    ) -> AsyncIterator[Adapter | None]:
        """The adapter of a request, counted as running on it for the length of the block."""
        if name is None:
            yield None
            return
        if self._adapters is None:
            raise UnsupportedError("LoRA feature is not enabled.")
        adapter = await self._adapters.for_request(name, path, scale)
        self._adapters.begin(adapter)
        started = time.monotonic()
        failed = True
        try:
            yield adapter
            failed = False
        finally:
            first_token = None if state.first_token_at is None else state.first_token_at - started
            ended = self._adapters.end(
                adapter,
                tokens=state.tokens,
                failed=failed,
                first_token=first_token,
                total=time.monotonic() - started,
            )
            # Shielded, because a cancelled request has to be counted too.
            await asyncio.shield(ended)


@contextlib.contextmanager
def _named_errors() -> Any:
    """vLLM's refusals of a request are ValueErrors; a dead engine has an error of its own."""
    try:
        yield
    except (BackendError, asyncio.CancelledError):
        raise
    except EngineDeadError as failure:
        raise UnavailableError(f"the vLLM engine is dead: {failure}") from failure
    except OVERLOAD_ERRORS as failure:
        raise UnavailableError(str(failure)) from failure
    except REQUEST_ERRORS as failure:
        raise InvalidRequestError(str(failure)) from failure


def cancelled() -> CancelledError:
    """What a cancelled request answers with (the wording is part of the contract)."""
    return CancelledError("Request was cancelled")
