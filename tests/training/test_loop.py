"""The training loop: loss falls, runs resume bit for bit, frozen weights stay, errors have messages."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotated import write_set
from PIL import Image
from safetensors import SafetensorError, safe_open
from tiny_training import tiny

import zsad
from zsad.errors import MissingExtra, UsageError, WriteError
from zsad.inference import feature_store
from zsad.training import steps as one_step
from zsad.training.data import Example, epoch_steps, share
from zsad.training.plot import draw_losses
from zsad.training.rates import learning_rate_at
from zsad.training.run import TrainingRun
from zsad.types import Schedule
from zsad.weights import checkpoints
from zsad.weights.checkpoints import read_header, read_state_dict

pytest.importorskip("accelerate")
METHODS = ["adaclip", "anomalyclip", "april_gan", "compact"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories of four normal and four anomalous pictures."""
    return write_set(tmp_path_factory.mktemp("set") / "parts")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of that, for tests that train several times: batches of 2 make as many steps as batches of 4 of the whole."""
    return write_set(tmp_path_factory.mktemp("set") / "parts", good=2, bad=2)


def rows(out: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the times."""
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def weights(out: Path, name: str = "final") -> dict[str, torch.Tensor]:
    return read_state_dict(out / f"{name}.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def errors(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------ it trains
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_trainable_parameters_change_and_nothing_else(data: Path, tmp_path: Path, method: str) -> None:
    detector = tiny(method)
    frozen = {key: tensor.clone() for key, tensor in detector.backbone.state_dict().items()}
    before = {key: tensor.clone() for key, tensor in detector.learned_state().items()}
    drawn = torch.random.get_rng_state()
    header = zsad.train(detector, data, tmp_path / "run", epochs=2, batch_size=4)
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert all(torch.equal(tensor, frozen[key]) for key, tensor in detector.backbone.state_dict().items())
    assert not any(p.grad is not None for p in detector.backbone.parameters())
    learned = detector.learned_state().keys() & {key for key, _ in detector.named_parameters()}
    after = detector.learned_state()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == learned - set(getattr(detector, "dead", ()))
    assert header["losses"][1] < header["losses"][0]
    assert detector.trained
    assert not detector.training
    assert same(after, weights(tmp_path / "run"))
    again = zsad.from_pretrained(tmp_path / "run", backbone=detector.backbone)
    context, picture = again.prepare("nut"), torch.zeros(1, 3, detector.backbone.image_size, detector.backbone.image_size)
    with torch.inference_mode():
        assert torch.equal(again(picture, context).anomaly_map, detector(picture, context).anomaly_map)


def test_files_of_a_run(data: Path, tmp_path: Path) -> None:
    zsad.train(tiny("april_gan"), data, tmp_path, epochs=2, batch_size=3, cache=False, licence="CC-BY-4.0", seed=5)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("epoch_1.safetensors", "epoch_2.safetensors", "epoch_2.state.safetensors", "final.safetensors"),
        *("training.json", "metrics.jsonl", "errors.jsonl", "loss.png"),
    }
    found = rows(tmp_path)
    steps = [row for row in found if "step" in row]
    assert [row["step"] for row in steps] == list(range(1, 13))  # each category's 8 pictures are 3 + 3 + 2
    for epoch in (1, 2):
        own = [row["loss"] for row in steps if row["epoch"] == epoch]
        assert next(row["loss"] for row in found if "steps" in row and row["epoch"] == epoch) == sum(own) / len(own)
        for row in steps:
            parts = [value for key, value in row.items() if key.startswith(("focal", "dice"))]
            assert len(parts) == 8
            assert sum(parts) == pytest.approx(row["loss"], rel=1e-12)
    with Image.open(tmp_path / "loss.png") as plot:
        assert plot.size == (900, 420)
    header = read_header(tmp_path / "final.safetensors")
    assert (header["method"], header["epoch"], header["epochs"], header["seed"]) == ("april_gan", 2, 2, 5)
    assert (header["lr"], header["betas"], header["batch_size"]) == (1e-3, [0.5, 0.999], 3)
    assert header["trained_on"] == "parts (nut, tile)"
    (facts,) = header["data"]
    assert (facts["name"], facts["categories"], facts["licence"]) == ("parts", ["nut", "tile"], "CC-BY-4.0")
    by_hand = {
        f"parts/{path.relative_to(data).as_posix()}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in data.rglob("*.png")
        if "ground_truth" not in path.parts
    }
    assert facts["pictures"] == by_hand
    assert set(header["versions"]) == {"python", "zsad", "torch", "accelerate"}


def test_micro_batches_change_nothing_but_memory(data: Path, tmp_path: Path) -> None:
    for parts in (1, 3):
        zsad.train(tiny("anomalyclip"), data, tmp_path / str(parts), epochs=1, batch_size=8, parts=parts)
    one, three = rows(tmp_path / "1"), rows(tmp_path / "3")
    assert [row["loss"] for row in three] == pytest.approx([row["loss"] for row in one], rel=1e-4)


# ------------------------------------------------------------------ it goes on
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_resumed_is_uninterrupted_to_the_bit(few: Path, tmp_path: Path, method: str) -> None:
    zsad.train(tiny(method), few, tmp_path / "whole", epochs=3, batch_size=2)
    zsad.train(tiny(method), few, tmp_path / "cut", epochs=1, batch_size=2)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:  # as a kill within epoch 2 leaves it
        file.write('{"epoch": 2, "step": 5, "loss": 1.0}\n{"epoch": 2, "st')
    zsad.train(tiny(method, seed=9), few, tmp_path / "cut", epochs=3, batch_size=2, resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert rows(tmp_path / "whole") == rows(tmp_path / "cut")
    assert read_header(tmp_path / "whole/final.safetensors") == read_header(tmp_path / "cut/final.safetensors")


@pytest.mark.slow
def test_one_cycle_is_resumed_to_the_bit(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cycle: dict[str, Any] = {"epochs": 3, "batch_size": 2, "lr_schedule": "one_cycle"}
    zsad.train(tiny("april_gan"), few, tmp_path / "whole", **cycle)
    save, saved = TrainingRun.save_epoch, []

    def stopped(run: TrainingRun, epoch: int, *rest: Any) -> None:
        save(run, epoch, *rest)
        saved.append(epoch)
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, "save_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        zsad.train(tiny("april_gan"), few, tmp_path / "cut", **cycle)
    with pytest.raises(UsageError, match=r"with other settings: epochs was 3 and is 4"):  # the rate depends on it
        zsad.train(tiny("april_gan"), few, tmp_path / "cut", **cycle | {"epochs": 4}, resume=True)
    zsad.train(tiny("april_gan", seed=9), few, tmp_path / "cut", **cycle, resume=True)
    assert saved == [1, 2, 3]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    zsad.train(tiny("april_gan"), few, tmp_path / "constant", epochs=3, batch_size=2)
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "constant"))


def test_one_cycle_rises_to_the_rate_and_falls() -> None:
    cycle = Schedule(lr=0.4, lr_schedule="one_cycle")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    torchs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=101, pct_start=16 / 101, cycle_momentum=False)
    for step in range(101):
        assert learning_rate_at(cycle, step / 100) == pytest.approx(torchs.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        torchs.step()
    assert learning_rate_at(cycle, 0.0) == pytest.approx(0.016)
    assert learning_rate_at(cycle, 0.15) == pytest.approx(0.4)
    assert learning_rate_at(cycle, 1.0) < 1e-5
    assert {learning_rate_at(Schedule(lr=0.4), part) for part in (0.0, 0.5, 1.0)} == {0.4}


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_a_full_disk_keeps_whole_epochs(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    zsad.train(tiny("april_gan"), data, tmp_path / "whole", epochs=3)
    real: Callable[..., None] = checkpoints.save_file
    out = tmp_path / "full"

    def fails(tensors: Any, path: Path, metadata: Any) -> None:
        if "epoch_2" in path.name:
            path.write_bytes(b"half of")
            raise error
        real(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", fails)
        with pytest.raises(WriteError, match=r"No space left on device.*\. The last whole checkpoint is epoch_1.*--resume"):
            zsad.train(tiny("april_gan"), data, out, epochs=3)
    assert not list(out.rglob("*.partial"))
    assert not (out / "epoch_2.safetensors").exists()
    for path in out.glob("epoch_*"):
        with safe_open(path, framework="pt") as file:
            assert list(file.keys())
    zsad.train(tiny("april_gan", seed=9), data, out, epochs=3, resume=True)
    assert same(weights(tmp_path / "whole"), weights(out))


@pytest.mark.slow
def test_ctrl_c_loses_the_epoch_alone(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zsad.train(tiny("april_gan"), data, tmp_path / "whole", epochs=2)
    real, steps = one_step.backward, []

    def stopped(*arguments: Any) -> dict[str, float]:
        steps.append(1)
        if len(steps) == 4:  # of the two that an epoch has
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(one_step, "backward", stopped)
        with pytest.raises(KeyboardInterrupt):
            zsad.train(tiny("april_gan"), data, tmp_path / "cut", epochs=2)
    assert (tmp_path / "cut/epoch_1.safetensors").is_file()
    assert not (tmp_path / "cut/epoch_2.safetensors").exists()
    zsad.train(tiny("april_gan", seed=9), data, tmp_path / "cut", epochs=2, resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_a_full_disk_before_the_first_epoch(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_store, "write_atomically", fails)
    with pytest.raises(WriteError, match=r"No epoch was finished; free some space and start again"):
        zsad.train(tiny("april_gan"), data, tmp_path, epochs=1)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_loss_that_is_not_finite(data: Path, tmp_path: Path) -> None:
    detector = tiny("april_gan")
    zsad.train(detector, data, tmp_path, epochs=1)
    with torch.no_grad():
        detector.projections[0].weight[0, 0] = math.nan
    before = {key: tensor.clone() for key, tensor in detector.learned_state().items()}
    with pytest.raises(UsageError, match=r"loss of april_gan is not finite \(focal 3 nan.*Lower lr"):
        zsad.train(detector, data, tmp_path / "new", epochs=1)
    after = detector.learned_state()
    assert all(torch.equal(after[key].nan_to_num(), tensor.nan_to_num()) for key, tensor in before.items())
    assert not list((tmp_path / "new").glob("*.safetensors"))


# ------------------------------------------------------------------ refusals
@pytest.mark.slow
def test_refusals(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    april = tiny("april_gan")
    with pytest.raises(UsageError, match=r"winclip has nothing to train"):
        zsad.train(zsad.create("winclip", backbone=april.backbone), data, tmp_path)
    for key, value in {"epochs": 0, "lr": -1.0, "batch_size": 0}.items():
        with pytest.raises(UsageError, match=rf"{key} has to be above 0; got {value}"):
            zsad.train(april, data, tmp_path, **{key: value})
    for key, least in {"seed": 0, "synthetic": 0, "parts": 1}.items():
        with pytest.raises(UsageError, match=rf"{key} has to be a whole number from {least} on; got {least - 1}"):
            zsad.train(april, data, tmp_path, **{key: least - 1})
    with pytest.raises(UsageError, match=r"precision of train takes 'fp32' or 'bf16' or 'fp16'; got 'fp8'"):
        zsad.train(april, data, tmp_path, precision="fp8")
    with pytest.raises(UsageError, match=r"device of train takes 'auto' or 'cpu'; got 'tpu'"):
        zsad.train(april, data, tmp_path, device="tpu")
    with pytest.raises(
        UsageError, match=r"lr_schedule of train takes .constant. or .one_cycle. or .cosine. or None; got .linear."
    ):
        zsad.train(april, data, tmp_path, lr_schedule="linear")
    with pytest.raises(UsageError, match=r"batch_size of train takes a whole number or None; got 2.5"):
        zsad.train(april, data, tmp_path, batch_size=2.5)
    with pytest.raises(UsageError, match=r"no training run to go on with"):
        zsad.train(april, data, tmp_path, resume=True)
    with pytest.raises(UsageError, match=r"no data set to train on"):
        zsad.train(april, [], tmp_path)
    assert not list(tmp_path.iterdir())
    zsad.train(april, data, tmp_path, epochs=1)
    with pytest.raises(UsageError, match=r"holds a training run already \(epoch_1.*--resume.*--overwrite"):
        zsad.train(april, data, tmp_path, epochs=1)
    with pytest.raises(UsageError, match=r"holds a training run with other settings: lr was 0\.001 and is 0\.01\."):
        zsad.train(april, data, tmp_path, epochs=2, lr=0.01, resume=True)
    with pytest.raises(UsageError, match=r"--resume and --overwrite were both given"):
        zsad.train(april, data, tmp_path, resume=True, overwrite=True)
    zsad.train(april, data, tmp_path, epochs=2, overwrite=True)
    with pytest.raises(UsageError, match=r"has 2 epochs already, and 1 were asked for"):
        zsad.train(april, data, tmp_path, epochs=1, resume=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=r"TensorBoard.*zsad\[tensorboard\]"):
        zsad.train(april, data, tmp_path / "board", epochs=1, tensorboard=True)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtra, match=r"Training needs.*zsad\[train\]"):
        zsad.train(april, data, tmp_path / "none")


def test_tensorboard_gets_the_rows_of_metrics(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: Path) -> None:
            assert folder == tmp_path / "tensorboard"

        def add_scalar(self, *row: Any) -> None:
            written.append(row)

        def flush(self) -> None:
            pass

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    zsad.train(tiny("april_gan"), data, tmp_path, epochs=2, tensorboard=True)
    expected = [("loss", r["loss"], r["step"]) if "step" in r else ("epoch", r["loss"], r["epoch"]) for r in rows(tmp_path)]
    assert written == expected


# ------------------------------------------------------------------ order and plot
def test_steps_are_a_function_of_seed_and_epoch() -> None:
    def example(number: int) -> Example:
        return Example(None, str(number), "nut" if number % 3 else "tile", number % 2, number % 5 > 0)  # type: ignore[arg-type]

    examples = [example(number) for number in range(50)]
    for one_name in (False, True):
        first = epoch_steps(examples, 4, one_name, 7, 1)
        assert first == epoch_steps(examples, 4, one_name, 7, 1)
        assert first != epoch_steps(examples, 4, one_name, 7, 2)
        assert first != epoch_steps(examples, 4, one_name, 8, 1)
        assert sorted(row for step in first for row in step) == list(range(50))
        for step in first:
            assert len({examples[row].masked for row in step}) == 1
            assert len({examples[row].name for row in step}) == 1 or not one_name
    assert any(len({examples[row].name for row in step}) > 1 for step in epoch_steps(examples, 4, False, 7, 1))


@pytest.mark.parametrize(("count", "world", "parts"), [(8, 1, 1), (8, 2, 1), (7, 2, 3), (1, 4, 2), (5, 3, 1)])
def test_shares_add_up_to_the_mean(count: int, world: int, parts: int) -> None:
    values = np.random.default_rng(0).normal(size=count)
    shares = [share(range(count), rank, world, parts) for rank in range(world)]
    total = sum(weight * values[rows].mean() for own in shares for rows, weight in own)
    assert total == pytest.approx(values.mean())
    assert all(own and len(own) <= parts for own in shares)  # nobody stays away from the sum


def test_plot_shows_the_losses() -> None:
    high, low = draw_losses([5.0] * 8 + [1.0] * 2, [8, 10]), draw_losses([5.0] * 2 + [1.0] * 8, [2, 10])
    blue = [(np.asarray(one) == (24, 84, 156)).all(2) for one in (high, low)]
    first = [np.argwhere(one)[:, 1].min() for one in blue]
    assert first[0] > first[1]  # the first epoch's middle: step 4, step 1
    assert len({np.argwhere(one)[:, 0].min() for one in blue}) == 1  # the same height
    assert draw_losses([2.0], [1]).size == draw_losses([0.0, 0.0], [1, 2]).size


def test_epochs_are_logged(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    with caplog.at_level(logging.INFO, "zsad"):
        zsad.train(tiny("april_gan"), data, tmp_path, epochs=1)
    assert any(record.message.startswith("epoch 1: loss ") for record in caplog.records)
    assert "epoch 1/1" not in capfd.readouterr().err  # no bar without a terminal
