"""The recipes of docs/scale.md for other engines run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from brightness import folder_of

PROGRAM_END = """
    rows = table.to_pylist()
    assert len(rows) == 5 and all(row["score"] is not None and row["error"] is None for row in rows), rows
    print("scored", len(rows), {row["worker"] for row in rows})
"""
SPARK_END = """
rows = scores.collect()
assert len(rows) == 5 and all(row["score"] is not None for row in rows), rows
print("scored", len(rows))
"""


def recipe(root: Path, name: str) -> str:
    found = re.search(rf"<!-- recipe: {name} -->\n```python\n(.*?)```", (root / "docs/scale.md").read_text(), re.DOTALL)
    assert found, f"docs/scale.md has no recipe {name!r}"
    return found[1].replace('"batch_size": 8}', '"batch_size": 8, "tower": "small"}')


def run(code: str, folder: Path) -> str:
    folder_of(folder / "photos", 4, 1)
    (folder / "program.py").write_text(code)
    done = subprocess.run([sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_pool_of_processes(root: Path, tmp_path: Path) -> None:
    code = recipe(root, "begin") + recipe(root, "pool").replace("ProcessPoolExecutor(2", "ProcessPoolExecutor(1")
    assert "scored 5" in run(code + PROGRAM_END, tmp_path)


@pytest.mark.slow
def test_spark(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyspark")
    assert "scored 5" in run(recipe(root, "begin") + recipe(root, "spark") + SPARK_END, tmp_path)
