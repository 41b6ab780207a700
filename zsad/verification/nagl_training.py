"""One step of NAGL's training beside the authors' own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.references.residuals import beyond_normal
from zsad.types import Batch
from zsad.verification.compare import Comparisons
from zsad.verification.reference import Reference

__all__ = ["batch", "training"]

PROXIES, WEIGHTS, SCORES = 2e-5, 1e-6, 2e-6  # tolerances of proxies, of attention, of all in [0, 1]
LOSSES, NORMS, ELEMENTS, STEP = 1e-6, 5e-6, 1e-5, 1e-7  # all but the last relative


def batch(reference: Reference, images: Tensor, masks: Tensor, count: int | None = None) -> Batch:
    """The authors' training step, or its first pictures."""
    rows = reference.settings["train"]["batch"][:count]
    query, normal, shown = ([row[key] for row in rows] for key in ("query", "normal_reference", "anomalous_reference"))
    labels = torch.tensor([row["label"] for row in rows])
    own = masks[query] * labels[:, None, None]
    names = ("x",) * len(rows)
    return Batch(
        images[query], labels, own, names, references=images[normal], anomalous=images[shown], anomalous_masks=masks[shown]
    )


def training(check: Comparisons, detector: Any, images: Tensor, masks: Tensor) -> None:
    """Losses and gradients of the published step, with its order of masks and with the right one, and of one picture."""
    reference, about = check.reference, check.reference.settings["train"]
    step = batch(reference, images, masks)
    check("sentences", "train/query_mask", step.masks)
    losses(check, detector, step, about["losses_with_the_mask_order_corrected"], "train, masks in order")
    one = batch(reference, images, masks, 1)
    gradients(check, detector, one, reference.settings["train_batch1"], "train_batch1/")
    detector.faithful = True
    inside(check, detector, step)
    gradients(check, detector, step, about, "train/")
    optimizer = torch.optim.AdamW([p for _, p in learned(detector)], lr=detector.schedule.lr, weight_decay=0.01)
    key = "train/change_after_step/learnable_proxies.weight"
    before = detector.guide.learnable_proxies.weight.detach().clone()
    optimizer.step()
    check("features", key, detector.guide.learnable_proxies.weight.detach() - before, tolerance=STEP)
    detector.faithful = False


def learned(detector: Any) -> list[tuple[str, nn.Parameter]]:
    """The method's own parameters by name."""
    own = detector.learned_state()
    return [(key, parameter) for key, parameter in detector.named_parameters() if key in own]


def inside(check: Comparisons, detector: Any, step: Batch) -> None:
    """What the step computes before its losses."""
    with torch.no_grad():
        tap, normal, _ = (detector.encode(part).taps[detector.layer] for part in (step.images, step.references, step.anomalous))
        shown = detector.shown_in(step, tap, normal.patches)
        mined, residuals = detector.guide.mine(shown, True), beyond_normal(tap.patches, normal.patches)[1]
        start = detector.guide.learnable_proxies.weight.expand(len(mined), -1, -1)
        keys = shown.tokens + shown.codes
        weights = detector.guide.rm_ca.weighed(start, keys, shown.residuals, shown.hidden, heads_first=True)[1]
        check("features", "train/rm_attention", weights, tolerance=WEIGHTS)
        check("features", "train/residual_proxies", mined, tolerance=PROXIES)
        found = detector.guide.find(mined, tap.patches, residuals, tap.grid)
        check("features", "train/anomaly_proxies", found, tolerance=PROXIES)


def logits_of(detector: Any, step: Batch) -> tuple[Tensor, Tensor]:
    """The picture's logits (B, 2), and both likenesses at the input's size (B, 2, H, W)."""
    with torch.no_grad():
        tap, normal = (detector.encode(part).taps[detector.layer] for part in (step.images, step.references))
        alike, unlike = detector.likeness(tap, normal.patches, detector.shown_in(step, tap, normal.patches))
        both = torch.stack([alike, unlike], 1).unflatten(2, tap.grid)
        highest = ((unlike + 1 - alike) / 2).topk(20).values.mean(1)
        pixels = F.interpolate(both, size=detector.backbone.image_size, mode="bilinear")
    return torch.stack([1 - highest, highest], 1), pixels


def losses(check: Comparisons, detector: Any, step: Batch, stored: Mapping[str, float], name: str) -> Tensor:
    """Compares the losses of a step and returns their sum."""
    found = detector.loss(step, detector.prepare())
    for own, theirs in (("picture", "cross_entropy"), ("focal", "focal"), ("dice", "dice")):
        check.number("losses", f"{name} {own}", found[own], stored[theirs], tolerance=LOSSES)
    total = torch.stack(list(found.values())).sum()
    check.number("losses", f"{name} loss", total, stored["loss"], tolerance=LOSSES)
    return total


def gradients(check: Comparisons, detector: Any, step: Batch, about: Mapping[str, Any], prefix: str) -> None:
    """Losses, logits, norms of all gradients, elements of some."""
    reference = check.reference
    detector.zero_grad()
    losses(check, detector, step, about["losses"], prefix).backward()
    image, pixels = logits_of(detector, step)
    check("scores", f"{prefix}image_level_logits", image, tolerance=SCORES)
    if (key := f"{prefix}pixel_level_logits_sub") in reference:
        every = pixels.shape[-1] // reference.shape(key)[-1]
        check("maps", key, pixels[:, :, ::every, ::every], tolerance=SCORES)
    own = {key: parameter.grad for key, parameter in learned(detector)}
    names = {theirs: detector.authors_file.own_names({theirs: theirs}) for theirs in about["grad_norms"]}
    check.equal("gradients", f"{prefix}learned tensors", {next(iter(one)) for one in names.values()}, set(own))
    for theirs, norm in about["grad_norms"].items():
        gradient = own[next(iter(names[theirs]))]
        assert gradient is not None
        check.number("gradients", f"{prefix}norm of {theirs}", gradient.norm(), norm, tolerance=NORMS)
        if (stored := f"{prefix}grad/{theirs}") in reference:
            largest = float(abs(reference.stored(stored)[1]).max())
            check("gradients", stored, gradient, scale=largest, tolerance=ELEMENTS)
