"""AdaCLIP beside its authors' code (caoyunkang/AdaCLIP, e27ee32)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsad.alignment import semantic_fusion
from zsad.prompts import hybrid
from zsad.registry import create
from zsad.types import Batch, Context, ImageFeatures
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import PATCHES, Reference
from zsad.verification.tiny_clip import random_tensor
from zsad.verification.towers import TAPS, tiny_backbone

__all__ = ["PROOF", "VARIANTS", "backbone", "batch", "build", "write_prompts"]

SHAPE = {"embed_dim": 128}  # their code needs the width of the text tower
VARIANTS: dict[str, dict[str, Any]] = {
    "k20": {},
    "k4": {"k_clusters": 4},
    "nohsf": {"use_hsf": False},
    "depth3len2": {"depth": 3, "length": 2},
    "nohalf_k20": {"half_prompts": False},
}
PICTURES = [(variant, 0) for variant in VARIANTS] + [("k20", 1)]
CLUSTERED = 1e-4  # of a score with clusters, whose means add up what the features differ by
# Rounding edges. About fifteen of a picture's 4480 prompt values lie so near to the middle of two float16 numbers that the
# rounding of float32 decides; one of k20/img1's does. Here it moves its maps by 2.04e-5 (nohalf_k20, without rounding: 1.3e-6);
# under relative noise of 1e-7 on the input, as of another processor, by up to 2.7e-5. Losses moved by up to 1.2e-5 so.
ROUNDED_MAP, ROUNDED_LOSS = 4e-5, 2e-5


def write_prompts(path: Path, settings: dict[str, Any], depth: int = 4, length: int = 5) -> Path:
    """The fixture's learned tensors, in the layout that the authors' ``save`` writes."""
    state = {}
    for name, parameter in settings["extra_tensors"]["params"].items():
        index, shape = int(name.split(".")[2]), list(parameter["shape"])
        if "static" in name:
            shape[0] = length
        if index < (depth if "static" in name else length if "dynamic" in name else 99):
            state[f"clip_model.{name}"] = random_tensor(settings["seed"], f"adaclip/{name}", shape, parameter["std"])
    torch.save(state, path)
    return path


def backbone(reference: Reference, folder: Path) -> Any:
    """The tiny CLIP as the authors' code runs it."""
    return tiny_backbone(reference, folder, SHAPE, activation="gelu", position_embedding="bicubic", image_size=112)


def build(reference: Reference, folder: Path, tower: Any = None, **arguments: Any) -> Any:
    """The method on the tiny weights, from a checkpoint in the authors' layout."""
    sizes = {key: arguments[key] for key in ("depth", "length") if key in arguments}
    checkpoint = write_prompts(folder / "prompts.pth", reference.settings, **sizes)
    return create("adaclip", backbone=tower or backbone(reference, folder), checkpoint=checkpoint, **arguments)


def batch(reference: Reference) -> Batch:
    """The authors' training step: one anomalous picture."""
    masks = reference.tensor("train/gt")[None].float()
    return Batch(reference.pixels()[:1], torch.tensor([1]), masks, tuple(reference.settings["class_names"][:1]))


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Sentences, features, and for each variant scores and maps, with the stored clusters too; one step of training."""
    tower, images, names = backbone(reference, folder), reference.pixels(), reference.settings["class_names"]
    check("inputs", "input_first", images[:1])
    for variant, index in PICTURES:
        detector = build(reference, folder, tower, **VARIANTS[variant])
        with torch.inference_mode():
            context, features = detector.prepare(names[index]), detector.encode(images[index : index + 1])
            _outputs(check, detector, features, context, f"{variant}/img{index}/")
            if (variant, index) == ("k20", 0):
                _steps(check, detector, images[:1], features, context)
        if (variant, index) == ("k20", 1):
            _sentences(reference, check, detector)
    for stem, half in (("train", True), ("nohalf_train", False)):
        _training(check, build(reference, folder, tower, half_prompts=half), batch(reference), stem)


def _sentences(reference: Reference, check: Comparisons, detector: Any) -> None:
    for name, stored in reference.settings["prompts"].items():
        context = detector.prepare(name)
        found = [list(context.sentences["normal"]), list(context.sentences["anomalous"])]
        check.equal("sentences", f"prompts/{name}", found, [list(lines) for lines in stored])
        first = reference.settings["first_tokens"][name]
        check.equal("sentences", f"first_tokens/{name}", context.extra["tokens"][0, : len(first)].tolist(), first)


def _steps(check: Comparisons, detector: Any, image: Tensor, features: ImageFeatures, context: Context) -> None:
    """Every stored step of the first picture."""
    stem, text = "k20/img0/", detector.text_features(features, context)
    check("features", f"{stem}image_features_frozen", detector.backbone.encode_class(image))
    # raw states from the stored feature: a difference of 1e-6 in it turns the rounding of some prompt values
    dynamic = detector.visual_prompts.draw(check.reference.tensor(f"{stem}image_features_frozen"))
    raw = detector.backbone.encode_image(image, TAPS, prompts=hybrid.Append(detector.visual_prompts(dynamic)))
    check("features", f"{stem}dynamic_visual", dynamic)
    check("features", f"{stem}dynamic_text", features.streams["text_prompts"][0].patches)
    check("features", f"{stem}image_features_prompted", raw.image)
    check("features", f"{stem}proj_cls", features.image)
    check("text", f"{stem}text_features", text.transpose(1, 2))
    places = detector.margins(features, context)[1]
    for number, layer in enumerate(TAPS):
        check("features", f"{stem}patch_tokens_{layer}", raw.taps[layer].patches, part=PATCHES)
        check("features", f"{stem}proj_patch_{layer}", features.streams["patches"][layer].patches)
        check("maps", f"{stem}layer_softmax_map_{layer}", detector.resized(places[:, number], features).sigmoid())
        normal, anomalous = check.reference.tensor(f"{stem}logits_{layer}").unbind(dim=-1)
        apart = (places[:, number].sigmoid() - (anomalous - normal).sigmoid()).abs().max()
        check.number("scores", f"{stem}logits_{layer}", apart, 0.0)
        check.used(f"{stem}logits_{layer}")


def _outputs(check: Comparisons, detector: Any, features: ImageFeatures, context: Context, stem: str) -> None:
    """Map and score; with clusters, the score by the stored ones, since the authors' KMeans draws from a global generator."""
    margin, places = detector.margins(features, context)
    found = detector.score(features, context)
    if detector.use_hsf:
        margin = _margin_by_stored_clusters(check, detector, features, context, stem)
    score = CLUSTERED if detector.use_hsf else None
    check("scores", f"{stem}anomaly_score", margin.sigmoid(), tolerance=score)
    check("scores", f"{stem}score_softmax_pair", torch.stack([-margin, margin], 1).sigmoid(), tolerance=score)
    maps = f"{stem if f'{stem}anomaly_map_raw' in check.reference else 'k20/img0/'}anomaly_map"  # k4, nohsf: those of k20
    raw, tolerance = detector.resized(places.mean(dim=1), features).sigmoid(), ROUNDED_MAP if stem.endswith("img1/") else None
    check("maps", f"{maps}_raw", raw, tolerance=tolerance)
    if maps in check.reference:
        check("maps", maps, found.anomaly_map, tolerance=tolerance)


def _margin_by_stored_clusters(
    check: Comparisons, detector: Any, features: ImageFeatures, context: Context, stem: str
) -> Tensor:
    """The image's margin (1,) with the patches and the cluster labels that the authors' program stored."""
    patches = torch.stack([tap.patches[0] for tap in features.streams["patches"].values()])  # (layers, L, D)
    chosen = check.reference.tensor(f"{stem}hsf_topk_indices")
    suspicion = detector.margins(features, context)[1].mean(dim=1)  # (1, L)
    own = suspicion.topk(len(chosen), dim=1).indices[0]
    check.equal("inputs", f"{stem}hsf_topk_indices", set(own.tolist()), set(chosen.tolist()))
    fused = semantic_fusion.cluster_mean(patches[:, chosen], check.reference.tensor(f"{stem}hsf_labels"))[None]
    check("features", f"{stem}hsf_feature", fused)
    normal, anomalous = detector.text_features(features, context).unbind(dim=1)
    return (100 * (anomalous - normal) * semantic_fusion.fuse(features.image, fused)).sum(dim=-1)


def _training(check: Comparisons, detector: Any, step: Batch, stem: str) -> None:
    losses = detector.loss(step, detector.prepare(step.names[0]))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    terms = check.reference[f"{stem}/seg_terms"].sum(axis=0)  # focal, dice, dice
    check("losses", f"{stem}/classification_loss", losses["image"], tolerance=ROUNDED_LOSS)
    check.number("losses", f"{stem}/seg_terms focal", losses["focal"], terms[0], tolerance=ROUNDED_LOSS)
    check.number("losses", f"{stem}/seg_terms dice", losses["dice"], terms[1] + terms[2], tolerance=ROUNDED_LOSS)
    check.used(f"{stem}/seg_terms")
    check("losses", f"{stem}/loss", total, tolerance=ROUNDED_LOSS)
    gradients = {key: p.grad for key, p in detector.named_parameters() if p.grad is not None}
    norms = hybrid.AUTHORS_FILE.own_names(check.reference.settings[f"{stem}/grad_norms"])
    check.equal("gradients", f"{stem}/learned tensors", set(gradients), set(norms))
    for key, norm in norms.items():
        check.number("gradients", f"{stem}/grad_norms/{key}", gradients[key].norm(), norm)


PROOF = Proof(
    "adaclip",
    "adaclip",
    run,
    inputs=("input_uint8", "train/gt", "*hsf_labels", "*hsf_topk_indices"),
    left_out={
        "images_uint8": "the pictures before they are resized",
        "masks_uint8": "where the drawn defects are; train/gt holds them resized",
        "positional_embedding_resized": "on the way to the features, which are compared",
        "*score_other_kmeans_seeds": "what other seeds of KMeans give: a spread, no target",
        "train/score_pair": "on the way to the loss, which is compared",
        "train/grad/*": "the norms of all gradients are compared",
    },
)
