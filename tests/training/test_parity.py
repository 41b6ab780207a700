"""One step of the trainer against the stored losses and gradients of the authors' code, whole and cut into pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_adaclip
import test_anomalyclip
import test_april_gan
import torch

import zsad
from zsad.prompts import hybrid
from zsad.training.data import share
from zsad.training.loop import Contexts, backward
from zsad.training.setup import accelerator_for
from zsad.types import Batch

pytest.importorskip("accelerate")
LOSSES, GRADIENTS = 1e-5, 1e-4  # relative; parity/README.md
Reference = tuple[dict[str, Any], Any]


def stored(parity: Path, name: str) -> Reference:
    return json.loads((parity / "dev" / f"{name}.json").read_text()), np.load(parity / "dev" / f"{name}.npz")


def pixels(arrays: Any) -> torch.Tensor:
    raw = torch.from_numpy(arrays["input_uint8"]).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(zsad.images.preprocessing.CLIP_MEAN), torch.tensor(zsad.images.preprocessing.CLIP_STD)
    return (raw - mean[:, None, None]) / std[:, None, None]


def tower(parity: Path, folder: Path, settings: dict[str, Any], **shape: Any) -> Path:
    import tiny_clip

    torch.save(tiny_clip.tiny_clip_state_dict(settings["seed"], **shape), folder / "tiny.pt")
    return folder / "tiny.pt"


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


@pytest.mark.parametrize("pieces", [1, 2])
def test_anomalyclip_step(parity: Path, tmp_path: Path, pieces: int) -> None:
    settings, arrays = stored(parity, "anomalyclip")
    files = {"backbone": tower(parity, tmp_path, settings)}
    files["prompts"] = test_anomalyclip.authors_file(settings["seed"], tmp_path / "prompts.pth")
    detector = test_anomalyclip.build(files, taps=test_anomalyclip.TAPS)
    batch = Batch(pixels(arrays), torch.tensor(settings["train"]["labels"]), torch.from_numpy(arrays["train/gt"]), ())
    losses, gradients = step(detector, batch, "x", pieces)
    assert losses["picture"] == pytest.approx(float(arrays["train/image_loss"]), rel=LOSSES)
    for layer in test_anomalyclip.TAPS:
        assert losses[f"map {layer}"] == pytest.approx(4 * float(arrays[f"train/terms_{layer}"].sum()), rel=LOSSES)
    ours = {"ctx_pos": "normal", "ctx_neg": "anomalous"} | {f"compound_prompts_text.{i}": f"deep.{i}" for i in range(8)}
    assert set(gradients) == {f"prompts.{key}" for key in ours.values()}
    for name, norm in settings["grad_norms"].items():
        assert float(gradients[f"prompts.{ours[name]}"].norm()) == pytest.approx(norm, rel=GRADIENTS), name


def test_adaclip_step(parity: Path, tmp_path: Path) -> None:
    settings, arrays = stored(parity, "adaclip")
    weights = tower(parity, tmp_path, settings, embed_dim=128)
    backbone = zsad.load_backbone(f"file:{weights}", activation="gelu", position_embedding="bicubic", image_size=112)
    prompts = test_adaclip.authors_file(tmp_path / "prompts.pth", settings)
    detector = zsad.create("adaclip", backbone=backbone, checkpoint=prompts)
    masks = torch.from_numpy(arrays["train/gt"])[None]
    batch = Batch(pixels(arrays)[:1], torch.tensor([1]), masks, ())
    losses, gradients = step(detector, batch, settings["class_names"][0], 1)
    assert sum(losses.values()) == pytest.approx(float(arrays["train/loss"]), rel=LOSSES)
    norms = hybrid.authors_state(settings["train/grad_norms"])
    assert set(gradients) == set(norms)
    for key, norm in norms.items():
        assert float(gradients[key].norm()) == pytest.approx(norm, rel=GRADIENTS), key


@pytest.mark.parametrize("pieces", [1, 3])
def test_april_gan_step(parity: Path, tmp_path: Path, pieces: int) -> None:
    import tiny_clip

    settings, arrays = stored(parity, "aprilgan")
    layers = {}
    for i in range(4):
        layers[f"fc.{i}.weight"] = tiny_clip.random_tensor(settings["seed"], f"aprilgan/fc.{i}.weight", (64, 128), 128**-0.5)
        layers[f"fc.{i}.bias"] = tiny_clip.random_tensor(settings["seed"], f"aprilgan/fc.{i}.bias", (64,), 0.02)
    torch.save({"trainable_linearlayer": layers}, tmp_path / "layers.pth")
    detector = test_april_gan.build({"backbone": tower(parity, tmp_path, settings), "layers": tmp_path / "layers.pth"})
    images = test_april_gan.pictures_of((settings, arrays), "")[:3]
    batch = Batch(images, torch.tensor([1, 0, 1]), torch.from_numpy(arrays["train/gt"]), ())
    losses, gradients = step(detector, batch, settings["class_used"], pieces)
    assert sum(losses.values()) == pytest.approx(float(arrays["train/loss"]), rel=LOSSES)
    for key, norm in settings["train/grad_norms"].items():
        assert float(gradients[key.replace("fc.", "projections.")].norm()) == pytest.approx(norm, rel=GRADIENTS), key
