"""LAFT beside its authors' code (yuneg11/LAFT, 035b0b9): concept subspaces, nearest neighbours, and its use in WinCLIP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from zsad.alignment.concepts import Concept, concept_subspace, guided, ignored, mean_nearest
from zsad.prompts.concepts import ROWS
from zsad.prompts.prompt_set import encode_ensemble
from zsad.registry import create, load_backbone
from zsad.types import Bank, Context, ImageFeatures, References
from zsad.verification.compare import Comparisons
from zsad.verification.laft_parts import compare_concept, compare_metrics, compare_projections, pairs_of, score_along
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_pictures import described_pictures
from zsad.verification.towers import write_clip

__all__ = ["PROOF", "build", "pixels"]

TEXT, FEATURES, MAPS, CENT = 2e-5, 2e-5, 3e-5, 5e-5  # tolerances
SHOWN = (4, 16, 40)  # components whose maps are stored
SEMANTIC = {"patch_size": 16, "image_size": 112, "vision_layers": 12}
INDUSTRIAL = {"patch_size": 16, "image_size": 240, "vision_layers": 12}
TEMPLATES = {"color_mnist": "color_mnist", "celeba": "celeba_glass"}
COSINES = {"it": "image-text", "wt": "window-text", "ww": "window-window"}
FIRST = 10  # words of the normal list of the two lists, and of the text baselines


def build(reference: Reference, folder: Path, method: str, tower: str, **arguments: Any) -> Any:
    """The method on the tiny weights of the image-level ("tiny-quickgelu") or the industrial program ("tiny-240")."""
    shape, activation = (INDUSTRIAL, "gelu") if tower == "tiny-240" else (SEMANTIC, "quick_gelu")
    path = write_clip(reference, reference.settings["weights"][tower]["fingerprint"], folder / f"{tower}.pt", **shape)
    return create(method, backbone=load_backbone(f"file:{path}", activation=activation), **arguments)


def pixels(pictures: Any, side: int) -> Tensor:
    """Pictures (N, H, W, 3), the shorter side resized, the centre cut out: (N, side, side, 3) uint8."""
    found = []
    for one in pictures:
        height, width = one.shape[:2]
        size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
        resized = Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)
        left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
        found.append(torch.from_numpy(np.array(resized.crop((left, top, left + side, top + side)))))
    return torch.stack(found)


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Projections alone, metrics, the image-level program with four lists of words, WinCLIP with six settings."""
    pictures = described_pictures(reference.settings)[0]
    with torch.inference_mode():
        compare_projections(check)
        compare_metrics(check)
        _semantic(check, folder, pictures)
        _industrial(check, folder, pictures)


# ------------------------------------------------------------------ the image-level program
def _semantic(check: Comparisons, folder: Path, pictures: Any) -> None:
    reference, settings = check.reference, check.reference.settings
    detector = build(reference, folder, "laft", "tiny-quickgelu")
    raw = pixels(pictures, SEMANTIC["image_size"])
    check("inputs", "sem/input_uint8", raw[:4])
    tests = len(settings["test_attributes"])
    images = torch.stack([detector.backbone.preprocess(one.numpy()) for one in raw[:-2]])  # their rule drops the last two
    check("inputs", "sem/input_first", images[:1])
    encoded = detector.encode(images[:tests])
    banks = detector.prepare(references=References(images[tests:])).banks
    features, train = encoded.image, banks["image"].rows
    check("features", "sem/test_features", features, tolerance=FEATURES)
    check("features", "sem/train_features", train, tolerance=FEATURES)
    for count in (5, 30):
        check("scores", f"sem/score_knn_no_projection_k{count}", mean_nearest(features, train, count))
    for name, facts in settings["semantic"].items():
        text = _words(detector, settings, facts)
        check("text", f"{name}/text_features", text[: reference.shape(f"{name}/text_features")[0]], tolerance=TEXT)
        concept = concept_subspace(text)
        rank = facts["rank"]
        check.equal("sentences", f"{name}: rank", len(concept.values), rank)
        compare_concept(check, f"{name}/", concept, {"projector_8": 8} | ({"projector_24": 24} if rank >= 24 else {}))
        way = guided if facts["projection"] == "inner" else ignored
        last = min(rank, 63) if way is ignored else rank
        rows = [score_along(way, features, train, concept.basis[:n], facts["n_neighbors"]) for n in range(2, last + 1)]
        check("scores", f"{name}/score", torch.stack(rows), part=slice(0, len(rows)))
        if name == "guide_number":
            theirs = reference.tensor("guide_number/readme_basis_24")  # of their README, a random approximation
            check("scores", "guide_number/readme_score_24", score_along(guided, features, train, theirs, facts["n_neighbors"]))
            _method(check, detector, encoded, banks, concept)
            _text_baselines(check, detector, features, train, text, facts["n_neighbors"])


def _words(detector: Any, settings: dict[str, Any], facts: dict[str, Any]) -> Tensor:
    """(entries, D): a word is the mean of its un-normalised sentences; a flattened list has a row per sentence."""
    templates = settings["templates"][TEMPLATES[facts["dataset"]]]
    lists = [[template.format(word) for template in templates] for word in facts["words"]]
    entries = lists if facts["nested"] else [[line] for lines in lists for line in lines]
    return encode_ensemble(detector.backbone, entries, normalize="none")[0]


def _method(check: Comparisons, detector: Any, features: ImageFeatures, banks: Mapping[str, Bank], concept: Concept) -> None:
    """The whole method, with as many components as the README takes."""
    one = detector.neighbours
    detector.neighbours = 5
    found = detector.score(features, Context(banks=banks, extra={ROWS: concept.basis[:24]}))
    detector.neighbours = one
    check("scores", "guide_number/score", found.pred_score, part=22)


def _text_baselines(check: Comparisons, detector: Any, features: Tensor, train: Tensor, text: Tensor, count: int) -> None:
    """Scores by words alone, and two lists in place of one."""
    cosines, own = F.normalize(features, dim=-1) @ F.normalize(text, dim=-1).T, float(detector.backbone.logit_scale.exp())
    check("scores", "sem/score_mcm", -own * cosines[:, :FIRST].amax(dim=1), tolerance=CENT)
    for key, scale in (("sem/score_zoe", 1), ("sem/score_zoe_temperature_none", own)):
        check("scores", key, (scale * cosines).softmax(dim=1)[:, FIRST:].sum(dim=1), tolerance=CENT)
    two = concept_subspace(text[:FIRST], text[FIRST:])
    check("features", "two_lists/first_pairs", pairs_of(text[:FIRST], text[FIRST:])[:5], tolerance=2 * TEXT)
    compare_concept(check, "two_lists/", two, {"projector_8": 8})
    check("scores", "two_lists/score_8", score_along(guided, features, train, two.basis[:8], count))


# ------------------------------------------------------------------ in WinCLIP
def _industrial(check: Comparisons, folder: Path, pictures: Any) -> None:
    reference, settings = check.reference, check.reference.settings
    detector = build(reference, folder, "winclip", "tiny-240")
    raw = pixels(pictures, INDUSTRIAL["image_size"])
    check("inputs", "ind/input_uint8_image0", raw[:1])
    images = torch.stack([detector.backbone.preprocess(one.numpy()) for one in raw])
    features = detector.encode(images[:3])
    grid = detector._patches(features).grid
    check("features", "ind/image_embeds", features.image, tolerance=FEATURES)
    check("features", "ind/patch_embeds_image0", detector._patches(features).patches[:1], tolerance=FEATURES)
    for scale in detector.scales:
        windows = features.streams["windows"][scale].patches
        check("features", f"ind/window_embeds_{scale}_image0", windows[:1], tolerance=FEATURES)
    concepts: dict[str, Concept] = {}
    texts: dict[str, Context] = {}  # by prompt set, which has one category
    shown: dict[tuple[int, ...], dict[str, Bank]] = {(): {}}  # by the references' numbers
    for name, facts in settings["industrial"].items():
        number, category, numbers = facts["prompt_set"], facts["category_argument"], tuple(facts.get("reference_images", ()))
        if number not in concepts:
            concepts[number], texts[number] = _concept_of(check, detector, number, category), detector.prepare(category)
        if numbers not in shown:
            shown[numbers] = detector.banks(References(images[list(numbers)]))
        compare_concept(check, f"{name}/", concepts[number], {"projector_16": 16})
        detector.projected = tuple(COSINES[one] for one in facts["targets"])
        context = replace(texts[number], banks=shown[numbers])
        if name == "ind1_k0":
            check("text", "ind/text_embeds", context.text, tolerance=TEXT)
            plain = _patch_map(detector, features, context, grid)
            check("scores", "ind/winclip_image_score_no_transformation", detector.score(features, context).pred_score)
            check("maps", "ind/winclip_map_15x15_no_transformation", plain, tolerance=MAPS)
        _components(check, detector, features, context, name, concepts[number], facts, grid)


def _concept_of(check: Comparisons, detector: Any, number: str, category: str) -> Concept:
    """The subspace of a prompt set: one row per sentence, normal ones first."""
    settings = check.reference.settings
    lists, name = settings["templates"]["industrial"][number], category.replace("_", " ")
    own = settings["prompt_set_3_of_the_category"]["extra_anomaly_states"] if number == "3" else []
    states = [lists["NORMAL_STATES"], lists["ANOMALY_STATES"], own]
    normal, anomalous, more = [
        [t.replace("{}", s.replace("{}", name)) for t in lists["TEMPLATES"] for s in some] for some in states
    ]
    lines = [normal, anomalous + more]
    facts = next(one for one in settings["industrial"].values() if one["prompt_set"] == number)
    check.equal(
        "sentences",
        f"prompt set {number}: ends",
        [end for some in lines for end in (some[0], some[-1])],
        facts["first_last_prompt"],
    )
    check.equal("sentences", f"prompt set {number}: counts", [len(some) for some in lines], facts["n_prompts"])
    text = encode_ensemble(detector.backbone, [[line] for some in lines for line in some], normalize="none")[0]
    check("text", f"industrial{number}/text_features_first_48", text[:48], tolerance=TEXT)
    check("text", f"industrial{number}/text_features_last_48", text[-48:], tolerance=TEXT)
    return concept_subspace(text)


def _patch_map(detector: Any, features: Any, context: Context, grid: tuple[int, int]) -> Tensor:
    """(B, h, w), before it is resized."""
    found = detector.patch_map(detector.image_score(features, context), detector.window_scores(features, context), grid)
    if not context.banks:
        return found
    return (found + detector.reference_map(detector.reference_scores(features, context), grid)) / 2


def _components(
    check: Comparisons,
    detector: Any,
    features: Any,
    context: Context,
    name: str,
    concept: Concept,
    facts: dict[str, Any],
    grid: tuple[int, int],
) -> None:
    """Image scores with each number of components, and maps with some."""
    rows = []
    for count in facts["n_components_rows"]:
        own = replace(context, extra={ROWS: concept.basis[:count]})
        found = detector.score(features, own)
        rows.append(found.pred_score)
        if count in SHOWN:
            check("maps", f"{name}/map_15x15_n{count}", _patch_map(detector, features, own, grid), tolerance=MAPS)
        if f"{name}/map_240_n{count}_image0" in check.reference:
            check("maps", f"{name}/map_240_n{count}_image0", found.anomaly_map[0], tolerance=MAPS)
    check("scores", f"{name}/image_score", torch.stack(rows))


PROOF = Proof(
    "laft",
    "laft",
    run,
    inputs=("metrics/*", "guide_number/readme_basis_24"),
    left_out={
        "*_center": "centred pairs, which the programs never use",
        "ind/mask_240": "where the drawn defects are; no part of the method",
        "guide_number_half_k30/projector_24": "beyond the rank of 14: noise of a random range finder",
        "ignore_glass/projector_24": "beyond the rank of 14: noise of a random range finder",
    },
    full_only=("*/basis",),
)
