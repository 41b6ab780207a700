"""CLIP-AD beside its authors' code (ByChelsea/CLIP-AD, f004973)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.similarity import surgery_similarity, text_logits
from zsad.prompts.representative import cluster_sentences
from zsad.registry import create
from zsad.types import Batch, Context, ImageFeatures
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_clip import random_tensor
from zsad.verification.towers import tiny_backbone

__all__ = ["PROOF", "backbone", "batch", "build", "outputs", "stored_context", "write_projections"]

TEXTS: dict[str, dict[str, Any]] = {"mvtec": {}, "visa": {"eps": 1.5, "min_samples": 25}}
VARIANTS = {"visa": ("visa", False), "sdp": ("mvtec", False), "sdpplus": ("mvtec", True), "sdpplus_visa": ("visa", True)}
FEATURES, MAPS, HALF, SCALED = 2e-5, 5e-6, 2.5e-4, 5e-5  # HALF: one step of float16; SCALED: divided by a small range
LINEAR, LOGITS = 1e-5, 1e-4  # SDP+ has cosines times 100: their float32 maps are 4e-6 from the same in float64
SHAPE = {"patch_size": 16, "image_size": 112, "vision_layers": 12}


def backbone(reference: Reference, folder: Path, activation: str = "gelu") -> Any:
    """The tiny CLIP as the authors' code runs it."""
    size, mode = reference.settings["image_size"], "bicubic_antialias"
    return tiny_backbone(reference, folder, SHAPE, activation=activation, position_embedding=mode, image_size=size)


def write_projections(seed: int, path: Path) -> Path:
    """A checkpoint in the layout that the authors' training writes."""
    layers = {}
    for i in range(4):
        layers[f"fc.{i}.weight"] = random_tensor(seed, f"clipad/fc.{i}.weight", (64, 128), 128**-0.5)
        layers[f"fc.{i}.bias"] = random_tensor(seed, f"clipad/fc.{i}.bias", (64,), 0.02)
    torch.save({"linear_layers": layers}, path)
    return path


def build(reference: Reference, folder: Path, tower: Any = None, linear: bool = False, **arguments: Any) -> Any:
    """The method on the tiny weights; SDP+ from a checkpoint in the authors' layout."""
    checkpoint = write_projections(reference.settings["seed"], folder / "layers.pth") if linear else None
    tower = backbone(reference, folder) if tower is None else tower
    return create("clip_ad", backbone=tower, checkpoint=checkpoint, **arguments)


def batch(reference: Reference) -> Batch:
    """The authors' training step."""
    masks = reference.tensor("train/gt")
    labels = torch.tensor(reference.settings["labels"][: len(masks)])
    return Batch(reference.pixels()[: len(masks)], labels, masks, ("x",) * len(masks))


def stored_context(reference: Reference, text: str, category: int) -> Context:
    """The authors' text vectors, so that a flipped step of float16 does not show in the maps."""
    return Context(reference.tensor(f"text_features_{text}_{category}").T[None])


def categories(reference: Reference) -> Iterator[tuple[int, list[int]]]:
    """Number of each category and its pictures."""
    names = reference.settings["image_classes"]
    for category, name in enumerate(reference.settings["class_names"]):
        yield category, [index for index, own in enumerate(names) if own == name]


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Text, features of all stages, maps and scores of SDP and SDP+ with both texts; a training step of three, of one."""
    tower, images = backbone(reference, folder), reference.pixels()
    check("inputs", "input_first", images[:1])
    _text(check, tower)
    for prefix, (text, linear) in VARIANTS.items():
        sigma = float(reference.settings["smoothing"][prefix])
        detector = build(reference, folder, tower, linear, faithful=True, sigma=sigma, **TEXTS[text])
        with torch.inference_mode():
            features = detector.encode(images)
            outputs(check, detector, features, prefix, text)
            if prefix == "visa":
                _stages(check, features, stored_context(reference, text, 0))
            if prefix == "sdpplus":
                _layers(check, detector, features, stored_context(reference, text, 0))
    for stem in ("train", "train_batch1"):
        _training(check, build(reference, folder, tower, linear=True, faithful=True), batch(reference), stem)


def _text(check: Comparisons, tower: Any) -> None:
    settings, tower.encode_text = check.reference.settings, cache(tower.encode_text)  # a category's sentences once
    variants: dict[str, tuple[dict[str, Any], float]] = {"mean": ({"eps": None}, 1e-5)}
    for text, options in TEXTS.items():
        variants |= {text: (options, HALF), f"{text}_nohalf": ({**options, "half_text": False}, 1e-5)}
    for category, name in enumerate(settings["class_names"]):
        with torch.inference_mode():
            for key, (options, tolerance) in variants.items():
                context = create("clip_ad", backbone=tower, **options).prepare(name)
                check("text", f"text_features_{key}_{category}", context.text[0].T, tolerance=tolerance)
            for state, lines in enumerate(context.sentences.values()):
                labels = cluster_sentences(F.normalize(tower.encode_text(lines), dim=-1), 0.5, 15)
                check("sentences", f"dbscan_labels_mvtec_{category}_{state}", labels)
        first = [token for token in tower.tokenize(context.sentences["normal"][:1])[0].tolist() if token]
        check.equal("sentences", f"first_tokens/{name}", first, settings["first_tokens"][name])


def outputs(check: Comparisons, detector: Any, features: ImageFeatures, prefix: str, text: str) -> None:
    """Similarity, maps before and behind the Gaussian, and the three image scores, category by category."""
    raw = create("clip_ad", **detector.arguments() | {"sigma": 0.0}, backbone=detector.backbone)
    raw.projections, exact = detector.projections, LINEAR if detector.linear else MAPS
    grids, text_scores, peaks, scores, maps, rough = [], [], [], [], [], []
    for category, members in categories(check.reference):
        context, own = stored_context(check.reference, text, category), [features[i : i + 1] for i in members]
        parts = [detector.parts(one, context) for one in own]
        grids += [torch.stack(list(_signed(one, context).values())).sum(dim=0) for one in own]
        text_scores += [part[0] for part in parts]
        peaks += [part[2] for part in parts]
        found = list(detector.score_set(own, context))
        scores += [one.pred_score for one in found]
        maps.append(found[0].anomaly_map)  # of each category's first picture
        rough.append(raw.parts(own[0], context)[1])
    if f"{prefix}/similarity_grid" in check.reference:
        check("maps", f"{prefix}/similarity_grid", torch.cat(grids), tolerance=MAPS)
    check("scores", f"{prefix}/score_text", torch.cat(text_scores), tolerance=MAPS)
    check("scores", f"{prefix}/score_map_max", torch.cat(peaks), tolerance=exact)
    check("scores", f"{prefix}/score_minmax_sum", torch.cat(scores), tolerance=SCALED)
    for key, all_of_them in ((f"{prefix}/anomaly_map", maps), (f"{prefix}/anomaly_map_raw", rough)):
        check("maps", key, torch.cat(all_of_them[: check.reference.shape(key)[0]]), tolerance=exact)


def _signed(features: ImageFeatures, context: Context) -> dict[int, Tensor]:
    """Similarities as they store them, by stage: (B, 1 + L, 2), the class token first, normal text first."""
    assert context.text is not None
    found = {}
    for layer, tap in features.streams["local"].items():
        assert tap.cls is not None
        tokens = torch.cat([tap.cls[:, None], tap.patches], dim=1)
        anomalous = surgery_similarity(tokens, tap.cls, context.text)
        found[layer] = torch.stack([-anomalous, anomalous], dim=-1)
    return found


def _stages(check: Comparisons, features: ImageFeatures, context: Context) -> None:
    """Projected tokens of the stages and their similarities."""
    signed = _signed(features, context)
    for layer, tap in features.streams["local"].items():
        assert tap.cls is not None
        tokens, key = torch.cat([tap.cls[:, None], tap.patches], dim=1), f"surgery_features_{layer}"
        shown = check.reference.shape(key)[0]
        check("features", key, tokens[:shown], tolerance=FEATURES)
        check("maps", f"visa/similarity_grid_{layer}", signed[layer][:shown], tolerance=MAPS)


def _layers(check: Comparisons, detector: Any, features: ImageFeatures, context: Context) -> None:
    """SDP+: plain tokens, what the linear layers make of them, logits and maps."""
    maps = detector.layer_maps(features[:1], context)
    for project, (layer, tap) in zip(detector.projections, sorted(features.taps.items()), strict=True):
        assert tap.cls is not None
        tokens, key = torch.cat([tap.cls[:, None], tap.patches], dim=1), f"ori_tokens_{layer}"
        check("features", key, tokens[: check.reference.shape(key)[0]], tolerance=FEATURES)
        projected = project(tap.patches)
        check("features", f"sdpplus/adapter_out_normalised_{layer}", F.normalize(projected[:1], dim=-1), tolerance=FEATURES)
        key = f"sdpplus/logits_{layer}"
        logits = text_logits(projected[: check.reference.shape(key)[0]], detector.text_of(context), 0.01)
        check("features", key, logits, tolerance=LOGITS)
        check("maps", f"sdpplus/img0/map_{layer}", maps[layer][:, 1], tolerance=LINEAR)


def _training(check: Comparisons, detector: Any, step: Batch, stem: str) -> None:
    """Losses and gradients of one step, and the loss behind a step of Adam."""
    reference = check.reference
    if stem == "train_batch1":
        assert isinstance(step.images, Tensor)
        assert step.masks is not None
        step = replace(step, images=step.images[:1], labels=step.labels[:1], masks=step.masks[:1], names=step.names[:1])
    context = stored_context(reference, "mvtec", 0)
    losses, layers = detector.loss(step, context), detector.layers
    torch.stack(list(losses.values())).sum().backward()
    check("losses", f"{stem}/terms", torch.stack([losses[f"{name} {n}"] for n in layers for name in ("focal", "dice")]))
    gradients = {key.replace("projections.", "fc."): p.grad for key, p in detector.named_parameters() if p.grad is not None}
    norms = reference.settings[f"{stem}/grad_norms"]
    check.equal("gradients", f"{stem}/learned tensors", set(gradients), set(norms))
    for key, norm in norms.items():
        check.number("gradients", f"{stem}/grad_norms/{key}", gradients[key].norm(), norm)
        if f"{stem}/grad/{key}" in reference:
            check("gradients", f"{stem}/grad/{key}", gradients[key], scale=norm)
    if f"{stem}/loss" in reference:
        check("losses", f"{stem}/loss", _sum(losses.values()))
        torch.optim.Adam(detector.projections.parameters(), lr=detector.schedule.lr).step()
        check("losses", f"{stem}/loss_after_one_adam_step", _sum(detector.loss(step, context).values()))


def _sum(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()


PROOF = Proof(
    "clip_ad",
    "clipad",
    run,
    inputs=("input_uint8", "train/gt"),
    left_out={
        "images_uint8": "the pictures before they are resized",
        "masks_uint8": "where the drawn defects are; train/gt holds them resized",
    },
)
