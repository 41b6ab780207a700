"""DictAS beside its authors' code (xiaozhen228/DictAS, 3253312)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from zsad.alignment.maps import upsample
from zsad.alignment.sparse_lookup import sparsemax
from zsad.images.preprocessing import CLIP_MEAN, CLIP_STD
from zsad.registry import create
from zsad.types import Batch, Context, ImageFeatures, References
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference, normalised
from zsad.verification.tiny_clip import described_tensors
from zsad.verification.tiny_pictures import described_pictures, resized_pictures
from zsad.verification.towers import TAPS, tiny_backbone

__all__ = ["PROOF", "backbone", "batch", "build", "outputs", "training", "write_checkpoint"]

RAW, LOOKED_UP, RETRIEVED = 2e-5, 3e-5, 1e-4  # of tokens, of logits and weights of the look-up, of what it finds
MAPS, SCALED = 1e-5, 1e-4  # of maps and texts' scores, of scores that are divided by the range of a few maxima
LOGITS, WEIGHT = 5e-5, 0.1  # of logits in training (100 times a cosine); the authors' weight of all losses but the first
ELEMENTS, NEAR_ZERO = 1e-4, 1e-6  # of gradients' elements, as a share of the largest; of gradients that are 0 in theory
TESTS = re.compile(r"tests (\d+)\.\.(\d+) class 0, (\d+)\.\.(\d+) class 1")
Encoded: TypeAlias = dict[tuple[int, ...], list[ImageFeatures]]  # test pictures by layers, on which alone they depend
NOISE = ("Key_Generator.TwoLayerMLP.norm.bias", "Fuse_Feature.compress.bias")  # whose gradients are


def write_checkpoint(reference: Reference, path: Path) -> Path:
    """A file in the authors' layout."""
    torch.save({"Mymodel": described_tensors(reference.settings)}, path)
    return path


def backbone(reference: Reference, folder: Path) -> Any:
    """The tiny CLIP as the authors' code runs it."""
    size = reference.settings["image_size"]
    return tiny_backbone(reference, folder, activation="gelu", position_embedding="bicubic_antialias", image_size=size)


def build(reference: Reference, tower: Any, folder: Path, **arguments: Any) -> Any:
    """The method on the tiny weights, from a checkpoint in the authors' layout."""
    return create("dictas", backbone=tower, checkpoint=write_checkpoint(reference, folder / "dictas.pth"), **arguments)


def _classes(reference: Reference) -> list[slice]:
    """The test pictures of each class."""
    hit = TESTS.search(reference.settings["images"])
    assert hit
    return [slice(int(hit[1]), int(hit[2]) + 1), slice(int(hit[3]), int(hit[4]) + 1)]


def _redrawn(reference: Reference, numbers: list[int]) -> Tensor:
    """Pictures of the fixture, (N, H, W, 3) uint8, resized."""
    drawn = described_pictures(reference.settings)[0][numbers]
    return resized_pictures(drawn, reference.settings["image_size"])


def _normal(reference: Reference, numbers: list[int]) -> Tensor:
    """References (N, 3, H, W) as the tower takes them."""
    return normalised(_redrawn(reference, numbers).permute(0, 3, 1, 2).float() / 255)


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Tokens and text, the inside of the look-up, maps and scores under every rule, a step of training in each phase."""
    tower = backbone(reference, folder)
    images, order = reference.pixels(), reference.settings["reference_order"]
    check("inputs", "input_first", images[:1])
    check("inputs", "reference_input_uint8", _redrawn(reference, order))
    with torch.inference_mode():
        _tokens(check, tower, images[:1], "tokens_{}_image0")
        _tokens(check, tower, _normal(reference, order[:1]), "reference_tokens_{}_first")
        contexts = texts(reference, build(reference, tower, folder))
        _text(check, tower, contexts)
        encoded: Encoded = {}
        for prefix in reference.settings["effective_settings"]:
            outputs(check, tower, folder, contexts, prefix, encoded)
    for phase, prefix in enumerate(("train/", "train_frozen/")):
        training(check, build(reference, tower, folder), contexts, prefix, phase)


def _tokens(check: Comparisons, tower: Any, image: Tensor, name: str) -> None:
    states = tower.visual(image, TAPS)
    for layer, tap in states.plain.items():
        if (key := name.format(layer)) in check.reference:
            check("features", key, torch.cat([tap.cls[:, None], tap.patches], dim=1), tolerance=RAW)


def texts(reference: Reference, detector: Any) -> list[Context]:
    """The text of each class, without references; no variant changes it."""
    return [detector.prepare(name) for name in reference.settings["class_names"]]


def _text(check: Comparisons, tower: Any, found: list[Context]) -> None:
    settings = check.reference.settings
    sentences = {own: settings["sentences_class0"][theirs] for own, theirs in (("normal", "normal"), ("anomalous", "abnormal"))}
    for own, theirs in (("normal", "normal"), ("anomalous", "abnormal")):
        lines = list(found[0].sentences[own])
        check.equal("sentences", theirs, lines, sentences[own])
        check("sentences", f"text/{theirs}_tokens_class0", tower.tokenize(lines))
    shown = check.reference.shape("text/sentence_features_class0_first10")[1]
    encoded = [tower.encode_text(lines[:shown]) for lines in found[0].sentences.values()]
    units = torch.nn.functional.normalize(torch.stack(encoded), dim=-1)
    check("text", "text/sentence_features_class0_first10", units)
    check("text", "text_features", torch.cat([one.text for one in found if one.text is not None]).transpose(1, 2))


def outputs(
    check: Comparisons, tower: Any, folder: Path, contexts: list[Context], prefix: str, encoded: Encoded, **arguments: Any
) -> None:
    """One run of the authors' test program: its references, layers, scales, filter and part of the text."""
    reference, settings = check.reference, check.reference.settings
    rules, chosen = settings["effective_settings"][prefix], settings["chosen_reference_images"][prefix]
    arguments = {
        "scored": tuple(rules["features_list"]),
        "scales": tuple(rules["scale_list"]),
        "sigma": float(rules["sigma_argument"]) if rules["gaussian_applied"] else 0.0,
        "alpha": rules["alpha"],
        "faithful": True,
    } | arguments
    detector = build(reference, tower, folder, **arguments)
    classes, shots = _classes(reference), rules["k_shot"]
    images, scores, grids, maps = reference.pixels(), [], [], []
    if detector.compared not in encoded:
        encoded[detector.compared] = [detector.encode(one[None]) for one in images]
    for number, (rows, text) in enumerate(zip(classes, contexts, strict=True)):
        shown = _normal(reference, chosen[number * shots : (number + 1) * shots])
        context, parts = replace(text, banks=detector.banks(References(shown))), encoded[detector.compared][rows]
        found = list(detector.score_set(parts, context))
        scores += [
            torch.cat([detector.text_score(one, context) for one in parts]),
            torch.cat([one.pred_score for one in found]),
        ]
        grids += [detector.grid_maps(one, context).transpose(0, 1) for one in parts]
        maps += [one.anomaly_map for one in found]
        if number == 0:
            _inside(check, detector, parts[0], context, prefix)
            if (key := f"{prefix}anomaly_map_raw_image0") in reference:
                size = detector.backbone.image_size
                check("maps", key, upsample(grids[0].mean(dim=1), size, align_corners=True), tolerance=MAPS)
    smoothed = torch.cat(maps)
    check("scores", f"{prefix}text_score", torch.cat(scores[::2]), tolerance=MAPS)
    check("scores", f"{prefix}image_score", torch.cat(scores[1::2]), tolerance=SCALED)
    check("maps", f"{prefix}grid_maps", torch.cat(grids), tolerance=MAPS)
    check("maps", f"{prefix}map_max", smoothed.amax(dim=(1, 2)), tolerance=MAPS)
    if (key := f"{prefix}anomaly_map") in reference:
        check("maps", key, smoothed[: reference.shape(key)[0]], tolerance=MAPS)
    if prefix == "k1/":
        check("features", "image_features_raw", torch.cat([one.image for one in encoded[detector.compared]]), tolerance=RAW)


def _inside(check: Comparisons, detector: Any, features: ImageFeatures, context: Context, prefix: str) -> None:
    """Logits, weights and results of the look-up of the first picture, by layer and scale."""
    if f"{prefix}lookup_weights_image0" not in check.reference:
        return
    logits, found, values, generators = [], [], [], detector.generators
    for layer in detector.compared:
        tap = features.taps[layer]
        entries = generators.of_bank(context.banks[str(layer)], tap)
        one = generators(tap, entries)
        queries = generators.query(one.asked[:, 0])  # (R, L, C)
        logits.append(queries @ entries[0][:, 0].transpose(1, 2) / queries.shape[2] ** 0.5)
        found.append(one.found[:, 0])
        values.append(generators.value(tap.patches)[0])
    check("features", f"{prefix}lookup_weights_image0", sparsemax(torch.cat(logits)), tolerance=LOOKED_UP)
    if f"{prefix}lookup_logits_image0" in check.reference:
        check("features", f"{prefix}lookup_logits_image0", torch.cat([logits[0], logits[-1]]), tolerance=LOOKED_UP)
        check("features", f"{prefix}retrieved_image0", torch.cat([found[0], found[-1]]), tolerance=RETRIEVED)
        check("features", "query_value_tokens_image0", torch.stack([values[0], values[-1]]), tolerance=RAW)


def batch(reference: Reference) -> tuple[Batch, list[int]]:
    """The authors' training step and the class of each picture; the normal pictures are mirrored."""
    step = reference.settings["train"]
    (pairs,) = (value for key, value in step.items() if key.startswith("pairs"))
    queries, shown = zip(*pairs, strict=True)
    masks, labels = reference.tensor("masks_112").float()[list(queries)], torch.tensor(step["labels"])
    drawn = _normal(reference, list(shown)).flip(3)
    return Batch(reference.pixels()[list(queries)], labels, masks, ("x",) * len(pairs), references=drawn), step["classes"]


def training(check: Comparisons, detector: Any, contexts: list[Context], prefix: str, phase: int) -> None:
    """Logits, losses and gradients of one step in a phase, and in the first what the step changes."""
    reference, (step, classes) = check.reference, batch(check.reference)
    with torch.no_grad():
        text = torch.cat([detector.text_of(contexts[one]) for one in classes]).clone()
        check("inputs", "train/good_input_uint8", _pixels(step.references))
    learned = {key: tensor for key, tensor in detector.named_parameters() if not key.startswith("backbone.")}
    for key, tensor in learned.items():
        tensor.requires_grad_(key.startswith(tuple(detector.schedule.phases[phase].rates)))
    detector.start_phase(phase)
    found, context = detector.looked_up(step), Context(text)
    for side, name in (("asked", "query"), ("found", "retrieved")):
        logits = detector.fused_logits([getattr(one, side) for one in found], context)
        check("losses", f"{prefix}logits_{name}", logits, scale=1.0, tolerance=LOGITS)
    parts = detector.loss(step, context)
    for own, theirs in (("normal", "query"), ("above", "CQC"), ("picture", "query_reg"), ("retrieved", "retrieved_reg")):
        check("losses", f"{prefix}loss_{theirs}", parts[own] / (1 if own == "normal" else WEIGHT), scale=1.0)
    check("losses", f"{prefix}loss", loss := torch.stack([*parts.values()]).sum(), scale=1.0)
    optimizer = torch.optim.Adam(learned.values(), detector.schedule.lr, detector.schedule.betas)
    loss.backward()
    _gradients(check, learned, detector, prefix)
    if phase == 0:
        optimizer.step()
        for key in [key for key in reference if key.startswith("train/after_step/")]:
            check("features", key, learned[_own(detector, key.removeprefix("train/after_step/"))])


def _gradients(check: Comparisons, learned: dict[str, Tensor], detector: Any, prefix: str) -> None:
    norms = check.reference.settings["train"][f"{prefix}grad_norms"]
    names = {key: _own(detector, key) for key in norms}
    taught = {key for key, tensor in learned.items() if tensor.grad is not None}
    check.equal(
        "gradients", f"{prefix}learned tensors", taught, {names[key] for key, norm in norms.items() if norm is not None}
    )
    for key, norm in norms.items():
        if norm is None:
            continue
        found = learned[names[key]].grad
        assert found is not None
        if key in NOISE:
            check.equal("gradients", f"{prefix}grad_norms/{key}", float(found.norm()) < NEAR_ZERO, norm < NEAR_ZERO)
        else:
            check.number("gradients", f"{prefix}grad_norms/{key}", found.norm(), norm)
        if (stored := f"{prefix}grad/{key}") in check.reference:
            largest = float(abs(check.reference.stored(stored)[1]).max())
            check("gradients", stored, found[: check.reference.shape(stored)[0]], scale=largest, tolerance=ELEMENTS)


def _pixels(images: Any) -> Tensor:
    """The uint8 pictures (N, H, W, 3) of what ``normalised`` made."""
    mean, std = (torch.tensor(one)[:, None, None] for one in (CLIP_MEAN, CLIP_STD))
    return ((images * std + mean) * 255).round().permute(0, 2, 3, 1)


def _own(detector: Any, key: str) -> str:
    """Our name of one of the authors' tensors."""
    (name,) = detector.authors_file.own_names({key: key})
    return str(name)


PROOF = Proof("dictas", "dictas", run, inputs=("input_uint8", "masks_112"))
