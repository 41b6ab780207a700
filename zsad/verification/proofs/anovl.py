"""AnoVL beside its authors' code (hq-deng/AnoVL, 3a70bfd)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from zsad.alignment.attention import value_value
from zsad.alignment.maps import mean_3x3
from zsad.alignment.similarity import text_logits
from zsad.alignment.token_adapter import NOISE, TokenAdapter
from zsad.alignment.views import views_of
from zsad.backbones.vit import LocalPath
from zsad.images.preprocessing import CLIP_MEAN, CLIP_STD
from zsad.registry import create
from zsad.types import Context, ImageFeatures, Prediction
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_clip import random_tensor
from zsad.verification.towers import tiny_backbone

__all__ = ["PROOF", "adaptation", "backbone", "build", "zero_shot"]

FEATURES, ZERO_SHOT, ADAPTED = 2e-5, 2e-6, 1e-5  # maps span 0.007; adaptation moves them by 0.002
GRADIENTS, WEIGHTS = 3e-3, 2e-4  # of an array's largest value, since single gradients are 1e-7; of learned values
SHAPE = {"patch_size": 16, "image_size": 112, "vision_layers": 12}
STD = 0.072  # of the stored first weights


def backbone(reference: Reference, folder: Path, activation: str = "gelu") -> Any:
    """The tiny CLIP as the authors' code runs it."""
    size, mode = reference.settings["image_size"], "bicubic_antialias"
    return tiny_backbone(reference, folder, SHAPE, activation=activation, position_embedding=mode, image_size=size)


def build(reference: Reference, folder: Path, tower: Any = None, **arguments: Any) -> Any:
    """The method on the tiny weights."""
    return create("anovl", backbone=backbone(reference, folder) if tower is None else tower, **arguments)


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Preprocessing, views, text, features, maps and scores; adaptation with losses, gradients, weights; VisA's tiles."""
    tower = backbone(reference, folder)
    detector = build(reference, folder, tower, tta=True)
    names = reference.settings["class_names"]
    with torch.inference_mode():
        contexts = {name: detector.prepare(name) for name in names}
        images = reference.pixels()
        check("inputs", "input_first", images[:1])
        _preprocessing(check, detector)
        _text(check, detector, contexts)
        features = [detector.encode(image[None]) for image in images]
        _features(check, tower, features, images)
        zero_shot(check, build(reference, folder, tower), features, contexts)
    for prefix, faithful in (("tta", True), ("tta_fresh_optimizer", False), ("tta_other_noise", True)):
        adaptation(check, build(reference, folder, tower, tta=True, faithful=faithful), features, contexts, prefix)
    _tiles(check, folder, tower, contexts[names[0]])


def _preprocessing(check: Comparisons, detector: Any, prefix: str = "") -> None:
    """Their resized pictures; versions of Pillow do rows or columns first, which moves values by one level."""
    if f"{prefix}images_uint8" not in check.reference:
        return
    mean, std = (torch.tensor(one)[:, None, None] for one in (CLIP_MEAN, CLIP_STD))
    images = torch.stack([detector.preprocess(rgb) for rgb in check.reference[f"{prefix}images_uint8"]])
    levels = ((images * std + mean) * 255).permute(0, 2, 3, 1)
    check("inputs", f"{prefix}input_uint8", levels, tolerance=1.001)


def _text(check: Comparisons, detector: Any, contexts: dict[str, Context]) -> None:
    settings = check.reference.settings
    for index, (name, context) in enumerate(contexts.items()):
        check("text", f"text_features_{index}", detector.text_of(context)[0].T)
        bank = torch.stack(context.extra["bank"].chunk(2), dim=-1)  # (462, D, 2)
        check("text", f"prompt_bank_{index}_first3_last3", torch.cat([bank[:3], bank[-3:]]))
        first = detector.backbone.tokenize(context.sentences["normal"][:1])[0].tolist()
        check.equal("sentences", f"first_tokens/{name}", [one for one in first if one], settings["first_tokens"][name])
    for key, name in settings["extra_class_texts"].items():
        check("text", f"text_features_extra_{key}", detector.text_of(detector.prepare(name))[0].T)


def _features(check: Comparisons, tower: Any, features: list[ImageFeatures], images: Tensor) -> None:
    """Views of the first picture and their class features; tokens of both paths; projected patches."""
    views, [layer] = views_of(images[0]), features[0].streams["views"]
    check("inputs", "aug_first_stride4", views[:, :, ::4, ::4], tolerance=FEATURES)
    check("features", "cls_features_aug_first", features[0].streams["views"][layer].patches, tolerance=FEATURES)
    patches = torch.cat([one.streams["local"][layer].patches for one in features])
    check("features", "patch_features", patches, tolerance=FEATURES)
    states = tower.visual(images[:1], (layer,), LocalPath(1, value_value))
    plain, local = states.plain[layer], states.local[layer]
    for key, tap in (("ori", plain), ("surgery", local)):  # both have the plain path's class token
        check("features", f"{key}_tokens_12", torch.cat([plain.cls[:, None], tap.patches], dim=1), tolerance=FEATURES)


def grids_of(patches: Tensor, features: ImageFeatures, context: Context) -> Tensor:
    """Probabilities of (adapted) patches on their grids, (B, n, h, w)."""
    assert context.text is not None
    [tap] = features.streams["local"].values()
    return text_logits(patches, context.text, 1.0).softmax(dim=-1)[..., 1].unflatten(1, (-1, *tap.grid))


def zero_shot(check: Comparisons, detector: Any, features: list[ImageFeatures], contexts: dict[str, Context]) -> None:
    """Grids before and behind the mean of neighbours, maps, and the image score with its views."""
    classes = check.reference.settings["image_classes"]
    grids, views, scores, maps = [], [], [], []
    for one, context in zip(features, [contexts[name] for name in classes], strict=True):
        [local], [shown] = one.streams["local"].values(), one.streams["views"].values()
        grids.append(grids_of(local.patches, one, context)[:, 0])
        views.append(text_logits(shown.patches, detector.text_of(context), 1.0).softmax(dim=-1)[..., 1])
        found = detector.score(one, context)
        scores.append(found.pred_score)
        maps.append(found.anomaly_map)
    firsts = [classes.index(name) for name in check.reference.settings["class_names"]]
    check("maps", "zero_shot/grid", torch.cat(grids), tolerance=ZERO_SHOT)
    check("maps", "zero_shot/grid_pooled", mean_3x3(torch.cat(grids)), tolerance=ZERO_SHOT)
    check("maps", "zero_shot/anomaly_map", torch.cat([maps[index] for index in firsts]), tolerance=ZERO_SHOT)
    check("scores", "aug_probs", torch.cat(views), tolerance=ZERO_SHOT)
    check("scores", "zero_shot/image_score", torch.cat(scores), tolerance=ZERO_SHOT)


# ------------------------------------------------------------------ adaptation
class Recorded:
    """Brings the authors' first weights and noise into a detector, and keeps losses, gradients and results of each picture.

    Args:
        detector: with ``tta``.
        seed: of the fixture.
        layer: name of the stored linear layer.
        noise: name of the stored noise.
    """

    def __init__(self, detector: Any, seed: int, layer: str = "ad", noise: str = "noise") -> None:
        self.losses: list[list[float]] = []  # by picture and step
        self.gradients: list[list[list[Tensor]]] = []  # by picture and step: of weight and bias
        self.adapted: list[list[Tensor]] = []  # by picture: last weight and bias
        self.grids: list[Tensor] = []  # by picture: (1, n, h, w), probabilities of the patches that are scored
        self.seed, self.layer, self.noise = seed, layer, noise
        self.plain_predict, self.plain_learn, detector.predict = detector.predict, TokenAdapter.learn, self._predict

    def _predict(self, patches: Tensor, features: ImageFeatures, context: Context) -> Prediction:
        self.grids.append(grids_of(patches, features, context))
        found: Prediction = self.plain_predict(patches, features, context)
        return found

    def draws(self, outputs: int, patches: Tensor, steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """The stored values in the place of ``first_weights``."""

        def stored(name: str, shape: tuple[int, ...], std: float) -> Tensor:
            return random_tensor(self.seed, f"anovl/{name}", shape, std)

        noise = [stored(f"{self.noise}/{len(self.losses)}/{step}", tuple(patches.shape), NOISE) for step in range(steps)]
        weight = stored(f"{self.layer}.weight", (outputs, patches.shape[-1]), STD)
        return weight, stored(f"{self.layer}.bias", (outputs,), STD), torch.stack(noise)

    def learn(self, adapter: TokenAdapter, *given: Tensor) -> Iterator[Tensor]:
        """As ``TokenAdapter.learn``."""
        self.losses.append([])
        self.gradients.append([])
        for loss in self.plain_learn(adapter, *given):
            self.losses[-1].append(float(loss))
            self.gradients[-1].append([one.grad.clone() for one in (adapter.weight, adapter.bias) if one.grad is not None])
            yield loss
        self.adapted.append([adapter.weight.detach().clone(), adapter.bias.detach().clone()])

    def norms(self, part: int) -> Tensor:
        """Lengths of the gradients of the weight (0) or the bias (1), (pictures, steps)."""
        return torch.stack([torch.stack([step[part].norm() for step in steps]) for steps in self.gradients])


@contextmanager
def recorded(detector: Any, seed: int, layer: str = "ad", noise: str = "noise") -> Iterator[Recorded]:
    """What a detector with ``tta`` does inside, from the authors' first weights and noise on."""
    record = Recorded(detector, seed, layer, noise)
    with (
        patch.object(TokenAdapter, "learn", lambda *given: record.learn(*given)),
        patch("zsad.methods.anovl.first_weights", record.draws),
        torch.inference_mode(),
    ):
        yield record


def adaptation(
    check: Comparisons, detector: Any, features: list[ImageFeatures], contexts: dict[str, Context], prefix: str
) -> None:
    """Grids, maps and scores of adapted pictures, category by category, and every step on the way."""
    reference, found = check.reference, []
    classes, noise = reference.settings["image_classes"], "othernoise/noise" if prefix == "tta_other_noise" else "noise"
    with recorded(detector, reference.settings["seed"], noise=noise) as record:
        for name, context in contexts.items():
            own = [one for one, category in zip(features, classes, strict=True) if category == name]
            found += list(detector.score_set(own, context))
    check("maps", f"{prefix}/grid", torch.cat(record.grids)[:, 0], tolerance=ADAPTED)
    if f"{prefix}/losses" in reference:
        check("losses", f"{prefix}/losses", torch.tensor(record.losses))
    if prefix != "tta":
        return
    maps = torch.cat([one.anomaly_map for one in found])
    check("maps", f"{prefix}/anomaly_map", maps[: reference.shape(f"{prefix}/anomaly_map")[0]], tolerance=ADAPTED)
    check("scores", f"{prefix}/image_score", torch.cat([one.pred_score for one in found]), tolerance=ZERO_SHOT)
    weight, bias = record.gradients[0][0]
    _gradient(check, f"{prefix}/grad_norm_weight", record.norms(0))
    _gradient(check, f"{prefix}/grad_norm_bias", record.norms(1))
    _gradient(check, f"{prefix}/img0/step0_grad_weight_first16", weight[:16])
    _gradient(check, f"{prefix}/img0/step0_grad_bias", bias)
    weight, bias = record.adapted[-1]
    check("features", f"{prefix}/final_weight_last_image_first16", weight[:16], tolerance=WEIGHTS)
    check("features", f"{prefix}/final_bias_last_image", bias, tolerance=WEIGHTS)


def _gradient(check: Comparisons, key: str, found: Tensor) -> None:
    largest = float(abs(check.reference.stored(key)[1]).max())
    check("gradients", key, found, scale=largest, tolerance=GRADIENTS)


def _tiles(check: Comparisons, folder: Path, tower: Any, context: Context) -> None:
    """VisA's program: resized with the aspect kept, two tiles, and another adapter."""
    reference = check.reference
    for prefix, adapts in (("vis/zero_shot", False), ("vis/tta", True)):
        detector = build(reference, folder, tower, tiles=True, tta=adapts, faithful=True)
        images = reference.pixels("vis/input_uint8")
        _preprocessing(check, detector, "vis/")
        with recorded(detector, reference.settings["seed"], "vis_ad", "vis/noise") as record:
            found = list(detector.score_set([detector.encode(one[None]) for one in images], Context(context.text)))
        tolerance = ADAPTED if adapts else ZERO_SHOT
        check("maps", f"{prefix}/grid", torch.cat(record.grids), tolerance=tolerance)
        check("maps", f"{prefix}/anomaly_map_first", found[0].anomaly_map, tolerance=tolerance)
        if adapts:
            check("losses", f"{prefix}/losses", torch.tensor(record.losses))
            _gradient(check, f"{prefix}/grad_norm_weight", record.norms(0))
        else:
            check("scores", f"{prefix}/image_score", torch.cat([one.pred_score for one in found]), tolerance=tolerance)


PROOF = Proof(
    "anovl",
    "anovl",
    run,
    inputs=("*images_uint8", "*input_uint8"),
    left_out={"*masks_uint8": "where the drawn defects are"},
    full_only=("images_uint8",),
)
