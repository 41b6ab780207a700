"""Trainings of another shape: phases, references by picture, batch statistics, memories, mosaics, learning rates per group."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from annotated import write_set
from torch import Tensor, nn

import zsad
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.training.data import Example, epoch_steps, find_examples, open_datasets, share, usable
from zsad.training.draws import Draws, mosaic_of
from zsad.training.rates import learning_rate_at, phase_at, scaled_phases
from zsad.types import Batch, Context, ImageFeatures, Phase, Prediction, Recipe, Schedule
from zsad.weights.checkpoints import read_state_dict

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "parts", good=2, bad=2)


class Shaped(Detector):
    """Two linear layers with phases of their own, a BatchNorm, references, and a memory of the pictures seen."""

    name = "shaped"
    recipe = Recipe("tiny", 80)
    learned = True
    train_mode = ("norm",)
    remembers = True
    schedule: ClassVar[Schedule] = Schedule(
        "adamw",
        lr=1e-2,
        epochs=3,
        batch_size=4,
        one_name=False,
        references=2,
        phases=(Phase(2, {"first.": 1e-2, "norm.": 1e-3}), Phase(1, {"second.": 1e-4})),
    )

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.first, self.second, self.norm = nn.Linear(1, 1), nn.Linear(1, 1), nn.BatchNorm1d(1)
        self.register_buffer("memory", torch.zeros(1))
        self.phase, self.calls = 0, list[Any]()

    def prepare(self, name: str = "object", references: Any = None) -> Context:
        return Context()

    def encode(self, images: Tensor) -> ImageFeatures:
        return ImageFeatures(images.flatten(1).mean(dim=1, keepdim=True))

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        return Prediction(features.image[:, 0], features.image[:, :, None])

    def start_phase(self, phase: int) -> None:
        self.phase = phase
        self.calls.append(("phase", phase))

    def remember(self, batches: Iterable[Batch]) -> None:
        self.memory = torch.stack([self.features_of(batch).image.sum() for batch in batches]).sum()[None]
        self.calls.append("remember")

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        features = self.features_of(batch).image
        assert isinstance(batch.references, ImageFeatures)
        assert len(batch.references) == 2 * len(features)
        assert self.norm.training
        near = batch.references.image.unflatten(0, (len(features), 2)).mean(dim=1)
        layer = self.first if self.phase == 0 else self.second
        return {"loss": (layer(self.norm(features - near)) - batch.labels[:, None].float()).square().mean()}


def shaped() -> Shaped:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Shaped(zsad.load_backbone("tiny")).eval()


def test_phases_train_their_parameters_alone(data: Path, tmp_path: Path) -> None:
    detector = shaped()
    before = {key: tensor.clone() for key, tensor in detector.learned_state().items()}
    zsad.train(detector, data, tmp_path)
    assert detector.calls == ["remember", ("phase", 0), ("phase", 1)]
    middle, last = (read_state_dict(tmp_path / f"epoch_{epoch}.safetensors") for epoch in (2, 3))
    assert not torch.equal(middle["first.weight"], before["first.weight"])
    assert torch.equal(middle["second.weight"], before["second.weight"])
    assert torch.equal(middle["first.weight"], last["first.weight"])
    assert torch.equal(middle["norm.weight"], last["norm.weight"])
    assert not torch.equal(last["second.weight"], before["second.weight"])
    moved = (last["second.weight"] - before["second.weight"]).abs().max()
    assert moved < 5 * 1e-4, "AdamW's steps are as long as the rate: two steps of 1e-4"
    assert not torch.equal(last["norm.running_mean"], middle["norm.running_mean"]), "batch statistics go on"
    assert float(detector.memory) != 0
    assert not detector.norm.training
    assert all(parameter.requires_grad for parameter in (*detector.first.parameters(), *detector.second.parameters()))


@pytest.mark.slow
def test_a_run_with_phases_resumes_to_the_bit(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zsad.train(shaped(), data, tmp_path / "whole")
    cut = shaped()

    def stopped(phase: int) -> None:
        if phase == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(cut, "start_phase", stopped)
    with pytest.raises(KeyboardInterrupt):
        zsad.train(cut, data, tmp_path / "cut")
    again = shaped()
    zsad.train(again, data, tmp_path / "cut", resume=True)
    assert again.calls == [("phase", 1)], "the memory is in the weights"
    whole, resumed = (read_state_dict(tmp_path / name / "final.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


def test_a_memory_alone_takes_one_pass_and_no_epoch(data: Path, tmp_path: Path) -> None:
    class Memory(Shaped):
        name = "memory"
        train_mode = ()
        schedule = Schedule(batch_size=3)

        def __init__(self, backbone: Any) -> None:
            Detector.__init__(self, backbone)
            self.register_buffer("memory", torch.zeros(1))
            self.calls = list[Any]()

    detector = Memory(zsad.load_backbone("tiny")).eval()
    header = zsad.train(detector, data, tmp_path)
    assert detector.calls == ["remember"]
    assert detector.trained
    assert "losses" not in header
    assert float(read_state_dict(tmp_path / "final.safetensors")["memory"]) == float(detector.memory) != 0
    assert not list(tmp_path.glob("epoch_*"))


def test_a_rate_without_parameters_is_refused(data: Path, tmp_path: Path) -> None:
    detector = shaped()
    detector.schedule = Schedule(epochs=1, phases=(Phase(1, {"third.": 1e-3}),))  # type: ignore[misc]
    with pytest.raises(UsageError, match=r"learning rate for \['third\.'\], and no parameter's name begins so"):
        zsad.train(detector, data, tmp_path)


# ------------------------------------------------------------------ rates
def test_cosine_is_torchs() -> None:
    cosine = Schedule(lr=4e-4, lr_schedule="cosine", last_lr=1e-6)
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=4e-4)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, 1e-6)
    for step in range(50):
        assert learning_rate_at(cosine, step / 50) == pytest.approx(torchs.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        torchs.step()


def test_the_rate_rises_in_a_line_first() -> None:
    """INP-Former's: lr * step / 99 over 100 steps, then the cosine over the others."""
    rising = Schedule(lr=1e-3, lr_schedule="cosine", last_lr=1e-4, warmup=100)
    rates = [learning_rate_at(rising, step / 300, 300) for step in range(300)]
    assert rates[:100] == pytest.approx([1e-3 * step / 99 for step in range(100)])
    falling = [1e-4 + 9e-4 * (1 + np.cos(np.pi * step / 200)) / 2 for step in range(200)]
    assert rates[100:] == pytest.approx(falling)
    assert learning_rate_at(Schedule(lr=1.0, warmup=2), 0.5, 4) == 1.0
    assert learning_rate_at(rising, 0.5, 10) == pytest.approx(1e-3 * 5 / 99), "a short run does not reach it"


def test_phases_scale_with_the_epochs() -> None:
    phases = (Phase(15, {"a": 1e-3}), Phase(5, {"b": 1e-5}))
    assert [one.epochs for one in scaled_phases(phases, 8)] == [6, 2]
    assert [one.epochs for one in scaled_phases(phases, 2)] == [1, 1]
    assert [one.rates for one in scaled_phases(phases, 20, 0.5)] == [{"a": 5e-4}, {"b": 5e-6}]
    with pytest.raises(UsageError, match=r"epochs=1: the training has 2 phases"):
        scaled_phases(phases, 1)
    schedule = Schedule(phases=phases, epochs=20)
    assert [phase_at(schedule, epoch) for epoch in (1, 15, 16, 20)] == [0, 0, 1, 1]
    assert phase_at(Schedule(), 3) == 0


# ------------------------------------------------------------------ draws
def examples() -> list[Example]:
    kinds = [("nut", 0), ("nut", 0), ("nut", 1), ("nut", 1), ("cap", 0), ("cap", 1)]
    return [Example(None, f"{i}", name, label, True) for i, (name, label) in enumerate(kinds)]  # type: ignore[arg-type]


def test_references_are_normal_of_the_same_category_and_not_itself() -> None:
    draws = Draws(examples(), ["", "", "cut", "hole", "", "cut"], seed=3)
    for epoch in range(1, 20):
        assert set(draws.references(2, epoch, 3)) <= {0, 1}
        assert draws.references(0, epoch, 1) == [1]
        assert draws.references(4, epoch, 2) == [4, 4], "the only normal one"
    assert draws.references(2, 1, 8) == Draws(examples(), [""] * 6, seed=3).references(2, 1, 8)
    assert len({tuple(draws.references(2, epoch, 8)) for epoch in range(9)}) > 1, "anew in every epoch"


def test_anomalous_references_are_of_the_same_kind() -> None:
    rows = [*examples(), Example(None, "6", "nut", 1, True), Example(None, "7", "nut", 1, False)]  # type: ignore[arg-type]
    draws = Draws(rows, ["", "", "cut", "hole", "", "cut", "cut", "cut"], seed=3)
    seen: set[int] = set()
    for epoch in range(1, 20):
        assert draws.anomalous(2, epoch, 2) == [6, 6]
        assert draws.anomalous(3, epoch, 1) == [3], "the only one of its kind"
        seen |= set(draws.anomalous(0, epoch, 1))
        assert set(draws.anomalous(7, epoch, 1)) <= {2, 3, 6}, "one without a mask draws as a normal one does"
        assert draws.anomalous(4, epoch, 1) == [5]
    assert seen == {2, 3, 6}, "of any kind, with a mask"


def test_a_batch_brings_references_with_defects(data: Path, tmp_path: Path) -> None:
    class Both(Shaped):
        name = "both"
        schedule = Schedule(epochs=1, batch_size=4, references=2, anomalous=1)
        seen: ClassVar[list[Batch]] = []

        def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
            self.seen.append(batch)
            return super().loss(batch, context)

    zsad.train(Both(zsad.load_backbone("tiny")).eval(), data, tmp_path)
    for batch in Both.seen:
        assert isinstance(batch.anomalous, ImageFeatures)
        assert batch.anomalous_masks is not None
        assert len(batch.anomalous) == len(batch.anomalous_masks) == len(batch.labels)
        assert batch.anomalous_masks.flatten(1).any(1).all()


def test_a_category_without_a_masked_defect_is_left_out(tmp_path: Path) -> None:
    data = write_set(tmp_path / "parts", good=2, bad=2)
    for path in (data / "nut/ground_truth").rglob("*.png"):
        path.unlink()
    rows: list[dict[str, str]] = []
    kept = usable(find_examples(open_datasets(data), 0)[0], Schedule(labels_only=True, anomalous=1), "shaped", rows)
    assert {one.name for one in kept} == {"tile"}
    assert {row["error"] for row in rows} == {
        "is of a category without a defect that has a mask, and shaped learns by comparing each picture with one."
    }


def test_mosaics_draw_a_kind_first() -> None:
    draws = Draws(examples(), ["", "", "cut", "hole", "", "cut"], seed=3)
    assert draws.mosaic(0, 1, 0.0) == []
    cells = [cell for epoch in range(400) for cell in draws.mosaic(0, epoch, 1.0)]
    share_of = {row: cells.count(row) / len(cells) for row in range(6)}
    assert share_of[4] == share_of[5] == 0, "of the same category"
    assert share_of[2] == pytest.approx(1 / 3, abs=0.05)
    assert share_of[3] == pytest.approx(1 / 3, abs=0.05)
    assert sum(bool(draws.mosaic(0, epoch, 0.2)) for epoch in range(400)) / 400 == pytest.approx(0.2, abs=0.05)


def test_a_mosaic_has_twice_the_first_ones_sides() -> None:
    cells = [(np.full((4 + i, 6, 3), 10 * i, np.uint8), np.full((4 + i, 6), i % 2, np.uint8)) for i in range(4)]
    rgb, mask = mosaic_of(cells)
    assert rgb.shape == (8, 12, 3)
    assert [rgb[y, x, 0] for y, x in ((0, 0), (0, 11), (7, 0), (7, 11))] == [0, 10, 20, 30]
    assert [mask[y, x] for y, x in ((0, 0), (0, 11), (7, 0), (7, 11))] == [0, 1, 0, 1]


@pytest.mark.slow
def test_training_with_mosaics(data: Path, tmp_path: Path) -> None:
    detector = zsad.create("april_gan", backbone="tiny")
    header = zsad.train(detector, data, tmp_path, epochs=1, batch_size=4, mosaic=1.0)
    assert header["mosaic"] == 1.0
    assert not (tmp_path / "cache").exists(), "a mosaic is another picture every time"
    plain = zsad.create("april_gan", backbone="tiny")
    assert "mosaic" not in zsad.train(plain, data, tmp_path / "plain", epochs=1, batch_size=4)
    with pytest.raises(UsageError, match=r"mosaic is a part of the pictures, 0 to 1; got 2"):
        zsad.train(plain, data, tmp_path / "more", mosaic=2.0)


# ------------------------------------------------------------------ steps
def test_a_last_step_of_one_joins_the_one_before() -> None:
    many = [Example(None, f"{i}", "nut", 0, True) for i in range(9)]  # type: ignore[arg-type]
    assert sorted(map(len, epoch_steps(many, 4, True, 1, 1))) == [1, 4, 4]
    assert sorted(map(len, epoch_steps(many, 4, True, 1, 1, least=2))) == [4, 5]
    assert [len(rows) for rows, _ in share(range(7), 0, 1, 3)] == [3, 2, 2]
    assert [len(rows) for rows, _ in share(range(10), 0, 1, 4)] == [3, 3, 2, 2]
