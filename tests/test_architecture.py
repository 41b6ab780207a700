"""Imports run one way, methods stand alone, files and functions keep their size, nothing prints on import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "zsad"
# a module may import what stands in a row above its own, and its own row where the row is marked with *
ROWS = [
    {"errors"},
    {"types", "losses", "metrics*", "assets", "drawing", "naming", "intensity", "sources", "transforms"}
    | {"stored", "conformal", "threads", "arguments"},
    {"ops*", "images", "registry", "prompting", "checkpoints", "results", "calibration", "spill"},
    {"synthetic", "promises", "roi", "datasets*", "corrections"},
    {"layers*", "geometry"},
    {"backbones*", "mosaic"},
    {"sharing"},
    {"detector"},
    {"methods"},
    {"training*"},
    {"scoring"},
    {"encoding", "references", "settings", "verdicts"},
    {"inspector", "records", "report"},
    {"evaluation*"},
    {"rundir"},
    {"writing"},
    {"normals"},
    {"session"},
    {"prompt_lab"},
    {"console", "options"},
    {"predicting", "calibrating", "evaluating", "finetuning", "listing", "doctor", "converting", "referencing"},
    {"cli*"},
    {"__main__", "__init__"},
]
LEVEL = {name.rstrip("*"): level for level, row in enumerate(ROWS) for name in row}
WITHIN = {name.rstrip("*") for row in ROWS for name in row if name.endswith("*")}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_assets" not in path.parts)


def part(path: Path) -> str:
    """First name below the package: "methods" for methods/winclip.py, "types" for types.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of zsad's modules that a tree imports, function-level imports included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "zsad"}


def test_every_module_has_a_level() -> None:
    assert {part(path) for path in MODULES} <= set(LEVEL)


def test_no_relative_imports() -> None:
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)), path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        return
    for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
        parts = name.split(".")
        other = parts[1] if len(parts) > 1 else ""
        if other not in LEVEL:  # "zsad" itself (its public names) or a name inside a module
            assert len(parts) > 1 or own in ("cli", "doctor", "__main__", "predicting", "evaluation"), (
                f"{own} imports the package itself"
            )
            continue
        allowed = LEVEL[other] < LEVEL[own] or (own == other and own in WITHIN)
        assert allowed, f"{path.relative_to(PACKAGE)} (row {LEVEL[own]}) imports {name} (row {LEVEL[other]})"


def test_methods_do_not_import_methods() -> None:
    for path in (PACKAGE / "methods").glob("*.py"):
        names = imported(ast.parse(path.read_text(encoding="utf-8")))
        assert not any(name.startswith("zsad.methods.") for name in names), path


def test_registry_imports_no_method() -> None:
    names = imported(ast.parse((PACKAGE / "registry.py").read_text(encoding="utf-8")))
    assert not any(name.startswith(("zsad.methods", "zsad.backbones")) for name in names)


def test_no_module_bears_the_name_of_a_public_function() -> None:
    import zsad

    functions = {name for name in zsad.__all__ if callable(getattr(zsad, name)) and name[0].islower()}
    assert not functions & {path.stem for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    limit = 160 if "methods" in path.parts else 260
    assert text.count("\n") <= limit, f"{path.name} has grown past {limit} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
            assert lines <= 50, f"{path.name}: {node.name} has {lines} lines"


def test_import_is_silent_and_light() -> None:
    code = (
        "import sys, zsad; heavy = {'open_clip', 'transformers', 'sklearn', 'gradio'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
