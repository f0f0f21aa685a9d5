"""vLLM's `AsyncLLM`, with errors that say why the engine failed."""

from __future__ import annotations

from typing import Any

from tritonode.vllm.engine import AsyncLLM


class ReasonedLlm(AsyncLLM):
    """vLLM's own error for a dead engine refers to a stack trace in a log. Here its message is the reason."""

    @property
    def dead_error(self) -> BaseException:
        return self.engine_core.dead_error()  # type: ignore[attr-defined, no-any-return]

    async def add_request(self, *args: Any, **kwargs: Any) -> Any:
        if self.errored:
            raise self.dead_error
        return await super().add_request(*args, **kwargs)
