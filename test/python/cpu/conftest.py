"""What the tests of the kernels need."""

from __future__ import annotations

from collections.abc import Iterator

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
