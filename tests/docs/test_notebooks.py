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


def printed(notebook: Any) -> list[str]:
    """What the cells print, numbers rounded to one digit, since sums differ between machines."""
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", []) if one.get("name") == "stdout"]
    text = ["".join(one.text) for one in outputs]
    return [re.sub(r"\d+\.\d+", lambda found: f"{float(found[0]):.0f}", one) for one in text]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_notebooks_run_and_print_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    stored = [printed(nbformat.read(path, as_version=4)) for path in NOTEBOOKS]
    notebooks = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    asyncio.run(script().execute(notebooks))
    assert [printed(one) for one in notebooks] == stored


def test_there_are_five_and_their_outputs_are_small() -> None:
    assert len(NOTEBOOKS) == 5
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        assert path.stat().st_size < 60_000, path
        assert all(cell.outputs or cell.execution_count for cell in notebook.cells if cell.cell_type == "code"), path
        assert not re.search(r"/(root|home|work)/", path.read_text(encoding="utf-8")), path
