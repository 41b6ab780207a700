"""Two processes train as one; a run that was killed (-9) and resumed ends in the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_training
import torch
from annotated import write_set

from zsad.weights.checkpoints import read_header, read_state_dict

pytest.importorskip("accelerate")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = str(ROOT / "tests/helpers/tiny_training.py")
# what `accelerate launch` starts several processes with; on CPUs it does so through MPI alone, and silently starts one without
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# relative: the processes sum in another order, Adam amplifies a gradient's last digits, and AdaCLIP's clusters jump
CURVE = {"anomalyclip": 5e-5, "adaclip": 1e-3}
BATCH_SIZES = {"anomalyclip": 5, "adaclip": 3}  # of 16 pictures: a last step of one


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes: sums in another order differ in the last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def launch(*arguments: object) -> None:
    command = [sys.executable, *LAUNCH, PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


def run(*arguments: object) -> None:
    """In this process."""
    tiny_training.main([str(one) for one in arguments])


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "parts")


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every method's run by the same two processes, in a folder of its name."""
    out = tmp_path_factory.mktemp("two")
    anomalyclip, adaclip = ((method, data, out / method, 2, size) for method, size in BATCH_SIZES.items())
    launch(*anomalyclip, ",", *adaclip)
    return out


@pytest.mark.parametrize("method", BATCH_SIZES)
def test_two_processes_are_one(data: Path, tmp_path: Path, two: Path, method: str) -> None:
    """Steps of 5 and of 3 pictures leave the processes unequal shares, and steps of 1 leave one without."""
    outs = (tmp_path / "one", two / method)
    run(method, data, outs[0], 2, BATCH_SIZES[method])
    one, other = map(metrics, outs)
    assert len(one) == len(other)
    worst = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(one, other, strict=True))
    assert worst < CURVE[method], worst
    assert abs(one[0]["loss"] / other[0]["loss"] - 1) < 1e-6
    headers = [read_header(out / "final.safetensors") for out in outs]
    assert headers[0]["data"] == headers[1]["data"]
    assert [header["processes"] for header in headers] == [1, 2]


def test_killed_and_resumed_is_uninterrupted(data: Path, tmp_path: Path) -> None:
    run("anomalyclip", data, tmp_path / "whole", 4, 2)
    cut = tmp_path / "cut"
    command = [sys.executable, PROGRAM, "anomalyclip", str(data), str(cut), "4", "2"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    file = cut / "metrics.jsonl"
    while time.monotonic() < deadline and not (file.is_file() and '"epoch": 2, "step"' in file.read_text()):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (cut / "epoch_1.safetensors").is_file()
    assert not (cut / "final.safetensors").exists()
    run("anomalyclip", data, cut, 4, 2, "resume")
    one, other = (read_state_dict(folder / "final.safetensors") for folder in (tmp_path / "whole", cut))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
    kept = [[{k: v for k, v in row.items() if k != "seconds"} for row in metrics(out)] for out in (tmp_path / "whole", cut)]
    assert kept[0] == kept[1]
