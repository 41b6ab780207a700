"""MetaUAS beside its authors' code (gaobb/MetaUAS, feda9cb), on a network of the published size with seeded weights."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import UsageError
from zsad.methods.metauas.network import ALIGNED
from zsad.registry import create, load_backbone
from zsad.types import Context, ImageFeatures, References
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_clip import fingerprint
from zsad.verification.tiny_effunet import effunet_state_dict
from zsad.verification.tiny_pictures import described_pictures

__all__ = ["MASKS", "PROOF", "build", "inside", "pictures", "write_checkpoint"]

INPUT, RAW, ATTENTION, DECODED, MASKS = 1e-6, 5e-4, 5e-5, 1e-3, 2e-4
TESTS = re.compile(r"tests (\d+)\.\.(\d+) class 0, (\d+)\.\.(\d+) class 1")


def write_checkpoint(reference: Reference, path: Path) -> Path:
    """A file in the authors' layout. Raises ``UsageError`` where it is not the network that their code ran."""
    settings = reference.settings
    state = effunet_state_dict(settings["seed"], settings["state_dict_shapes"])
    found = fingerprint({key: tensor.float() for key, tensor in state.items()})
    if found != (stored := settings["weights"]["fingerprint"]):
        raise UsageError(f"The weights of metauas have the fingerprint {found[:12]}, the stored outputs {stored[:12]}.")
    torch.save(state, path)
    return path


def build(reference: Reference, folder: Path, **arguments: Any) -> Any:
    """The method on the seeded weights, from a checkpoint in the authors' layout."""
    path = folder / "metauas.ckpt"
    if not path.exists():
        write_checkpoint(reference, path)
    backbone = load_backbone("pixels", image_size=reference.settings["settings"]["img_size"])
    return create("metauas", backbone=backbone, checkpoint=path, **arguments)


def pictures(reference: Reference, detector: Any) -> tuple[Tensor, Tensor]:
    """All pictures of the fixture as the method takes them, (N, 3, H, W), and their masks at full size (N, H, W)."""
    images, masks = described_pictures(reference.settings)
    for drawn, key in ((images, "images_sha256"), (masks, "masks_sha256")):
        if hashlib.sha256(drawn.tobytes()).hexdigest() != reference.settings[key]:
            raise UsageError(f"The pictures that were drawn here are not those of the stored outputs: {key} differs.")
    return torch.stack([detector.backbone.preprocess(one) for one in images]), torch.from_numpy(masks)


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Inputs, every level, alignment and decoder, and the masks of one prompt per class, of another, and one per picture."""
    detector = build(reference, folder, faithful=True)
    images, masks = pictures(reference, detector)
    hit = TESTS.search(reference.settings["images"])
    assert hit
    classes = [list(range(int(hit[1 + side]), int(hit[2 + side]) + 1)) for side in (0, 2)]
    tests = [row for rows in classes for row in rows]
    prompts = reference.settings["prompts"]
    with torch.inference_mode():
        features = [detector.encode(images[one][None]) for one in tests]
        first = prompts["no prefix"]["class 0"]
        contexts = {number: detector.prepare("x", References(images[number][None])) for number in _numbers(prompts)}
        _inputs(check, detector, images, masks[tests], first)
        inside(check, detector, features[0], detector.encode(images[first][None]), contexts[first])
        for prefix, key in (("", "no prefix"), ("other_prompt/", "other_prompt/"), ("star/", "star/")):
            per_picture = "query 0" in prompts[key]
            shown = [
                prompts[key][f"query {one}" if per_picture else f"class {side}"]
                for side, rows in enumerate(classes)
                for one in rows
            ]
            _masks(check, detector, features, [contexts[one] for one in shown], classes, prefix)
        itself = detector.anomaly_map(detector.encode(images[first][None]), contexts[first])
        check("scores", "self/mask_max", itself.amax(), tolerance=MASKS)


def _numbers(prompts: dict[str, dict[str, int]]) -> set[int]:
    return {number for group in prompts.values() for number in group.values()}


def _inputs(check: Comparisons, detector: Any, images: Tensor, masks: Tensor, prompt: int) -> None:
    settings, size = detector.backbone.preprocess, detector.backbone.image_size
    mean, std = (torch.tensor(one)[:, None, None] for one in (settings.mean, settings.std))
    rows = check.reference.shape("query_normalised_image0_first8rows")[1]
    check("inputs", "query_normalised_image0_first8rows", images[0, :, :rows], tolerance=5 * INPUT)  # less mean, by deviation
    check("inputs", "query_input_image0", images[0] * std + mean, tolerance=INPUT)
    check("inputs", "prompt_input_image0", images[prompt] * std + mean, tolerance=INPUT)
    resized = F.interpolate((masks > 0).float()[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]
    check("inputs", "gt_mask", resized > 0)


def inside(check: Comparisons, detector: Any, features: ImageFeatures, prompt: ImageFeatures, context: Context) -> None:
    """Levels, alignment and decoder of the first picture."""
    for layer in features.taps:
        for who, key in ((features, f"query_features_{layer}_image0"), (prompt, f"prompt_features_{layer}_class0")):
            if key in check.reference:
                shown = check.reference.shape(key)[0]
                check("features", key, who.taps[layer].patches[0].T[:shown], tolerance=RAW)
    aligned = detector.aligned(features, context)
    for layer, alignment in zip(ALIGNED, detector.alignment, strict=True):
        places = check.reference.shape(f"attention_{layer}_image0")[0]
        logits = alignment.logits(features.taps[layer].patches, context.banks[str(layer)].rows)[0, :places]
        check("features", f"attention_logits_{layer}_image0", logits, tolerance=RAW)
        check("features", f"attention_{layer}_image0", logits.softmax(dim=-1), tolerance=ATTENTION)
        check("features", f"aligned_{layer}_image0", aligned[layer][0].T, tolerance=RAW)
    decoded = detector.decoded(features, context)
    for number, block in enumerate(decoded):
        key = f"decoder_block_{number}_image0"
        check("features", key, block[0, : check.reference.shape(key)[0]], tolerance=DECODED)
    check("features", "mask_logits_image0", detector.mask_head(decoded[-1])[0, 0], tolerance=RAW)


def _masks(
    check: Comparisons,
    detector: Any,
    features: list[ImageFeatures],
    contexts: list[Context],
    classes: list[list[int]],
    prefix: str,
) -> None:
    """Masks, their maxima, and the maxima of the masks that are scaled within the class."""
    maps = torch.cat([detector.anomaly_map(one, own) for one, own in zip(features, contexts, strict=True)])
    check("scores", f"{prefix}mask_max", maps.amax(dim=(1, 2)), tolerance=MASKS)
    scaled = []
    for rows in classes:
        low, high = maps[rows].aminmax()
        if len({id(contexts[row]) for row in rows}) == 1:  # ``score_set`` takes one context
            found = list(detector.score_set([features[row] for row in rows], contexts[rows[0]]))
            scaled.append(torch.cat([one.pred_score for one in found]))
        else:
            scaled.append((maps[rows].amax(dim=(1, 2)) - low) / (high - low))
    check("scores", f"{prefix}image_score_class_minmax", torch.cat(scaled), tolerance=MASKS)
    key = f"{prefix}mask_image0" if prefix else "mask"
    shown = maps[0] if prefix else maps[: check.reference.shape(key)[0]]
    check("maps", key, shown, tolerance=MASKS)


PROOF = Proof("metauas", "metauas", run)
