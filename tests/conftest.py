"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, by torch's import: idle threads sleep. Spinning, they take
# the cores of whatever else runs, a training's processes among them: 7 times the CPU seconds on a shared machine

import torch

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """Top of the checkout."""
    return ROOT


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many code blocks of the documentation the tests run, and why the others are not."""
    from code_blocks import summary

    terminalreporter.section("code blocks of the documentation")
    terminalreporter.write_line(summary())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no process is left alone with one at the end; tests for a card only with one."""
    if "ZSAD_TEST_DEVICE" not in os.environ and not torch.cuda.is_available():
        left_out = [item for item in items if item.get_closest_marker("cuda")]
        items[:] = [item for item in items if not item.get_closest_marker("cuda")]
        config.hook.pytest_deselected(items=left_out)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
