"""FiLo beside its authors' code (CASIA-IVA-Lab/FiLo, 36ff29c)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zsad.alignment.maps import blur_3x3
from zsad.backbones.vit import resize_positions
from zsad.images.boxes import Box, accepted, corners
from zsad.prompts.positions import POSITIONS, places_of, region
from zsad.registry import create
from zsad.types import Batch, Context, ImageFeatures, Phase
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_clip import random_tensor
from zsad.verification.towers import tiny_backbone

__all__ = ["PROOF", "backbone", "batch", "boxes_of", "build", "write_prompts", "write_weights"]

SHAPE = {"embed_dim": 128}  # their code takes the width of the text tower and of the joint space to be one
FEATURES = 2e-5  # at raw scale, up to 13
SIGMA, TEMPERATURE = 4.0, 0.07


def write_weights(settings: dict[str, Any], path: Path, extra: dict[str, Tensor] | None = None) -> Path:
    """A checkpoint in the authors' layout: the learned tensors, and one of the frozen ones beside them."""
    state = dict(extra or {})
    state["clip_model.visual.attn.qkv.bias"] = torch.zeros(3 * 128)
    state["text_encoder.ln_final.bias"] = torch.zeros(128)
    for name, rule in settings["extra_tensors"].items():  # "random_tensor(seed, 'filo/name', (8, 128), 0.02)"
        shape, std = json.loads(f"[{rule[rule.index(', (') + 2 : -1].replace('(', '[').replace(',)', ']').replace(')', ']')}]")
        state[name] = random_tensor(settings["seed"], f"filo/{name}", shape, std)
    torch.save({"filo": state}, path)
    return path


def write_prompts(settings: dict[str, Any], path: Path) -> Path:
    """A prompt set with the fixture's states and details."""
    prompts = settings["prompts"]
    lines = ['templates = ["{}"]', "[states]", f"normal = {json.dumps(prompts['normal_states'])}"]
    lines += [f"anomalous = {json.dumps(prompts['abnormal_general'])}", "[details]"]
    lines += [f"{json.dumps(name)} = {json.dumps(details)}" for name, details in prompts["details"].items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def boxes_of(settings: dict[str, Any], image: str) -> list[Box]:
    """The boxes that the authors' program was given; phrases are written as "rust spots(0.52)"."""
    stored = settings["boxes"][image] if image in settings["boxes"] else settings[image]
    rows = zip(stored.get("boxes_cxcywh", stored.get("boxes")), stored["phrases"], strict=True)
    found = []
    for (x, y, width, height), phrase in rows:
        words, _, confidence = phrase.rpartition("(")
        found.append(Box((x, y, width, height), words, float(confidence.rstrip(")"))))
    return found


def backbone(reference: Reference, folder: Path) -> Any:
    """The tiny CLIP as the authors' code runs it."""
    size = reference.settings["image_size"]
    return tiny_backbone(reference, folder, SHAPE, activation="gelu", position_embedding="bicubic", image_size=size)


def build(reference: Reference, folder: Path, tower: Any = None, **arguments: Any) -> Any:
    """The method on the tiny weights, from a checkpoint in the authors' layout, with the given boxes."""
    settings, pictures = reference.settings, reference["input_uint8"]

    def find(rgb: NDArray[np.uint8], words: Sequence[str]) -> list[Box]:
        (index,) = [number for number, known in enumerate(pictures) if np.array_equal(known, rgb)]
        return boxes_of(settings, f"img{index}")

    checkpoint = write_weights(settings, folder / "filo.pth")
    prompts = str(write_prompts(settings, folder / "prompts.toml"))
    known = {"prompts": prompts, "boxes": find} | arguments
    return create("filo", backbone=tower or backbone(reference, folder), checkpoint=checkpoint, **known)


def batch(reference: Reference) -> Batch:
    """The authors' training step: the first picture."""
    name = reference.settings["image_classes"][0]
    labels = torch.tensor(reference.settings["labels"][:1])
    return Batch(reference.pixels()[:1], labels, reference.tensor("train_main/gt")[None].float(), (name,))


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Sentences, places, features, maps and scores of every picture, both phases of training."""
    detector, images, settings = build(reference, folder), reference.pixels(), reference.settings
    visual = detector.backbone.visual
    check("inputs", "input_first", images[:1])
    positions = resize_positions(visual.positional_embedding, visual.grid(images), visual.position_mode)
    check("features", "positional_embedding_resized", positions)
    _places(reference, check)
    with torch.inference_mode():
        contexts = {name: detector.prepare(name) for name in settings["class_names"]}
        for name, first in settings["first_tokens"].items():
            found = contexts[name].extra["anomalous"][0, : len(first)].tolist()
            check.equal("sentences", f"first_tokens/{name}", found, first)
        for index, name in enumerate(settings["image_classes"]):
            features = detector.encode(images[index : index + 1])
            _outputs(check, detector, features, contexts[name], index)
            if not index:
                _steps(check, detector, features, contexts[name])
    _training(check, detector, batch(reference), detector.prepare(settings["image_classes"][0]))


def _places(reference: Reference, check: Comparisons) -> None:
    """The rule of positions, on a table of points and on the pictures' boxes."""
    centres, stored = reference["region/centres"].tolist(), reference["region/position_index"].tolist()
    found = [region(x, y, gaps=True) for x, y in centres]
    check.equal("sentences", "region/position_index", [-1 if one is None else one for one in found], stored)
    check.used("region/centres", "region/position_index")
    settings = reference.settings
    words = {index: _words(settings, name) for index, name in enumerate(settings["image_classes"])}
    cases = [(f"img{index}", settings["boxes"][f"img{index}"], words[index]) for index in words]
    cases.append(("region_tie_case", settings["region_tie_case"], settings["general_words"]))
    for image, case, looked_for in cases:
        places = places_of(accepted(boxes_of(settings, image), looked_for), gaps=True)
        named = [POSITIONS[place] for place in places] if len(places) == 1 else []
        check.equal("sentences", f"{image}/position", named, case["position"])


def _words(settings: dict[str, Any], name: str) -> list[str]:
    return [*settings["prompts"]["details"][name], *settings["general_words"]]


def _outputs(check: Comparisons, detector: Any, features: ImageFeatures, context: Context, index: int) -> None:
    reference, stem = check.reference, f"img{index}/"
    found, image = detector.score(features, context), _image_feature(detector, features)
    boxes = accepted(boxes_of(reference.settings, f"img{index}"), context.sentences["boxes"])
    places, tokens = places_of(boxes, gaps=True), detector.tokens
    text = detector.text(image, context, [places])
    for size in (reference.settings["image_size"], 518):  # rejected boxes stay shares of the side there
        key, rows = f"{stem}boxes_px_{size}", [box in boxes for box in boxes_of(reference.settings, f"img{index}")]
        stored = reference[key][rows]
        check.equal("sentences", key, corners(boxes, size).tolist(), stored.tolist())
        check.used(key)
    check("features", f"{stem}cls_projected", features.image, tolerance=FEATURES)
    check("features", f"{stem}image_feature", image)
    for theirs, side in (("normal", tokens.normal), ("abnormal", tokens.anomalous)):
        check("features", f"{stem}meta_bias_{theirs}", side.meta_net(image), tolerance=FEATURES)
    normal = tokens.normal.encode(detector.backbone, context.extra["normal"], image[0])
    check("text", f"{stem}normal_text", F.normalize(normal, dim=-1))
    if f"{stem}abnormal_text" in reference:
        every = tokens.anomalous.encode(detector.backbone, context.extra["anomalous"], image[0])
        check("text", f"{stem}abnormal_text", F.normalize(every, dim=-1))
    check("text", f"{stem}text_matrix", text)
    check("scores", f"{stem}text_probs", (text @ image[..., None])[..., 0])
    check("scores", f"{stem}score", found.pred_score)
    check("maps", f"{stem}anomaly_map", found.anomaly_map)


def _image_feature(detector: Any, features: ImageFeatures) -> Tensor:
    return F.normalize(detector.adapter(features.image), dim=-1)


def _steps(check: Comparisons, detector: Any, features: ImageFeatures, context: Context) -> None:
    """Taps, decoders and single maps of the first picture."""
    image = _image_feature(detector, features)
    boxes = accepted(boxes_of(check.reference.settings, "img0"), context.sentences["boxes"])
    maps = detector.maps(features, detector.text(image, context, [places_of(boxes, gaps=True)]))
    patches, order = detector.patches(features), check.reference.settings["map_order"]
    taps: dict[str, Any] = {f"o{layer}": features.taps[layer] for layer in detector.layers[1:]}
    taps["vv"] = features.streams["local"][detector.layers[-1]]
    for name, tap in taps.items():
        tokens = torch.cat([tap.cls[:, None], tap.patches], dim=1)
        check("features", f"img0/tap_{name}", tokens, tolerance=FEATURES)
    for number, name in enumerate(order):
        check("maps", f"img0/map_{name}", maps[number])
        for key in (f"img0/decoder_linear_{name}", f"img0/decoder_cov_{name}"):
            if key in check.reference:
                check("features", key, patches[number], tolerance=FEATURES)
    check("maps", "img0/anomaly_map_before_boxes", blur_3x3(maps.mean(dim=0), SIGMA))


def _training(check: Comparisons, detector: Any, step: Batch, context: Context) -> None:
    for number, stem in enumerate(("train_main", "train_adapter")):
        detector.start_phase(number)
        detector.zero_grad()
        phase, own = detector.schedule.phases[number], _learned(detector, detector.schedule.phases[number])
        losses = detector.loss(step, context)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        check("losses", f"{stem}/loss", total)
        if not number:
            terms = [[losses[f"{term} {row}"] for term in ("focal", "dice", "dice normal")] for row in range(7)]
            check("losses", f"{stem}/terms", torch.stack([torch.stack(row) for row in terms]))
        else:
            features = detector.encode_for_loss(step.images)
            image = _image_feature(detector, features)
            dots = (detector.text(image, context) @ image[..., None])[..., 0]
            check("losses", f"{stem}/logits", dots / TEMPERATURE)
        _gradients(check, detector, own, stem)
        groups = [{"params": [p], "lr": next(r for k, r in phase.rates.items() if key.startswith(k))} for key, p in own.items()]
        before = {key: p.detach().clone() for key, p in own.items()}
        torch.optim.AdamW(groups, betas=detector.schedule.betas, weight_decay=detector.schedule.weight_decay).step()
        check("losses", f"{stem}/loss_after_one_adamw_step", torch.stack(list(detector.loss(step, context).values())).sum())
        with torch.no_grad():
            for key, p in own.items():
                p.copy_(before[key])


def _learned(detector: Any, phase: Phase) -> dict[str, Any]:
    return {key: p for key, p in detector.named_parameters() if key.startswith(tuple(phase.rates))}


def _gradients(check: Comparisons, detector: Any, own: dict[str, Any], stem: str) -> None:
    reference = check.reference
    norms = detector.authors_file.own_names(reference.settings[f"{stem}/grad_norms"])
    check.equal("gradients", f"{stem}/learned tensors", set(own), set(norms))
    for key, norm in norms.items():
        check.number("gradients", f"{stem}/grad_norms/{key}", own[key].grad.norm(), norm)
    for stored in [key for key in reference if key.startswith(f"{stem}/grad/")]:
        theirs = stored.removeprefix(f"{stem}/grad/")
        first = 8 if theirs.endswith("_first8") else None
        theirs = f"adapter.{theirs.removesuffix('_first8')}" if first else theirs
        (key,) = detector.authors_file.own_names({theirs: None})
        check("gradients", stored, own[key].grad[:first], scale=norms[key])


PROOF = Proof(
    "filo",
    "filo",
    run,
    inputs=("input_uint8", "train_main/gt", "region/*", "*boxes_px_*"),
    left_out={
        "images_uint8": "the pictures before they are resized",
        "masks_uint8": "where the drawn defects are; train_main/gt holds one resized",
        "*boxes_cxcywh": "inputs, in the settings too",
    },
)
