"""One instance of a model: reads its files, builds its engine, answers its requests, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import sys
import time
import traceback
from typing import Any

from tritonode.contract.requests import RawRequest, read_request
from tritonode.contract.responses import text_response
from tritonode.contract.tensors import instance_count
from tritonode.cpu.heap import Heap
from tritonode.cpu.openmp import Gomp
from tritonode.cpu.pace import Pace
from tritonode.engine.engine import Engine, available_memory
from tritonode.engine.environment import (
    binding_is_ours,
    check_addresses,
    thread_count_is_ours,
    visible_device,
    waiting_is_ours,
)
from tritonode.engine.gguf_model import use_gguf
from tritonode.engine.settings import EngineSettings, apply_defaults, read_settings
from tritonode.engine.thread_client import ThreadClient
from tritonode.lora.adapter import Adapter
from tritonode.lora.registry import AdapterRegistry
from tritonode.lora.saved import SavedAdapters
from tritonode.lora.start import AdapterStart
from tritonode.lora.watch import watch_multi_lora
from tritonode.openai.arguments import serve_arguments
from tritonode.openai.http import HttpHandler
from tritonode.ranks import memory, preparation
from tritonode.triton import progress
from tritonode.triton.control import Control
from tritonode.triton.deltas import DeltaChannel
from tritonode.triton.generate import Generator, cancelled
from tritonode.triton.host_watch import end_process
from tritonode.triton.http_response import send_http
from tritonode.triton.metrics import MetricsFactory
from tritonode.triton.senders import CancellationWatch, ResponseWriter, Sender, error_response
from tritonode.vllm.arguments import engine_arg_types, frontend_arg_types
from tritonode.vllm.engine import VERSION
from tritonode.vllm.executor import kill_ranks
from tritonode.vllm.kv_cache import take_memory_as_it_is_used
from tritonode.vllm.platform import device_memory, is_cpu

from .errors import BackendError, SettingsError, UnavailableError

_UNLOAD_TIMEOUT_SECONDS = 30.0
# How long the answers to the requests of a dead engine may take to get to Triton.
_ANSWER_SECONDS = 5.0
# How long cancelled requests may take to end.
_CANCEL_SECONDS = 0.5
_UNHEALTHY = "Model is unavailable due to unhealthy vLLM engine"


class Service:
    """The implementation of `TritonPythonModel`. `execute` and `close` are called on the stub's main thread."""

    def __init__(self, args: dict[str, str], pb_utils: Any) -> None:
        self._pb_utils = pb_utils
        self._logger = pb_utils.Logger
        self._name = args["model_name"]
        self._config = json.loads(args["model_config"])
        self._instances = instance_count(self._config)
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_token: dict[str, asyncio.Task[None]] = {}
        self._channels: dict[str, DeltaChannel] = {}
        self._channel_tasks: set[asyncio.Task[None]] = set()
        self._unhealthy = False
        self._closing = False
        started = time.monotonic()
        if not pb_utils.using_decoupled_model_transaction_policy(self._config):
            raise BackendError("the vLLM backend needs the decoupled model transaction policy")
        self._check_instances()
        self._settings = read_settings(pb_utils.get_model_dir(), engine_arg_types(), frontend_arg_types)
        self._use_device(args)
        executor = self._settings.engine_args.get("distributed_executor_backend")
        check_addresses(self._settings.world_size, executor, on_cpu=is_cpu())
        self._paced = waiting_is_ours(paced=is_cpu() and self._settings.world_size == 1)
        self._apply_defaults()
        note = use_gguf(self._settings, os.environ.get("TRITONODE_PRIVATE_DIR"), self._name, on_cpu=is_cpu())
        if note is not None:
            self._logger.log_info(f"[vllm] {note}")
        self._serve_args = functools.cache(
            functools.partial(serve_arguments, self._settings.engine_args, self._settings.frontend_args)
        )
        if self._settings.frontend_args or self._settings.engine_args.get("reasoning_parser"):
            # Arguments that do not fit together fail the load. Where there are none, nothing needs to be checked, and
            # the modules that know the arguments are imported later.
            self._serve_args()
        self._metrics = self._make_metrics(args)
        self._saved = SavedAdapters(os.environ.get("TRITONODE_PRIVATE_DIR"), self._name)
        self._adapters = AdapterStart(self._settings, self._saved, self._report, self._logger)
        adapters = self._adapters.check(self._memory())
        self._engine = Engine(self._settings, [self._metrics] if self._metrics else [], self._report)
        _install_cpu_kernels(self._settings)
        if self._settings.world_size > 1:
            preparation.prepare(
                self._settings.engine_args, lora=self._settings.enable_lora, share_cpus=thread_count_is_ours()
            )
        self._engine.start()
        try:
            self._finish_start(adapters)
        except BaseException:
            self._engine.stop()
            raise
        self._loaded_in = time.monotonic() - started
        if adapters is not None:
            self._engine.call(self._adapters.load_in_background(adapters, lambda: self._engine.llm.errored))
        self._engine.call(self._http.prepare_when_idle(self._is_idle))
        self._engine.call(Heap().give_back_when_idle(self._is_idle))
        cache = self._engine.kv_cache()
        self._report("ready", seconds=round(self._loaded_in, 3), kv_cache=cache)
        self._logger.log_info(
            f"[vllm] {self._name} is ready after {self._loaded_in:.1f} s: vLLM {VERSION}, "
            f"KV cache of {cache['tokens']} tokens, {len(self._settings.loras)} adapters"
        )

    # --- start ---------------------------------------------------------------------------------------------------

    def _report(self, phase: str, **details: Any) -> None:
        progress.report(self._name, phase, **details)

    def _report_adapter(self, action: str, adapter: Adapter, **details: Any) -> None:
        files = adapter.files
        about = {"name": adapter.name, "version": adapter.version, "path": files.source, "scale": files.scale}
        self._report("adapter", action=action, **about, **details)

    def _use_device(self, args: dict[str, str]) -> None:
        """Use the device of a KIND_GPU instance. A model on several devices needs KIND_MODEL."""
        if args.get("model_instance_kind") != "GPU":
            return
        if self._settings.world_size > 1:
            raise BackendError(
                "KIND_GPU is currently for single-GPU models, please specify KIND_MODEL "
                "in the model's config.pbtxt for multi-GPU models"
            )
        device = int(args["model_instance_device_id"])
        if device >= 0:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible_device(device, os.environ.get("CUDA_VISIBLE_DEVICES"))

    def _check_instances(self) -> None:
        """Refuse several instances under tritonode: each is an engine of its own, and a request reaches one of them."""
        if self._instances == 1:
            return
        if "TRITONODE_PRIVATE_DIR" in os.environ:
            raise SettingsError(
                f"config.pbtxt asks for {self._instances} instances of the model; tritonode serves a model from one, "
                "so that adapters and cancellations reach every request: set `count: 1` in the instance_group, and "
                "tensor_parallel_size in model.json for several GPUs"
            )
        # Removes /v1/load_lora_adapter from vLLM's application: it would change only one of the instances.
        os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "0"

    def _memory(self) -> int:
        """Bytes that the engine may use, of the machine or of the GPU."""
        if is_cpu():
            return available_memory()
        return int(device_memory() * float(self._settings.engine_args.get("gpu_memory_utilization", 0.9)))

    def _apply_defaults(self) -> None:
        for key in self._settings.ignored:
            self._logger.log_info(
                f"[vllm] model.json: '{key}' is not an engine argument of vLLM {VERSION} and is ignored"
            )
        notes = apply_defaults(self._settings, on_cpu=is_cpu(), available_memory=available_memory())
        for note in notes:
            self._logger.log_info(f"[vllm] {note}")

    def _parameter(self, name: str) -> bool:
        value = self._config.get("parameters", {}).get(name, {}).get("string_value", "")
        return str(value).lower() == "true"

    def _make_metrics(self, args: dict[str, str]) -> MetricsFactory | None:
        if not self._parameter("REPORT_CUSTOM_METRICS") or self._settings.engine_args.get("disable_log_stats"):
            return None
        return MetricsFactory(self._pb_utils, {"model": self._name, "version": args["model_version"]})

    def _finish_start(self, registry: AdapterRegistry | None) -> None:
        llm = self._engine.llm
        if is_cpu():
            from tritonode.cpu import int8_products

            int8_products.warn(llm.model_config)
        to_warm = [] if registry is None else self._adapters.load(registry, self._engine)
        if registry is not None and self._settings.own.get("watch_multi_lora"):
            self._lora_watch = self._engine.call(
                watch_multi_lora(self._pb_utils.get_model_dir(), registry, self._logger)
            )
        self._report("warm-up")
        self._engine.call(self._engine.warm_up(to_warm)).result()
        if self._metrics is not None:
            self._metrics.recording = True
            if registry is not None:
                registry.on_end = self._metrics.record_adapter
        if registry is not None:
            registry.on_event = self._report_adapter
        self._generator = Generator(llm, registry, self._name, self._pb_utils)
        self._control = Control(registry, self._info, self._cancel, self._prepare_end, self._instances)
        self._http = HttpHandler(llm, registry, self._name, self._serve_args)
        self._writer = ResponseWriter(self._engine.loop, self._pb_utils)
        self._watch = CancellationWatch(self._engine.loop)
        self._engine.client.on_death = self._engine_died
        if self._paced:
            self._engine.call(self._set_pace()).result()

    async def _set_pace(self) -> None:
        import torch

        threads = torch.get_num_threads()
        if threads < 2:
            return
        try:
            gomp = Gomp()
        except OSError:
            self._logger.log_info("[vllm] torch's OpenMP library is not GNU's: its threads wait as it lets them")
            return
        client = self._engine.client
        # Where the engine has a thread of its own, the loop's needs a CPU beside it: the engine waits for it.
        beside = 1.0 if isinstance(client, ThreadClient) else 0.0
        # The team is that of the thread that steps the engine.
        client.pace = await client.call(lambda core: Pace(gomp, threads, binding_is_ours(), beside))

    def _engine_died(self) -> None:
        """Called on the engine's thread after the engine failed. Ends this process if the host starts another."""
        if self._saved.restarts:
            self._logger.log_error(f"[vllm] the engine of {self._name} is dead; the host starts another")
            self._engine.call(self._end_after_answers())

    async def _end_after_answers(self) -> None:
        """End this process when every request in flight has its error, or after some seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_ANSWER_SECONDS)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._writer.close), _ANSWER_SECONDS)
        end_process()

    def _is_idle(self) -> bool:
        return self._engine.client.request_counts() == (0, 0)

    async def _info(self) -> dict[str, Any]:
        running, waiting = self._engine.client.request_counts()
        return {
            "model": self._name,
            "vllm_version": VERSION,
            "pid": os.getpid(),
            "load_seconds": self._loaded_in,
            "kv_cache": self._engine.kv_cache(),
            "requests": {"running": running, "waiting": waiting},
            "enable_lora": self._settings.enable_lora,
            "adapters": await self._adapter_counts(),
            "engine_args": {key: value for key, value in self._settings.engine_args.items() if _is_json(value)},
        }

    async def _adapter_counts(self) -> dict[str, int] | None:
        """Readings of adapters from disk, adapters evicted from host memory, and adapters in it now."""
        if not self._settings.enable_lora:
            return None
        counts = await self._adapters.engine.counts()
        evictions = max(0, counts.loads - counts.in_memory)
        return {"loads": counts.loads, "evictions": evictions, "in_memory": counts.in_memory}

    # --- requests ------------------------------------------------------------------------------------------------

    def execute(self, requests: list[Any]) -> None:
        """Start requests and return. The responses are sent from the engine's loop."""
        if self._parameter("ENABLE_VLLM_HEALTH_CHECK") and not self._is_healthy():
            for request in requests:
                self._refuse(request, UnavailableError(_UNHEALTHY))
            return
        for request in requests:
            try:
                raw = read_request(request, self._pb_utils)
            except Exception as failure:
                self._refuse(request, failure)
                continue
            triton_sender = request.get_response_sender()
            self._engine.loop.call_soon_threadsafe(self._begin, raw, triton_sender)

    def _refuse(self, request: Any, failure: Exception) -> None:
        sender = request.get_response_sender()
        sender.send(error_response(self._pb_utils, failure), self._pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _is_healthy(self) -> bool:
        # The check of `AsyncLLM.check_health`, made on this thread because the loop may be in the middle of a step.
        if not self._unhealthy and self._engine.llm.errored:
            self._logger.log_error(
                f"[vllm] the engine is not healthy, the model will be unloaded: {self._engine.llm.dead_error}"
            )
            self._unhealthy = True
            self._pb_utils.unload_model(self._name)
        return not self._unhealthy

    def _begin(self, raw: RawRequest, triton_sender: Any) -> None:
        sender = Sender(self._writer, triton_sender)
        if raw.channel is not None and raw.cancel_token is not None:
            sender.channel, sender.token = self._channels.get(raw.channel), raw.cancel_token
        task = self._engine.loop.create_task(self._answer(raw, sender))
        tasks = self._tasks if raw.opens_channel is None else self._channel_tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if raw.cancel_token is not None:
            token = raw.cancel_token
            self._by_token[token] = task
            task.add_done_callback(lambda _: self._by_token.pop(token, None))
        # A tritonode host sends its cancellations itself. Polling only has to notice that a thread of it has ended.
        self._watch.add(sender, lambda: self._cancel_task(task), slowly=raw.cancel_token is not None)

    def _cancel_task(self, task: asyncio.Task[None]) -> None:
        """Cancel a request that was cancelled in Triton. Both lines of the log are part of the contract."""
        if task.done():
            return
        self._logger.log_info("[vllm] Cancelling the request")
        task.add_done_callback(lambda _: self._logger.log_info("[vllm] Successfully cancelled the request"))
        task.cancel()

    async def _answer(self, raw: RawRequest, sender: Sender) -> None:
        """Serve one request. Sends exactly one final response, whatever happens."""
        try:
            if self._closing:
                raise UnavailableError(f"the model '{self._name}' is being unloaded")
            if raw.opens_channel is not None:
                await self._serve_channel(raw.opens_channel, sender)
            elif raw.http is not None:
                await self._http.serve(
                    raw.request_id, raw.http, lambda parts, final: send_http(sender, self._pb_utils, parts, final)
                )
            elif raw.control is not None:
                await self._answer_control(raw.control, sender)
            else:
                await self._generator.serve(raw, sender)
        except asyncio.CancelledError:
            await sender.send(error_response(self._pb_utils, cancelled()), final=True)
        except BackendError as failure:
            await sender.send(error_response(self._pb_utils, failure, _message(failure)), final=True)
        except Exception as failure:
            self._logger.log_error(f"[vllm] Error generating stream: {traceback.format_exc()}")
            message = f"Error generating stream: {failure}"
            await sender.send(error_response(self._pb_utils, failure, message), final=True)
        finally:
            self._watch.remove(sender)

    async def _serve_channel(self, name: str, sender: Sender) -> None:
        """Keep a host's channel open until the host cancels it."""
        channel = DeltaChannel()
        self._channels[name] = channel
        try:
            await channel.serve(name, sender, self._pb_utils)
        finally:
            del self._channels[name]

    def _cancel(self, tokens: list[str]) -> int:
        """Cancel the requests of these tokens, except those that have ended. Returns how many were cancelled."""
        tasks = [self._by_token[token] for token in tokens if token in self._by_token]
        for task in tasks:
            task.cancel()
        return len(tasks)

    async def _answer_control(self, request: str, sender: Sender) -> None:
        try:
            response = text_response(self._pb_utils, await self._control.answer(request))
        except BackendError as failure:
            response = error_response(self._pb_utils, failure)
        await sender.send(response, final=True)

    # --- end -----------------------------------------------------------------------------------------------------

    async def _prepare_end(self) -> bool:
        """Do what `close` does, as far as it matters to others, if nothing runs; then this process may be killed.

        A host asks for it before it unloads the model: Triton takes a second to ask a process to end by itself.
        """
        # Any client of another server could ask for it.
        if "TRITONODE_PRIVATE_DIR" not in os.environ:
            return False
        others = self._tasks - {asyncio.current_task()}
        # Cancelled ones end soon.
        if others and (await asyncio.wait(others, timeout=_CANCEL_SECONDS))[1]:
            return False
        self._closing = True
        self._saved.remove()
        if self._settings.world_size > 1 and not await asyncio.to_thread(self._kill_ranks):
            return False
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
            self._metrics = None
        sys.stdout.flush()
        sys.stderr.flush()
        return True

    def close(self) -> None:
        """Let running requests finish within the unload timeout, cancel the rest, and end this process."""
        self._engine.call(self._drain()).result()
        self._watch.close()
        self._writer.close()
        if self._metrics is not None:
            self._metrics.close()
        if self._settings.world_size > 1:
            if not self._kill_ranks():
                self._engine.stop()
            memory.remove_all()
        # This process serves only this model. A regular teardown of the interpreter, torch and the weights takes
        # seconds, in which it would hold its memory and a reload would run beside it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    def _kill_ranks(self) -> bool:
        """Kill the ranks and remove what they shared, where that is possible (`kill_ranks`)."""
        # On a GPU vLLM's own order of ending is kept.
        executor = self._engine.client.peek(lambda core: core.model_executor, None)
        if not is_cpu() or not kill_ranks(executor):
            return False
        memory.remove_all()
        return True

    async def _drain(self) -> None:
        self._closing = True
        self._saved.remove()
        if self._tasks:
            timeout = self._settings.own.get("unload_timeout", _UNLOAD_TIMEOUT_SECONDS)
            await asyncio.wait(self._tasks, timeout=timeout)
        left = self._tasks | self._channel_tasks
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=5)


def _message(failure: BackendError) -> str:
    """The contract's messages are sent as they are; every other refusal gets the prefix that upstream uses."""
    text = str(failure)
    bare = ("LoRA ", "Model ", "Request was cancelled")
    return text if text.startswith(bare) else f"Error generating stream: {text}"


def _is_json(value: Any) -> bool:
    with contextlib.suppress(TypeError, ValueError):
        json.dumps(value)
        return True
    return False


def _install_cpu_kernels(settings: EngineSettings) -> None:
    """Replace vLLM's CPU operators by this project's kernels. On a GPU vLLM's own are used."""
    if not is_cpu():
        return
    take_memory_as_it_is_used()
    if settings.world_size > 1 and not settings.enable_lora:
        return
    from tritonode.cpu import checkpoint_layers, punica_wrapper

    punica_wrapper.install()
    if settings.world_size == 1:
        checkpoint_layers.install()
