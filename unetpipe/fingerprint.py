"""A hash of the code that a stage runs: its module and everything inside the package that it imports.

Static analysis of the source text; nothing is imported. Comments, docstrings and blank lines do not count,
and the hash is the same on every Python version.
"""

import ast
import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["fingerprint", "import_closure"]

PACKAGE = "unetpipe"
ROOT = Path(__file__).resolve().parent
# A string is as long as its first kind of quotation mark says; what looks like a comment inside is none.
STRING_OR_COMMENT = re.compile(
    r"""(?P<string>(?P<quotes>\"{3}|'{3})(?:\\.|.)*?(?P=quotes)|(?P<quote>["'])(?:\\.|[^\\\n])*?(?P=quote))|\#[^\n]*""",
    re.DOTALL,
)


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
    for module in import_closure(*modules, root=root):
        digest.update(f"{module}={source_digest(module, root)}\n".encode())
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


@functools.cache
def parsed(module: str, root: Path) -> tuple[str, ast.Module]:
    """Source text and syntax tree of a module."""
    path = source_path(module, root)
    if path is None:
        raise FileNotFoundError(f"no module {module} in {root}")
    text = path.read_text(encoding="utf-8")
    return text, ast.parse(text)


def iter_statements(tree: ast.Module) -> Iterator[ast.AST]:
    """The module and all its statements; expressions, most of a tree, hold neither imports nor docstrings."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            todo.extend(getattr(node, block, []))


@functools.cache
def source_digest(module: str, root: Path) -> str:
    """Hash of a module's text without comments, docstrings, blank lines and trailing blanks."""
    text, tree = parsed(module, root)
    # The text itself, because token types and ast.dump differ between Python versions.
    lines = STRING_OR_COMMENT.sub(lambda found: found["string"] or "", text).splitlines()
    for node in iter_statements(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and first.end_lineno:
                lines[first.lineno - 1 : first.end_lineno] = [""] * (first.end_lineno - first.lineno + 1)
    kept = [line.rstrip() for line in lines if line.strip()]
    path = source_path(module, root)
    template = path.with_suffix(".html") if path else root
    if template.is_file():
        kept.append(template.read_text(encoding="utf-8"))
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()


@functools.cache
def imported_modules(module: str, root: Path) -> frozenset[str]:
    """Package modules that a module imports, with their parents."""
    path = source_path(module, root)
    is_package = path is not None and path.name == "__init__.py"
    here = module if is_package else module.rpartition(".")[0]
    found = set[str]()
    for node in iter_statements(parsed(module, root)[1]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = here.split(".")
            parents = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            found.update(module_and_parents(name, root))
    return frozenset(found)


def module_and_parents(name: str, root: Path) -> list[str]:
    """The package module that a dotted name lies in, and its parents; empty for foreign names."""
    if name != PACKAGE and not name.startswith(PACKAGE + "."):
        return []
    while source_path(name, root) is None:
        name = name.rpartition(".")[0]
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
