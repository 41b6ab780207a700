"""Two processes train as one; a run that was killed (-9) and resumed ends in the same bits."""

from __future__ import annotations

import json
import os
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
# Two processes, as `torchrun` and `accelerate launch` start them, but forked from one that has imported everything; then, when
# it is told to, one training in its own process, which is there to be killed.
PROGRAM = """
import sys

import accelerate, sklearn.cluster, torch._dynamo
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import tiny_training

end = sys.argv.index("then")
two = LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method=sys.argv[1])
elastic_launch(two, tiny_training.main)(*sys.argv[2:end])
print("done", flush=True)
if sys.stdin.readline():
    tiny_training.main(*sys.argv[end + 1:])
"""
# relative: the processes sum in another order, Adam amplifies a gradient's last digits, and AdaCLIP's clusters jump
CURVE = {"anomalyclip": 5e-5, "adaclip": 1e-3}
BATCH_SIZE = 3  # of 16 pictures: a last step of one


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


def run(*arguments: object) -> None:
    """In this process."""
    tiny_training.main(*map(str, arguments))


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "parts")


@pytest.fixture(scope="module")
def out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the program: a folder for each method's run by the same two processes, and ``cut`` for the one that is killed."""
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def program(data: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """It has done what two processes do, and waits for a line."""
    one, other = ((method, data, out / method, 2, BATCH_SIZE) for method in CURVE)
    how = "fork" if hasattr(os, "fork") else "spawn"
    arguments = [how, *one, ",", *other, "then", "anomalyclip", data, out / "cut", 4, 2]
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    with (out / "errors").open("w") as errors:
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, stderr=errors, text=True)
    with process:
        assert "done\n" in iter(process.stdout.readline, ""), (out / "errors").read_text()[-3000:]  # type: ignore[union-attr]
        yield process
        process.kill()


@pytest.mark.parametrize("method", CURVE)
def test_two_processes_are_one(data: Path, tmp_path: Path, out: Path, program: subprocess.Popen[str], method: str) -> None:
    """Steps of 3 pictures leave the processes unequal shares, and a step of 1 leaves one without."""
    outs = (tmp_path / "one", out / method)
    run(method, data, outs[0], 2, BATCH_SIZE)
    one, other = map(metrics, outs)
    assert len(one) == len(other)
    worst = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(one, other, strict=True))
    assert worst < CURVE[method], worst
    assert abs(one[0]["loss"] / other[0]["loss"] - 1) < 1e-6
    headers = [read_header(out / "final.safetensors") for out in outs]
    assert headers[0]["data"] == headers[1]["data"]
    assert [header["processes"] for header in headers] == [1, 2]


def test_killed_and_resumed_is_uninterrupted(data: Path, tmp_path: Path, out: Path, program: subprocess.Popen[str]) -> None:
    run("anomalyclip", data, tmp_path / "whole", 4, 2)
    cut = out / "cut"
    program.stdin.write("go\n")  # type: ignore[union-attr]
    program.stdin.flush()  # type: ignore[union-attr]
    deadline = time.monotonic() + 120
    file = cut / "metrics.jsonl"
    while time.monotonic() < deadline and not (file.is_file() and '"epoch": 2, "step"' in file.read_text()):
        time.sleep(0.002)
    program.kill()
    program.wait()
    assert (cut / "epoch_1.safetensors").is_file()
    assert not (cut / "final.safetensors").exists()
    run("anomalyclip", data, cut, 4, 2, "resume")
    one, other = (read_state_dict(folder / "final.safetensors") for folder in (tmp_path / "whole", cut))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
    kept = [[{k: v for k, v in row.items() if k != "seconds"} for row in metrics(out)] for out in (tmp_path / "whole", cut)]
    assert kept[0] == kept[1]
