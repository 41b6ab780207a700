"""JSON files of annotation tools: which tool wrote one, and values of any type that are checked before they are used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zsad.datasets.layout import entries
from zsad.datasets.parsing import text_of
from zsad.errors import UsageError

__all__ = ["json_files", "json_kind", "load_json", "numbers", "objects", "size_of"]

HEAD = 1 << 16  # bytes of a JSON file by which its kind is told
MANY = 50  # JSON files of a folder that are looked at: where there are more, each belongs to one picture


def json_files(folder: Path) -> list[Path]:
    """The JSON files of a folder; none where there are so many that each belongs to one picture."""
    files = [path for path in entries(folder) if path.suffix.lower() == ".json"]
    return files if len(files) <= MANY else []


def json_kind(file: Path) -> str:
    """Tells "coco", "datumaro", "label_studio" or "labelme" by the first keys of a JSON file; "" for others."""
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD).decode("utf-8-sig", "replace").lstrip()
    except OSError:
        return ""

    def has(key: str, opening: str) -> bool:
        return re.search(rf'"{key}"\s*:\s*{opening}', head) is not None

    if head.startswith("["):
        tasks = has("(annotations|completions|predictions)", r"\[") and has("data", r"\{")
        return "label_studio" if tasks or (has("annotation_id", "") and has("annotator", "")) else ""
    if not head.startswith("{"):
        return ""
    if re.match(r'\{\s*"(shapes|imagePath|imageData|version|flags)"', head):
        return "labelme" if has("shapes", r"\[") or has("imageData", "") else ""
    datumaro = has("categories", r"\{") and re.match(r'\{\s*"(info|infos|categories|media_type)"', head)
    if datumaro or has("dm_format_version", ""):
        return "datumaro"
    coco = re.match(r'\{\s*"(info|licenses|images|annotations|categories|type)"', head)
    lists = "(images|annotations)" if len(head) < HEAD // 2 else "(images|annotations|categories)"  # what follows is not seen
    return "coco" if coco and has(lists, r"\[") else ""


def load_json(file: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Reads a JSON file; ``hook`` replaces each object as soon as it is read. Raises ``UsageError`` where it is none."""
    try:
        return json.loads(text_of(file), object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{str(file)!r} is no JSON: {error}.") from error


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of a list; [] where it is none."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def numbers(value: object, count: int | None = None) -> list[float] | None:
    """Numbers of a list, or in a text with commas or spaces between; None where it holds others, or not ``count`` of them."""
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or len(parts) > 10_000_000:
        return None
    try:
        found = [float(one) for one in parts]
    except (TypeError, ValueError, OverflowError):
        return None
    return found if count is None or len(found) == count else None


def size_of(width: object, height: object) -> tuple[int, int] | None:
    """(width, height) of a picture as its annotation states them, as numbers or words; None where they are none."""
    found = numbers([width, height], 2)
    return (int(found[0]), int(found[1])) if found and all(1 <= one < 1e9 for one in found) else None
