"""From the record of one picture to its row, overlay, mask and map."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from zsad.decision.thresholds import Thresholds
from zsad.errors import ImageError
from zsad.images.heatmap import thumbnail
from zsad.images.reading import ImageRef, load_image
from zsad.inference.inspector import Inspector
from zsad.inference.result import Result
from zsad.runs.coco import segments_of
from zsad.runs.notes import CUT_MAPS
from zsad.runs.records import Records

__all__ = ["Drawer", "Drawn", "Options"]

JPEG_SIDE = 65_500  # pixels; a longer picture becomes a PNG
THUMB = 320  # pixels


@dataclass(frozen=True)
class Options:
    """Which files a run writes.

    Attributes:
        maps: "npy" (float32, original size), "png" (16 bit over the model's map range) or None.
        limit_report: pictures that the report shows, the worst first.
        hide_folders: rows have the pictures' names in place of their paths.
        formats: of the predictions, besides jsonl and csv: "coco", "excel" or "parquet".
        source: what the pictures were listed from, to which ``relative_path`` is relative.
    """

    maps: str | None = None
    limit_report: int = 500
    hide_folders: bool = False
    formats: tuple[str, ...] = ()
    source: str | None = None


@dataclass(frozen=True)
class Drawn:
    """A picture's row of predictions.jsonl, and what other files take.

    Attributes:
        row: the row.
        thumbs: JPEGs of picture and overlay, where the report shows it.
        size: (H, W) of the picture, where it was scored.
        segments: each region's pixels, for COCO.
    """

    row: dict[str, Any]
    thumbs: tuple[bytes, bytes] | None = None
    size: tuple[int, int] | None = None
    segments: tuple[dict[str, Any], ...] = ()


class Drawer:
    """Decides on and draws one picture at a time; may be called from several threads.

    Args:
        place: folder for the files.
        records: of the run.
        inspector: makes results of scores.
        thresholds: of the verdicts.
        options: what to write.
    """

    def __init__(self, place: Path, records: Records, inspector: Inspector, thresholds: Thresholds, options: Options) -> None:
        self.place, self.records, self.options = place, records, options
        self.value_range, self.result = inspector.value_range, partial(inspector.result, thresholds=thresholds)
        self.prompts = summarise_prompts(inspector.context.sentences)
        self.folder = None if options.source is None else folder_of_source(options.source)

    def __call__(self, record: dict[str, Any], output: str, shown: bool) -> Drawn:
        """The row and thumbnails of a picture.

        Args:
            record: from the records.
            output: name of its files, without an ending.
            shown: whether the report shows it.
        """
        scored, trouble = self.records.recall(record), None
        if scored.score is not None:
            try:
                scored = replace(scored, image=load_image(ImageRef(scored.name, scored.path), value_range=self.value_range).rgb)
            except ImageError as error:
                trouble = f"scored, but it could not be read again to draw it: {error}"
        if scored.image is not None and scored.image.shape[:2] != scored.size:
            trouble, scored = "scored, but the file was changed since; run again", replace(scored, image=None)
        result = self.result(scored)
        if trouble:
            result = replace(result, error=trouble)
        if self.options.maps == "png":
            result = replace(result, notes=(*result.notes, *_cut_note(result)))
        files, thumbs = self._draw(result, output, shown)
        files["relative_path"] = _below(self.folder, result.path)
        if self.options.hide_folders:
            result = replace(result, path=Path(result.name))
        row = result.as_dict() | {"prompts": self.prompts if scored.score is not None else None} | files
        return Drawn(row, thumbs, scored.size, segments_of(result) if "coco" in self.options.formats else ())

    def _draw(self, result: Result, output: str, shown: bool) -> tuple[dict[str, str | None], tuple[bytes, bytes] | None]:
        """Writes overlay, mask and map; returns their names, and the thumbnails."""
        files: dict[str, str | None] = {"overlay": None, "mask": None, "map": None}
        if result.anomaly_map is not None and self.options.maps:
            write_map(result, self._file(name := f"maps/{output}.{self.options.maps}"), self.options.maps)
            files["map"] = name
        if result.pred_mask is not None:
            mask = Image.fromarray(result.pred_mask.astype(np.uint8) * 255)
            mask.save(self._file(name := f"masks/{output}.png"), "PNG")
            files["mask"] = name
        if result.image is None or result.anomaly_map is None:
            return files, None
        drawn = result.overlay()
        ending = "jpg" if max(drawn.size) <= JPEG_SIDE else "png"
        drawn.save(self._file(name := f"overlays/{output}.{ending}"), quality=90)
        files["overlay"] = name
        thumbs = (_small_jpeg(Image.fromarray(result.image)), _small_jpeg(drawn)) if shown else None
        return files, thumbs

    def _file(self, relative: str) -> Path:
        path = self.place / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def write_map(result: Result, file: Path | IO[bytes], kind: str) -> None:
    """Writes the anomaly map as float32 (kind "npy"), or as 16 bits over the model's map range ("png")."""
    assert result.anomaly_map is not None
    if kind == "npy":
        np.save(file, result.anomaly_map)
        return
    low, high = result.map_range
    scored = np.nan_to_num(result.anomaly_map, nan=low)  # 16 bits have no NaN
    levels = np.rint(np.clip((scored - low) / (high - low), 0, 1) * 65535).astype(np.uint16)
    Image.fromarray(levels).save(file, "PNG")


def _cut_note(result: Result) -> tuple[str, ...]:
    """How much of the map a 16-bit PNG cuts off, as a note; none where it holds all."""
    low, high = result.map_range
    if result.anomaly_map is None:
        return ()
    outside = np.count_nonzero((result.anomaly_map < low) | (result.anomaly_map > high))  # NaN, unscored, is not
    if not outside:
        return ()
    share = outside / np.count_nonzero(~np.isnan(result.anomaly_map))
    return (f"{share:.2%} of the {CUT_MAPS} {low:g}..{high:g} and was cut in the png",)


def folder_of_source(source: str) -> Path:
    """The folder to which paths of pictures are relative: a folder itself, of a file or a pattern the last one before it."""
    place = Path(source)
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place


def _below(folder: Path | None, path: Path | None) -> str | None:
    """A path relative to a folder, with forward slashes; None where it is not below."""
    return path.relative_to(folder).as_posix() if folder and path and path.is_relative_to(folder) else None


def summarise_prompts(sentences: Mapping[str, tuple[str, ...]]) -> dict[str, Any] | None:
    """How many sentences of each kind, and their digest; the sentences themselves are in run.json, once."""
    if not sentences:
        return None
    text = json.dumps({kind: list(lines) for kind, lines in sentences.items()}, ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"count": {kind: len(lines) for kind, lines in sentences.items()}, "sha256": digest, "sentences": "run.json"}


def _small_jpeg(picture: Image.Image) -> bytes:
    memory = io.BytesIO()
    thumbnail(picture, THUMB).save(memory, "JPEG", quality=80)
    return memory.getvalue()
