"""From records and thresholds to the files that a person reads: the second stage of ``zsad predict``."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from zsad.common.file_names import OutputNames
from zsad.common.threads import ahead
from zsad.decision.thresholds import Thresholds, decide
from zsad.errors import ImageError
from zsad.images.heatmap import thumbnail
from zsad.images.reading import ImageRef, load_image
from zsad.inference.inspector import Inspector
from zsad.inference.result import Result
from zsad.runs.folder import RunFolder
from zsad.runs.records import Records, rows_at
from zsad.runs.report import Shown, write_report

__all__ = ["Options", "Summary", "write_results"]

COLUMNS = (
    *("path", "name", "pred_score", "p_value", "pred_label", "threshold", "threshold_source", "regions", "prompts"),
    *("method", "error", "notes", "overlay", "mask", "map"),
)
JPEG_SIDE = 65_500  # pixels; a longer picture becomes a PNG
THUMB = 320  # pixels
Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]


@dataclass(frozen=True)
class Options:
    """What to write.

    Attributes:
        maps: "npy" (float32, original size), "png" (16 bit over the model's map range) or None.
        limit_report: pictures that the report shows, the worst first.
        hide_folders: rows have the pictures' names in place of their paths.
    """

    maps: str | None = None
    limit_report: int = 500
    hide_folders: bool = False


@dataclass
class Summary:
    """What came out of a run."""

    thresholds: Thresholds
    counts: Counter[str] = field(default_factory=Counter)  # "normal", "review", "anomalous", "unlabelled", "error"
    order: list[int] = field(default_factory=list)  # places in predictions.jsonl, worst first, errors last

    @property
    def total(self) -> int:
        """Number of pictures."""
        return self.counts.total()


@dataclass(frozen=True)
class _Drawn:
    row: dict[str, Any]
    thumbs: tuple[bytes, bytes] | None  # picture and overlay


class _Drawer:
    """Decides and draws one picture; called from several threads."""

    def __init__(self, folder: RunFolder, inspector: Inspector, thresholds: Thresholds, options: Options) -> None:
        self.folder, self.inspector, self.thresholds, self.options = folder, inspector, thresholds, options
        self.prompts = summarise_prompts(inspector.context.sentences)

    def __call__(self, job: tuple[dict[str, Any], str, bool]) -> _Drawn:
        record, output, shown = job
        scored, trouble = self.folder.records.recall(record), None
        if scored.score is not None:
            try:
                ref = ImageRef(scored.name, scored.path)
                scored = replace(scored, image=load_image(ref, value_range=self.inspector.value_range).rgb)
            except ImageError as error:
                trouble = f"scored, but it could not be read again to draw it: {error}"
        if scored.image is not None and scored.image.shape[:2] != scored.size:
            trouble, scored = "scored, but the file was changed since; run again", replace(scored, image=None)
        result = self.inspector.result(scored, self.thresholds)
        if trouble:
            result = replace(result, error=trouble)
        files, thumbs = self._draw(result, output, shown)
        if self.options.hide_folders:
            result = replace(result, path=Path(result.name))
        row = result.as_dict() | {"prompts": self.prompts if scored.score is not None else None} | files
        return _Drawn(row, thumbs)

    def _draw(self, result: Result, output: str, shown: bool) -> tuple[dict[str, str | None], tuple[bytes, bytes] | None]:
        files: dict[str, str | None] = {"overlay": None, "mask": None, "map": None}
        if result.anomaly_map is not None and self.options.maps:
            self._write_map(result, self._place(name := f"maps/{output}.{self.options.maps}"))
            files["map"] = name
        if result.pred_mask is not None:
            mask = Image.fromarray(result.pred_mask.astype(np.uint8) * 255)
            mask.save(self._place(name := f"masks/{output}.png"), "PNG")
            files["mask"] = name
        if result.image is None or result.anomaly_map is None:
            return files, None
        drawn = result.overlay()
        ending = "jpg" if max(drawn.size) <= JPEG_SIDE else "png"
        drawn.save(self._place(name := f"overlays/{output}.{ending}"), quality=90)
        files["overlay"] = name
        thumbs = (_small_jpeg(Image.fromarray(result.image)), _small_jpeg(drawn)) if shown else None
        return files, thumbs

    def _place(self, relative: str) -> Path:
        path = self.folder.new / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _write_map(self, result: Result, path: Path) -> None:
        assert result.anomaly_map is not None
        if path.suffix == ".npy":
            with path.open("wb") as file:
                np.save(file, result.anomaly_map)
            return
        low, high = result.map_range
        levels = np.rint(np.clip((result.anomaly_map - low) / (high - low), 0, 1) * 65535).astype(np.uint16)
        Image.fromarray(levels).save(path, "PNG")


def write_results(
    folder: RunFolder,
    places: array[int],
    inspector: Inspector,
    given: Thresholds,
    options: Options,
    about: Callable[[Summary], dict[str, Any]],
    watch: Watch,
) -> Summary:
    """Decides, draws and writes everything of a run, and moves it into place.

    Args:
        folder: the run folder; its records are read.
        places: the pictures' places in the records, in the order of the source.
        inspector: what judged.
        given: thresholds that the user gave; what they leave open is settled by the batch rule.
        options: what to write.
        about: the content of run.json.
        watch: wraps a loop (with a label and its length) to show progress.
    """
    records = folder.records
    scores, peaks = _scores(records, places)
    thresholds = decide(scores[~np.isnan(scores)], peaks[~np.isnan(peaks)], given)
    names = OutputNames(row["name"] for row in records.rows(places))
    ranking = np.argsort(-scores, kind="stable")  # worst first; NaN, the errors, last
    shown = set(ranking[: options.limit_report].tolist())
    folder.begin_new()
    jobs = ((row, names(row["name"]), index in shown) for index, row in enumerate(records.rows(places)))
    drawer = _Drawer(folder, inspector, thresholds, options)
    drawn = watch(ahead(jobs, drawer, inspector.workers, 2 * inspector.workers), "drawing", len(places))
    summary = Summary(thresholds)
    with ExitStack() as stack:
        thumbs = stack.enter_context((folder.new / "thumbs").open("w+b"))
        lines, where = _write_rows(folder.new, drawn, summary, thumbs)
        summary.order = [lines[index] for index in ranking]
        content = about(summary)
        (folder.new / "run.json").write_text(_json(content, indent=1) + "\n", encoding="utf-8", errors="backslashreplace")
        rows = zip(ranking.tolist(), rows_at(folder.new / "predictions.jsonl", summary.order), strict=True)
        write_report(
            folder.new / "report.html",
            (Shown(row, *_thumbs_at(thumbs, where.get(index))) for index, row in rows),
            counts=summary.counts,
            thresholds=thresholds,
            judge=inspector.describe(),
            scores=scores,
            limit=options.limit_report,
        )
    (folder.new / "thumbs").unlink()
    folder.install()
    return summary


def _scores(records: Records, places: array[int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Scores and the maps' peaks, NaN where there is none."""
    found = np.full((2, len(places)), np.nan)
    for index, row in enumerate(records.rows(places)):
        if "score" in row:
            found[:, index] = row["score"], row["peak"]
    return found[0], found[1]


def _write_rows(
    new: Path, drawn: Iterable[_Drawn], summary: Summary, thumbs: IO[bytes]
) -> tuple[array[int], dict[int, tuple[int, int, int]]]:
    """Writes both tables; returns the rows' places in the jsonl, and by row the thumbnails' place and lengths."""
    lines = array("q")
    where: dict[int, tuple[int, int, int]] = {}
    with (new / "predictions.jsonl").open("wb") as jsonl, _text(new / "predictions.csv") as table:
        sheet = csv.writer(table, lineterminator="\n")
        sheet.writerow(COLUMNS)
        for index, one in enumerate(drawn):
            lines.append(jsonl.tell())
            jsonl.write(_json(one.row).encode("utf-8", "backslashreplace") + b"\n")
            sheet.writerow([_cell(one.row[column]) for column in COLUMNS])
            summary.counts["error" if one.row["error"] else one.row["pred_label"] or "unlabelled"] += 1
            if one.thumbs:
                where[index] = (thumbs.tell(), len(one.thumbs[0]), len(one.thumbs[1]))
                thumbs.write(b"".join(one.thumbs))
    return lines, where


def _thumbs_at(file: IO[bytes], where: tuple[int, int, int] | None) -> tuple[bytes, bytes]:
    if where is None:
        return b"", b""
    file.seek(where[0])
    return file.read(where[1]), file.read(where[2])


def summarise_prompts(sentences: Mapping[str, tuple[str, ...]]) -> dict[str, Any] | None:
    """How many sentences of each kind, and their digest; the sentences themselves are in run.json, once."""
    if not sentences:
        return None
    digest = hashlib.sha256(_json({kind: list(lines) for kind, lines in sentences.items()}).encode()).hexdigest()
    return {"count": {kind: len(lines) for kind, lines in sentences.items()}, "sha256": digest, "sentences": "run.json"}


def _small_jpeg(picture: Image.Image) -> bytes:
    memory = io.BytesIO()
    thumbnail(picture, THUMB).save(memory, "JPEG", quality=80)
    return memory.getvalue()


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def _text(path: Path) -> IO[str]:
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


def _cell(value: Any) -> Any:
    """A CSV cell: lists of regions as "x0 y0 x1 y1" each, prompts as counts."""
    if isinstance(value, list):
        return "; ".join(" ".join(map(str, one["box"])) if isinstance(one, dict) else str(one) for one in value)
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@")):
        return f"'{value}"  # a spreadsheet would run it as a formula
    if isinstance(value, dict):
        return "; ".join(f"{count} {kind}" for kind, count in value["count"].items())
    return value
