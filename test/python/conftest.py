"""What several of these tests need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from make_fixtures import make_fixtures


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The listing of the tiny models and adapters: those that the project's checks have made, or new ones."""
    cache = Path(__file__).parents[2] / ".cache" / "fixtures"
    return make_fixtures(cache if cache.is_dir() else tmp_path_factory.mktemp("fixtures"), 8)
