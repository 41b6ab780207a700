"""INP-Former beside its authors' code (luow23/INP-Former, 17d2653)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.maps import cut_gaussian, gaussian_kernel, upsample
from zsad.alignment.prototypes import mined_gradient
from zsad.common.stable_adamw import StableAdamW
from zsad.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from zsad.methods.inp_former import KERNEL, SIDE, SIGMA
from zsad.references.few_shot_views import few_shot_views
from zsad.registry import create
from zsad.types import Batch, Context, ImageFeatures, Tap
from zsad.verification.compare import Comparisons
from zsad.verification.dino_towers import dino_backbone, tabled_tensors
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_pictures import described_pictures

__all__ = ["PROOF", "batch", "build", "outputs", "pictures", "tower", "training", "write_model"]

TOKENS, PROTOTYPES, DISTANCES = 1e-5, 2e-5, 5e-6  # tolerances; maps and scores are distances too
LOSSES, GRADIENTS, STEPS = 1e-6, 1e-5, 2e-8  # the first two relative, the last of parameters that moved by about 3e-5
CLASSES = re.compile(r"class \d+: tests ([^;]+)")


def tower(reference: Reference, folder: Path, key: str = "dino") -> Any:
    """The tiny DINOv2 as the authors' code runs it."""
    size = reference.settings["settings"]["crop"]
    return dino_backbone(reference, folder, key, position_embedding="bicubic_offset", image_size=size)


def write_model(reference: Reference, path: Path) -> Path:
    """A checkpoint in the authors' layout: the whole model, of which the encoder is not read."""
    encoder = {key: torch.zeros(shape) for key, shape in reference.settings["checkpoint"]["encoder_keys"].items()}
    torch.save({**encoder, **tabled_tensors(reference, "inp/")}, path)
    return path


def build(reference: Reference, backbone: Any, folder: Path, **arguments: Any) -> Any:
    """The method on the tiny weights, from a checkpoint in the authors' layout."""
    return create("inp_former", backbone=backbone, checkpoint=write_model(reference, folder / "model.pth"), **arguments)


def pictures(reference: Reference, key: str = "input_uint8") -> Tensor:
    """Stored pixels as the tower takes them, (N, 3, H, W)."""
    mean, std = (torch.tensor(row)[:, None, None] for row in (IMAGENET_MEAN, IMAGENET_STD))
    return (reference.tensor(key).permute(0, 3, 1, 2).float() / 255 - mean) / std


def classes(reference: Reference) -> list[list[int]]:
    """Numbers of the test pictures of each class."""
    return [[int(number) for number in re.findall(r"\d+", part)] for part in CLASSES.findall(reference.settings["images"])]


def batch(reference: Reference) -> Batch:
    """The authors' training step."""
    images = pictures(reference, "train/input_uint8")
    return Batch(images, torch.zeros(len(images), dtype=torch.int64), None, ("x",) * len(images))


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Pictures, encoder, prototypes, decoder, both maps of both depths, few-shot views, three steps of training."""
    backbone = tower(reference, folder)
    detector, images = build(reference, backbone, folder), pictures(reference)
    with torch.inference_mode():
        inputs(check, detector)
        encoder(check, detector, images[:1])
        outputs(check, detector, images)
        large(check, build(reference, tower(reference, folder, "large/dino"), folder), images)
    training(check, detector, batch(reference))


def inputs(check: Comparisons, detector: Any) -> None:
    """Preprocessing, masks of the pictures with a defect, and the views of a training picture."""
    reference = check.reference
    drawn, masks = described_pictures(reference.settings)
    own = torch.stack([detector.preprocess(picture) for picture in drawn])
    unscaled = detector.backbone.preprocess.pixels(own)
    order = [number for part in classes(reference) for number in part]
    check("inputs", "input_uint8", unscaled[order])
    chosen = [int(number) for number in re.findall(r"\d+", reference.settings["train"]["script"].partition("images")[2])]
    count = reference.shape("train/input_uint8")[0]
    check("inputs", "train/input_uint8", unscaled[chosen[:count]])
    marked = [number for number in order if masks[number].any()]
    grey = torch.stack([detector.preprocess(masks[number][..., None].repeat(3, 2) * 255) for number in marked])
    scaled = detector.backbone.preprocess.pixels(grey)[..., 0].float() / 255
    check("inputs", "mask_256", upsample(scaled, SIDE, mode="nearest") > 0.5)
    for key in (key for key in reference if key.startswith("few/augmentation_image")):
        found = re.fullmatch(r"few/augmentation_image(\d+)_every(\d+)", key)
        assert found
        number, every = int(found[1]), int(found[2])
        check("features", key, few_shot_views(own[number : number + 1])[:, :, ::every, ::every], tolerance=TOKENS)


def encoder(check: Comparisons, detector: Any, image: Tensor) -> None:
    """Tokens before the first block and behind two of them, class token and registers included."""
    states = list(detector.backbone.states(image))
    check("features", "embed_image0", states[0], tolerance=TOKENS)
    for key in (key for key in check.reference if key.startswith("block_")):
        check("features", key, states[int(key.split("_")[1])], tolerance=TOKENS)


def outputs(check: Comparisons, detector: Any, images: Tensor) -> None:
    """Everything that both inferences compute."""
    features = detector.encode(images)
    patches, prototypes = detector.prototypes_of(features)
    block = detector.aggregation[0]
    start = detector.prototype_token.expand(len(patches), -1, -1)
    check("features", "fused", patches, tolerance=TOKENS)
    check("features", "agg_attention", block.attn(block.norm1(start), block.norm1(patches))[1], tolerance=TOKENS)
    check("features", "inp", prototypes, tolerance=PROTOTYPES)
    distribution = 1 - F.cosine_similarity(patches[:, :, None], prototypes[:, None], dim=3)
    check("scores", "distribution_image0", distribution[0], tolerance=DISTANCES)
    check("sentences", "cluster_index", distribution.argmin(2))
    check("features", "gaussian_weight", gaussian_kernel(KERNEL, SIGMA), tolerance=TOKENS)
    decoder(check, detector, features, patches, prototypes)
    maps(check, detector, features)


def decoder(check: Comparisons, detector: Any, features: ImageFeatures, patches: Tensor, prototypes: Tensor) -> None:
    """The first picture's way through the decoder; the groups' distances of all."""
    x, own = detector.bottleneck[0](patches), list(features.taps.values())
    check("features", "bottleneck_image0", x[0], tolerance=PROTOTYPES)
    first = detector.decoder[0]
    check("features", "decoder_attention_1_image0", first.attn(first.norm1(x), first.norm1(prototypes))[1][0], tolerance=TOKENS)
    for number, block in enumerate(detector.decoder, 1):
        x = block(x, prototypes)
        if (key := f"decoder_{number}_image0") in check.reference:
            check("features", key, x[0], tolerance=PROTOTYPES)
    for number, (tap, rebuilt) in enumerate(zip(own, detector.rebuilt(patches, prototypes), strict=True)):
        check("features", f"en_{number}_image0", as_grid(tap)[0], tolerance=TOKENS)
        check("features", f"de_{number}_image0", as_grid(Tap(rebuilt, tap.grid))[0], tolerance=PROTOTYPES)


def as_grid(tap: Tap) -> Tensor:
    """(B, L, C) -> (B, C, h, w)."""
    return tap.patches.transpose(1, 2).unflatten(2, tap.grid)


def maps(check: Comparisons, detector: Any, features: ImageFeatures) -> None:
    """Distances, maps and scores of both inferences, and the coherence loss of each class."""
    for rebuild, mode in ((False, "zero"), (True, "few")):
        detector.rebuild = rebuild
        grid, seen = detector.distances(features), detector.crop_map(features)
        check("scores", "grid_distance_groups" if rebuild else "distance", grid, tolerance=DISTANCES)
        raw = upsample(seen, SIDE)
        smooth = cut_gaussian(raw, KERNEL, SIGMA, zeros=True)
        check("scores", f"{mode}/image_score", detector.score(features, Context()).pred_score, tolerance=DISTANCES)
        key = next(key for key in check.reference if key.startswith(f"{mode}/map_") and key.count("_") == 1)
        check("maps", key, seen[: check.reference.shape(key)[0]], tolerance=DISTANCES)
        for key, found in ((f"{mode}/map_{SIDE}_before_gaussian_sub", raw), (f"{mode}/map_{SIDE}_sub", smooth)):
            every = SIDE // check.reference.shape(key)[1]
            check("maps", key, found[:, ::every, ::every], tolerance=DISTANCES)
        if rebuild:
            continue
        check("maps", f"zero/map_{SIDE}_image0", smooth[0], tolerance=DISTANCES)
        key = next(key for key in check.reference if key.startswith("app/map_"))
        check("maps", key, cut_gaussian(seen, KERNEL, SIGMA, zeros=True)[0], tolerance=DISTANCES)
        parts = grid.split([len(numbers) for numbers in classes(check.reference)])
        for number, (part, stored) in enumerate(zip(parts, check.reference.settings["g_loss_per_class_batch"], strict=True)):
            check.number("losses", f"coherence of class {number}", part.mean(), stored, tolerance=LOSSES)
    detector.rebuild = False


def large(check: Comparisons, detector: Any, images: Tensor) -> None:
    """The layers of a deeper encoder."""
    features = detector.encode(images)
    patches, prototypes = detector.prototypes_of(features)
    check("features", "large/fused_image0", patches[0], tolerance=TOKENS)
    check("features", "large/inp_image0", prototypes[0], tolerance=PROTOTYPES)
    for rebuild, key, mode in ((False, "distance", "zero"), (True, "grid_distance_groups", "few")):
        detector.rebuild = rebuild
        check("scores", f"large/{key}", detector.distances(features), tolerance=DISTANCES)
        score = detector.score(features, Context()).pred_score
        check("scores", f"large/{mode}_image_score", score, tolerance=DISTANCES)


def training(check: Comparisons, detector: Any, step: Batch) -> None:
    """The authors' three steps: losses, gradients before they are clipped, and how far the parameters went."""
    about = check.reference.settings["train"]
    own = dict(detector.named_parameters())
    own = {key: own[key] for key in detector.learned_state()}
    before = {key: parameter.detach().clone() for key, parameter in own.items()}
    optimizer, context = StableAdamW(own.values(), **about["optimizer"]), detector.prepare()
    with torch.no_grad():
        features = detector.encode(step.images)
        rebuilt = detector.rebuilt(*detector.prototypes_of(features))
        pairs = zip(features.taps.values(), rebuilt, strict=True)
        factors = [mined_gradient(x, 1 - F.cosine_similarity(tap.patches, x, dim=2)) for tap, x in pairs]
    check("features", "train/soft_mining_factor", torch.stack(factors, 1), tolerance=PROTOTYPES)
    for number, stored in enumerate(about["steps"], 1):
        optimizer.zero_grad()
        losses = detector.loss(step, context)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        name = f"train/step {number}"
        check.number(
            "losses", f"{name} reconstruction", losses["reconstruction"], stored["reconstruction_loss"], tolerance=LOSSES
        )
        check.number("losses", f"{name} loss", total, stored["loss"], tolerance=LOSSES)
        if number == 1:
            gradients(check, own)
        norm = torch.nn.utils.clip_grad_norm_(own.values(), about["clip_max_norm"])
        check.number("gradients", f"{name} norm", norm, stored["total_grad_norm_before_clipping"], tolerance=GRADIENTS)
        for group in optimizer.param_groups:
            group["lr"] = stored["lr"]
        optimizer.step()
    for key in [key for key in check.reference if key.startswith("train/change_after_step")]:
        name = key.split("/", 2)[2].removesuffix("_first8rows")
        moved = own[name].detach() - before[name]
        rounding = float(torch.finfo(torch.float32).eps * before[name].abs().max())  # of a parameter, where it is larger
        check("features", key, moved[: check.reference.shape(key)[0]], tolerance=max(STEPS, rounding))


def gradients(check: Comparisons, own: dict[str, Tensor]) -> None:
    """Norms of all, elements of some."""
    norms = check.reference.settings["train"]["grad_norms_step1"]
    there = {key for key, parameter in own.items() if parameter.grad is not None}
    check.equal("gradients", "train/learned tensors", there, set(norms))
    for key, norm in norms.items():
        gradient = own[key].grad
        assert gradient is not None
        check.number("gradients", f"train/norm of {key}", gradient.norm(), norm, tolerance=GRADIENTS)
        if (stored := f"train/grad/{key}") in check.reference:
            largest = float(abs(check.reference.stored(stored)[1]).max())
            check("gradients", stored, gradient, scale=largest, tolerance=GRADIENTS)


PROOF = Proof("inp_former", "inp_former", run, inputs=("input_uint8", "train/input_uint8"))
