"""Uploads: a limited number of files of limited size, copied into the visitor's own folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

PICTURES, REFERENCES, NORMALS = 300, 16, 300  # files at once
MEGABYTES = 50  # per file
MEGAPIXELS = 100  # per picture; decoding takes up to 4 bytes of memory per pixel


class Refused(ValueError):
    """A request that is not carried out; the message is for the visitor."""


def take(files: Sequence[str | Path] | None, folder: Path, limit: int, what: str = "pictures") -> tuple[list[Path], list[str]]:
    """Copies uploads into a folder, each into a numbered subfolder, so that files of the same name do not collide.

    Args:
        files: paths of the uploads.
        folder: of the visitor.
        limit: the most files at once.
        what: the files are, for the messages.

    Returns:
        The copies, and a message for every file that was refused.

    Raises:
        Refused: no file, or more than the limit.
    """
    files = list(files or ())
    if not files:
        raise Refused(f"No {what} were given. Upload some files first, or load an example.")
    if len(files) > limit:
        raise Refused(
            f"{len(files)} {what} were given; at most {limit} are accepted at once. Give fewer, or use the command line, which "
            "has no limit."
        )
    copies, refused = [], []
    start = sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
    for number, source in enumerate(map(Path, files), start=start):
        name = safe_name(source.name)
        if reason := objection(source):
            refused.append(f"{name} {reason}")
            continue
        copy = folder / f"{number:05d}" / name
        copy.parent.mkdir(parents=True)
        shutil.copyfile(source, copy)
        copies.append(copy)
    return copies, refused


def safe_name(name: str) -> str:
    """A file name without folders, control characters or a leading dot, of bounded length."""
    bare = re.sub(r"[\x00-\x1f\x7f/\\]", "_", name).lstrip(".") or "unnamed"
    return bare if len(bare) <= 120 else f"{bare[:60]}…{bare[-50:]}"


def objection(path: Path) -> str | None:
    """Why a file is refused, from its size and its header alone; None where it is not. Unreadable pictures fail later."""
    try:
        size = path.stat().st_size
    except OSError:
        return "is not there any more. Upload it again."
    if size > MEGABYTES * 1_000_000:
        return f"has {size / 1e6:.0f} MB; the limit is {MEGABYTES} MB. Save it smaller, or use the command line."
    try:
        with Image.open(path) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"has far more than {MEGAPIXELS} megapixels. Crop it, or use the command line with --tile."
    except Exception:  # no format that Pillow knows, or broken: zsad's reader has the message
        return None
    if width * height > MEGAPIXELS * 1_000_000:
        pixels = f"{width} x {height} = {width * height / 1e6:.0f} megapixels"
        return f"is too large: {pixels}; the limit is {MEGAPIXELS}. Crop it, or use the command line with --tile."
    return None
