"""The notebooks run from top to bottom, and print what is stored in them."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
nbformat = pytest.importorskip("nbformat", reason="the extra docs is not installed")
pytest.importorskip("nbclient", reason="the extra docs is not installed")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "scripts/run_notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NUMBER = re.compile(r"\d+\.\d+")


def printed(notebook: Any) -> str:
    """What the cells print; a kernel sends a cell's text in one piece or, where it is slow, in several."""
    cells = ([one for one in cell.get("outputs", []) if one.get("name") == "stdout"] for cell in notebook.cells)
    return "\n".join("".join("".join(one.text) for one in outputs) for outputs in cells if outputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_notebooks_run_and_print_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text, and numbers within 0.05: another machine sums in another order."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    stored = [printed(nbformat.read(path, as_version=4)) for path in NOTEBOOKS]
    notebooks = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    asyncio.run(script().execute(notebooks))
    for now, before in zip(map(printed, notebooks), stored, strict=True):
        assert NUMBER.sub("0.0", now) == NUMBER.sub("0.0", before)
        assert [float(one) for one in NUMBER.findall(now)] == pytest.approx(
            [float(one) for one in NUMBER.findall(before)], abs=0.05
        )


def test_there_are_five_and_their_outputs_are_small() -> None:
    assert len(NOTEBOOKS) == 5
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        assert path.stat().st_size < 60_000, path
        assert all(cell.outputs or cell.execution_count for cell in notebook.cells if cell.cell_type == "code"), path
        assert not re.search(r"/(root|home|work)/", path.read_text(encoding="utf-8")), path
