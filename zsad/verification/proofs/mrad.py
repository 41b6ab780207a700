"""MRAD-TF and MRAD-FT beside their authors' code (CROVO1026/MRAD, 1cc1c6b)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.maps import upsample
from zsad.references.labelled_memory import cover
from zsad.registry import create
from zsad.types import Batch
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_clip import random_tensor
from zsad.verification.tiny_pictures import resized_masks
from zsad.verification.towers import tiny_backbone

__all__ = ["PROOF", "backbone", "batch", "outputs", "training", "tuned", "untuned", "write_bank"]

RAW, UNIT, PROBABILITIES = 2e-5, 1e-5, 2e-6  # tolerances: features of any length, of length one; what the memory says
THEIRS = {"image_proj.mlp1": "image_memory.query", "image_proj.mlp2": "image_memory.key"} | {
    "patch_proj.fc.0": "patch_memory.query",
    "patch_proj.fc.1": "patch_memory.key",
}
SIZES = {"image": (64, 64, 0.35), "patch": (64, 128, 0.25)}  # of the projections: rows, columns, deviation


def projections(seed: int) -> dict[str, Tensor]:
    """Projections by the authors' names."""
    state = {}
    for name in THEIRS:
        rows, columns, deviation = SIZES[name.partition("_")[0]]
        state[f"{name}.weight"] = random_tensor(seed, f"mrad/{name}.weight", (rows, columns), deviation)
        state[f"{name}.bias"] = random_tensor(seed, f"mrad/{name}.bias", (rows,), 0.1)
    return state


def write_bank(detector: Any, folder: Path, seed: int | None = None) -> Path:
    """A memory in the authors' layout, and with a seed the projections of MRAD-FT; the folder is the checkpoint."""
    for file, memory in (
        ("cache_model_other.pt", detector.image_memory),
        ("cache_patch_model_other.pt", detector.patch_memory),
    ):
        torch.save({"keys": memory.keys.clone(), "values": memory.values.clone()}, folder / file)
    if seed is not None:
        groups: dict[str, dict[str, Tensor]] = {"image_proj": {}, "patch_proj": {}}
        for name, tensor in projections(seed).items():
            group, _, key = name.partition(".")
            groups[group][key] = tensor
        torch.save(groups, folder / "mrad_ft_final.pth")
    return folder


def backbone(reference: Reference, folder: Path) -> Any:
    """The tiny CLIP as the authors' code runs it."""
    size = reference.settings["image_size"]
    return tiny_backbone(reference, folder, activation="quick_gelu", position_embedding="bilinear", image_size=size)


def batch(reference: Reference) -> Batch:
    """The pictures of the memory, which are the authors' training step too."""
    images, labels = reference.pixels("bank/input_uint8"), torch.tensor(reference.settings["train"]["labels"])
    masks = resized_masks(reference["masks_uint8"][-len(images) :], reference.settings["image_size"])
    return Batch(images, labels, masks, ("x",) * len(images))


def untuned(reference: Reference, tower: Any, **arguments: Any) -> Any:
    """MRAD-TF, its memory made of the authors' pictures."""
    detector = create("mrad", backbone=tower, **arguments)
    detector.remember([batch(reference)])
    return detector


def tuned(detector: Any, reference: Reference, folder: Path, **arguments: Any) -> Any:
    """MRAD-FT with another one's memory, from files in the authors' layout."""
    (folder / "files").mkdir(exist_ok=True)
    files = write_bank(detector, folder / "files", reference.settings["seed"])
    return create("mrad", backbone=detector.backbone, checkpoint=files, **arguments)


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """The memory, features, probabilities, maps and scores of both variants, one step of training."""
    plain, images = untuned(reference, backbone(reference, folder)), reference.pixels()
    check("inputs", "input_first", images[:1])
    with torch.inference_mode():
        _memory(check, plain, batch(reference))
        _features(check, plain, images)
        outputs(check, plain, images, "tf/")
        outputs(check, tuned(plain, reference, folder), images, "ft/")
    training(check, tuned(plain, reference, folder), batch(reference))


def _memory(check: Comparisons, detector: Any, step: Batch) -> None:
    for memory, kind in ((detector.image_memory, "image"), (detector.patch_memory, "patch")):
        check("features", f"bank/{kind}_keys", memory.keys, tolerance=UNIT)
        check("features", f"bank/{kind}_values", memory.values, tolerance=0.0)
    assert isinstance(step.images, Tensor)
    features, states = detector.encode(step.images), detector.states(step.images)
    (tap,) = states.local.values()
    check("features", "bank/image_features_raw", features.image, tolerance=RAW)
    raw = detector.backbone.visual.project(tap.patches[:1], proj=False)
    check("features", "bank/patch_features_raw_image3", raw, tolerance=RAW)  # numbered among all pictures: the memory's first
    assert step.masks is not None
    check("features", "bank/mask_8x8", cover(step.masks, tap.grid), tolerance=0.0)


def _features(check: Comparisons, detector: Any, images: Tensor) -> None:
    visual, features = detector.backbone.visual, detector.encode(images)
    (tap,), (means,) = detector.states(images).local.values(), features.streams["local"].values()
    check("features", "image_features_raw", features.image, tolerance=RAW)
    check("features", "image_features", F.normalize(features.image, dim=-1), tolerance=UNIT)
    check("features", "patch_features_raw", visual.project(tap.patches, proj=False), tolerance=RAW)
    check("features", "patch_projections_raw_image0", visual.project(tap.patches[:1]), tolerance=RAW)
    check("features", "patch_features_averaged_image0", means.patches[:1], tolerance=RAW)
    check("features", "patch_features", F.normalize(means.patches, dim=-1), tolerance=UNIT)


def outputs(check: Comparisons, detector: Any, images: Tensor, prefix: str) -> None:
    """Probabilities, maps and scores of a variant, "tf/" or "ft/"."""
    features = detector.encode(images)
    found = detector.score(features, detector.prepare())
    _probabilities(check, detector.probabilities(features), prefix)
    raw = upsample(detector.probabilities(features)[1], detector.backbone.image_size)
    check("maps", f"{prefix}anomaly_map_raw", raw, tolerance=PROBABILITIES)
    check("maps", f"{prefix}anomaly_map", found.anomaly_map, tolerance=PROBABILITIES)
    check("scores", f"{prefix}image_score", found.pred_score, tolerance=PROBABILITIES)


def _probabilities(check: Comparisons, found: tuple[Tensor, Tensor], prefix: str) -> None:
    for key, anomalous in zip(("image_probs", "patch_probs"), found, strict=True):
        check("scores", f"{prefix}{key}", torch.stack([1 - anomalous, anomalous], dim=-1), tolerance=PROBABILITIES)


def training(check: Comparisons, detector: Any, step: Batch) -> None:
    """Losses, gradients and learned tensors of the authors' first step."""
    settings, schedule = check.reference.settings["train"], detector.schedule
    _probabilities(check, detector.probabilities(detector.encode(step.images), hide=True), "train/")
    losses = detector.loss(step, detector.prepare())
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    for key, found in {"focal": losses["focal"], "dice": losses["dice"], "ce": losses["picture"], "total": total}.items():
        check("losses", f"train/{key}", found)
        check.number("losses", f"train/terms/{key}", found, settings["terms"][key])
    ours = dict(detector.named_parameters())
    gradients = {key: p.grad for key, p in ours.items() if p.grad is not None}
    names = {key: f"{THEIRS[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}" for key in projections(0)}
    norms = settings["grad_norms"]
    check.equal("gradients", "train/learned tensors", set(gradients), {names[key] for key in norms})
    for key, norm in norms.items():
        check.number("gradients", f"train/grad_norms/{key}", gradients[names[key]].norm(), norm)
        check("gradients", f"train/grad/{key}", gradients[names[key]], scale=norm)
    torch.optim.Adam(ours.values(), lr=schedule.lr, betas=schedule.betas).step()
    check.number("losses", "train/lr_of_first_step", schedule.lr, settings["lr_of_first_step"])
    for key in ("image_proj.mlp1.bias", "patch_proj.fc.0.bias"):
        check("features", f"train/after_step/{key}", ours[names[key]])


PROOF = Proof(
    "mrad",
    "mrad",
    run,
    inputs=("*input_uint8", "masks_uint8"),
    left_out={"images_uint8": "the pictures before they are resized"},
)
