"""``BatchScorer``: a batch of pictures in, columns out. It knows no engine; Ray, Spark and process pools call it alike."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from zsad.common.file_names import printable
from zsad.distributed.places import normal_path, place_of
from zsad.distributed.specification import Attachments, Specification
from zsad.distributed.table import COLUMNS, arrow_table
from zsad.errors import ImageError
from zsad.images.content import is_blank
from zsad.images.reading import ImageRef
from zsad.inference.inspector import Inspector
from zsad.inference.result import Result, shortest
from zsad.inference.scorer import Scored
from zsad.inference.verdict import verdict_of
from zsad.runs.drawing import write_map
from zsad.runs.tables import encodable

__all__ = ["BatchScorer"]

_loaded: dict[str, Inspector] = {}  # by fingerprint and settings; the last one


class BatchScorer:
    """Scores batches of pictures. It may be pickled, and loads the model once per process, when the first batch comes.

    Args:
        specification: the detector, and what rows depend on.
        attachments: files that go with it, see ``attachments_of`` and ``pool.py``.
    """

    def __init__(self, specification: Specification, attachments: Attachments | None = None) -> None:
        self.specification, self.attachments = specification, dict(attachments or {})
        self._calibration = specification.known_calibration()
        self.worker = ""

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Columns of the table for a batch.

        Args:
            batch: "path" (as ``normal_path`` spells it, or as a listing gives it); "bytes", the files' contents, may be left
                out: then they are read here. Other columns are ignored.

        Raises:
            UsageError, WeightsUnavailable: as ``Specification.load``. What is wrong with a picture is a row.
        """
        rows = self.rows(batch["path"], batch.get("bytes"))
        return {column: [row[column] for row in rows] for column in COLUMNS}

    def table(self, batch: Mapping[str, Sequence[Any]]) -> Any:
        """As the call, as a table of pyarrow with the types of ``schema``."""
        return arrow_table(self.rows(batch["path"], batch.get("bytes")))

    def rows(self, paths: Sequence[Any], contents: Sequence[Any] | None = None) -> list[dict[str, Any]]:
        """One row per picture, in the order given."""
        inspector = self.inspector
        begun, found = time.perf_counter(), list[dict[str, Any]]()
        plain = [self.path_of(str(path)) for path in paths]
        refs = self._refs(plain, [None] * len(plain) if contents is None else contents)
        for path, scored in zip(plain, inspector.scored(refs), strict=True):
            found.append(self._row(inspector, path, scored))
        each = 1000 * (time.perf_counter() - begun) / max(1, len(found))
        return [row | {"milliseconds": each} for row in found]

    @property
    def inspector(self) -> Inspector:
        """The model of this process."""
        key = f"{self.specification.fingerprint} {json.dumps(dict(self.specification.settings), sort_keys=True)}"
        if key not in _loaded:
            _loaded.clear()
            _loaded[key] = self.specification.load(self.attachments)
        self.worker = self.worker or f"{socket.gethostname()}:{os.getpid()}"
        return _loaded[key]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"worker": ""}

    # ------------------------------------------------------------------ one picture
    def _refs(self, paths: Sequence[str], contents: Sequence[Any]) -> Iterator[ImageRef]:
        for path, content in zip(paths, contents, strict=True):
            yield self.ref(path, None if content is None else bytes(content))

    def ref(self, path: str, content: bytes | None = None) -> ImageRef:
        """A picture by its path in the table, with its bytes where they have to be fetched from a store."""
        source = place_of(self.specification.source) if self.specification.source else None
        if content is not None or source is None or source.local is not None:
            return ImageRef(self.name_of(path), Path(path), content)
        try:
            return ImageRef(self.name_of(path), Path(path), source.picture(path))
        except OSError as error:
            why = error.strerror or str(error) or type(error).__name__
            failure = ImageError(f"cannot be fetched: {why}. Try it again: --retry-errors")
            return ImageRef(self.name_of(path), Path(path), failure)

    def path_of(self, path: str) -> str:
        """A path as the table spells it: engines drop the scheme of a store, or write local files as ``file:/...``."""
        local = re.sub(r"(?i)^file:/+", "/", path)
        return normal_path(local, place_of(self.specification.source).before) if self.specification.source else local

    def name_of(self, path: str) -> str:
        """The path below the source, or the last part of one that lies elsewhere."""
        if self.specification.source:
            place = place_of(self.specification.source)
            for root in (place.root, place.base):
                if path.startswith(f"{root}/"):
                    return path.removeprefix(f"{root}/")
        return PurePosixPath(path).name

    def _row(self, inspector: Inspector, path: str, scored: Scored) -> dict[str, Any]:
        spec, calibration = self.specification, self._calibration
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= {"path": path, "name": scored.name, "method": inspector.detector.name, "fingerprint": spec.fingerprint}
        row |= {"notes": list(scored.notes), "error": scored.error, "worker": self.worker, "regions": []}
        if scored.score is None or scored.size is None or scored.model_map is None:
            return row
        row |= {"height": scored.size[0], "width": scored.size[1], "score": scored.score, "blank": is_blank(scored.notes)}
        row["peak"], row["threshold"] = shortest(scored.model_map.max()), spec.thresholds.anomalous
        row["label"] = verdict_of(scored, spec.thresholds) if spec.thresholds.anomalous is not None else None
        row["p_value"] = None if calibration is None else calibration.p_value(scored.score)
        if spec.thresholds.pixel is not None or spec.maps:
            result = inspector.result(scored, spec.thresholds)
            row["regions"] = [region.as_dict() for region in result.regions]
            row["suggested_word"] = next((one.suggested_word for one in result.regions if one.suggested_word), None)
            row["map"] = self._keep_map(result, path)
        return row

    def _keep_map(self, result: Result, path: str) -> str | None:
        """Writes the map, under a name that no other picture's has; returns where."""
        if self.specification.maps is None or self.specification.maps_out is None:
            return None
        digits = hashlib.blake2b(encodable(path).encode(), digest_size=8).hexdigest()
        stem = printable(PurePosixPath(path).stem)[:80].replace("/", "_")
        name, memory = f"{digits[:2]}/{digits}-{stem}.{self.specification.maps}", io.BytesIO()
        write_map(result, memory, self.specification.maps)
        place = place_of(self.specification.maps_out)
        place.write(name, memory.getvalue())
        return place.path(name)
