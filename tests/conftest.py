"""What several test files share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, by torch's import: idle threads sleep. Spinning, they take
# the cores of whatever else runs, a training's processes among them: 7 times the CPU seconds on a shared machine

import torch

torch.set_num_threads(2)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """Top of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of the reference outputs, where it is at hand; its ``tiny_clip`` becomes importable."""
    folder = ROOT.parent / "shared" / "parity"
    if not folder.is_dir():
        pytest.skip("the reference outputs are not beside this checkout; tests/golden holds a digest of them")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return folder
