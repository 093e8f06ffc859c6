"""Small files: text and YAML that people write, what to say of names that are not known; lists for a command line."""

import difflib
import hashlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from unetpipe.errors import ConfigError

__all__ = [
    "class_names",
    "digest_of_files",
    "is_there",
    "kept_text",
    "mapping",
    "read_text",
    "read_yaml",
    "unknown",
    "whole_number",
]

MAX_BYTES = 2**20
# Beside Snakemake's own notes.
KEPT = Path(".snakemake/unetpipe")


def read_text(path: Path) -> str:
    """Text of a small file that a person wrote."""
    if "\0" in str(path):
        raise ConfigError(f"{str(path)!r:.120}: expected a path, came one with a null byte; write it anew")
    try:
        if path.stat().st_size > MAX_BYTES * (16 if path.suffix == ".tsv" else 1):
            raise ConfigError(f"{path}: expected a small text file, came {path.stat().st_size} bytes; check the path")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path and your rights there") from None


def is_there(path: str, where: str) -> bool:
    """Whether there is a file or folder; a path that cannot be looked at, as a very long one, is refused."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        # Of a name with a null byte, Python says that it is no value.
        return False
    except OSError as error:
        raise ConfigError(
            f"{where}: {path} cannot be looked at ({error.strerror}); check the path and your rights there"
        ) from None
    return True


def digest_of_files(path: str) -> str:
    """Digest of a folder of files only, as of masks, whose changes Snakemake does not see; empty for anything else."""
    try:
        files = sorted(Path(path).iterdir())
        if any(not file.is_file() for file in files):
            return ""
        lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()} {file.name}\n" for file in files]
    except OSError:
        # A file, or what its stage has more to say of.
        return ""
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def unknown(name: str, known: Iterable[str], what: str = "key") -> str:
    """What to say of a name that is not known."""
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(names)}"
    return f"unknown {what} {name!r}; {hint}"


class Loader(yaml.SafeLoader):
    """YAML without duplicate keys, and without aliases, which can expand without bound."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: list[Any] = []
        for name, _ in node.value:
            key = self.construct_object(name, deep=True)
            if key in seen:
                raise yaml.YAMLError(f"key {key!r} stands twice, again in line {name.start_mark.line + 1}")
            seen.append(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        data = yaml.load(read_text(path), Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}{where}: not valid YAML: {reason}; correct it there") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected sections with keys, came {type(data).__name__}; see config/README.md")
    return data


def mapping(value: Any, where: str) -> dict[str, Any]:
    """The keys of a section, which may be empty."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected keys with values, came {value!r:.60}; see config/README.md")
    return dict(value)


def whole_number(value: Any, place: str, *, at_least: int, at_most: int) -> int:
    """A number of things."""
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= at_most:
        expected = f"a whole number from {at_least} to {at_most}"
        raise ConfigError(f"{place}: expected {expected}, came {value!r:.60}; write one")
    return value


def kept_text(text: str | Iterable[str], folder: Path = KEPT) -> Path:
    """Write what is too long for a command line into a file, named by its content.

    Parameters
    ----------
    text : str or iterable of str
        A text, or lines.
    folder : Path
        Where such files lie.

    Returns
    -------
    Path
        The file; equal texts have the same.

    Notes
    -----
    Linux takes no argument of 128 KiB or more, and a shell's command is one argument.
    """
    content = text if isinstance(text, str) else "".join(f"{line}\n" for line in text)
    path = folder / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.txt"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        # Several jobs may write the same at once.
        partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.partial")
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)
    return path


def class_names(value: Any, where: str) -> tuple[str, ...]:
    """The names of the classes."""
    if not isinstance(value, list) or len(value) < 2 or len({str(v) for v in value}) < len(value):
        raise ConfigError(
            f"{where}: classes: expected a list of two or more different names, came {value!r:.60}; write it as "
            "[background, cell]"
        )
    return tuple(str(name) for name in value)
