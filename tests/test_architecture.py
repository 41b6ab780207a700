"""Imports run one way, methods stand alone, files and functions keep their size, nothing prints on import."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "zsad"
# eleven floors: a package may import those of the floors above its row, and its own modules
FLOORS = (
    {"errors", "types", "alignment"},
    {"common", "images", "synthetic", "references", "metrics", "kinds"},
    {"registry", "datasets", "decision", "explain"},
    {"weights"},
    {"backbones", "prompts", "detector"},
    {"methods", "inference"},
    {"training", "evaluation", "runs", "verification", "exports"},
    {"distributed"},
    {"cli"},
    {"__init__"},
    {"__main__"},
)
LEVEL = {name: level for level, floor in enumerate(FLOORS) for name in floor}
TOP_LEVEL = {"__init__", "__main__", "errors", "types", "registry", "detector"}  # the modules beside the packages
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "_assets" not in path.parts
}


class Facts(NamedTuple):
    """Of one file, parsed once."""

    names: set[str]  # what it imports
    relative: bool  # whether one of its imports is
    sizes: dict[str, int]  # lines of its functions' bodies, by name and first line


@cache
def facts_of(path: Path) -> Facts:
    names, relative, sizes = set(), False, {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            relative = relative or bool(node.level)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module}
        elif isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
            sizes[f"{node.name} in line {node.lineno}"] = lines
    return Facts(names, relative, sizes)


@cache
def imported(path: Path) -> set[str]:
    """Names in ``MODULES`` that a file imports, those inside functions included; "__init__" is the package itself."""
    names = facts_of(path).names
    inside = {name.removeprefix("zsad").removeprefix(".") for name in names if name.split(".")[0] == "zsad"}
    return {module for name in inside if (module := module_of(name))}


def module_of(name: str) -> str:
    """ "images.reading.load_image" -> "images.reading"; of a package its ``__init__``."""
    parts = name.split(".") if name else []
    for end in range(len(parts), -1, -1):
        for tail in ([], ["__init__"]):
            if (found := ".".join([*parts[:end], *tail])) in MODULES:
                return found
    raise AssertionError(f"zsad.{name} is imported and is nowhere")


def test_only_the_design_s_modules_stand_beside_the_packages() -> None:
    assert {name for name in MODULES if "." not in name} == TOP_LEVEL


def test_every_package_has_a_floor() -> None:
    assert {name.split(".")[0] for name in MODULES} == set(LEVEL)


def test_no_relative_imports() -> None:
    for path in MODULES.values():
        assert not facts_of(path).relative, path


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name: str) -> None:
    own = name.split(".")[0]
    for other in imported(MODULES[name]):
        part = other.split(".")[0]
        if part == "__init__":  # ``import zsad``: the public names, which the commands use as anybody does
            assert own == "__main__", f"{name} imports the public names of zsad"
            continue
        allowed = part == own or LEVEL[part] < LEVEL[own]
        assert allowed, f"{name} (floor {LEVEL[own] + 1}) imports {other} (floor {LEVEL[part] + 1})"


@pytest.mark.slow
def test_no_circles() -> None:
    arrows = {name: imported(path) - {name, "__init__"} for name, path in MODULES.items()}
    while leaves := {name for name, others in arrows.items() if not others & arrows.keys()}:
        arrows = {name: others for name, others in arrows.items() if name not in leaves}
    assert not arrows, f"these import each other: {sorted(arrows)}"


def method_of(name: str) -> str:
    """ "methods.compact.head" -> "compact"; "" outside the methods."""
    parts = name.split(".")
    return parts[1] if parts[0] == "methods" else ""


def test_methods_do_not_import_methods() -> None:
    for name, path in MODULES.items():
        if (own := method_of(name)) and own != "__init__":
            assert {method_of(other) for other in imported(path)} <= {"", own}, name


def test_registry_imports_no_method() -> None:
    assert not {"methods", "backbones"} & {name.split(".")[0] for name in imported(MODULES["registry"])}


def test_no_module_bears_the_name_of_a_public_function() -> None:
    import zsad

    functions = {name for name in zsad.__all__ if callable(getattr(zsad, name)) and name[0].islower()}
    assert not functions & {name for name in MODULES if "." not in name}


@pytest.mark.parametrize("name", MODULES)
def test_sizes(name: str) -> None:
    path = MODULES[name]
    short = path.stem in ("mrad", "tipsomaly")  # what a method needs that has its parts in common with others
    limit = (110 if short else 160) if "methods" in path.parts else 250
    assert path.read_text(encoding="utf-8").count("\n") <= limit, f"{path.name} has grown past {limit} lines"
    for function, lines in facts_of(path).sizes.items():
        assert lines <= 50, f"{path.name}: {function} has {lines} lines"


@pytest.mark.slow
def test_import_is_silent_and_light() -> None:
    code = (
        "import sys, zsad; heavy = {'open_clip', 'transformers', 'sklearn', 'gradio'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
