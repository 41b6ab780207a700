"""AnomalyNCD's binarization, crops, region merging and metrics beside its authors' code (HUST-SLOW/AnomalyNCD, cbecce7)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsad.backbones.dinov2_weights import build_dinov2
from zsad.backbones.masked_class import masked_states
from zsad.errors import UsageError
from zsad.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from zsad.kinds.binarization import Range, binarize, range_of, stable_threshold
from zsad.kinds.crops import Box, cut, merged_boxes, region_boxes, to_size
from zsad.kinds.merging import agreement, class_probability, merge_regions
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_clip import fingerprint, random_tensor
from zsad.verification.tiny_dino import tiny_dino_state_dict
from zsad.verification.tiny_pictures import described_pictures, tiny_pictures

__all__ = ["PROOF"]

TOKENS, LOGITS, EXACT = 2e-5, 1e-5, 1e-9  # tolerances
SHOWN = 40  # tokens of the detailed crop that are stored
MERGES = {"mvtec": "merge_mvtec", "mtd": "merge_mtd"}


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Binarization of 17 groups of maps, crops of 12 masks, the whole program on small folders, metrics of 9 label pairs."""
    _binarization(check)
    _crops(check)
    with torch.inference_mode():
        _pipeline(check)
    _metrics(check)


def _packed(masks: Any) -> Any:
    return np.stack([np.packbits(one.astype(bool).reshape(-1)) for one in masks])


def _boxes(boxes: Any) -> list[list[float]]:
    return [[float(side) for side in box] for box in boxes]


def _binarization(check: Comparisons) -> None:
    reference, settings = check.reference, check.reference.settings
    maps = dict(zip(settings["map_names"], reference["mebin/maps"], strict=True))
    for name, facts in settings["mebin"].items():
        some, stem = [maps[one] for one in facts["maps"]], f"mebin/{name}/"
        limits = range_of(some)
        check.equal("sentences", f"{stem}range", [limits.high, limits.low], [facts["max_th"], facts["min_th"]])
        own = {"step": facts["sample_rate"], "least": facts["min_interval_len"], "erode": facts["erode"]}
        found = [binarize(one, limits, **own) for one in some]
        check("inputs", f"{stem}threshold", [one.threshold for one in found], tolerance=0)
        check("inputs", f"{stem}estimated_number", [one.number for one in found], tolerance=0)
        counts = np.array([one.counts for one in found])  # theirs have a 1 behind the last
        check("inputs", f"{stem}count_sequence", counts, part=(slice(None), slice(0, counts.shape[1])), tolerance=0)
        check("inputs", f"{stem}masks_packed", _packed(one.mask for one in found), tolerance=0)
        check.equal("sentences", f"{stem}mask_pixels", [int(one.mask.sum()) for one in found], facts["mask_pixels"])
    facts, limits = (
        settings["threshold_cases"],
        Range(settings["threshold_cases"]["min_th"], settings["threshold_cases"]["max_th"]),
    )
    rows = [[int(one) for one in row] for row in reference["mebin/threshold_cases/sequence"]]
    chosen = [stable_threshold(row, limits, facts["sample_rate"], facts["min_interval_len"]) for row in rows]
    check("inputs", "mebin/threshold_cases/threshold_and_number", np.array(chosen), tolerance=0)


def _crops(check: Comparisons) -> None:
    reference, settings = check.reference, check.reference.settings
    picture = tiny_pictures(settings["seed"], [True])[0][0]
    for name, facts in settings["crop_cases"].items():
        stem, size = f"crop/{name}/", picture.shape[:2]
        mask = np.unpackbits(reference[f"{stem}mask_packed"])[: size[0] * size[1]].reshape(size).astype(bool)
        boxes = region_boxes(mask)
        whole, kept = merged_boxes(boxes, size), merged_boxes(boxes, size, facts["estimated_number"])
        check("inputs", f"{stem}boxes_before_merge", np.array(boxes), tolerance=0)
        check("inputs", f"{stem}boxes_merged", np.array(whole), tolerance=0)
        crops = [cut(picture, box) for box in kept]
        check.equal("sentences", f"{stem}sizes", [[*crop.shape[1::-1]] for crop in crops], facts["sub_image_sizes_wh"])
        pixels = [int(cut(mask.astype(np.uint8), box).sum()) for box in kept]
        check.equal("sentences", f"{stem}mask_pixels", pixels, facts["mask_pixels"])
        if f"{stem}sub_image_0" in reference:
            check("inputs", f"{stem}sub_image_0", crops[0], tolerance=0)


# ------------------------------------------------------------------ the whole program
def _pipeline(check: Comparisons) -> None:
    reference, settings = check.reference, check.reference.settings
    facts, maps = settings["pipeline"], list(reference["pipeline/anomaly_maps"])
    pictures, drawn = described_pictures(settings)
    limits, size = range_of(maps), pictures.shape[1:3]
    check.equal("sentences", "pipeline: range", [limits.high, limits.low], facts["max_th_min_th"])
    found = [binarize(one, limits) for one in maps]
    check.equal("sentences", "pipeline: thresholds", [one.threshold for one in found], facts["thresholds"])
    check.equal("sentences", "pipeline: numbers", [one.number for one in found], facts["estimated_number"])
    masks = [to_size(one.mask, size) for one in found]
    check("inputs", "pipeline/binary_packed", _packed(masks), tolerance=0)
    boxes = [merged_boxes(region_boxes(mask), size, one.number) for mask, one in zip(masks, found, strict=True)]
    check.equal("sentences", "pipeline: boxes", [_boxes(some) for some in boxes], facts["boxes"])
    _crop_scores(check, maps, limits, boxes, size)
    for number, (name, stored) in enumerate(settings["base_crops"].items()):
        own = merged_boxes(region_boxes(drawn[len(maps) + number] > 0), size, 1)
        check.equal("sentences", f"base crop {name}", _boxes(own), stored)
    crops = [(pictures[i], masks[i], box) for i, some in enumerate(boxes) for box in some]
    images, seen = _inputs(check, crops)
    areas = np.array([int(cut(mask.astype(np.uint8), box).sum()) for _, mask, box in crops])
    _classes(check, images, seen, areas, [len(some) for some in boxes])


def _crop_scores(check: Comparisons, maps: Any, limits: Range, boxes: list[list[Box]], size: tuple[int, int]) -> None:
    """Largest value of the scaled map in each crop, resized in float."""
    stored = [score for some in check.reference.settings["pipeline"]["crop_scores"].values() for score in some.values()]
    found = []
    for one, some in zip(maps, boxes, strict=True):
        scaled = Image.fromarray(limits.scaled(one).astype(np.float32))
        whole = scaled.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        found += [float(np.asarray(whole.crop(box)).max()) / 255 for box in some]
    for number, (own, theirs) in enumerate(zip(found, stored, strict=True)):
        check.number("scores", f"crop score {number}", own, theirs, tolerance=1e-5)


def _inputs(check: Comparisons, crops: list[tuple[Any, Any, Box]]) -> tuple[Tensor, Tensor]:
    """Crops and their masks, the shorter side resized, cut out near the centre: (B, 3, S, S) and (B, S, S)."""
    side, part = (check.reference.settings["settings"][key] for key in ("image_size", "crop_pct"))
    longer, first = int(side / part), int(side / part) - side
    pixels: list[NDArray[np.uint8]] = []
    masks: list[NDArray[np.uint8]] = []
    for picture, mask, box in crops:
        for one, into in ((cut(picture, box), pixels), (cut(mask.astype(np.uint8) * 255, box), masks)):
            height, width = one.shape[:2]
            size = (longer, int(longer * height / width)) if width <= height else (int(longer * width / height), longer)
            resized = Image.fromarray(one).resize(size, Image.Resampling.BILINEAR)
            left = first // 2
            into.append(np.array(resized.crop((left, left, left + side, left + side))))
    check("inputs", "test/input_uint8_first3", np.stack(pixels[:3]), tolerance=0)
    check("inputs", "test/mask_uint8", np.stack(masks), tolerance=0)
    mean, std = (torch.tensor(one)[:, None, None] for one in (IMAGENET_MEAN, IMAGENET_STD))
    images = (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255 - mean) / std
    return images, torch.from_numpy(np.stack(masks)).float() / 255


def _tower(reference: Reference) -> Any:
    """DINO's first version is DINOv2's tower without layer scale."""
    settings = reference.settings
    size = settings["settings"]["image_size"]
    state = tiny_dino_state_dict(
        settings["seed"],
        width=settings["settings"]["feat_dim"],
        layers=12,
        patch_size=8,
        image_size=size,
        registers=0,
        swiglu=False,
    )
    if (found := fingerprint(state)) != (stored := settings["weights"]["fingerprint_tiny_dino"]):
        raise UsageError(f"The tiny DINO has the fingerprint {found[:12]}, the stored outputs belong to {stored[:12]}.")
    return build_dinov2("tiny", {key: value for key, value in state.items() if "layer_scale" not in key}).eval()


def _classes(check: Comparisons, images: Tensor, seen: Tensor, areas: Any, counts: list[int]) -> None:
    """Class tokens, heads, kinds of crops, and of pictures by both temperatures."""
    reference, settings = check.reference, check.reference.settings
    tower, layers = _tower(reference), settings["settings"]["mask_layers"]
    states = masked_states(tower, images, seen, layers)
    tokens = tower.norm(states[-1][:, 0])
    check("features", "test/cls_token", tokens, tolerance=TOKENS)
    _detail(check, tower, states, images, seen)
    table = settings["weights"]["projector"]["tensors"]
    heads = [
        random_tensor(settings["seed"], f"ncd/projector/{key}", facts["shape"], facts["std"])
        for key, facts in table.items()
        if "weight_v" in key
    ]
    logits = torch.stack(
        [F.normalize(tokens, dim=1) @ F.normalize(head, dim=1).T for head in heads], dim=1
    )  # (crops, heads, classes)
    check("scores", "test/logits", logits, tolerance=LOGITS)
    known = settings["settings"]["num_labeled_classes"]
    check("inputs", "test/crop_pred", class_probability(logits, known).argmax(-1), tolerance=0)
    check("inputs", "merge/mask_pixel_count", areas, tolerance=0)
    firsts = np.cumsum([0, *counts])
    for name, key in MERGES.items():
        facts = settings[key]
        parts = [slice(a, b) for a, b in pairwise(firsts)]
        found = np.stack([merge_regions(class_probability(logits[p], known), areas[p], facts["temperature"]) for p in parts])
        check("scores", f"merge/{name}/probability", found, tolerance=LOGITS)
        check("inputs", f"merge/{name}/pred", found.argmax(-1), tolerance=0)
        labels = reference["merge/true_label"].astype(int)
        for head, stored in enumerate(facts["metrics_per_head_NMI_ARI_F1"]):
            for own, theirs in zip(agreement(found[:, head].argmax(-1), labels), stored, strict=True):
                check.number("metrics", f"merge/{name}: head {head}", own, theirs, tolerance=EXACT)
    predicted, labels = class_probability(logits, known).argmax(-1), reference["test/true_label"]
    for head, stored in enumerate(settings["sub_image_metrics_per_head_NMI_ARI_F1"]):
        for own, theirs in zip(agreement(predicted[:, head], labels), stored, strict=True):
            check.number("metrics", f"crops: head {head}", own, theirs, tolerance=EXACT)


def _detail(check: Comparisons, tower: Any, states: list[Tensor], images: Tensor, seen: Tensor) -> None:
    """One crop: tokens behind some blocks, and the attention of the class token."""
    index = check.reference.settings["detail_crop"]["index"]
    check("inputs", "detail/input_first", images[index : index + 1])
    check("features", "detail/cls_token", tower.norm(states[-1][index, 0]), tolerance=TOKENS)
    share = F.avg_pool2d(seen[index][None, None], tower.patch_size).flatten()
    check("features", "detail/mask_patch", torch.cat([torch.ones(1), share]))
    check("features", "detail/tokens_embedding", states[0][index, :SHOWN], tolerance=TOKENS)
    for layer in (3, 4, 12):
        check("features", f"detail/tokens_block_{layer}", states[layer][index, :SHOWN], tolerance=TOKENS)
        q, k, _ = tower.blocks[layer - 1].qkv(states[layer - 1][index : index + 1])
        rows = torch.einsum("hd,hld->hl", q[0, :, 0], k[0])
        rows = rows / q.shape[-1] ** 0.5
        if layer > tower.depth - check.reference.settings["settings"]["mask_layers"]:
            rows = rows.masked_fill(~torch.cat([torch.ones(1, dtype=torch.bool), share >= 0.5]), -1e9)
        check("features", f"detail/cls_attention_block_{layer}", rows.softmax(-1))


def _metrics(check: Comparisons) -> None:
    reference = check.reference
    for name, facts in reference.settings["metrics"].items():
        stem = f"metrics/{name}/"
        found = agreement(reference[f"{stem}pred"], reference[f"{stem}true"], reference[f"{stem}is_base"] == 0)
        for own, (key, stored) in zip(found, facts.items(), strict=True):
            check.number("metrics", f"{stem}{key}", own, stored, tolerance=EXACT)


PROOF = Proof(
    "anomalyncd",
    "anomalyncd",
    run,
    inputs=(
        *("mebin/maps", "mebin/threshold_cases/sequence", "crop/*/mask_packed", "pipeline/anomaly_maps"),
        *("metrics/*", "*/true_label"),
    ),
    left_out={"train/*": "a step of their training for each category; kinds are clustered without training here"},
)
