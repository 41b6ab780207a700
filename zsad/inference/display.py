"""How a result is shown and kept: as one line, in a notebook, and as files."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sized
from html import escape
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray
from PIL import Image

from zsad.common.atomic_files import write_atomically
from zsad.common.file_names import OutputNames, many
from zsad.errors import UsageError
from zsad.images.heatmap import thumbnail

__all__ = ["Drawable", "as_html", "as_line", "as_png", "save"]

SHOWN = 640  # pixels of the longer side in a notebook


class Drawable(Protocol):
    """What is shown of a ``Result``; its attributes are described there."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path | None: ...
    @property
    def pred_score(self) -> float | None: ...
    @property
    def p_value(self) -> float | None: ...
    @property
    def pred_label(self) -> str | None: ...
    @property
    def threshold(self) -> float | None: ...
    @property
    def regions(self) -> Sized: ...
    @property
    def error(self) -> str | None: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def image(self) -> NDArray[Any] | None: ...
    @property
    def anomaly_map(self) -> NDArray[Any] | None: ...
    def overlay(self) -> Image.Image: ...
    def as_dict(self) -> dict[str, Any]: ...


def as_line(result: Drawable) -> str:
    """One line without arrays: ``Result('a.png', pred_score=0.4213, pred_label='anomalous', regions=2)``."""
    if result.error:
        return f"Result({result.name!r}, error={result.error!r})"
    score = "None" if result.pred_score is None else f"{result.pred_score:.4g}"
    return f"Result({result.name!r}, pred_score={score}, pred_label={result.pred_label!r}, regions={len(result.regions)})"


def as_png(result: Drawable) -> bytes | None:
    """The overlay as a PNG, at most ``SHOWN`` pixels long; None where there is nothing to draw."""
    if result.image is None or result.anomaly_map is None:
        return None
    memory = io.BytesIO()
    thumbnail(result.overlay(), SHOWN).save(memory, "PNG")
    return memory.getvalue()


def as_html(result: Drawable) -> str:
    """Overlay, name, score, verdict, number of regions and notes as a piece of HTML; no text of the result is markup in it."""
    png = as_png(result)
    name = escape(result.name)
    picture = "" if png is None else f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    facts = [] if result.pred_score is None else [f"score {result.pred_score:.4g}"]
    facts += [] if result.threshold is None else [f"threshold {result.threshold:.4g}"]
    facts += [] if result.p_value is None else [f"p = {result.p_value:.3g}"]
    facts += [many(len(result.regions), "region")] if result.regions else []
    verdict = "error" if result.error else result.pred_label or "no verdict"
    lines = [f"<strong>{name}</strong>: {verdict}{''.join(f', {fact}' for fact in facts)}"]
    lines += [escape(line) for line in (*([result.error] if result.error else []), *result.notes)]
    return f"<figure>{picture}<figcaption>{'<br>'.join(lines)}</figcaption></figure>"


def save(result: Drawable, place: str | Path) -> tuple[Path, ...]:
    """Writes the overlay (PNG) and the result's JSON object; see ``Result.save``.

    Names in a folder keep the picture's ending, so that ``a.jpg`` and ``a.png`` do not share them, and so that nothing written
    into the folder of the pictures takes a picture's name.
    """
    overlay, facts = _files(result, Path(place))
    if result.path is not None and overlay.exists() and result.path.exists() and overlay.samefile(result.path):
        raise UsageError(f"{str(overlay)!r} is the picture that was scored. Give another path.")
    facts.parent.mkdir(parents=True, exist_ok=True)
    written = []
    if result.image is not None and result.anomaly_map is not None:
        drawn = result.overlay()
        write_atomically(overlay, lambda file: drawn.save(file, "PNG"))
        written.append(overlay)
    text = json.dumps(result.as_dict(), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    write_atomically(facts, text.encode("utf-8", "backslashreplace"))
    return (*written, facts)


def _files(result: Drawable, place: Path) -> tuple[Path, Path]:
    """Paths of the overlay and of the JSON file."""
    if place.is_dir() or not place.suffix:
        if place.is_file():
            raise UsageError(f"{str(place)!r} is a file without an ending. Give a folder, or a path that ends in .png.")
        name = OutputNames([kept := f"{result.name}.json"])(kept)  # ".json", so that the picture's own ending stays
        return place / f"{name}.overlay.png", place / f"{name}.json"
    if place.suffix.lower() != ".png":
        raise UsageError(
            f"The overlay is written as PNG; {str(place)!r} ends in {place.suffix}. Give a .png path, or a folder."
        )
    return place, place.with_suffix(".json")
