"""What a teacher's code is: its function and all that it calls in this package, without comments and docstrings.

So a set or an adapter is out of date when what its teacher paints may have changed, and not when a neighbour's has.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "laur.style.teachers"
ALWAYS = (("tools", "as_float"), ("tools", "as_bytes"))
"""What every teacher is called through."""


@dataclass(frozen=True)
class _Module:
    definitions: dict[str, ast.stmt]
    """At the top, by name."""
    imported: dict[str, tuple[str, str]]
    """Names of this package: (module, name there), or (module, "") for a whole module."""


def sha256(module: str, function: str, folder: Path = Path(__file__).parent) -> str:
    """Of a function of a module in the package's folder, and of what pictures go through.

    Errors: OSError, KeyError where there is none; ValueError where something of the package is imported within a
    definition or by a relative name, which is not followed.
    """
    found: dict[tuple[str, str], str] = {}
    for at in ((module, function), *ALWAYS):
        _collect(folder, at, found)
    told = "\n".join(f"{of}.{name}: {text}" for (of, name), text in sorted(found.items()))
    return hashlib.sha256(told.encode()).hexdigest()


def _collect(folder: Path, at: tuple[str, str], found: dict[tuple[str, str], str]) -> None:
    """A definition and those that it names, each once."""
    if at in found:
        return
    module, name = at
    read = _read(folder / f"{module}.py")
    node = read.definitions[name]
    found[at] = _text(node)
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
        elif isinstance(part, ast.ImportFrom) and _ours(part):
            raise ValueError(f"{module}.{name} imports {part.module or 'from its package'} within; import it above")


@cache
def _read(file: Path) -> _Module:
    definitions: dict[str, ast.stmt] = {}
    imported: dict[str, tuple[str, str]] = {}
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            definitions |= dict.fromkeys(names, node)
        elif isinstance(node, ast.ImportFrom) and _ours(node):
            if node.level:
                raise ValueError(f"{file.name} imports by a relative name; give the whole one")
            of = (node.module or "").removeprefix(PACKAGE).removeprefix(".")
            imported |= {a.asname or a.name: (of, a.name) if of else (a.name, "") for a in node.names}
    return _Module(definitions, imported)


def _ours(node: ast.ImportFrom) -> bool:
    return bool(node.level) or (node.module or "").startswith(PACKAGE)


def _text(node: ast.stmt) -> str:
    """Its code as the parser understood it: comments, line breaks and docstrings are gone, indentation is not."""
    return ast.unparse(_Bare().visit(copy.deepcopy(node)))


class _Bare(ast.NodeTransformer):
    """Without strings that stand alone."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """None where it is one."""
        alone = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if alone else node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Bodies that held a string alone hold `pass`."""
        found = super().generic_visit(node)
        if isinstance(found, ast.FunctionDef | ast.ClassDef) and not found.body:
            found.body = [ast.Pass()]
        return found
