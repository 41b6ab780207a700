"""Crane and Crane+ beside their authors' code (AlirezaSalehy/Crane, 39181f9)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Squash
from zsad.registry import create
from zsad.types import Batch, ImageFeatures, Tap
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_clip import random_tensor
from zsad.verification.towers import tiny_backbone

__all__ = ["PROOF", "Convolution", "batch", "build", "write_prompts"]

SHAPE = {"embed_dim": 128}  # as wide as the text tower: image features stand among its tokens
VARIANTS: dict[str, dict[str, Any]] = {"crane/": {}, "crane_imgcls/": {"image_token": True}, "cranep/": {"faithful": True}}
DEEP = 8
OURS = {"ctx_pos": "normal", "ctx_neg": "anomalous"} | {f"compound_prompts_text.{i}": f"deep.{i}" for i in range(DEEP)}


class Convolution(nn.Module):
    """The fixture's stand-in for DINOv2, a ``types.Backbone``: one convolution of the ImageNet-normalised picture."""

    name, depth, patch_size = "convolution", 1, 14
    activation = position_embedding = "none"
    weights_sha256 = ""

    def __init__(self, seed: int, image_size: int = 112, channels: int = 32) -> None:
        super().__init__()
        self.image_size, side = image_size, self.patch_size
        self.preprocess = Squash(image_size, IMAGENET_MEAN, IMAGENET_STD)
        weight = random_tensor(seed, "crane/vfm.weight", (channels, 3, side, side), (3 * side * side) ** -0.5)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def encode_image(self, images: Tensor, taps: tuple[int, ...] = ()) -> ImageFeatures:
        """(B, 3, H, W) -> patches (B, L, C) as layer 1, and their mean."""
        maps = F.conv2d(images, self.weight, stride=self.patch_size)
        rows = maps.flatten(2).transpose(1, 2)
        return ImageFeatures(rows.mean(dim=1), {tap: Tap(rows, (maps.shape[2], maps.shape[3])) for tap in taps})


def write_prompts(seed: int, path: Path, width: int = 128) -> Path:
    """A checkpoint in the authors' layout."""
    state = {f"ctx_{side}": random_tensor(seed, f"crane/ctx_{side}", (1, 1, 12, width), 0.5) for side in ("pos", "neg")}
    for i in range(DEEP):
        name = f"compound_prompts_text.{i}"
        state[name] = random_tensor(seed, f"crane/{name}", (4, width), 0.5)
    for side in ("pos", "neg"):
        state[f"tokenized_prompts_{side}"] = torch.zeros(1, 1, 77, dtype=torch.int32)
        state[f"token_suffix_{side}"] = torch.zeros(1, 1, 64, width)
    torch.save({"prompt_learner": state}, path)
    return path


def backbone(reference: Reference, folder: Path) -> Any:
    """The tiny CLIP as the authors' code runs it."""
    size = reference.settings["image_size"]
    return tiny_backbone(reference, folder, SHAPE, activation="quick_gelu", position_embedding="bilinear", image_size=size)


def build(reference: Reference, folder: Path, tower: Any = None, plus: bool = False, **arguments: Any) -> Any:
    """The method on the tiny weights, from a checkpoint in the authors' layout; ``plus``: Crane+."""
    seed, size = reference.settings["seed"], reference.settings["image_size"]
    if plus:
        arguments["attention"] = Convolution(seed, size)
    checkpoint = write_prompts(seed, folder / "prompts.pth")
    return create("crane", backbone=tower or backbone(reference, folder), checkpoint=checkpoint, **arguments)


def batch(reference: Reference) -> Batch:
    """The authors' training step."""
    masks = reference.tensor("crane_imgcls/train/gt")
    return Batch(reference.pixels(), masks.flatten(1).amax(1).long(), masks, ("x",) * len(masks))


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Crane with static prompts and with the picture's, Crane+; one step of training."""
    tower = backbone(reference, folder)
    check("inputs", "input_first", reference.pixels()[:1])
    for stem, arguments in VARIANTS.items():
        wanted = reference.settings["variants"][stem]
        plus, token = wanted["dino_model"] != "none", bool(wanted["train_with_img_cls_prob"])
        detector = build(reference, folder, tower, plus, **arguments)
        check.equal("sentences", f"{stem}settings", (detector.image_token, detector.early), (token, wanted["soft_mean"]))
        _outputs(reference, check, detector, stem)
        if token:
            _training(check, detector, batch(reference), f"{stem}train/")


def _outputs(reference: Reference, check: Comparisons, detector: Any, stem: str) -> None:
    with torch.inference_mode():
        context, features = detector.prepare(), detector.encode(reference.pixels())
        text = detector.text(features.image) if detector.image_token else context.text
        margins, _ = detector.margins(features, text)
        found, local = detector.score(features, context), features.streams["local"][detector.backbone.depth]
        raw = detector.pixels(margins)
    check("text", f"{stem}text_features", text)
    check("scores", f"{stem}anomaly_score", found.pred_score)
    check("maps", f"{stem}anomaly_map_raw", raw)
    check("maps", f"{stem}anomaly_map", found.anomaly_map)
    check("features", f"{stem}image_features_raw", features.image)
    if "alike" in features.streams:
        check("features", f"{stem}patch_features_24_eattn", local.patches)
        check("features", f"{stem}patch_features_24_dattn", features.streams["alike"][detector.backbone.depth].patches)
    else:
        for layer in (6, 24):
            check("features", f"{stem}patch_features_{layer}", local.patches)
    ids = detector.backbone.tokenize(list(detector.prompts.sentences()))
    if detector.image_token:  # behind the learned tokens stands the picture's; their ids serve to find the end alone
        ends = reference.tensor(f"{stem}tokens").argmax(dim=-1)  # (2 sentences, B)
        check.equal("sentences", f"{stem}tokens", ends[:, 0].tolist(), (ids.argmax(dim=-1) + 1).tolist())
        check.used(f"{stem}tokens")
    else:
        check("sentences", f"{stem}tokens", ids)


def _training(check: Comparisons, detector: Any, step: Batch, stem: str) -> None:
    losses = detector.loss(step, detector.prepare())
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    check("losses", f"{stem}terms", torch.stack([losses["focal"], losses["dice"], 5 * losses["picture"]]))
    check("losses", f"{stem}loss", total)
    gradients = {key: p.grad for key, p in detector.named_parameters() if p.grad is not None}
    norms = check.reference.settings["grad_norms"]
    check.equal("gradients", f"{stem}learned tensors", set(gradients), {f"prompts.{OURS[key]}" for key in norms})
    for key, norm in norms.items():
        check.number("gradients", f"grad_norms/{key}", gradients[f"prompts.{OURS[key]}"].norm(), norm)


PROOF = Proof(
    "crane",
    "crane",
    run,
    inputs=("input_uint8", "*train/gt", "*imgcls/tokens"),
    left_out={
        "images_uint8": "the pictures before they are resized",
        "masks_uint8": "where the drawn defects are; train/gt holds them resized",
        "*train/image_logits": "on the way to the loss, which is compared",
    },
)
