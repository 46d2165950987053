"""What a teacher's code is: its function and all that it calls in this package, without comments and docstrings.

So a set or an adapter is out of date when what its teacher paints may have changed, and not when a neighbour's has.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "laur.style.teachers"
_SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


@dataclass(frozen=True)
class _Module:
    definitions: dict[str, ast.stmt]
    """At the top, by name."""
    imported: dict[str, tuple[str, str]]
    """Names of this package: (module, name there), or (module, "") for a whole module."""
    lines: list[str]


def sha256(module: str, function: str, folder: Path = Path(__file__).parent) -> str:
    """Of a function of a module in the package's folder. Errors: KeyError where there is none."""
    found: dict[tuple[str, str], str] = {}
    _collect(folder, (module, function), found)
    told = "\n".join(f"{of}.{name}: {text}" for (of, name), text in sorted(found.items()))
    return hashlib.sha256(told.encode()).hexdigest()


def _collect(folder: Path, at: tuple[str, str], found: dict[tuple[str, str], str]) -> None:
    """A definition and those that it names, each once."""
    if at in found:
        return
    module, name = at
    read = _read(folder / f"{module}.py")
    node = read.definitions[name]
    found[at] = _tokens(node, read.lines)
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            if part.id in read.definitions:
                _collect(folder, (module, part.id), found)
            elif (of := read.imported.get(part.id)) and of[1]:
                _collect(folder, of, found)
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            of = read.imported.get(part.value.id)
            if of and not of[1]:
                _collect(folder, (of[0], part.attr), found)


@cache
def _read(file: Path) -> _Module:
    text = file.read_text("utf-8")
    definitions: dict[str, ast.stmt] = {}
    imported: dict[str, tuple[str, str]] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            definitions |= dict.fromkeys(names, node)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            of = (node.module or "").removeprefix(PACKAGE).removeprefix(".")
            imported |= {a.asname or a.name: (of, a.name) if of else (a.name, "") for a in node.names}
    return _Module(definitions, imported, text.splitlines(keepends=True))


def _tokens(node: ast.stmt, lines: list[str]) -> str:
    """Its code on one line."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    silent: set[int] = set()
    for part in ast.walk(node):
        value = part.value if isinstance(part, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            silent |= set(range(value.lineno, (value.end_lineno or value.lineno) + 1))
    text = "".join(lines[first - 1 : node.end_lineno])
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return " ".join(
        token.string for token in tokens if token.type not in _SILENT and token.start[0] + first - 1 not in silent
    )
