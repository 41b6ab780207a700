"""The peak that benchmarks print is the process's own, not that of the process that started it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHILD = "from memory import peak_mb; print(peak_mb())"
# takes 400 MB, gives them back, and then asks a child for its peak and itself for its own
PARENT = f"""
import subprocess, sys
from memory import peak_mb
block = bytearray(b"x") * 400_000_000
del block
child = subprocess.run([sys.executable, "-c", {CHILD!r}], capture_output=True, text=True, check=True).stdout
print(peak_mb(), float(child))
"""


@pytest.fixture
def own_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root / "benchmarks"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the mark of the parent is Linux's")
def test_a_child_of_a_large_parent_reports_its_own_peak(own_memory: None) -> None:
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=True)
    parent, child = map(float, done.stdout.split())
    assert 400 < parent < 500
    assert child < 60


@pytest.mark.slow
def test_it_grows_with_what_is_taken(own_memory: None) -> None:
    code = "from memory import peak_mb; before = peak_mb(); b = bytearray(b'x') * 100_000_000; print(before, peak_mb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert after - before == pytest.approx(100, abs=5)


def test_without_proc_the_fallback_has_the_same_unit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(root / "benchmarks")
    import memory

    monkeypatch.setattr(memory, "STATUS", root / "nowhere")
    if sys.platform == "linux":
        import resource

        assert memory.peak_mb() == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, rel=0.01)
