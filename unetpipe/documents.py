"""Small files that people write: text and YAML, and what to say of names that are not known."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from unetpipe.errors import ConfigError

__all__ = ["mapping", "read_text", "read_yaml", "unknown"]

MAX_BYTES = 2**20


def read_text(path: Path) -> str:
    """Text of a small file that a person wrote."""
    try:
        if path.stat().st_size > MAX_BYTES * (16 if path.suffix == ".tsv" else 1):
            raise ConfigError(f"{path}: expected a small text file, came {path.stat().st_size} bytes")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


def unknown(name: str, known: Iterable[str], what: str = "key") -> str:
    """What to say of a name that is not known."""
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
    return f"unknown {what} {name!r}; {hint}"


class Loader(yaml.SafeLoader):
    """YAML without duplicate keys, and without aliases, which can expand without bound."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        double = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if double is not None:
            raise yaml.YAMLError(f"key {double!r} stands twice, again in line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        data = yaml.load(read_text(path), Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}{where}: not valid YAML: {reason}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected sections with keys, came {type(data).__name__}")
    return data


def mapping(value: Any, where: str) -> dict[str, Any]:
    """The keys of a section, which may be empty."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected keys with values, came {value!r:.60}")
    return dict(value)
