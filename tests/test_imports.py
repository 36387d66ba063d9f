"""Which package may import which, and that what differs by database stands in its dialect."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from typing import get_args

import pytest
from servers import CHECKOUT

from uniqueid.database_url import Kind

SOURCES = CHECKOUT / "uniqueid"
PONY, BOTTLE = ("pony",), ("bottle",)
DATABASE = ("uniqueid.database", "uniqueid.database_url")
DRIVERS = ("pymysql", "psycopg2", "sqlite3")
DATABASES = {"sqlite", "mysql", "postgresql"}

FORBIDDEN: dict[str, tuple[str, ...]] = {
    "uniqueid.web": ("uniqueid.allocation", *DATABASE, *PONY, *DRIVERS),
    "uniqueid.allocation": ("uniqueid.web", *DATABASE, *BOTTLE, *PONY, *DRIVERS),
    "uniqueid.database": ("uniqueid.web", "uniqueid.allocation", *BOTTLE),
    "uniqueid.fence": ("uniqueid.web", *BOTTLE),
    "uniqueid.monitoring": ("uniqueid.web", *BOTTLE),
    "uniqueid.runtime": ("uniqueid.web", *BOTTLE),
}
"""Package to what nothing in it may import."""

ONLY: dict[str, tuple[str, ...]] = {
    "uniqueid.errors": (),
    "uniqueid.model": ("uniqueid.errors",),
    "uniqueid.config": ("uniqueid.database_url", "uniqueid.errors", "uniqueid.model"),
    "uniqueid.database_url": ("uniqueid.errors",),
}
"""Module to all that it may import of the service."""


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in SOURCES.rglob("*.py"):
        parts = path.relative_to(SOURCES.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports(tree: ast.Module) -> Iterator[str]:
    """The names of all modules that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_what_its_package_may(module: str) -> None:
    """The tables above."""
    for name in imports(MODULES[module]):
        for package, forbidden in FORBIDDEN.items():
            if within(module, (package,)):
                assert not within(name, forbidden), name
        if module in ONLY and within(name, ("uniqueid",)):
            assert name in ONLY[module], name


def test_imports_have_no_cycles() -> None:
    """Not even one that is put off into a function."""
    edges = {
        module: {name for name in imports(tree) if name in MODULES and name != module}
        for module, tree in MODULES.items()
    }
    remaining = dict(edges)
    while remaining:
        leaves = [module for module, names in remaining.items() if not names & set(remaining)]
        assert leaves, sorted(remaining)
        for module in leaves:
            del remaining[module]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_dialects_depend_on_the_kind_of_the_database(module: str) -> None:
    """Nothing else compares with its name, or has a table with a row for each."""
    if module == "uniqueid.database_url" or within(module, ("uniqueid.database.dialects",)):
        return
    found = [
        (node.value, node.lineno)
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.Constant) and node.value in DATABASES
    ]
    assert not found


def test_the_table_of_dialects_is_the_only_place_with_a_row_for_each_database() -> None:
    """To add one is a file, a row there and its schemes in the URL."""
    table = MODULES["uniqueid.database.dialects"]
    rows = {node.value for node in ast.walk(table) if isinstance(node, ast.Constant)}
    assert rows & DATABASES == set(get_args(Kind)) == DATABASES


def test_no_test_module_imports_another() -> None:
    """What several need is in a module of helpers, where pytest collects nothing twice."""
    found = []
    for path in [*CHECKOUT.glob("tests/**/test_*.py"), *CHECKOUT.glob("client/tests/test_*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names)]
            parts = {part for name in names for part in name.split(".")}
            if any(part.startswith("test_") for part in parts):
                found.append(f"{path.relative_to(CHECKOUT)}:{node.lineno}")
    assert not found


def test_the_modules_are_those_of_the_checkout() -> None:
    """The test reads the sources, not what is installed."""
    assert "uniqueid.service" in MODULES
    assert sys.version_info >= (3, 11)
