"""Stand-ins for modules that are imported when they are first used, and what a plain load imports."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tritonode.vllm import lazy_imports, lazy_packages
from tritonode.vllm.lazy_imports import LazyPackage

HEAVY = """
    LOADED = []
    LIMIT = 3
    TABLE = {"one": 1}

    class Base:
        pass

    class Trouble(Exception):
        pass

    def double(value):
        return 2 * value

    def patched():
        return "original"

    def mark(function):
        LOADED.append(function.__name__)
        return function

    def clear():
        LOADED.append("clear")
"""
LIGHT = """
    class Light:
        pass
"""
USER = """
    import lazy_heavy.inner
    from lazy_heavy import light
    from lazy_heavy.inner import LIMIT, TABLE, Base, Trouble, clear, double, mark

    ANNOTATION = Base | None

    @mark
    def marked():
        return 1

    def is_base(value):
        return isinstance(value, Base | int)

    def fail():
        try:
            raise lazy_heavy.inner.Trouble("on purpose")
        except Trouble as trouble:
            return str(trouble)
"""


@pytest.fixture()
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LazyPackage]:
    folder = tmp_path / "lazy_heavy"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "inner.py").write_text(textwrap.dedent(HEAVY))
    (folder / "light.py").write_text(textwrap.dedent(LIGHT))
    (tmp_path / "lazy_user.py").write_text(textwrap.dedent(USER))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lazy_imports, "touched", [])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    lazy_imports._module_file.cache_clear()
    made = LazyPackage(
        # The second is not there: a version of the library that lacks one of the modules.
        roots=("lazy_heavy", "lazy_heavy.of_a_later_version"),
        why="the test",
        real=frozenset({"lazy_heavy.light"}),
        absent=frozenset({"lazy_heavy.inner.patched"}),
        decorators=frozenset({"lazy_heavy.inner.mark"}),
        ignored=frozenset({"lazy_heavy.inner.clear"}),
    )
    lazy_imports.install([made], {})
    yield made
    for name in [name for name in sys.modules if name.startswith("lazy_")]:
        del sys.modules[name]


def user() -> Any:
    import lazy_user  # type: ignore[import-not-found]

    return lazy_user


def test_mentioning_imports_nothing(package: LazyPackage) -> None:
    module = user()
    assert module.is_base(1) and not module.is_base("text") and not isinstance(1, module.Base)
    assert module.marked() == 1
    module.clear()
    assert not hasattr(module.lazy_heavy.inner, "patched")
    assert not package.is_real
    assert lazy_imports.touched == []
    assert module.light.Light().__class__.__module__ == "lazy_heavy.light"


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (lambda module: module.double(4), 8),
        (lambda module: module.TABLE["one"], 1),
        (lambda module: "one" in module.TABLE, True),
        (lambda module: list(module.TABLE), ["one"]),
        (lambda module: module.LIMIT == 3, True),
        (lambda module: f"{module.LIMIT}", "3"),
        (lambda module: module.Base().__class__.__name__, "Base"),
        (lambda module: type("Derived", (), {}) is not None and issubclass(derived(module.Base), module.Base), True),
        (lambda module: module.is_base(module.lazy_heavy.inner.Base()), True),
        (lambda module: module.fail(), "on purpose"),
    ],
)
def test_the_first_use_imports_the_real_one(package: LazyPackage, use: Any, expected: Any) -> None:
    module = user()
    light = module.light
    assert use(module) == expected
    assert package.is_real
    assert len(lazy_imports.touched) == 1
    inner = sys.modules["lazy_heavy.inner"]
    assert module.double is inner.double and module.Trouble is inner.Trouble
    assert inner.LOADED == ["marked"], "a decorator marks its function once the package is real"
    assert inner.patched() == "original"
    assert sys.modules["lazy_heavy"].light is light, "what was real before stays the same module"


def derived(base: Any) -> type:
    class Derived(base):
        pass

    return Derived


def test_a_package_that_is_not_installed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    lazy_imports.install([LazyPackage(roots=("lazy_nowhere",), why="the test")], {})
    with pytest.raises(ModuleNotFoundError):
        import lazy_nowhere  # type: ignore[import-not-found]  # noqa: F401


def test_the_sampler_of_any_version_runs_uncompiled() -> None:
    def sample(logits: Any) -> Any:
        return logits

    module = types.ModuleType("vllm.v1.sample.ops.topk_topp_sampler")
    for given in (torch.compile(sample, dynamic=True), sample):
        module.compiled_random_sample = given  # type: ignore[attr-defined]
        lazy_packages._AFTER_IMPORT[module.__name__](module)
        assert module.compiled_random_sample is sample


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, False),
        ({"tokenizer_config.json": "{}", "config.json": "{}"}, False),
        ({"tokenizer_config.json": "no JSON"}, False),
        ({"tokenizer_config.json": '{"processor_class": "SomeProcessor"}'}, True),
        ({"preprocessor_config.json": "{}"}, True),
        ({"processor_config.json": "{}"}, True),
    ],
)
def test_a_processor_is_looked_for_where_a_file_describes_one(
    files: dict[str, str], expected: bool, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert lazy_packages.has_processor(str(tmp_path)) is expected
    assert lazy_packages.has_processor("somebody/a-model-of-a-hub")


PLAIN_LOAD = """
    import json, sys
    programs = []
    sys.addaudithook(lambda event, args: programs.append(list(args[1])) if event == "subprocess.Popen" else None)
    from tritonode.engine import environment
    environment.prepare()
    environment.prepare_vllm()
    from tritonode import service
    from tritonode.engine.engine import Engine
    from tritonode.vllm import lazy_imports
    from tritonode.engine.settings import EngineSettings, apply_defaults
    from vllm.lora.request import LoRARequest
    model, adapter = sys.argv[1:]
    settings = EngineSettings(
        {"model": model, "enforce_eager": True, "enable_lora": True, "max_model_len": 128, "max_lora_rank": 16}, True
    )
    apply_defaults(settings, on_cpu=True, available_memory=4 << 30)
    service._install_cpu_kernels(settings)
    engine = Engine(settings, [], lambda *args, **kwargs: None)
    engine.start()
    engine.call(engine.warm_up([LoRARequest("a", 1, adapter)])).result()
    # What the HTTP application and a chat ask for first.
    from vllm.renderers import hf
    hf.resolve_chat_template(engine.llm.renderer.tokenizer, None, None, model_config=engine.llm.model_config)
    names = ["sympy", "networkx", "openai", "fastapi", "torch.distributed.tensor", "transformers.modeling_utils",
             "compressed_tensors", "torch._dynamo.symbolic_convert", "aiohttp.client", "cv2.cv2"]
    print(json.dumps({
        "touched": lazy_imports.touched,
        "imported": [name for name in names if getattr(sys.modules.get(name), "__file__", None)],
        "modules": len(sys.modules),
        "pythons": [each for each in programs if "python" in str(each[0])],
    }))
    engine.stop()
"""


def test_a_plain_load_imports_none_of_it(fixtures: dict[str, Any], tmp_path: Path) -> None:
    """An engine with an adapter is built, and answers greedily, with sampling and with log-probabilities."""
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(PLAIN_LOAD),
            fixtures["models"]["tiny"],
            fixtures["adapters"]["lora_a"],
        ],
        capture_output=True,
        text=True,
        timeout=600,
        env={
            "PYTHONPATH": str(Path(__file__).parents[3] / "backends" / "vllm"),
            "PATH": "/usr/bin:/bin",
            # The first load of a user has no cache.
            "VLLM_CACHE_ROOT": str(tmp_path),
        },
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["touched"] == []
    assert found["imported"] == []
    assert found["pythons"] == []
    # 5,600 without the stand-ins.
    assert found["modules"] < 3_500
