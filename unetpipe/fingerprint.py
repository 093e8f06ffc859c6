"""A hash of the code that a stage runs: its module and everything inside the package that it imports.

Static analysis of the source text; nothing is imported. Comments, docstrings and blank lines do not count,
and the hash is the same on every Python version.
"""

import ast
import contextlib
import functools
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["fingerprint", "import_closure"]

PACKAGE = "unetpipe"
ROOT = Path(__file__).resolve().parent
# A string is as long as its first kind of quotation mark says; what looks like a comment inside is none.
STRING_OR_COMMENT = re.compile(
    r"""(?P<string>(?P<quotes>\"{3}|'{3})(?:\\.|.)*?(?P=quotes)|(?P<quote>["'])(?:\\.|[^\\\n])*?(?P=quote))|\#[^\n]*""",
    re.DOTALL,
)
# Beside what Python and numba keep of the same files.
MEMORY = Path("__pycache__/fingerprint.json")
MOST_REMEMBERED = 1000


class Reading(NamedTuple):
    """What counts of one module's text."""

    code: str
    """Hash of the text without comments, docstrings, blank lines and trailing blanks."""
    imports: tuple[tuple[int, str], ...]
    """All that it imports: number of leading dots, and dotted name."""


@functools.cache
def fingerprint(*modules: str, root: Path = ROOT) -> str:
    """Hash of the modules' code and of all package code that they import, directly or not.

    Parameters
    ----------
    *modules : str
        Dotted names inside the package, such as ``"unetpipe.steps.weigh"``.
    root : Path
        Folder of the package.

    Returns
    -------
    str
        Last part of the first name, "@", and 16 hexadecimal digits, as ``"weigh@0123456789abcdef"``.

    Raises
    ------
    FileNotFoundError
        If a named module does not exist.

    Notes
    -----
    Imports inside functions count, and so do the parents' ``__init__``, and a page template beside a module under
    the same name. A module that is chosen by name at run time is not seen and must be named here.
    """
    digest = hashlib.sha256()
    known = len(remembered(root))
    for module in import_closure(*modules, root=root):
        digest.update(f"{module}={source_digest(module, root)}\n".encode())
    if len(remembered(root)) > known:
        remember(root)
    return f"{modules[0].rpartition('.')[2]}@{digest.hexdigest()[:16]}"


def import_closure(*modules: str, root: Path = ROOT) -> tuple[str, ...]:
    """Names of the modules and of all package modules they import, sorted.

    Examples
    --------
    >>> import_closure("unetpipe.geometry")
    ('unetpipe', 'unetpipe.errors', 'unetpipe.geometry')
    """
    todo, seen = [PACKAGE, *modules], set[str]()
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo.extend(imported_modules(module, root) - seen)
    return tuple(sorted(seen))


@functools.cache
def source_path(module: str, root: Path) -> Path | None:
    """File of a package module, or None where the name is no module."""
    place = root.joinpath(*module.split(".")[1:])
    if (place / "__init__.py").is_file():
        return place / "__init__.py"
    file = place.with_suffix(".py")
    return file if place != root and file.is_file() else None


def iter_statements(tree: ast.Module) -> Iterator[ast.AST]:
    """The module and all its statements; expressions, most of a tree, hold neither imports nor docstrings."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            todo.extend(getattr(node, block, []))


def read_source(text: str) -> Reading:
    """What counts of a text."""
    tree = ast.parse(text)
    # The text itself, because token types and ast.dump differ between Python versions.
    lines = STRING_OR_COMMENT.sub(lambda found: found["string"] or "", text).splitlines()
    imports: list[tuple[int, str]] = []
    for node in iter_statements(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and first.end_lineno:
                lines[first.lineno - 1 : first.end_lineno] = [""] * (first.end_lineno - first.lineno + 1)
        elif isinstance(node, ast.Import):
            imports += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            imports += [(node.level, ".".join(names)) for names in (base, *([*base, a.name] for a in node.names))]
    code = "\n".join(line.rstrip() for line in lines if line.strip())
    return Reading(hashlib.sha256(code.encode()).hexdigest(), tuple(imports))


@functools.cache
def reading(module: str, root: Path) -> Reading:
    """What counts of a module: what is remembered of the same bytes, or what is read now."""
    path = source_path(module, root)
    if path is None:
        raise FileNotFoundError(f"no module {module} in {root}")
    source = path.read_bytes()
    key = hashlib.sha256(_own_source() + source).hexdigest()
    known = remembered(root)
    if key not in known:
        known[key] = read_source(source.decode("utf-8"))
    return known[key]


@functools.cache
def _own_source() -> bytes:
    """The text of this module: what another version of it has found does not count."""
    return Path(__file__).read_bytes()


@functools.cache
def remembered(root: Path) -> dict[str, Reading]:
    """What earlier processes have read, by a hash of the bytes; nothing where their file is damaged or missing."""
    try:
        digest, _, text = (root / MEMORY).read_text(encoding="utf-8").partition("\n")
        if digest == hashlib.sha256(text.encode()).hexdigest():
            return {key: Reading(code, tuple(map(tuple, names))) for key, (code, names) in json.loads(text).items()}
    except (OSError, UnicodeDecodeError):
        pass
    return {}


def remember(root: Path) -> None:
    """Keep what was read for later processes, where there is a place for it: it takes a second to read anew."""
    known = remembered(root)
    text = json.dumps(dict([*known.items()][-MOST_REMEMBERED:]))
    draft = root / MEMORY.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    with contextlib.suppress(OSError):
        draft.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", encoding="utf-8")
        draft.replace(root / MEMORY)


def source_digest(module: str, root: Path) -> str:
    """Hash of what counts of a module's code, and of a page template beside it."""
    code = reading(module, root).code
    path = source_path(module, root)
    template = path.with_suffix(".html") if path else root
    return hashlib.sha256(code.encode() + template.read_bytes()).hexdigest() if template.is_file() else code


@functools.cache
def imported_modules(module: str, root: Path) -> frozenset[str]:
    """Package modules that a module imports, with their parents."""
    path = source_path(module, root)
    is_package = path is not None and path.name == "__init__.py"
    here = (module if is_package else module.rpartition(".")[0]).split(".")
    found = set[str]()
    for dots, name in reading(module, root).imports:
        parents = here[: len(here) - dots + 1] if dots else []
        found.update(module_and_parents(".".join([*parents, *([name] if name else [])]), root))
    return frozenset(found)


def module_and_parents(name: str, root: Path) -> list[str]:
    """The package module that a dotted name lies in, and its parents; empty for foreign names."""
    if name != PACKAGE and not name.startswith(PACKAGE + "."):
        return []
    while source_path(name, root) is None:
        name = name.rpartition(".")[0]
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
