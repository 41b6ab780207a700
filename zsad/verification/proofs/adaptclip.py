"""AdaptCLIP beside its authors' code (gaobb/AdaptCLIP, 354d9e3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsad.alignment.maps import average, upsample
from zsad.prompts.prompt_set import encode_ensemble
from zsad.registry import create
from zsad.types import Batch, Context, ImageFeatures, References
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference, normalised
from zsad.verification.tiny_clip import described_tensors
from zsad.verification.tiny_pictures import described_pictures, resized_pictures
from zsad.verification.towers import TAPS, tiny_backbone

__all__ = ["PROOF", "backbone", "batch", "build", "outputs", "training", "write_learners"]

RAW = 2e-5  # tolerance of features and logits
NORMS, ELEMENTS = 3e-4, 1e-3  # of gradients, the second as a share of the largest one: a ReLU's kink may lie on either side
TESTS = re.compile(r"tests (\d+)\.\.(\d+) class 0, (\d+)\.\.(\d+) class 1")
VARIANTS: dict[str, dict[str, Any]] = {
    "k1/": {},
    "k2/": {},
    "k1_nocontext/": {"context": False},
    "k1_harmonic/": {"fusion": "harmonic"},
}


def write_learners(reference: Reference, tower: Any, path: Path) -> Path:
    """A checkpoint in the authors' layout, with the frozen embeddings that it holds."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in described_tensors(reference.settings).items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = tensor
        if name.endswith("running_var"):
            groups[group][name.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
    start = tower.token_embedding.weight[tower.token_embedding.num_embeddings - 2].detach().clone()
    for side in ("pos", "neg"):
        groups["textual_learner"][f"token_prefix_{side}"] = start.view(1, 1, 1, -1)
        groups["textual_learner"][f"tokenized_prompts_{side}"] = torch.zeros(1, 1, 77, dtype=torch.int32)
    torch.save(groups, path)
    return path


def backbone(reference: Reference, folder: Path) -> Any:
    """The tiny CLIP as the authors' code runs it."""
    size = reference.settings["settings"]["image_size"]
    return tiny_backbone(reference, folder, activation="quick_gelu", position_embedding="bilinear", image_size=size)


def build(reference: Reference, tower: Any, folder: Path, **arguments: Any) -> Any:
    """The method on the tiny weights, from a checkpoint in the authors' layout."""
    return create("adaptclip", backbone=tower, checkpoint=write_learners(reference, tower, folder / "a.pth"), **arguments)


def classes(reference: Reference) -> list[slice]:
    """The test pictures of each class."""
    hit = TESTS.search(reference.settings["images"])
    assert hit
    return [slice(int(hit[1]), int(hit[2]) + 1), slice(int(hit[3]), int(hit[4]) + 1)]


def redrawn(reference: Reference, numbers: list[int]) -> Tensor:
    """Pictures of the fixture, (N, H, W, 3) uint8, resized."""
    drawn = described_pictures(reference.settings)[0][numbers]
    return resized_pictures(drawn, reference.settings["settings"]["image_size"])


def normal(reference: Reference, numbers: list[int]) -> Tensor:
    """References (N, 3, H, W) as the tower takes them."""
    return normalised(redrawn(reference, numbers).permute(0, 3, 1, 2).float() / 255)


def batch(reference: Reference) -> Batch:
    """The authors' training step: test pictures, each with a normal picture of its class."""
    step = reference.settings["train"]
    order, masks = step["order_of_query_images"], reference.tensor("masks_112").float()
    drawn = normal(reference, step["prompt_images"])
    return Batch(reference.pixels()[order], torch.tensor(step["labels"]), masks[order], ("x",) * len(order), references=drawn)


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Text and features, every branch, no, one and two references, both further settings, one step of training."""
    tower = backbone(reference, folder)
    detector, images = build(reference, tower, folder), reference.pixels()
    order = reference.settings["reference_order"]
    check("inputs", "input_first", images[:1])
    check("inputs", "reference_input_uint8", redrawn(reference, order))
    with torch.inference_mode():
        _text(check, detector)
        _features(check, detector, images, "")
        _features(check, detector, normal(reference, order), "reference_")
        features, context = detector.encode(images), detector.prepare()
        _branches(check, detector, features, context)
        _maps(check, detector, features, [context] * len(classes(reference)), "zero/")
    for prefix, arguments in VARIANTS.items():
        detector = build(reference, tower, folder, **arguments)
        with torch.inference_mode():
            outputs(check, detector, features, context, prefix)
    training(check, build(reference, tower, folder), batch(reference))


def _text(check: Comparisons, detector: Any) -> None:
    tower, sentences = detector.backbone, check.reference.settings["sentences"]
    context, pair = detector.prepare(), list(detector.prompts.sentences())
    check.equal("sentences", "learned", pair, sentences["learned"])
    ids = tower.tokenize(pair)
    check("sentences", "text/learned_tokens", ids)
    stored = check.reference.shape("text/learned_prompts_first13")
    learned = torch.stack([detector.prompts.normal, detector.prompts.anomalous])
    tokens = tower.token_embedding(ids)
    embedded = torch.cat([tokens[:, :1], learned, tokens[:, 1 + learned.shape[1] :]], dim=1)[:, : stored[1]]
    check("text", "text/learned_prompts_first13", embedded)
    check("text", "text/learned_features", context.extra["learned"], tolerance=RAW)
    check(
        "text", "text/static_features", encode_ensemble(tower, [*context.sentences.values()], normalize="none"), tolerance=RAW
    )
    for own, theirs in (("normal", "normal"), ("anomalous", "abnormal")):
        lines = list(context.sentences[own])
        check.equal("sentences", f"static_{theirs}", lines, sentences[f"static_{theirs}"])
        check("sentences", f"text/static_{theirs}_tokens", tower.tokenize(lines))
        check("text", f"text/static_{theirs}_sentence_features", tower.encode_text(lines), tolerance=RAW)


def _features(check: Comparisons, detector: Any, images: Tensor, prefix: str) -> None:
    features = detector.encode(images)
    check("features", f"{prefix}image_features_raw", features.image, tolerance=RAW)
    for layer, tap in features.streams["local"].items():
        key = f"{prefix}patch_features_{layer}"
        tokens = torch.cat([tap.cls[:, None], tap.patches], dim=1)
        check("features", key, tokens[: check.reference.shape(key)[0]], tolerance=RAW)


def _branches(check: Comparisons, detector: Any, features: ImageFeatures, context: Context) -> None:
    size = detector.backbone.image_size
    for name, branch in detector.branches(features, context.text, context.extra["learned"]).items():
        check("maps", f"{name}_adapter/grid_probs", branch.grid.softmax(1))
        check("scores", f"{name}_adapter/image_logits", branch.image, tolerance=RAW)
        check("scores", f"{name}_adapter/image_score", branch.image_probability())
        check("maps", f"{name}_adapter/map_image0", branch.probability_map(size)[:1])


def outputs(check: Comparisons, detector: Any, features: ImageFeatures, context: Context, prefix: str) -> None:
    """Everything that a variant with references computes."""
    reference, size = check.reference, detector.backbone.image_size
    parts = classes(reference)
    chosen = normal(reference, reference.settings["chosen_reference_images"][prefix]).chunk(len(parts))  # by class
    contexts = [replace(context, banks=detector.banks(References(images))) for images in chosen]
    compared: dict[int, list[Any]] = {layer: [] for layer in TAPS}
    for part, own in zip(parts, contexts, strict=True):
        rows = {layer: own.banks[str(layer)].rows[None] for layer in TAPS}
        for layer, one in detector.query.compare(features[part].streams["local"], rows).items():
            compared[layer].append(one)

    def every(what: Any) -> Tensor:
        return torch.stack([torch.cat([what(one) for one in compared[layer]]) for layer in TAPS])  # (layers, B, ...)

    distance = every(lambda one: one.distance)
    check("maps", f"{prefix}align_grid", distance)
    check("scores", f"{prefix}pq_image_logits", every(lambda one: one.image), tolerance=RAW)
    check("scores", f"{prefix}pq_image_score", every(lambda one: one.image_probability()).mean(0))
    if f"{prefix}align_index" in reference:  # this variant was recorded step by step
        check("sentences", f"{prefix}align_index", every(lambda one: one.index))
        seen = every(lambda one: one.probability_map(size)).mean(0)
        branches = detector.branches(features, context.text, context.extra["learned"]).values()
        mixed = average([*(branch.probability_map(size) for branch in branches), seen], detector.fusion)
        check("maps", f"{prefix}align_map_image0", average([upsample(one, size) for one in distance], "harmonic")[:1])
        check("maps", f"{prefix}pq_grid_probs_32_abnormal", every(lambda one: one.grid.softmax(1)[:, 1])[:, :1])
        check("maps", f"{prefix}pq_map_image0", seen[:1])
        check("maps", f"{prefix}average_map_image0", mixed[:1])
    _maps(check, detector, features, contexts, prefix)


def _maps(check: Comparisons, detector: Any, features: ImageFeatures, contexts: list[Context], prefix: str) -> None:
    reference, sigma = check.reference, detector.sigma
    parts = list(zip(classes(reference), contexts, strict=True))
    found = [detector.score(features[part], own) for part, own in parts]
    maps = torch.cat([one.anomaly_map for one in found])
    check("scores", f"{prefix}image_score", torch.cat([one.pred_score for one in found]))
    check("scores", f"{prefix}anomaly_map_max", maps.amax(dim=(1, 2)))
    if (key := f"{prefix}anomaly_map") in reference:
        check("maps", key, maps[: reference.shape(key)[0]])
    detector.sigma = 0.0
    check("maps", f"{prefix}anomaly_map_raw_image0", detector.score(features[:1], contexts[0]).anomaly_map)
    detector.sigma = sigma


def training(check: Comparisons, detector: Any, step: Batch) -> None:
    """Losses, gradients and running statistics of the authors' first step."""
    context = detector.prepare()
    for name in detector.train_mode:
        getattr(detector, name).train()
    losses = detector.loss(step, context)
    torch.stack(list(losses.values())).sum().backward()
    for name in ("visual", "textual"):
        terms = [losses[f"{name} {key}"] for key in ("picture", "focal", "dice", "dice normal")]
        check("losses", f"train/{name}_terms", torch.stack(terms))
    check("losses", "train/pq_ce", torch.stack([losses[f"query {layer} picture"] for layer in TAPS]))
    terms = [torch.stack([losses[f"query {layer} {key}"] for key in ("focal", "dice", "dice normal")]) for layer in TAPS]
    check("losses", "train/pq_terms", torch.stack(terms))
    pictures = torch.stack([part for key, part in losses.items() if key.endswith("picture")]).sum()
    check("losses", "train/global_loss", pictures)
    check("losses", "train/local_loss", torch.stack(list(losses.values())).sum() - pictures)
    _gradients(check, detector)
    own = detector.learned_state()
    for key in [key for key in check.reference if key.startswith("train/after_step/")]:
        check("features", key, own[_own(detector, key.removeprefix("train/after_step/"))])
    counts = check.reference.settings["train"]["num_batches_tracked_after_one_step"]
    check.equal("features", "train/batches", {key: int(own[_own(detector, key)]) for key in counts}, counts)


def _gradients(check: Comparisons, detector: Any) -> None:
    norms: Mapping[str, float] = check.reference.settings["train"]["grad_norms"]
    gradients = {key: p.grad for key, p in detector.named_parameters() if p.grad is not None}
    names = {key: _own(detector, key) for key in norms}
    check.equal("gradients", "train/learned tensors", set(gradients), set(names.values()))
    for key, norm in norms.items():
        check.number("gradients", f"train/grad_norms/{key}", gradients[names[key]].norm(), norm, tolerance=NORMS)
        if (stored := f"train/grad/{key}") in check.reference:
            found = gradients[names[key]]
            rows = found if key.startswith("textual") else found[: check.reference.shape(stored)[0]]
            largest = float(abs(check.reference.stored(stored)[1]).max())
            check("gradients", stored, rows, scale=largest, tolerance=ELEMENTS)


def _own(detector: Any, key: str) -> str:
    """Our name of one of the authors' tensors; each of theirs that is a copy for one layer is our one for all."""
    last = re.sub(r"^(pq_learner\.\w+_adapter)\.\d\.", r"\1.3.", key)
    (name,) = detector.authors_file.own_names({last: key})
    return str(name)


PROOF = Proof(
    "adaptclip",
    "adaptclip",
    run,
    inputs=("input_uint8", "masks_112"),
    left_out={"self/*": "a picture that is its own reference: the authors' distances are rounding noise around zero"},
)
