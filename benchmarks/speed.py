"""Pictures per second and peak memory of a method beside its bare image encoder, in interleaved pairs in one run.

    python benchmarks/speed.py --method winclip --backbone random:ViT-B-16-plus-240
    python benchmarks/speed.py --method compact --batch-size 8

Weights of ``random:architecture`` are random: time does not depend on their values. Text is prepared once, and its time is
printed by itself. Peak memory is that of fresh processes, one for the method and one for the bare encoder.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from memory import peak_mb

import zsad
from zsad.backbones import openclip
from zsad.backbones.blocks import TowerShape
from zsad.backbones.dinov2 import DINOv2
from zsad.backbones.siglip import SigLIP

NOT_OPEN_CLIP = ("random:tips-", "random:dinov2-", "random:siglip-")
# width, blocks, heads, channels of the feed-forward's hidden layer
DINOV2_SIZES = {
    "small": (384, 12, 6, 1536),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "giant": (1536, 40, 24, 4096),
}


def build(method: str, backbone: str | None, image_size: int | None = None, **arguments: Any) -> Any:
    """The method on the asked backbone; ``random:`` builds an architecture without weights, at the method's size for None."""
    if backbone and backbone.startswith("random:"):
        architecture = backbone.removeprefix("random:")
        recipe = zsad.registry.method_class(method).recipe
        size = image_size or recipe.image_size
        if architecture.startswith("tips-"):  # of the size of L/14
            tips = zsad.load_backbone("tips-tiny", image_size=size, width=1024, layers=24, side=32)
            return zsad.create(method, backbone=tips)
        if architecture == "siglip-so400m":
            return zsad.create(method, backbone=random_siglip(backbone, recipe.image_size), **arguments)
        if architecture.startswith("dinov2-"):
            return zsad.create(method, backbone=random_dinov2(architecture, size), **arguments)
        torch.manual_seed(0)
        patch = openclip_patch(architecture)
        built = openclip.build(
            backbone,
            architecture,
            activation=recipe.activation,
            position_embedding=recipe.position_embedding,
            image_size=size // patch * patch,
        )
        return zsad.create(method, backbone=built.eval().requires_grad_(False), **arguments)
    return zsad.create(method, backbone=backbone, **arguments)


def random_dinov2(name: str, image_size: int) -> DINOv2:
    """DINOv2 of a published size with seeded random weights, with registers where the name ends so."""
    size, _, registers = name.removeprefix("dinov2-").partition("-")
    width, layers, heads, hidden = DINOV2_SIZES[size]
    shape = TowerShape(width, layers, heads, hidden)
    model = DINOv2(name, shape, registers=4 if registers else 0, swiglu=size == "giant", image_size=image_size)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1 or parameter is model.class_token:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval().requires_grad_(False)


def random_siglip(name: str, image_size: int) -> SigLIP:
    """SigLIP's image tower of the published size with random weights."""
    import transformers

    sizes = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    config = transformers.SiglipVisionConfig(**sizes, patch_size=14, image_size=image_size)
    torch.manual_seed(0)
    return SigLIP(name, transformers.SiglipVisionModel(config), config).eval().requires_grad_(False)


def openclip_patch(architecture: str) -> int:
    """Side of a patch in an open_clip architecture, in pixels."""
    import open_clip

    return int((open_clip.get_model_config(architecture) or {})["vision_cfg"].get("patch_size", 16))


def timed(call: Callable[[], Any], cpu_time: bool = False) -> float:
    """Seconds by the clock, or of this process's own CPU time, which what else runs on the machine changes less."""
    clock = time.process_time if cpu_time else time.perf_counter
    start = clock()
    call()
    return clock() - start


def library_encoder(backbone: str | None, size: int) -> Callable[[torch.Tensor], Any] | None:
    """open_clip's own image encoder of the same architecture and size; None where there is none."""
    if not backbone or not backbone.startswith("random:") or backbone.startswith(NOT_OPEN_CLIP):
        return None
    import open_clip

    logging.disable(logging.WARNING)  # it warns that the weights are random
    made = open_clip.create_model(backbone.removeprefix("random:"), pretrained=None, force_image_size=size)
    logging.disable(logging.NOTSET)
    encode: Callable[[torch.Tensor], Any] = made.eval().encode_image
    return encode


def measure(
    method: str,
    backbone: str | None,
    batch_size: int,
    pairs: int,
    image_size: int | None = None,
    references: int = 0,
    cpu_time: bool = False,
) -> dict[str, Any]:
    """Times of interleaved rounds (method, zsad's bare encoder, open_clip's) on the same pictures."""
    detector = build(method, backbone, image_size)
    library = library_encoder(backbone, detector.backbone.image_size)
    return measure_built(detector, batch_size, pairs, library, references, cpu_time)


def random_references(detector: Any, count: int) -> zsad.References | None:
    """So many normal pictures, or as many as it needs; for a method that takes anomalous ones one of these, partly marked."""
    if not (count := max(count, detector.needs_references)):
        return None
    size = detector.backbone.image_size
    pictures = torch.randn(count + 1, 3, size, size, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(1, size, size)
    masks[:, size // 5 : size * 2 // 5, size // 5 : size * 2 // 5] = 1
    return zsad.References(pictures[:-1], *((pictures[-1:], masks) if detector.takes_anomalous else ()))


def measure_built(
    detector: Any,
    batch_size: int,
    pairs: int,
    library: Callable[[torch.Tensor], Any] | None,
    references: int = 0,
    cpu_time: bool = False,
) -> dict[str, Any]:
    """As ``measure``, of a detector; ``library`` is another encoder to compare with, or None."""
    size = detector.backbone.image_size
    images = torch.randn(batch_size, 3, size, size, generator=torch.Generator().manual_seed(0))
    shown = random_references(detector, references)
    with torch.inference_mode():
        prepare = timed(lambda: detector.prepare("metal nut", shown))
        context = detector.prepare("metal nut", shown)
        calls = [lambda: detector(images, context), lambda: detector.backbone.encode_image(images)]
        calls += [lambda: library(images)] if library else []
        for call in calls * 2:
            call()
        rounds = [[timed(call, cpu_time) for call in calls] for _ in range(pairs)]
    times = [(one[0], one[1]) for one in rounds]
    over = [one[0] / one[2] for one in rounds] if library else []
    return {
        "method": detector.name,
        "backbone": detector.backbone.name,
        "image_size": size,
        "batch_size": batch_size,
        "pairs": pairs,
        "references": max(references, detector.needs_references),
        "prepare_seconds": prepare,
        "method_pictures_per_second": batch_size / median(a for a, _ in times),
        "bare_pictures_per_second": batch_size / median(b for _, b in times),
        "ratio_median": median(a / b for a, b in times),
        "ratio_min": min(a / b for a, b in times),
        "ratio_max": max(a / b for a, b in times),
        "open_clip_ratio_median": median(over) if over else None,
        "open_clip_ratio_min": min(over, default=None),
        "open_clip_ratio_max": max(over, default=None),
    }


def fresh_peak_mb(method: str, backbone: str | None, batch_size: int, bare: bool) -> float:
    """Peak resident memory of one fresh process that scores (or only encodes) three batches."""
    words = [
        sys.executable,
        __file__,
        "--method",
        method,
        "--batch-size",
        str(batch_size),
        "--only",
        "bare" if bare else "method",
    ]
    words += ["--backbone", backbone] if backbone else []
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def only(which: str, method: str, backbone: str | None, batch_size: int) -> None:
    detector = build(method, backbone)
    size = detector.backbone.image_size
    with torch.inference_mode():
        context = detector.prepare("metal nut")
        for seed in range(3):
            images = torch.randn(batch_size, 3, size, size, generator=torch.Generator().manual_seed(seed))
            _ = detector(images, context) if which == "method" else detector.backbone.encode_image(images)
    print(peak_mb())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="compact")
    parser.add_argument("--backbone", help="a name for load_backbone, or random:architecture")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=["method", "bare"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.only:
        only(given.only, given.method, given.backbone, given.batch_size)
        return
    row = measure(given.method, given.backbone, given.batch_size, given.pairs)
    for key, bare in (("method_peak_mb", False), ("bare_peak_mb", True)):
        row[key] = fresh_peak_mb(given.method, given.backbone, given.batch_size, bare)
    row |= {
        "machine": f"{platform.machine()}, {given.threads} threads",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if given.json:
        print(json.dumps(row, indent=1))
        return
    for key, value in row.items():
        print(f"{key:28} {value:.3f}" if isinstance(value, float) else f"{key:28} {value}")


if __name__ == "__main__":
    main()
