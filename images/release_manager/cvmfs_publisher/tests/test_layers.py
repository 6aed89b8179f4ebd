# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules that all of the package keeps: layers as docs/architecture.md draws them, and errors that name a remedy."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import cvmfs_publisher
from cvmfs_publisher import errors

PACKAGE = Path(cvmfs_publisher.__file__).parent
ARCHITECTURE = Path(__file__).parents[4] / "docs" / "architecture.md"
FOUNDATION = {"assignments", "errors", "paths", "progress"}
"""Modules that all layers may use."""


def layers() -> list[str]:
    """Return the layers that the documentation lists, the topmost first."""
    chapter = ARCHITECTURE.read_text().partition("## The publisher's layers")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)/` \|", chapter, re.MULTILINE)


def modules() -> dict[str, Path]:
    """Return the files of all modules by their names within the package; a package's own is that of its directory."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(name: str, *, with_types: bool) -> set[str]:
    """Return the modules of the package that a module imports.

    :param with_types: also what only type checkers import
    """
    known = modules()
    found = set()
    for node in _import_nodes(ast.parse(known[name].read_text()), with_types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("cvmfs_publisher.")}
            continue
        base = node.module.split(".") if node.module else []
        if node.level:
            own = name.split(".") if name else []
            is_package = known[name].name == "__init__.py"
            base = own[: len(own) + is_package - node.level] + base
        elif base[:1] != ["cvmfs_publisher"]:
            continue
        else:
            base = base[1:]
        for alias in node.names:
            inner = ".".join([*base, alias.name])
            found.add(inner if inner in known else ".".join(base))
    return found - {name}


def _import_nodes(tree: ast.AST, with_types: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif with_types or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from _import_nodes(node, with_types)


def layer_of(name: str) -> str:
    return name.partition(".")[0]


def test_the_documentation_names_all_layers() -> None:
    directories = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert set(layers()) == directories
    assert {name for name in modules() if "." not in name} == directories | FOUNDATION | {""}


@pytest.mark.parametrize("name", sorted(set(modules()) - {""}))
def test_imports_go_downwards(name: str) -> None:
    order = layers()
    below = FOUNDATION if name in FOUNDATION else FOUNDATION | {*order[order.index(layer_of(name)) :]}
    too_high = {other for other in imports(name, with_types=True) if layer_of(other) not in below}
    assert not too_high, f"{name} imports {too_high} from above"


def test_only_the_command_line_leaves_the_process() -> None:
    for name, file in modules().items():
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)}
        leaving = calls & {"sys.exit", "exit", "quit", "os._exit", "os.abort"}
        # A daemon must not go back to what its parent was doing
        may_leave = layer_of(name) == "cli" or name == "mount.daemon"
        assert may_leave or not leaving, f"{name} calls {leaving}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    remaining = {name: imports(name, with_types=False) for name in modules()}
    while free := {name for name, needs in remaining.items() if not needs & remaining.keys()}:
        remaining = {name: needs for name, needs in remaining.items() if name not in free}
    assert not remaining, "these modules, or some of them, import each other"


INTERNAL = {"PreconditionFailed", "ObjectNotFound"}
"""Errors that callers translate, so that no user sees them as they are."""


@pytest.mark.parametrize("name", sorted({name for name in modules() if layer_of(name) not in ("catalog", "content")}))
def test_errors_name_a_remedy(name: str) -> None:
    """Content and catalogs are left out: what they complain about are mistakes of their callers, or is translated."""
    kinds = {
        kind.__name__
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.PublisherError)
    }
    calls = [node for node in ast.walk(ast.parse(modules()[name].read_text())) if isinstance(node, ast.Call)]
    for call in calls:
        if ast.unparse(call.func) in kinds - INTERNAL:
            assert "remedy" in [keyword.arg for keyword in call.keywords], f"{name}:{call.lineno}"
