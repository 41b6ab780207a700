"""One step of the trainer against the stored losses and gradients of the authors' code, whole and cut into pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from zsad.prompts import hybrid
from zsad.training.data import share
from zsad.training.setup import accelerator_for
from zsad.training.steps import Contexts, backward
from zsad.types import Batch
from zsad.verification.proofs import adaclip, anomalyclip, april_gan
from zsad.verification.reference import Reference, reference_folder
from zsad.verification.towers import TAPS

pytest.importorskip("accelerate")
LOSSES, GRADIENTS = 1e-5, 1e-4  # relative


def stored(name: str) -> Reference:
    return Reference(reference_folder(), name)


def step(detector: Any, batch: Batch, name: str, pieces: int) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses and gradients of one step, by the trainer's own function."""
    cut = share(range(len(batch.labels)), 0, 1, pieces)
    assert len(cut) == pieces
    batches = [
        (Batch(batch.images[rows], batch.labels[rows], batch.masks[rows], (name,) * len(rows)), weight)  # type: ignore[index]
        for rows, weight in cut
    ]
    losses = backward(detector, batches, Contexts(detector), accelerator_for("cpu", "fp32"))
    return losses, {key: p.grad for key, p in detector.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [1, 2])
def test_anomalyclip_step(tmp_path: Path, pieces: int) -> None:
    reference = stored("anomalyclip")
    detector = anomalyclip.build(reference, tmp_path, taps=TAPS)
    losses, gradients = step(detector, anomalyclip.batch(reference), "x", pieces)
    assert losses["picture"] == pytest.approx(float(reference["train/image_loss"]), rel=LOSSES)
    for layer in TAPS:
        assert losses[f"map {layer}"] == pytest.approx(4 * float(reference[f"train/terms_{layer}"].sum()), rel=LOSSES)
    assert set(gradients) == {f"prompts.{key}" for key in anomalyclip.OURS.values()}
    for name, norm in reference.settings["grad_norms"].items():
        assert float(gradients[f"prompts.{anomalyclip.OURS[name]}"].norm()) == pytest.approx(norm, rel=GRADIENTS), name


@pytest.mark.slow
def test_adaclip_step(tmp_path: Path) -> None:
    reference = stored("adaclip")
    detector = adaclip.build(reference, tmp_path)
    losses, gradients = step(detector, adaclip.batch(reference), reference.settings["class_names"][0], 1)
    assert sum(losses.values()) == pytest.approx(float(reference["train/loss"]), rel=adaclip.ROUNDED_LOSS)
    norms = hybrid.AUTHORS_FILE.own_names(reference.settings["train/grad_norms"])
    assert set(gradients) == set(norms)
    for key, norm in norms.items():
        assert float(gradients[key].norm()) == pytest.approx(norm, rel=GRADIENTS), key


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [1, 3])
def test_april_gan_step(tmp_path: Path, pieces: int) -> None:
    reference = stored("aprilgan")
    detector = april_gan.build(reference, tmp_path)
    losses, gradients = step(detector, april_gan.batch(reference), reference.settings["class_used"], pieces)
    assert sum(losses.values()) == pytest.approx(float(reference["train/loss"]), rel=LOSSES)
    for key, norm in reference.settings["train/grad_norms"].items():
        assert float(gradients[key.replace("fc.", "projections.")].norm()) == pytest.approx(norm, rel=GRADIENTS), key
