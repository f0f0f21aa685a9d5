"""What the tests of the kernels need."""

from __future__ import annotations

import os
from collections.abc import Iterator

# For the tests with an engine of vLLM's; it is read when vLLM is imported.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

import pytest
from tritonode.cpu import punica_library as punica

AVAILABLE = [i for i in range(len(punica.LEVELS)) if punica.load().tritonode_punica_supports(i)]


@pytest.fixture(params=AVAILABLE, ids=[punica.LEVELS[i] for i in AVAILABLE])
def level(request: pytest.FixtureRequest) -> Iterator[int]:
    """Each instruction set that this processor has, in use while the test runs."""
    before = punica.load().tritonode_punica_get_level()
    assert punica.load().tritonode_punica_set_level(request.param) == 0
    yield request.param
    punica.load().tritonode_punica_set_level(before)
