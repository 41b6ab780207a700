"""SOWA beside its authors' code (huzongxiang/sowa, d1898ab)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.backbones.window_adapter import ADAPTER_FILE, half_of, relative_offsets
from zsad.registry import create
from zsad.types import Batch, ImageFeatures, References
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_clip import random_tensor
from zsad.verification.towers import TAPS, tiny_backbone

__all__ = ["PROOF", "backbone", "batch", "build", "write_checkpoint"]

RULE = re.compile(  # of a learned tensor, in the settings
    r"random_tensor\(seed, '(?P<name>[^']+)', \((?P<shape>[\d, ]+)\), (?P<std>[\d.e-]+), mean=(?P<mean>[\d.e-]+)\)"
    r"(?:; then element \[(?P<place>[\d,]+)\] := (?P<value>[\d.]+)(?: \(.*\))?)?"
)
RAW = 2e-5  # features that have no length of one: values up to 13
MAPS = 5e-6  # maps and scores; a softmax before the resize moves a layer's map by 1.6e-5
SCALED = 2e-5  # of a score that is divided by the range of a few maxima
SHOTS = (1, 2)


def write_checkpoint(reference: Reference, path: Path) -> Path:
    """A file in the authors' layout, with some of the frozen and derived tensors that it carries beside the learned ones."""
    seed, state = reference.settings["seed"], {}
    for key, rule in reference.settings["extra_tensors"].items():
        found = RULE.fullmatch(rule)
        assert found is not None, rule
        shape = [int(side) for side in found["shape"].split(",") if side.strip()]
        tensor = random_tensor(seed, found["name"], shape, float(found["std"]), float(found["mean"]))
        if found["place"]:
            tensor[tuple(int(index) for index in found["place"].split(","))] = float(found["value"])
        state[f"net.{key}"] = tensor
    for key, shape in reference.settings["checkpoint_extra_keys_tiny"].items():
        if "token_prefix" not in key:
            state.setdefault(f"net.{key}", torch.zeros(shape))
    for copy in ("", "prompt_learner.", "visual_encoder."):
        state[f"net.{copy}clip_model.ln_final.weight"] = torch.ones(4)
    torch.save({"epoch": 0, "state_dict": state | {"net.text_encoder.ln_final.weight": torch.ones(4)}}, path)
    return path


def backbone(reference: Reference, folder: Path) -> Any:
    """The tiny CLIP as the authors' code runs it, at its native size."""
    size = reference.settings["image_size"]
    return tiny_backbone(reference, folder, {"image_size": size}, activation="quick_gelu", image_size=size)


def build(reference: Reference, folder: Path, tower: Any = None, **arguments: Any) -> Any:
    """The method on the tiny weights, from a checkpoint in the authors' layout."""
    checkpoint = write_checkpoint(reference, folder / "sowa.ckpt")
    return create("sowa", backbone=tower or backbone(reference, folder), checkpoint=checkpoint, **arguments)


def batch(reference: Reference) -> Batch:
    """The authors' training step."""
    masks = reference.tensor("train/gt_gt0").float()
    count = len(masks)
    labels = torch.tensor(reference.settings["labels"][:count])
    return Batch(reference.pixels()[:count], labels, masks, reference.settings["image_classes"][:count])


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Text, adapters, logits, maps and scores without and with references; losses, gradients and one step of training."""
    tower, images = backbone(reference, folder), reference.pixels()
    detector = build(reference, folder, tower, faithful=True)
    tested = images[: len(reference.settings["image_classes"])]
    check("inputs", "input_first", images[:1])
    with torch.no_grad():  # inference tensors cannot be trained through
        context, features = detector.prepare(), detector.encode(tested)
        _text(check, detector, reference)
        _adapter(check, detector, features)
        _zero_shot(check, detector, features, context, reference)
        for shots in SHOTS:
            _few_shot(check, detector, features, images, shots)
    step = batch(reference)
    cached = replace(step, images=features[: len(step.labels)])
    detector.softmax_twice = False
    with torch.no_grad():
        picture = detector.loss(replace(cached, masks=None), context)["picture"]
    detector.softmax_twice = True
    _training(check, detector, cached)
    effect = reference.settings["quirk_effects"]["cross entropy on probabilities / on logits"][1]
    check.number("losses", "cross entropy on logits", picture, effect)


def _first_of_class(reference: Reference) -> list[int]:
    """The pictures of which whole maps are stored."""
    classes = reference.settings["image_classes"]
    return [classes.index(name) for name in reference.settings["class_names"]]


def _text(check: Comparisons, detector: Any, reference: Reference) -> None:
    sentences = list(detector.prompts.sentences())
    check.equal("sentences", "prompts", sentences, reference.settings["prompts"])
    check("sentences", "tokens", detector.backbone.tokenize(sentences))
    raw = detector.prompts.encode(detector.backbone, half=False)
    check("text", "text_features_raw", raw[0])
    check("text", "text_features_pooled", detector.text_linear(raw))  # not yet of length one


def _adapter(check: Comparisons, detector: Any, features: ImageFeatures) -> None:
    """The inside of the first adapter, on the first picture."""
    tap, adapter = features[:1].taps[TAPS[0]], detector.adapters[0]
    frozen, side = detector.backbone.visual.blocks[TAPS[0] - 1].attn, half_of(tap.grid)
    check("features", "adapter_6/input", tap.patches, tolerance=RAW)
    check("features", "adapter_6/relative_coords_table", relative_offsets(side))
    check("features", "adapter_6/relative_bias", adapter.position_bias(side), tolerance=RAW)
    check("features", "adapter_6/attention_out", adapter.attend(tap.patches, tap.grid, side, frozen), tolerance=RAW)
    check("features", "adapter_6/output", adapter(tap.patches, tap.grid, side, frozen), tolerance=RAW)


def _zero_shot(check: Comparisons, detector: Any, features: ImageFeatures, context: Any, reference: Reference) -> None:
    found, first = detector.score(features, context), _first_of_class(reference)
    check("features", "image_features_raw", features.image, tolerance=RAW)
    check("scores", "zero_shot/image_score", found.pred_score, tolerance=MAPS)
    check("scores", "text_probs", torch.stack([1 - found.pred_score, found.pred_score], dim=1), tolerance=MAPS)
    check("maps", "zero_shot/anomaly_map", found.anomaly_map[first], tolerance=MAPS)
    adapted = detector.adapters.projected(features.taps, detector.backbone.visual)
    maps = {layer: one.sigmoid() for layer, one in detector.layer_margins(features, context).items()}
    check("maps", "zero_shot/anomaly_map_raw", torch.stack([*maps.values()]).sum(0)[:1], tolerance=MAPS)
    for layer in TAPS:
        shown = reference.shape(f"adapter_out_proj_{layer}")[0]
        check("features", f"patch_proj_{layer}", detector.reference_rows(features)[str(layer)][:shown], tolerance=RAW)
        check("features", f"adapter_out_proj_{layer}", adapted[layer][:shown], tolerance=RAW)
        check("scores", f"logits_{layer}", F.normalize(adapted[layer], dim=-1) @ context.text[0].T, tolerance=MAPS)
        check("maps", f"img0/map_{layer}", maps[layer][0], tolerance=MAPS)


def _few_shot(check: Comparisons, detector: Any, features: ImageFeatures, images: Tensor, shots: int) -> None:
    """Each class by itself: distances per layer, map, its maximum, and the score scaled within the class."""
    settings, stem = check.reference.settings, f"k{shots}/"
    classes, found, distances = settings["image_classes"], [], []
    shown = images[len(classes) :]
    for number, name in enumerate(settings["class_names"]):
        rows = [index for index, one in enumerate(classes) if one == name]
        own = shown if number == 0 else shown.flip(0)  # the second class has the same references, the last one first
        context = detector.prepare(name, References(own[:shots]))
        parts: Sequence[ImageFeatures] = [features[index : index + 1] for index in rows]
        found += list(detector.score_set(parts, context))
        distances += [detector.distances(one, context) for one in parts]
        if number == 0 and f"{stem}few_shot_map" in check.reference:
            summed = torch.stack([*distances[0].values()]).sum(0)
            check("maps", f"{stem}few_shot_map", detector.pixels(summed, parts[0]), tolerance=MAPS)
    maps = torch.cat([one.anomaly_map for one in found])
    kept = _first_of_class(check.reference)[: check.reference.shape(f"{stem}anomaly_map")[0]]
    check("maps", f"{stem}anomaly_map", maps[kept], tolerance=MAPS)
    check("maps", f"{stem}map_max", maps.amax(dim=(1, 2)), tolerance=MAPS)
    check("scores", f"{stem}image_score_minmax", torch.cat([one.pred_score for one in found]), tolerance=SCALED)
    for layer in TAPS:
        grid = torch.cat([one[str(layer)] for one in distances])
        check("maps", f"{stem}distance_grid_{layer}", grid, tolerance=MAPS)


def _training(check: Comparisons, detector: Any, step: Batch) -> None:
    """One step of the published optimizer, in evaluation mode, as the stored one was."""
    schedule, own = detector.schedule, detector.learned_state().keys()
    learned = {key: p for key, p in detector.named_parameters() if key in own}
    optimizer = torch.optim.AdamW(learned.values(), lr=schedule.lr, betas=schedule.betas, weight_decay=schedule.weight_decay)
    losses = detector.loss(step, detector.prepare())
    total = torch.stack([*losses.values()]).sum()
    total.backward()
    terms = [[losses[f"{name} {layer}"] for name in ("focal", "dice", "dice normal")] for layer in TAPS]
    table = torch.tensor([[one.item() for one in row] for row in terms])
    check("losses", "train/terms", table)
    check("losses", "train/loss_ce", losses["picture"])
    check("losses", "train/loss_focal", table[:, 0].sum())
    check("losses", "train/loss_dice", table[:, 1:].sum())
    check("losses", "train/loss", total)
    norms = ADAPTER_FILE.own_names(check.reference.settings["train/grad_norms"])
    check.equal("gradients", "train/learned tensors", set(learned), set(norms))
    for key, norm in norms.items():
        check.number("gradients", f"train/grad_norms/{key}", learned[key].grad.norm(), norm)
    for key in [key for key in check.reference if key.startswith("train/grad/")]:
        [name] = ADAPTER_FILE.own_names({key.removeprefix("train/grad/"): 0})
        check("gradients", key, learned[name].grad, scale=norms[name])
    optimizer.step()
    with torch.no_grad():
        check("losses", "train/loss_after_one_adamw_step", sum(detector.loss(step, detector.prepare()).values()))


PROOF = Proof(
    "sowa",
    "sowa",
    run,
    inputs=("input_uint8", "train/gt_gt0"),
    left_out={
        "images_uint8": "the pictures before they are resized",
        "masks_uint8": "where the drawn defects are; train/gt_gt0 holds them resized",
    },
)
