"""SubspaceAD beside its authors' code (CLendering/SubspaceAD, 2ca687e)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from zsad.alignment.aggregation import Aggregation, picture_scores
from zsad.alignment.maps import upsample
from zsad.backbones.tapped import salient
from zsad.errors import UsageError
from zsad.images.rotation import rotated
from zsad.references.components import Rule
from zsad.references.sum_banks import SECOND, SUMS, fit, joined, unpacked
from zsad.registry import create, load_backbone
from zsad.types import Bank, Context, ImageFeatures, References
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_clip import fingerprint
from zsad.verification.tiny_dino import tiny_dino_state_dict
from zsad.verification.tiny_pictures import described_pictures

__all__ = ["PROOF", "build", "run"]

TOKENS = 2e-5  # tolerance of tokens, whose values reach 9
RELATIVE = 1e-5  # of maps and scores, as a share of the map's maximum
ATTENTION = 7  # block of the saliency
SINGLE = 0  # of the references, the one of the variants with a single reference
CROPPED = 224 / 256  # part of the side that their centre crop keeps
AGGREGATIONS: dict[str, Aggregation] = {"max": "max", "p99": "p99", "mtop5": "top5", "mtop1p": "top1", "mean": "mean"}
RULES: tuple[Rule, ...] = ("reconstruction", "mahalanobis", "euclidean", "cosine")


def build(reference: Reference, folder: Path, key: str = "dino", **arguments: Any) -> Any:
    """The method on the tiny weights, without rotations unless they are asked for."""
    path, size = folder / f"{key.replace('/', '-')}.safetensors", reference.settings["image_size"]
    if not path.is_file():
        _write_tower(reference, key, path)
    return create("subspacead", backbone=load_backbone(f"file:{path}", image_size=size), **{"rotations": 0} | arguments)


def _write_tower(reference: Reference, key: str, path: Path) -> None:
    """Raises ``UsageError`` where the regenerated weights are not those that the authors' code ran on."""
    settings = reference.settings
    state = tiny_dino_state_dict(settings["seed"], swiglu=key == "dino")
    if (found := fingerprint(state)) != (stored := settings[key]["fingerprint"]):
        raise UsageError(f"The tiny DINOv2 has the fingerprint {found[:12]}, the stored outputs belong to {stored[:12]}.")
    save_file(state, path)


def inputs(detector: Any, pixels: Any) -> Tensor:
    """(N, H, W, 3) resized pixels -> (N, 3, H, W) as the tower takes them."""
    return torch.stack([detector.backbone.preprocess(one) for one in np.asarray(pixels)])


def resized(pictures: Any, size: int, crop: float = 1.0) -> Tensor:
    """Pictures (N, H, W, 3) as their processor resizes them: torch's bicubic on integers; of a larger square the centre."""
    whole = int(size / crop)
    found = F.interpolate(torch.as_tensor(pictures).permute(0, 3, 1, 2), size=(whole, whole), mode="bicubic", antialias=True)
    first = (whole - size) // 2
    return found[:, :, first : first + size, first : first + size].permute(0, 2, 3, 1)


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Tokens and hidden states, one and two references, all rules and scores, rotations, batch, mask, MLP, concat and crop."""
    detector, settings = build(reference, folder), reference.settings
    pictures = described_pictures(settings)[0]
    size, tests = settings["image_size"], len(reference["input_uint8"])
    images, shown = inputs(detector, reference["input_uint8"]), inputs(detector, reference["reference_input_uint8"])
    check("inputs", "input_first", images[:1])
    check("inputs", "images_uint8", pictures)
    check("inputs", "input_uint8", resized(pictures[:tests], size))
    check("inputs", "reference_input_uint8", resized(pictures[tests:], size))
    with torch.inference_mode():
        features = detector.encode(images)
        _tower(check, detector, images, features, shown)
        context = detector.prepare(references=References(shown[SINGLE : SINGLE + 1]))
        variant(check, detector, features, context, "k1/")
        _rules(check, detector, features, context)
        variant(check, detector, features, detector.prepare(references=References(shown)), "k2/")
        _rotations(check, folder, images, pictures[tests : tests + 1])
        _batch(check, detector, features)
        _masked(check, folder, images, shown)
        concat = {"merge": "concat", "taps": _layers(settings)}
        for prefix, key, arguments in (("mlp/", "mlp/dino", {}), ("concat/", "dino", concat)):
            other = build(reference, folder, key, **arguments)
            found = other.encode(images)
            check("features", f"{prefix}tokens_image0", _tokens(found)[:1], tolerance=TOKENS)
            variant(check, other, found, other.prepare(references=References(shown[SINGLE : SINGLE + 1])), prefix)
        _cropped(check, detector, pictures, tests)


def _layers(settings: dict[str, Any]) -> tuple[int, ...]:
    """The blocks of "--layers=-12,-15", places in the list of hidden states."""
    (numbers,) = [word.partition("=")[2] for word in settings["variants"]["concat/"]["options"] if "layers=" in word]
    return tuple(settings["n_hidden_states"] + int(number) for number in numbers.split(","))


def _tokens(features: ImageFeatures) -> Tensor:
    (tap,) = features.taps.values()
    return tap.patches


def _tower(check: Comparisons, detector: Any, images: Tensor, features: ImageFeatures, shown: Tensor) -> None:
    tower, states = detector.backbone, list(detector.backbone.states(images[:1]))
    for key in [key for key in check.reference if key.startswith("hidden_")]:
        check("features", key, states[int(key.split("_")[1])], tolerance=TOKENS)
    check("features", "last_hidden_image0", tower.norm(states[-1]), tolerance=TOKENS)
    check("features", "tokens", _tokens(features), tolerance=TOKENS)
    check("features", "reference_tokens", _tokens(detector.encode(shown)), tolerance=TOKENS)
    saliency = tower.encode_image(images, saliency=ATTENTION).streams["saliency"][ATTENTION]
    check("features", f"saliency_block{ATTENTION}", saliency.patches)


def variant(check: Comparisons, detector: Any, features: ImageFeatures, context: Context, prefix: str) -> None:
    """Fit, patch distances, maps and scores of one variant."""
    reference, facts = check.reference, check.reference.settings["variants"][prefix]
    subspace = fit(context.banks, detector.components, detector.over_all)
    sums = unpacked(context.banks[SUMS].rows)
    exact = (unpacked(context.banks[SECOND].rows) if SECOND in context.banks else sums).subspace(
        detector.components, centre=sums, over_all=detector.over_all
    )
    check.equal("sentences", f"{prefix}k", subspace.held, facts["k"])
    check.equal("sentences", f"{prefix}total_tokens", sums.count + sums.left_out, facts["total_tokens"])
    if "foreground_tokens" in facts:
        check.equal("sentences", f"{prefix}foreground_tokens", sums.count, facts["foreground_tokens"])
    shares = exact.values.cumsum(0) / exact.values.sum()
    for share, stored in zip(shares[subspace.held - 2 : subspace.held], facts["explained_at_k_minus_1_and_k"], strict=True):
        check.number("scores", f"{prefix}explained", share, stored)
    if f"{prefix}mean" in reference:
        check("features", f"{prefix}mean", exact.mean)
    if f"{prefix}eigenvalues" in reference:
        check("losses", f"{prefix}eigenvalues", exact.values, scale=float(exact.values[0]))
    patches = _distances(detector, features, context)
    highest = float(patches.max())
    check("maps", f"{prefix}map_8x8", patches, tolerance=RELATIVE * highest)
    found = detector.score(features, context)
    if f"{prefix}map" in reference:
        check("maps", f"{prefix}map", found.anomaly_map[: reference.shape(f"{prefix}map")[0]], tolerance=RELATIVE * highest)
    check("scores", f"{prefix}image_score", found.pred_score, tolerance=RELATIVE * highest)


def _distances(detector: Any, features: ImageFeatures, context: Context, masked: bool = True) -> Tensor:
    """(B, L), before they become a map; 0 behind the mask."""
    subspace, tokens = fit(context.banks, detector.components, detector.over_all), _tokens(features)
    found = subspace.distance(tokens.flatten(0, 1), detector.rule, detector.drop).view(tokens.shape[:2])
    kept = salient(features, 0.15) if masked else None
    return found if kept is None else found * kept


def _rules(check: Comparisons, detector: Any, features: ImageFeatures, context: Context) -> None:
    """The other rules on the model of one reference, and the other ways to a score."""
    for name, rule, drop in [*((one, one, 0) for one in RULES), ("reconstruction_drop2", "reconstruction", 2)]:
        found = _distances(create("subspacead", backbone=detector.backbone, rule=rule, drop=drop), features, context)
        check("maps", f"k1/score_{name}", found, tolerance=RELATIVE * float(found.max()))
    (tap,) = features.taps.values()
    raw = upsample(_distances(detector, features, context).unflatten(1, tap.grid), detector.backbone.image_size)
    highest = float(raw.max())
    check("maps", "map_resized_before_blur", raw[:1], tolerance=RELATIVE * highest)
    maps = detector.score(features, context).anomaly_map
    for theirs, own in AGGREGATIONS.items():
        check("scores", f"k1/image_score_{theirs}", picture_scores(maps, own), tolerance=RELATIVE * highest)


def _rotations(check: Comparisons, folder: Path, images: Tensor, picture: Any) -> None:
    """Two draws of angles; each pass has the picture itself and its turned copies."""
    reference = check.reference
    facts = reference.settings["variants"]["k1rot/"]
    count = len(facts["angles_pass1"])
    detector = build(reference, folder, rotations=count, faithful=True)
    check("inputs", "k1rot/angles", torch.tensor(detector.reference_angles), tolerance=1e-4)
    turned = [rotated(picture[0], angle) for angle in detector.reference_angles]
    check("inputs", "k1rot/rotated_uint8", turned[0])
    size = reference.settings["image_size"]
    pixels = resized(np.stack(turned), size)
    check("inputs", "k1rot/rotated_input_uint8", pixels)
    views = [detector.encode(one[None]) for one in inputs(detector, torch.cat([resized(picture, size), pixels]))]
    for number in (1, 2):
        first = 1 + (number - 1) * count
        tokens = torch.cat([_tokens(one) for one in views[first : first + count]])
        check("features", f"k1rot/rotated_tokens_pass{number}", tokens, tolerance=TOKENS)
    banks = dict(detector.prepare(references=References(inputs(detector, resized(picture, size)))).banks)
    for key in (SUMS, SECOND):  # of copies that were turned before they were resized
        rows = [found[key][0] for view, one in enumerate(views) if key in (found := detector.view_rows(one, view))]
        banks[key] = Bank(joined(key, rows), banks[key].source)
    variant(check, detector, detector.encode(images), Context(banks=banks), "k1rot/")


def _batch(check: Comparisons, detector: Any, features: ImageFeatures) -> None:
    """No references: the fit of the batch itself."""
    apart = [features[i : i + 1] for i in range(len(features))]
    found = list(detector.score_set(apart, detector.prepare()))
    rows = joined(SUMS, [detector.reference_rows(one)[SUMS][0] for one in apart])
    context = Context(banks={SUMS: Bank(rows, torch.zeros(len(rows), dtype=torch.int64))})
    variant(check, detector, features, context, "zero/")
    highest = float(_distances(detector, features, context).max())
    check("scores", "zero/image_score", torch.cat([one.pred_score for one in found]), tolerance=RELATIVE * highest)


def _masked(check: Comparisons, folder: Path, images: Tensor, shown: Tensor) -> None:
    detector = build(check.reference, folder, saliency_block=ATTENTION)
    features, context = detector.encode(images), detector.prepare(references=References(shown[SINGLE : SINGLE + 1]))
    patches = _distances(detector, features, context, masked=False)
    check("maps", "k1mask/map_8x8_before_mask", patches, tolerance=RELATIVE * float(patches.max()))
    hidden = (_distances(detector, features, context) == 0).sum(1).tolist()
    facts = check.reference.settings["variants"]["k1mask/"]
    check.equal("sentences", "k1mask/masked_patches_per_image", hidden, facts["masked_patches_per_image"])
    variant(check, detector, features, context, "k1mask/")


def _cropped(check: Comparisons, detector: Any, pictures: Any, tests: int) -> None:
    """The centre of each picture."""
    pixels = resized(pictures, detector.backbone.image_size, CROPPED)
    check("inputs", "crop/input_uint8_image0", pixels[0])
    images = inputs(detector, pixels)
    features = detector.encode(images[:tests])
    check("features", "crop/tokens_image0", _tokens(features)[:1], tolerance=TOKENS)
    variant(check, detector, features, detector.prepare(references=References(images[tests : tests + 1])), "crop/")


PROOF = Proof(
    "subspacead",
    "subspacead",
    run,
    inputs=("input_uint8", "reference_input_uint8"),
    left_out={"masks_uint8": "where the drawn defects are; no part of the method"},
)
