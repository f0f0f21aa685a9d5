"""Modules that are imported when they are first used, although others import them at once.

`import vllm` imports torch's compiler, the HTTP application, audio and video libraries and more: 5,200 modules. An
engine on the CPU uses few of them. The others are only mentioned: a class in an annotation, a decorator, a function
that is called for images. :func:`install` puts stand-ins for them into `sys.modules`. A stand-in answers each attribute
with a :class:`Deferred`, which imports the real module at its first use (a call, an attribute, an item, a comparison, a
subclass). So nothing is missing: it is imported later.

`lazy_packages.py` has the list, with a reason for each.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class LazyPackage:
    """Modules that become real together: the first use of one of them imports all roots."""

    roots: tuple[str, ...]
    """Full names of modules and packages; everything below them is included. Some may not be installed."""
    why: str
    real: frozenset[str] = frozenset()
    """Modules below the roots that are imported at once: light ones, which pydantic or a subclass needs."""
    absent: frozenset[str] = frozenset()
    """Full names of attributes that a stand-in does not have: they are asked for only to be patched."""
    decorators: frozenset[str] = frozenset()
    """Full names of decorators that mark a function for this package. They return the function, and mark it once the
    package is real."""
    ignored: frozenset[str] = frozenset()
    """Full names of functions that have nothing to do until the package is real."""
    on_real: Callable[[], None] | None = None
    """Called once the package is real."""
    is_real: bool = False
    marked: list[Callable[[], Any]] = field(default_factory=list)

    def covers(self, name: str) -> bool:
        return any(name == root or name.startswith(f"{root}.") for root in self.roots)

    def mark(self, decorator: str, fn: Any = None, *args: Any, **kwargs: Any) -> Any:
        """What a decorator of this package does until the package is real."""
        if fn is None:
            return functools.partial(self.mark, decorator, **kwargs)
        self.marked.append(lambda: _attribute(decorator)(fn, *args, **kwargs))
        return fn


AfterImport = dict[str, Callable[[types.ModuleType], None]]

touched: list[str] = []
"""Full names of the attributes whose use has made a package real, in order. For tests and profiles."""

_lock = threading.RLock()


def _attribute(full: str) -> Any:
    module, _, name = full.rpartition(".")
    return getattr(importlib.import_module(module), name)


# Special names that typing, abc, inspect and vLLM's search for kernels look for on any object, to find out what it is.
_ASKED_OF_EVERYTHING = frozenset(
    {
        "__dict__",
        "__isabstractmethod__",
        "__origin__",
        "__parameters__",
        "__typing_is_unpacked_typevartuple__",
        "__typing_subst__",
        "__typing_unpacked_tuple_args__",
        "__unpacked__",
        "__wrapped__",
    }
)


class Deferred:
    """Stands for an attribute of a module that is not imported yet."""

    __slots__ = ("_lazy_name", "_lazy_package")

    def __init__(self, package: LazyPackage, name: str) -> None:
        self._lazy_package = package
        self._lazy_name = name

    def _lazy_value(self) -> Any:
        _make_real(self._lazy_package, self._lazy_name)
        return _attribute(self._lazy_name)

    def __getattr__(self, name: str) -> Any:
        if name in _ASKED_OF_EVERYTHING:
            raise AttributeError(name)
        return getattr(self._lazy_value(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._lazy_value()(*args, **kwargs)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (self._lazy_value(),)

    # Before its module is imported, a class has no instances and no subclasses.
    def __instancecheck__(self, instance: Any) -> bool:
        return self._lazy_package.is_real and isinstance(instance, self._lazy_value())

    def __subclasscheck__(self, subclass: type) -> bool:
        return self._lazy_package.is_real and issubclass(subclass, self._lazy_value())

    def __or__(self, other: Any) -> Union:
        return Union((self, other))

    def __ror__(self, other: Any) -> Union:
        return Union((other, self))

    def __eq__(self, other: object) -> bool:
        return self is other or (not isinstance(other, Deferred) and bool(self._lazy_value() == other))

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        return bool(self._lazy_value())

    def __str__(self) -> str:
        return str(self._lazy_value())

    def __getitem__(self, key: Any) -> Any:
        return self._lazy_value()[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._lazy_value()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._lazy_value())

    def __len__(self) -> int:
        return len(self._lazy_value())

    def __repr__(self) -> str:
        return f"<{self._lazy_name}, not imported yet>"


class Union:
    """`A | B` where one of them is deferred: for annotations and for `isinstance`."""

    def __init__(self, members: tuple[Any, ...]) -> None:
        self._members = members

    def __or__(self, other: Any) -> Union:
        return Union((*self._members, other))

    def __ror__(self, other: Any) -> Union:
        return Union((other, *self._members))

    def __instancecheck__(self, instance: Any) -> bool:
        return any(instance is None if each is None else isinstance(instance, each) for each in self._members)

    def __subclasscheck__(self, subclass: type) -> bool:
        return any(each is not None and issubclass(subclass, each) for each in self._members)

    # `typing.Optional` accepts only callable objects.
    def __call__(self) -> None:
        raise TypeError("a union can't be called")


class _StandIn(types.ModuleType):
    """A module that is not imported yet."""

    _lazy_package: LazyPackage

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        package, full = self._lazy_package, f"{self.__name__}.{name}"
        if package.is_real:
            return getattr(importlib.import_module(self.__name__), name)
        if full in sys.modules:
            return sys.modules[full]
        if full in package.absent:
            raise AttributeError(name)
        if full in package.decorators:
            return functools.partial(package.mark, full)
        if full in package.ignored:
            return lambda *args, **kwargs: None
        if _module_file(full) is not None:
            return importlib.import_module(full)
        return Deferred(package, full)


@functools.cache
def _module_file(name: str) -> str | None:
    """The file of a module or package, found without importing its parents."""
    top, *parts = name.split(".")
    spec = importlib.machinery.PathFinder.find_spec(top)
    for base in () if spec is None else spec.submodule_search_locations or ():
        path = os.path.join(base, *parts)
        for file in (f"{path}.py", os.path.join(path, "__init__.py")):
            if os.path.isfile(file):
                return file
    # A top-level package that is only C code, or a single file.
    return spec.origin if spec is not None and not parts else None


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, packages: Sequence[LazyPackage], after_import: AfterImport) -> None:
        self.packages = packages
        self.after_import = after_import

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in self.after_import:
            return _changed(fullname, path, after=self.after_import[fullname])
        package = next((each for each in self.packages if each.covers(fullname)), None)
        if package is None:
            return None
        if package.is_real:
            below = [name for name in package.real if name.rpartition(".")[0] == fullname and name in sys.modules]
            return _changed(fullname, path, before=functools.partial(_attach, below)) if below else None
        file = _module_file(fullname)
        if file is None:
            # It is not installed: the import has to fail.
            return None
        if fullname in package.real:
            return importlib.util.spec_from_file_location(fullname, file)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = _StandIn(spec.name)
        module._lazy_package = next(each for each in self.packages if each.covers(spec.name))
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _attach(names: list[str], parent: types.ModuleType) -> None:
    """Modules that were imported before their package are its attributes from the start."""
    for name in names:
        setattr(parent, name.rpartition(".")[2], sys.modules[name])


def _changed(
    name: str,
    path: Sequence[str] | None,
    *,
    before: Callable[[types.ModuleType], None] = lambda module: None,
    after: Callable[[types.ModuleType], None] = lambda module: None,
) -> importlib.machinery.ModuleSpec | None:
    """A module's own spec, with functions that are called before and after the module runs."""
    spec = importlib.machinery.PathFinder.find_spec(name, path)
    if spec is None or spec.loader is None:
        return spec
    execute = spec.loader.exec_module

    def exec_module(module: types.ModuleType) -> None:
        before(module)
        execute(module)
        after(module)

    spec.loader.exec_module = exec_module  # type: ignore[method-assign]
    return spec


def _make_real(package: LazyPackage, because: str) -> None:
    with _lock:
        if package.is_real:
            return
        package.is_real = True
        touched.append(because)
        for name, module in list(sys.modules.items()):
            if isinstance(module, _StandIn) and module._lazy_package is package:
                del sys.modules[name]
                parent, _, attribute = name.rpartition(".")
                if parent in sys.modules:
                    vars(sys.modules[parent]).pop(attribute, None)
        for root in package.roots:
            # A root may belong to other versions than the installed one.
            if _module_file(root) is not None:
                importlib.import_module(root)
        _replace_stand_ins(package)
        for mark in package.marked:
            mark()
        if package.on_real is not None:
            package.on_real()


def _replace_stand_ins(package: LazyPackage) -> None:
    """Give each module that holds a stand-in the real thing: an `except` clause, for one, takes classes alone."""
    for module in list(sys.modules.values()):
        if not isinstance(module, types.ModuleType) or isinstance(module, _StandIn):
            continue
        held = vars(module)
        for name, value in list(held.items()):
            if type(value) is Deferred and value._lazy_package is package:
                held[name] = value._lazy_value()
            elif type(value) is _StandIn and value._lazy_package is package:
                held[name] = importlib.import_module(value.__name__)


def install(packages: Sequence[LazyPackage], after_import: AfterImport) -> None:
    """Put the stand-ins in place, before anything that imports one of these packages.

    Args:
        packages: those to import at their first use. A package that is imported already is not changed.
        after_import: functions that are called with a module when it has been imported, by the module's name.
    """
    for package in packages:
        package.is_real = package.is_real or any(root in sys.modules for root in package.roots)
    sys.meta_path.insert(0, _Finder(packages, after_import))
