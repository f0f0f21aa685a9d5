"""vLLM's statistics as Triton custom metrics, under the names of Triton's vLLM backend."""

from __future__ import annotations

import queue
import threading
import traceback
from dataclasses import dataclass
from typing import Any

from tritonode.vllm.engine import VllmConfig
from tritonode.vllm.metrics import IterationStats, SchedulerStats, StatLoggerBase

_FIRST_TOKEN_SECONDS = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
_PER_TOKEN_SECONDS = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5]
_REQUEST_SECONDS = [1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0]
_CHOICES = [1.0, 2.0, 5.0, 10.0, 20.0]


def token_buckets(maximum: int) -> list[float]:
    """1, 2, 5, 10, 20, 50, ... up to `maximum`."""
    buckets: list[float] = []
    decade = 1
    while decade <= maximum:
        buckets.extend(float(step * decade) for step in (1, 2, 5) if step * decade <= maximum)
        decade *= 10
    return buckets


class TritonMetrics:
    """The metric objects of one model, updated on a separate thread, because each update is a round trip to Triton."""

    def __init__(self, pb_utils: Any, labels: dict[str, str], max_model_len: int) -> None:
        self._pb_utils = pb_utils
        self._labels = labels
        self._families: dict[str, Any] = {}
        self._adapters: dict[str, AdapterMetrics] = {}
        lengths = token_buckets(max_model_len)
        counter, histogram = self._counter, self._histogram
        self.prompt_tokens = counter("vllm:prompt_tokens_total", "Number of prefill tokens processed.")
        self.generation_tokens = counter("vllm:generation_tokens_total", "Number of generation tokens processed.")
        self.time_to_first_token = histogram(
            "vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", _FIRST_TOKEN_SECONDS
        )
        self.time_per_output_token = histogram(
            "vllm:time_per_output_token_seconds", "Histogram of time per output token in seconds.", _PER_TOKEN_SECONDS
        )
        self.e2e_latency = histogram(
            "vllm:e2e_request_latency_seconds", "Histogram of end to end request latency in seconds.", _REQUEST_SECONDS
        )
        self.request_prompt_tokens = histogram(
            "vllm:request_prompt_tokens", "Number of prefill tokens processed.", lengths
        )
        self.request_generation_tokens = histogram(
            "vllm:request_generation_tokens", "Number of generation tokens processed.", lengths
        )
        self.request_n = histogram("vllm:request_params_n", "Histogram of the n request parameter.", _CHOICES)
        self._updates: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def _counter(self, name: str, description: str, labels: dict[str, str] | None = None) -> Any:
        family = self._family(name, description, self._pb_utils.MetricFamily.COUNTER)
        return family.Metric(labels=labels or self._labels)

    def _histogram(
        self, name: str, description: str, buckets: list[float], labels: dict[str, str] | None = None
    ) -> Any:
        family = self._family(name, description, self._pb_utils.MetricFamily.HISTOGRAM)
        return family.Metric(labels=labels or self._labels, buckets=buckets)

    def _family(self, name: str, description: str, kind: Any) -> Any:
        family = self._families.get(name)
        if family is None:
            family = self._pb_utils.MetricFamily(name=name, description=description, kind=kind)
            self._families[name] = family
        return family

    def for_adapter(self, name: str) -> AdapterMetrics:
        """The metrics of an adapter, created at its first use."""
        metrics = self._adapters.get(name)
        if metrics is None:
            labels = {**self._labels, "lora": name}
            metrics = AdapterMetrics(
                requests=self._counter("tritonode:lora_requests_total", "Requests answered with the adapter.", labels),
                failures=self._counter(
                    "tritonode:lora_failures_total", "Requests that failed or were cancelled.", labels
                ),
                generation_tokens=self._counter(
                    "tritonode:lora_generation_tokens_total", "Tokens generated with the adapter.", labels
                ),
                time_to_first_token=self._histogram(
                    "tritonode:lora_time_to_first_token_seconds",
                    "Time to first token of requests on the adapter, in seconds.",
                    _FIRST_TOKEN_SECONDS,
                    labels,
                ),
                e2e_latency=self._histogram(
                    "tritonode:lora_e2e_request_latency_seconds",
                    "End to end latency of requests on the adapter, in seconds.",
                    _REQUEST_SECONDS,
                    labels,
                ),
            )
            self._adapters[name] = metrics
        return metrics

    def increment(self, metric: Any, value: float) -> None:
        if value:
            self._updates.put((metric, "increment", [value]))

    def observe(self, metric: Any, values: list[Any]) -> None:
        if values:
            self._updates.put((metric, "observe", [float(value) for value in values]))

    def _run(self) -> None:
        while (item := self._updates.get()) is not None:
            metric, method, values = item
            try:
                for value in values:
                    getattr(metric, method)(value)
            except Exception:
                traceback.print_exc()

    def close(self) -> None:
        """Write what is queued, end the thread, and remove the metrics from Triton.

        Triton removes a metric when its Python object is deleted. The process ends without a teardown, so they are
        deleted here.
        """
        self._updates.put(None)
        self._thread.join()
        for name, value in list(vars(self).items()):
            if hasattr(value, "observe") or hasattr(value, "increment"):
                delattr(self, name)
        self._adapters.clear()
        self._families.clear()


@dataclass
class AdapterMetrics:
    """The metric objects of one adapter: labels `model`, `version` and `lora` (its name, over all its versions)."""

    requests: Any
    failures: Any
    generation_tokens: Any
    time_to_first_token: Any
    e2e_latency: Any


class MetricsFactory:
    """The stat logger factory for `AsyncLLM`. Keeps what it has made, in order to close it."""

    def __init__(self, pb_utils: Any, labels: dict[str, str]) -> None:
        self._pb_utils = pb_utils
        self._labels = labels
        self._made: list[TritonMetrics] = []
        # The tokens of the warm-up are not counted.
        self.recording = False

    def __call__(self, vllm_config: VllmConfig, engine_index: int = 0) -> StatLoggerBase:
        metrics = TritonMetrics(self._pb_utils, self._labels, vllm_config.model_config.max_model_len)
        self._made.append(metrics)
        return _StatLogger(metrics, self)

    def record_adapter(self, name: str, *, tokens: int, first_token: float | None, total: float, failed: bool) -> None:
        """Count a request that has ended on an adapter; times in seconds."""
        for metrics in self._made:
            adapter = metrics.for_adapter(name)
            metrics.increment(adapter.failures if failed else adapter.requests, 1)
            metrics.increment(adapter.generation_tokens, tokens)
            if first_token is not None:
                metrics.observe(adapter.time_to_first_token, [first_token])
            if not failed:
                metrics.observe(adapter.e2e_latency, [total])

    def close(self) -> None:
        while self._made:
            self._made.pop().close()


class _StatLogger(StatLoggerBase):
    def __init__(self, metrics: TritonMetrics, factory: MetricsFactory) -> None:
        self._metrics = metrics
        self._factory = factory

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        if iteration_stats is None or not self._factory.recording:
            return
        metrics = self._metrics
        finished = iteration_stats.finished_requests
        metrics.increment(metrics.prompt_tokens, iteration_stats.num_prompt_tokens)
        metrics.increment(metrics.generation_tokens, iteration_stats.num_generation_tokens)
        metrics.observe(metrics.time_to_first_token, iteration_stats.time_to_first_tokens_iter)
        metrics.observe(metrics.time_per_output_token, iteration_stats.inter_token_latencies_iter)
        metrics.observe(metrics.e2e_latency, [request.e2e_latency for request in finished])
        metrics.observe(metrics.request_prompt_tokens, [request.num_prompt_tokens for request in finished])
        metrics.observe(metrics.request_generation_tokens, [request.num_generation_tokens for request in finished])
        metrics.observe(metrics.request_n, iteration_stats.n_params_iter)

    def log_engine_initialized(self) -> None:
        pass
