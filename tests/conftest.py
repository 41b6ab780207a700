"""What several test files share."""

from __future__ import annotations

import gc
import os
import sys
from functools import cache
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, by torch's import: idle threads sleep. Spinning, they take
# the cores of whatever else runs, a training's processes among them: 7 times the CPU seconds on a shared machine
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):  # set in many images: each program that tests start would compile the
    sys.dont_write_bytecode = False  # package anew, a CPU second; and each process of the tests all of them, ten
if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core; OpenBLAS ignores the policy and spins: 7 to 90 times the
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # CPU seconds of a small product. Programs that tests start inherit it
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
import typer.testing
from typer.main import get_command

typer.testing._get_command = cache(get_command)  # the parser of all commands takes 60 ms, a thousand times
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
ROOT = Path(__file__).resolve().parents[1]
LONGEST = (  # one that waits for more than it computes, then files of 15 to 70 seconds of CPU, the longest first: begun last,
    "distributed/test_engine.py",  # one would keep one process busy alone
    "docs/test_code_blocks.py",
    "verification/test_proofs.py",
    "exports/test_every_method.py",
    "contract/test_pipeline.py",
    "demo/test_demo.py",
    "demo/test_browser.py",
    "contract/test_contract.py",
    "docs/test_notebooks.py",
    "test_packaging.py",
    "inference/test_reference_set.py",
    "training/test_loop.py",
    "docs/test_site.py",
    "training/test_processes.py",
    "training/test_data.py",
    "inference/test_batch_mode.py",
)


@pytest.fixture(scope="session")
def root() -> Path:
    """Top of the checkout."""
    return ROOT


def pytest_collection_finish() -> None:
    """Half a million objects of torch and of the collected tests stay to the end: walking them again and again takes 9 %."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many code blocks of the documentation the tests run, and why the others are not."""
    from code_blocks import summary

    terminalreporter.section("code blocks of the documentation")
    terminalreporter.write_line(summary())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files first, then those with slow tests, so that no process is left alone with one at the end.

    Tests for a card run only where there is one.
    """
    if "ZSAD_TEST_DEVICE" not in os.environ and not torch.cuda.is_available():
        left_out = [item for item in items if item.get_closest_marker("cuda")]
        items[:] = [item for item in items if not item.get_closest_marker("cuda")]
        config.hook.pytest_deselected(items=left_out)
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    if gone := [str(path) for path in place if not path.is_file()]:
        raise pytest.UsageError(f"tests/conftest.py names files that are not there: {', '.join(gone)}")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (place.get(item.path, len(place)), item.path not in slow))
