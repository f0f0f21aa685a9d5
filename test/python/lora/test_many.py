"""Thousands of adapters: start-up reads headers alone, so registering them is quick and costs no weights."""

from __future__ import annotations

import os
from pathlib import Path

from make_fixtures import make_fixtures
from tritonode.engine import environment

environment.prepare()

from tritonode.lora.registry import AdapterRegistry  # noqa: E402


def test_two_thousand_adapters_are_registered_from_their_headers(tmp_path: Path) -> None:
    fixtures = make_fixtures(Path(__file__).parents[3] / ".cache" / "fixtures", 8)
    source = Path(fixtures["adapters"]["lora_a"])
    registry = AdapterRegistry(max_lora_rank=16, base_model=fixtures["models"]["tiny"])
    for number in range(2000):
        folder = tmp_path / f"adapter-{number}"
        folder.mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            os.link(source / name, folder / name)
        registry.register(f"adapter-{number}", str(folder))
    assert len(registry.names) == 2000
    ids = {registry.get(name).request.lora_int_id for name in registry.names}
    assert len(ids) == 2000
    assert registry.get("adapter-1999").files.rank == 8
