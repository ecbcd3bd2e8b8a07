"""How a run is written down: lazy calls, overrides, JSON both ways.

A config is a Python file with `config()` that imports the classes it wires and writes their calls down without
making them: `lazy(CosineSimilarity)(image_width=192, text_width=192, embed_dim=64)`. Constructor keywords are the
schema. `override(config, ["optim.lr=1e-4"])` changes fields that exist and no others; `to_json` / `from_json` record
the resolved config and read it back, building only classes of this project (`ALLOWED_PREFIXES`).
"""

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")

ALLOWED_PREFIXES = ("vlp.", "configs.")
TARGET = "_target_"


class ConfigError(ValueError):
    """A config, an override or a recorded config that cannot be used as it stands."""


class Lazy:
    """A call that is written down but not made."""

    def __init__(self, target: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
        self.target = target
        self.kwargs = dict(kwargs)
        for name in self.kwargs:
            _check_name(name, self.names(), f"{target.__qualname__}()")

    def names(self) -> list[str]:
        """Every keyword that the target takes."""
        return [p.name for p in inspect.signature(self.target).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def get(self, name: str) -> Any:
        """The value written down for a keyword, else the constructor's default."""
        if name in self.kwargs:
            return self.kwargs[name]
        default = inspect.signature(self.target).parameters[name].default
        return None if default is inspect.Parameter.empty else default

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lazy) and self.target is other.target and self.kwargs == other.kwargs

    def __repr__(self) -> str:
        return f"lazy({self.target.__qualname__})({', '.join(f'{k}={v!r}' for k, v in self.kwargs.items())})"


def lazy(target: Callable[P, T]) -> Callable[P, T]:
    """`lazy(Part)(width=192)` records the call; type checkers see the constructor's own signature."""

    def record(**kwargs: Any) -> Lazy:
        return Lazy(target, kwargs)

    return cast(Callable[P, T], record)


def build(value: Any) -> Any:
    """Make every recorded call in `value`, innermost first."""
    if isinstance(value, Lazy):
        return value.target(**{name: build(v) for name, v in value.kwargs.items()})
    if isinstance(value, dict):
        return {k: build(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(build(v) for v in value)
    return value


def load_config(path: str, argument: str | None = None) -> Any:
    """Import a config file (path or dotted module) and call its `config()`.

    `file.py:name` calls `name()` instead, so one file can hold variants: `configs/debug.py:tiny`.
    Raises ConfigError when the file or the function is missing.
    """
    path, _, function = path.partition(":")
    module = _import_file(path) if path.endswith(".py") or "/" in path else importlib.import_module(path)
    functions = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
    name = function or "config"
    if name not in functions:
        public = [n for n in functions if not n.startswith("_")]
        raise ConfigError(f"{path} has no function {name}(); it has {', '.join(public) or 'none'}")
    return getattr(module, name)()


def _import_file(path: str) -> types.ModuleType:
    file = Path(path if path.endswith(".py") else path + ".py")
    if not file.is_file():
        raise ConfigError(f"config file {file} does not exist")
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- overrides


def override(config: Any, assignments: Sequence[str]) -> Any:
    """Apply `a.b.c=value` in place and return the config.

    Values are Python literals (`1e-4`, `true`, `null`, `[1,2]`, `path/to`), anything else is a string.
    Raises ConfigError for a field that does not exist, naming the nearest one, and for a value of another type.
    """
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"{assignment!r} is not an override; write it as field=value")
        *parents, last = dotted.split(".")
        node = config
        for i, name in enumerate(parents):
            node = _get(node, name, ".".join(parents[:i]))
        _set(node, last, text, dotted)
    return config


def _get(node: Any, name: str, where: str) -> Any:
    _check_name(name, _names(node), where or "the config")
    if isinstance(node, Lazy):
        return node.get(name)
    return node[name] if isinstance(node, dict) else getattr(node, name)


def _set(node: Any, name: str, text: str, dotted: str) -> None:
    old = _get(node, name, dotted.rpartition(".")[0])
    value = _parse(text)
    if isinstance(old, Lazy) or dataclasses.is_dataclass(old) and not isinstance(old, type):
        if value is not None:
            raise ConfigError(f"{dotted} is a part; set one of its fields ({', '.join(_names(old))}) or null")
    elif old is not None and value is not None and type(value) not in _choices(node, name):
        value = _as_type_of(old, value, dotted)
    if isinstance(node, Lazy):
        node.kwargs[name] = value
    elif isinstance(node, dict):
        node[name] = value
    else:
        setattr(node, name, value)


def _choices(node: Any, name: str) -> list[Any]:
    """The types of a dataclass field that is declared to take several."""
    hint = typing.get_type_hints(type(node))[name] if dataclasses.is_dataclass(node) else None
    return [typing.get_origin(choice) or choice for choice in typing.get_args(hint)] if _is_union(hint) else []


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _as_type_of(old: Any, value: Any, dotted: str) -> Any:
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, int) and not isinstance(old, bool) and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(old, str) and not isinstance(value, str):
        return str(value)
    if isinstance(old, (list, tuple)) and isinstance(value, (list, tuple)):
        return type(old)(value)
    if type(old) is not type(value):
        raise ConfigError(f"{dotted}={value!r} is a {type(value).__name__}; {type(old).__name__} is needed")
    return value


def _parse(text: str) -> Any:
    words = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _names(node: Any) -> list[str]:
    if isinstance(node, Lazy):
        return node.names()
    if isinstance(node, dict):
        return list(node)
    if dataclasses.is_dataclass(node):
        return [f.name for f in dataclasses.fields(node)]
    return []


def _check_name(name: str, known: Sequence[str], where: str) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"{where} has no field {name!r}{hint} (fields: {', '.join(known) or 'none'})")


# ---------------------------------------------------------------- JSON both ways


def to_json(value: Any) -> Any:
    """A JSON-ready record of a config. Recorded calls and dataclasses name their class under `_target_`."""
    if isinstance(value, Lazy):
        return {TARGET: _path(value.target)} | {k: to_json(v) for k, v in value.kwargs.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        record = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {TARGET: _path(type(value))} | record
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(f"{value!r} cannot be written to a config record")


def from_json(record: Any) -> Any:
    """Read `to_json`'s record back. Raises ConfigError for a class outside this project or an unknown field."""
    if isinstance(record, list):
        return [from_json(v) for v in record]
    if not isinstance(record, dict):
        return record
    if TARGET not in record:
        return {k: from_json(v) for k, v in record.items()}
    target = _resolve(record[TARGET])
    kwargs = {k: from_json(v) for k, v in record.items() if k != TARGET}
    if not _is_settings(target):
        return Lazy(cast(Callable[..., Any], target), kwargs)
    hints = typing.get_type_hints(target)
    for name in kwargs:
        _check_name(name, list(hints), record[TARGET])
        if typing.get_origin(hints[name]) is tuple:
            kwargs[name] = tuple(kwargs[name])
    return target(**kwargs)


def _is_settings(target: Any) -> bool:
    """Settings are plain dataclasses; a frozen dataclass is a part, written down as a call like any other."""
    return dataclasses.is_dataclass(target) and not vars(target)["__dataclass_params__"].frozen


def _path(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def _resolve(path: str) -> Any:
    """The class behind a recorded path, which must be defined in this project: a record is data, not code."""
    if not path.startswith(ALLOWED_PREFIXES):
        raise ConfigError(f"{path} is not a class of this project; a recorded config builds nothing else")
    module_name, _, name = path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{path} does not exist in this version of vlp") from error
    if not isinstance(target, type) or target.__module__ != module_name:
        raise ConfigError(f"{path} is not a class defined in that file")
    return target
