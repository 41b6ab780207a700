"""PatchCore's references are chosen from block by block: the peak grows with the rows that are kept, not with all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PEAKS = """
from memory import peak_mb
from patchcore import parsed, with_references

for references in ("16", "64"):
    with_references(parsed(["--channels", "256", "--coreset", "0.01", "--references", references]))
    print(peak_mb())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's own record")
def test_the_peak_does_not_grow_with_the_rows(root: Path) -> None:
    """48 more references are 67 MB more of rows, of which a hundredth is kept."""
    paths = os.pathsep.join([str(root), str(root / "benchmarks")])
    command, environment = [sys.executable, "-c", PEAKS], os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    few, many = map(float, done.stdout.split())
    assert many - few < 40
