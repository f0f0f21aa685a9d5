"""The adapters of the registry as the models of vLLM's OpenAI application.

vLLM's application keeps a dictionary of adapters of its own, filled when it starts. Here it sees the registry itself:
an adapter that is loaded, replaced or unloaded in any way is a model (or none) at the next request.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncGenerator, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from tritonode.errors import AlreadyExistsError, BackendError
from tritonode.lora.adapter import Adapter
from tritonode.lora.registry import AdapterRegistry
from tritonode.vllm.lora import LoRARequest
from tritonode.vllm.openai import (
    EngineClient,
    ErrorResponse,
    LoadLoRAAdapterRequest,
    LoRAAdapterNotFoundError,
    ModelCard,
    ModelList,
    ModelPermission,
    OpenAIServingModels,
    UnloadLoRAAdapterRequest,
    VLLMNotFoundError,
    create_error_response,
)


class AdapterModels(Mapping[str, LoRARequest]):
    """The registry as vLLM reads it: name → the current version's `LoRARequest`."""

    def __init__(self, registry: AdapterRegistry | None) -> None:
        self.registry = registry
        # A version that was handed out may be superseded before its request reaches the engine.
        self._handed_out: weakref.WeakValueDictionary[int, Adapter] = weakref.WeakValueDictionary()

    def __getitem__(self, name: str) -> LoRARequest:
        if self.registry is None or name not in self.registry.names:
            raise KeyError(name)
        adapter = self.registry.get(name)
        self._handed_out[adapter.request.lora_int_id] = adapter
        return adapter.request

    def __iter__(self) -> Iterator[str]:
        return iter(self.registry.names if self.registry is not None else [])

    def __len__(self) -> int:
        return len(self.registry.names) if self.registry is not None else 0

    def adapter_of(self, request: LoRARequest) -> Adapter:
        """The adapter behind a request; raises VLLMNotFoundError when its weights are gone from the engine."""
        adapter = self._handed_out.get(request.lora_int_id)
        if adapter is None or (adapter.retired and adapter.running == 0):
            raise VLLMNotFoundError(f"The model `{public_name(request)}` does not exist.")
        return adapter


def public_name(request: LoRARequest) -> str:
    """The adapter's name as callers know it, without the version (see `adapters.Adapter`)."""
    return str(request.lora_name).rpartition("@")[0]


class RegistryServingModels(OpenAIServingModels):
    """vLLM's model list over the registry: `/v1/models`, loading and unloading included."""

    lora_requests: AdapterModels  # type: ignore[assignment]

    def follow(self, models: AdapterModels) -> None:
        """Take the adapters from the registry from now on."""
        self.lora_requests = models

    def model_name(self, lora_request: LoRARequest | None = None) -> str:
        return super().model_name() if lora_request is None else public_name(lora_request)

    async def show_available_models(self) -> ModelList:
        listed = await self.registry.show_available_models()
        listed.data.extend(
            ModelCard(id=name, root=request.path, parent=self.base_model_paths[0].name, permission=[ModelPermission()])
            for name, request in self.lora_requests.items()
        )
        return listed

    async def load_lora_adapter(
        self, request: LoadLoRAAdapterRequest, base_model_name: str | None = None
    ) -> ErrorResponse | str:
        adapters = self.lora_requests.registry
        if adapters is None:
            # vLLM's own answer for an engine without LoRA.
            return await super().load_lora_adapter(request, base_model_name)
        name, path = request.lora_name, request.lora_path
        async with self.lora_resolver_lock[name]:
            refusal = await self._check_load_lora_adapter_request(request)
            if refusal is not None:
                return refusal
            try:
                await adapters.load(name, path, replace=name in self.lora_requests)
            except BackendError as failure:
                if f"there is no folder {path}" in str(failure):
                    return create_error_response(LoRAAdapterNotFoundError(name, path))
                return create_error_response(str(failure))
            return f"Success: LoRA adapter '{name}' added successfully."

    async def unload_lora_adapter(self, request: UnloadLoRAAdapterRequest) -> ErrorResponse | str:
        adapters = self.lora_requests.registry
        if adapters is None:
            return await super().unload_lora_adapter(request)
        name = request.lora_name
        async with self.lora_resolver_lock[name]:
            refusal = await self._check_unload_lora_adapter_request(request)
            if refusal is not None:
                return refusal
            await adapters.unload(name)
            return f"Success: LoRA adapter '{name}' removed successfully."

    async def resolve_lora(self, lora_name: str) -> LoRARequest | ErrorResponse:
        """Ask vLLM's resolvers (plugins) for an adapter. What they find is loaded by the registry.

        vLLM would number them itself, with ids that the registry's adapters have, and the weights of one adapter would
        answer for another.
        """
        adapters = self.lora_requests.registry
        if adapters is None:
            return await super().resolve_lora(lora_name)
        refusals = []
        async with self.lora_resolver_lock[lora_name]:
            for resolver in [] if lora_name in self.lora_requests else self.lora_resolvers:
                found = await resolver.resolve_lora(self.model_config.model, lora_name)
                if found is None:
                    continue
                try:
                    await adapters.load(lora_name, found.lora_path)
                    break
                except AlreadyExistsError:
                    break  # another request loaded it in the meantime
                except BackendError as failure:
                    refusals.append(str(failure))
        if lora_name in self.lora_requests:
            return self.lora_requests[lora_name]
        if refusals:
            message = f"LoRA adapter '{lora_name}' was found but could not be loaded: {'; '.join(refusals)}"
            return create_error_response(message, "BadRequestError", HTTPStatus.BAD_REQUEST)
        return create_error_response(f"LoRA adapter {lora_name} does not exist", "NotFoundError", HTTPStatus.NOT_FOUND)


class CountingEngineClient:
    """vLLM's engine client, with every request on an adapter counted in the registry.

    The count is also what keeps a superseded version's weights until its last request is done.
    """

    def __init__(self, llm: Any, models: AdapterModels) -> None:
        self._llm = llm
        self._models = models

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def generate(self, *args: Any, lora_request: LoRARequest | None = None, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """`EngineClient.generate`, counted."""
        return self._counted(self._llm.generate(*args, lora_request=lora_request, **kwargs), lora_request)

    def encode(
        self,
        prompt: Any,
        pooling_params: Any,
        request_id: str,
        lora_request: LoRARequest | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[Any, None]:
        """`EngineClient.encode`, counted."""
        outputs = self._llm.encode(prompt, pooling_params, request_id, lora_request=lora_request, **kwargs)
        return self._counted(outputs, lora_request)

    def _counted(self, outputs: Any, request: LoRARequest | None) -> AsyncGenerator[Any, None]:
        if request is None or self._models.registry is None:
            return outputs  # type: ignore[no-any-return]
        return self._count(outputs, request, self._models.registry)

    async def _count(self, outputs: Any, request: LoRARequest, registry: AdapterRegistry) -> AsyncGenerator[Any, None]:
        adapter = self._models.adapter_of(request)
        if not adapter.retired:
            try:
                await registry.for_request(adapter.name, None)
            except BackendError as failure:
                # vLLM's application treats a ValueError as an error of the request.
                raise ValueError(str(failure)) from failure
        registry.begin(adapter)
        started, first_token = time.monotonic(), None
        tokens, failed = 0, True
        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    if first_token is None:
                        first_token = time.monotonic() - started
                    tokens += sum(len(completion.token_ids) for completion in _completions(output))
                    yield output
            failed = False
        finally:
            total = time.monotonic() - started
            ended = registry.end(adapter, tokens=tokens, failed=failed, first_token=first_token, total=total)
            # Shielded, because a cancelled request has to be counted too.
            await asyncio.shield(ended)


def _completions(output: Any) -> list[Any]:
    """The completions of a generation's output (deltas or the whole, each token once); a pooling output has none."""
    completions = getattr(output, "outputs", None)
    return completions if isinstance(completions, list) else []


# vLLM's type checks then accept the client as the type that it wraps.
EngineClient.register(CountingEngineClient)
