"""APRIL-GAN beside its authors' code (ByChelsea/VAND-APRIL-GAN, f13b8a6)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.backbones.vit import resize_positions
from zsad.registry import create
from zsad.types import Batch, References
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_clip import random_tensor
from zsad.verification.towers import TAPS, tiny_backbone

__all__ = ["PROOF", "batch", "build", "write_projections"]

SETTINGS = {"": ("gelu", 112), "native70/": ("quick_gelu", 70)}  # at the native size their loader keeps OpenAI's activation
TESTED = 3  # pictures; those behind them are the references


def write_projections(seed: int, path: Path) -> Path:
    """A checkpoint in the layout that the authors' training writes."""
    layers = {}
    for i in range(len(TAPS)):
        layers[f"fc.{i}.weight"] = random_tensor(seed, f"aprilgan/fc.{i}.weight", (64, 128), 128**-0.5)
        layers[f"fc.{i}.bias"] = random_tensor(seed, f"aprilgan/fc.{i}.bias", (64,), 0.02)
    torch.save({"trainable_linearlayer": layers}, path)
    return path


def build(reference: Reference, folder: Path, prefix: str = "", **arguments: Any) -> Any:
    """The method on the tiny weights, from a checkpoint in the authors' layout."""
    activation, size = SETTINGS[prefix]
    mode, checkpoint = "bicubic_antialias", write_projections(reference.settings["seed"], folder / "layers.pth")
    tower = tiny_backbone(reference, folder, activation=activation, position_embedding=mode, image_size=size)
    return create("april_gan", backbone=tower, checkpoint=checkpoint, **arguments)


def batch(reference: Reference) -> Batch:
    """The authors' training step."""
    return Batch(reference.pixels()[:TESTED], torch.tensor([1, 0, 1]), reference.tensor("train/gt"), ("x",) * TESTED)


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Zero-shot, one and two references at two sizes; every step of the first picture; one step of training."""
    for prefix in SETTINGS:
        detector, images = build(reference, folder, prefix, faithful=True), reference.pixels(f"{prefix}input_uint8")
        check("inputs", f"{prefix}input_first", images[:1])
        with torch.inference_mode():
            contexts = [detector.prepare(name) for name in reference.settings["class_names"]]
            for index, context in enumerate(contexts):
                check("text", f"{prefix}text_features_{index}", context.text[0].T)
            plain = contexts[reference.settings["class_names"].index(reference.settings["class_used"])]
            _outputs(check, detector, plain, images, prefix)
            if not prefix:
                _steps(check, detector, plain, images)
        if not prefix:
            with torch.no_grad():  # inference tensors cannot be trained through
                plain = detector.prepare(reference.settings["class_used"])
            _training(check, detector, plain, batch(reference))


def _outputs(check: Comparisons, detector: Any, plain: Any, images: Tensor, prefix: str) -> None:
    visual, found = detector.backbone.visual, detector(images[:TESTED], plain)
    positions = resize_positions(visual.positional_embedding, visual.grid(images), visual.position_mode)
    check("features", f"{prefix}positional_embedding_resized", positions)
    check("scores", f"{prefix}text_probs", found.pred_score, part=(slice(None), 1))
    check("maps", f"{prefix}zero_shot_map", found.anomaly_map)
    features = [detector.encode(images[i : i + 1]) for i in range(TESTED)]
    for shots in (1, 2):
        context = replace(plain, banks=detector.banks(References(images[TESTED : TESTED + shots])))
        few = list(detector.score_set(features, context))
        maps = torch.cat([one.anomaly_map for one in few])
        check("maps", f"{prefix}zero_shot_map", maps, plus=f"{prefix}few_shot_map_k{shots}")
        check("scores", f"{prefix}few_shot_score_k{shots}", torch.cat([one.pred_score for one in few]))


def _steps(check: Comparisons, detector: Any, plain: Any, images: Tensor) -> None:
    """Of the first picture: raw tokens, projections, logits, maps, distances to both references."""
    features = detector.encode(images[:1])
    context = replace(plain, banks=detector.banks(References(images[TESTED:])))
    margins, resized = detector.margins(features, context), detector.layer_margins(features, context)
    distances = detector.reference_distances(features, context)
    check("features", "image_features_raw", features.image)
    for layer, project in zip(TAPS, detector.projections, strict=True):
        tap = features.taps[layer]
        check("features", f"patch_tokens_{layer}", torch.cat([tap.cls[:, None], tap.patches], dim=1))
        check("features", f"adapter_out_normalised_{layer}", F.normalize(project(tap.patches), dim=-1))
        normal, anomalous = check.reference.tensor(f"logits_{layer}").unbind(dim=-1)
        apart = (margins[layer].sigmoid() - (anomalous - normal).sigmoid()).abs().max()
        check.number("scores", f"logits_{layer}", apart, 0.0)
        check.used(f"logits_{layer}")
        check("maps", f"img0/zero_shot_map_{layer}", resized[layer].sigmoid())
        check("maps", f"few_shot_grid_{layer}", distances[layer])


def _training(check: Comparisons, detector: Any, context: Any, step: Batch) -> None:
    losses = detector.loss(step, context)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    check("losses", "train/loss", total)
    terms = [torch.stack([losses[f"focal {layer}"], losses[f"dice {layer}"]]) for layer in TAPS]
    check("losses", "train/terms", torch.stack(terms))
    gradients = {key.replace("projections.", "fc."): p.grad for key, p in detector.named_parameters() if p.grad is not None}
    norms = check.reference.settings["train/grad_norms"]
    check.equal("gradients", "train/learned tensors", set(gradients), set(norms))
    for key, norm in norms.items():
        check.number("gradients", f"train/grad_norms/{key}", gradients[key].norm(), norm)


PROOF = Proof(
    "april_gan",
    "aprilgan",
    run,
    inputs=("*input_uint8", "train/gt"),
    left_out={
        "images_uint8": "the pictures before they are resized",
        "masks_uint8": "where the drawn defects are; train/gt holds them resized",
    },
)
