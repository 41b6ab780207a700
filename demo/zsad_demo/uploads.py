"""What is taken from visitors: a limited number of files of limited size, copied into the visitor's own folder."""

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
    """An upload that is not taken; the message is a sentence for the visitor."""


def take(files: Sequence[str | Path] | None, folder: Path, limit: int, what: str = "pictures") -> tuple[list[Path], list[str]]:
    """Copies uploads into a folder, each below a number of its own, so that equal names do not meet.

    Args:
        files: paths of the uploads.
        folder: of the visitor.
        limit: how many are taken at once.
        what: they are, for the sentence.

    Returns:
        The copies, and a sentence for every file that was refused.

    Raises:
        Refused: none, or more than the limit.
    """
    given = list(files or ())
    if not given:
        raise Refused(f"No {what} were given. Drop some files first, or take an example.")
    if len(given) > limit:
        raise Refused(
            f"{len(given)} {what} were given, and {limit} are taken at once. Give fewer; the command line has no limit."
        )
    taken, refused = [], []
    start = sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
    for number, source in enumerate(map(Path, given), start=start):
        name = safe_name(source.name)
        if why := objection(source):
            refused.append(f"{name} {why}")
            continue
        place = folder / f"{number:05d}" / name
        place.parent.mkdir(parents=True)
        shutil.copyfile(source, place)
        taken.append(place)
    return taken, refused


def safe_name(name: str) -> str:
    """A file name without folders, control characters or a leading dot, of bounded length."""
    bare = re.sub(r"[\x00-\x1f\x7f/\\]", "_", name).lstrip(".") or "unnamed"
    return bare if len(bare) <= 120 else f"{bare[:60]}…{bare[-50:]}"


def objection(path: Path) -> str | None:
    """Why a file is not taken, from its size and its header alone; files that are no pictures become error rows later."""
    try:
        size = path.stat().st_size
    except OSError:
        return "is not there any more. Upload it again."
    if size > MEGABYTES * 1_000_000:
        return f"has {size / 1e6:.0f} MB; {MEGABYTES} MB are taken. Save it smaller, or use the command line."
    try:
        with Image.open(path) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"has far more than {MEGAPIXELS} megapixels. Cut it, or use the command line with --tile."
    except Exception:  # no kind that Pillow knows, or broken: the reader says what is wrong with it
        return None
    if width * height > MEGAPIXELS * 1_000_000:
        said = f"{width} x {height} = {width * height / 1e6:.0f} megapixels"
        return f"is too large: {said}; {MEGAPIXELS} are taken. Cut it, or use the command line with --tile."
    return None
