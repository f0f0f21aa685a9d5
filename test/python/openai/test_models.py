"""What of vLLM's application is made ours: its arguments, its list of models, the count of its requests."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import make_fixtures
import pytest
from tritonode.coerce import coerce
from tritonode.errors import SettingsError
from tritonode.lora.registry import AdapterRegistry
from tritonode.openai.arguments import serve_arguments
from tritonode.openai.models import AdapterModels, CountingEngineClient, RegistryServingModels, public_name
from tritonode.vllm.arguments import frontend_arg_types
from tritonode.vllm.openai import BaseModelPath, EngineClient, ErrorResponse, VLLMNotFoundError
from vllm.plugins.lora_resolvers.filesystem_resolver import FilesystemResolver


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_fixtures.make_fixtures(tmp_path_factory.mktemp("fixtures"), 3)


class FakeAdapterEngine:
    """Where an adapter's weights are, without an engine."""

    host_capacity, slots, here = 8, 2, True

    def __init__(self) -> None:
        self.loaded: set[int] = set()

    async def add(self, request: Any) -> None:
        self.loaded.add(request.lora_int_id)

    async def remove(self, lora_id: int) -> None:
        self.loaded.discard(lora_id)

    async def refresh(self, lora_id: int | None = None) -> None:
        pass

    def locate(self, lora_id: int) -> str:
        return "host" if lora_id in self.loaded else "disk"


class FakeLlm:
    """Answers three tokens, one output each; `encode` one pooled vector."""

    marker = "the engine itself"

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def generate(self, prompt: Any, *, lora_request: Any = None) -> AsyncIterator[Any]:
        self.seen.append(lora_request)
        for _ in range(3):
            await self.gate.wait()
            yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[1])])

    async def encode(
        self, prompt: Any, pooling_params: Any, request_id: str, *, lora_request: Any = None
    ) -> AsyncIterator[Any]:
        yield SimpleNamespace(outputs=SimpleNamespace(data=[1.0]))


async def setting(listing: dict[str, Any]) -> tuple[AdapterRegistry, AdapterModels, FakeLlm, CountingEngineClient]:
    registry = AdapterRegistry(max_lora_rank=16, base_model=listing["models"]["tiny"])
    registry.attach(FakeAdapterEngine())  # type: ignore[arg-type]
    await registry.load("a", listing["adapters"]["lora_a"])
    models, llm = AdapterModels(registry), FakeLlm()
    return registry, models, llm, CountingEngineClient(llm, models)


def test_the_models_are_the_registrys(listing: dict[str, Any]) -> None:
    async def scenario() -> None:
        registry, models, _, client = await setting(listing)
        assert dict(models) == {"a": registry.get("a").request}
        assert public_name(models["a"]) == "a"
        await registry.load("b", listing["adapters"]["lora_b"])
        assert list(models) == ["a", "b"] and len(models) == 2
        await registry.unload("a")
        assert "a" not in models and models.get("a") is None
        assert isinstance(client, EngineClient) and client.marker == FakeLlm.marker
        assert dict(AdapterModels(None)) == {}

    asyncio.run(scenario())


def test_requests_are_counted_with_their_tokens(listing: dict[str, Any]) -> None:
    async def scenario() -> None:
        registry, models, llm, client = await setting(listing)
        adapter = registry.get("a")
        outputs = [output async for output in client.generate("x", lora_request=models["a"])]
        assert len(outputs) == 3 and llm.seen == [adapter.request]
        assert [_ async for _ in client.encode("x", None, "id", models["a"])]
        assert [_ async for _ in client.generate("x")]
        assert (adapter.served, adapter.failed, adapter.running, adapter.tokens) == (2, 0, 0, 3)
        left = client.generate("x", lora_request=models["a"])
        await left.__anext__()
        assert adapter.running == 1
        await left.aclose()
        assert (adapter.served, adapter.failed, adapter.running) == (2, 1, 0)

    asyncio.run(scenario())


def test_a_version_lives_until_its_last_request_and_no_longer(listing: dict[str, Any]) -> None:
    async def scenario() -> None:
        registry, models, llm, client = await setting(listing)
        old = models["a"]
        running = client.generate("x", lora_request=old)
        await running.__anext__()
        await registry.load("a", listing["adapters"]["lora_b"], replace=True)
        assert registry.engine.locate(old.lora_int_id) == "host"
        # One that was given the old version before it was replaced may still begin on it.
        assert [_ async for _ in client.generate("x", lora_request=old)]
        await running.aclose()
        assert registry.engine.locate(old.lora_int_id) == "disk"
        with pytest.raises(VLLMNotFoundError, match="`a` does not exist"):
            [_ async for _ in client.generate("x", lora_request=old)]
        assert len(llm.seen) == 2

    asyncio.run(scenario())


def test_files_that_are_gone_fail_their_request_alone(listing: dict[str, Any], tmp_path: Path) -> None:
    async def scenario() -> None:
        registry, models, llm, client = await setting(listing)
        folder = tmp_path / "adapter"
        shutil.copytree(listing["adapters"]["lora_b"], folder)
        await registry.load("here", str(folder))
        request = models["here"]
        await registry.engine.remove(request.lora_int_id)
        shutil.rmtree(folder)
        with pytest.raises(ValueError, match="have changed or gone"):
            [_ async for _ in client.generate("x", lora_request=request)]
        assert llm.seen == []

    asyncio.run(scenario())


def test_what_a_resolver_finds_becomes_an_adapter_of_the_registry(listing: dict[str, Any], tmp_path: Path) -> None:
    """vLLM's own resolver of folders; vLLM's own ids for what it finds would be those of the registry's adapters."""
    model = listing["models"]["tiny"]
    for name in ("found", "broken"):
        folder = tmp_path / name
        shutil.copytree(listing["adapters"]["lora_b"], folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": model}))
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"")

    async def scenario() -> None:
        registry, models, _, _ = await setting(listing)
        config = SimpleNamespace(model=model, max_model_len=512)
        client: Any = SimpleNamespace(model_config=config, renderer=None, input_processor=None)
        serving = RegistryServingModels(client, [BaseModelPath(name="base", model_path=model)])
        serving.lora_resolvers = [FilesystemResolver(str(tmp_path))]
        serving.follow(models)
        first, *others = await asyncio.gather(*(serving.resolve_lora("found") for _ in range(3)))
        assert first is registry.get("found").request and all(other is first for other in others)
        assert first.lora_int_id not in (registry.get("a").request.lora_int_id, 0)
        await registry.load("later", listing["adapters"]["lora_a"])
        ids = [registry.get(name).request.lora_int_id for name in registry.names]
        assert len(set(ids)) == len(ids) == 3
        refused = await serving.resolve_lora("broken")
        assert isinstance(refused, ErrorResponse) and refused.error.code == 400
        assert "adapter 'broken'" in refused.error.message and "not a safetensors file" in refused.error.message
        missing = await serving.resolve_lora("nowhere")
        assert isinstance(missing, ErrorResponse) and missing.error.code == 404

    asyncio.run(scenario())


def test_the_arguments_are_those_of_vllm_serve(listing: dict[str, Any]) -> None:
    model = listing["models"]["tiny"]
    args = serve_arguments({"model": model}, {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"})
    assert (args.model, args.served_model_name, args.tool_call_parser) == (model, None, "hermes")
    assert args.chat_template_content_format == "auto"
    assert serve_arguments({"model": model, "served_model_name": "x"}, {}).served_model_name == ["x"]
    types = frontend_arg_types()
    assert {"chat_template", "tool_call_parser", "response_role"} <= set(types)
    assert not {"lora_modules", "host", "port", "api_key"} & set(types)
    assert coerce("true", types["enable_auto_tool_choice"]) is True
    # What model.json holds goes through JSON.
    assert json.dumps(sorted(types))


@pytest.mark.parametrize(
    ("frontend", "message"),
    [
        ({"enable_auto_tool_choice": True}, "tool-call-parser"),
        ({"enable_auto_tool_choice": True, "tool_call_parser": "hermess"}, r"did you mean 'hermes'\?"),
        ({"chat_template": "/no/such/file.jinja"}, "chat template"),
    ],
)
def test_arguments_that_do_not_fit_fail_the_load(
    listing: dict[str, Any], frontend: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        serve_arguments({"model": listing["models"]["tiny"]}, frontend)
