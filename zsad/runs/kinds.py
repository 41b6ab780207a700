"""``zsad kinds``: the regions of a finished run grouped by what they look like; a column ``kind`` and contact sheets."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from zsad.common.atomic_files import write_atomically
from zsad.common.output_folder import HIDDEN
from zsad.errors import ImageError, UsageError
from zsad.images.reading import ImageRef, load_image
from zsad.inference.region_features import Found, eight_bits, features_of, limits_of, picture_kinds, regions_of
from zsad.kinds.grouping import NEW, Kinds, group, kinds_of
from zsad.registry import load_by_recipe, method_class
from zsad.runs.additions import finished_rows, is_flagged, locked, rewrite_rows, why_none_flagged
from zsad.runs.kinds_naming import Namer
from zsad.runs.kinds_report import add_sheets
from zsad.runs.records import Records, rows_at
from zsad.runs.source_files import SourceFiles

__all__ = ["CENTRES", "FACTS", "RunKinds", "find_kinds"]

FACTS, CENTRES = "kinds.json", "kinds.safetensors"


@dataclass(frozen=True, eq=False)
class RunKinds:
    """What was found in a run.

    Attributes:
        kinds: names, centres, and how far from them a region is still of the kind.
        regions: all regions of flagged pictures.
        region_kinds: name of each.
        pictures: kind of each flagged picture, by its name.
        errors: pictures that could not be read again.
        unnamed: why a kind has no name by the model that was asked, by its name.
    """

    kinds: Kinds
    regions: tuple[Found, ...]
    region_kinds: tuple[str, ...]
    pictures: Mapping[str, str]
    errors: Mapping[str, str] = field(default_factory=dict)
    unnamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Pictures by kind, most first."""
        return dict(Counter(self.pictures.values()).most_common())


def find_kinds(
    out: str | Path,
    number: int | None = None,
    *,
    like: str | Path | None = None,
    rename: Mapping[str, str] | None = None,
    source: Sequence[str | Path] = (),
    namer: Namer | None = None,
    device: str = "cpu",
) -> RunKinds:
    """Finds the kinds of a run's flagged pictures and writes them to its rows, kinds.json and the report.

    Args:
        out: results of ``zsad predict``.
        number: of kinds; None: found.
        like: results of another run, whose kinds are taken; a region like none of them is "new".
        rename: new name by old name; kinds of one name become one. The kinds are then those that the run has already, unless
            ``number`` or ``like`` is given.
        source: folders from which pictures are read; none: the files that were scored, where they still are what they were.
        namer: asks a model for the names of kinds that are found.
        device: of the encoder.

    Raises:
        UsageError: no run, none of its pictures was flagged, its maps are gone, it has fewer than two regions, or ``namer`` and
            names that are known already.
    """
    if namer is not None and (like is not None or rename):
        raise UsageError("A model is asked for names, and names were given (--like, --rename). Leave one of them out.")
    folder = Path(out)
    rows, run = _rows(folder), _run(folder)
    detector = run["detector"]
    files = SourceFiles(run, source, leaves=namer is not None and bool(namer.model.where))
    with locked(folder, "zsad kinds"):
        names, regions, errors = _regions(folder, rows, detector["value_range"], files)
        features = features_of(regions, _encoder(detector).to(device), device)
        described = {key: detector[key] for key in ("backbone", "backbone_sha256", "image_size")}
        again = bool(rename) and number is None and (folder / CENTRES).is_file()
        if like is not None or again:
            known = _load(folder if like is None else Path(like), described)
        else:
            groups = group(features, number)
            known = kinds_of(features, groups, described, _words(rows, names, regions, groups))
        unnamed = dict[str, str]()
        if namer is not None:
            known, unnamed = namer.name(known, detector["target"], regions, features, files.places)
        found = replace(_assigned(known.renamed(rename or {}), regions, features, names, errors), unnamed=unnamed)
        _write(folder, rows, found, names)
    return found


# ------------------------------------------------------------------ the run
def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = finished_rows(folder)
    if not any(map(is_flagged, rows)):
        raise UsageError(f"{why_none_flagged(folder, rows)}, so there are no kinds of anomalies.")
    return rows


def _run(folder: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if (run["detector"]["geometry"] or {}).get("roi") is not None:
        raise UsageError(
            f"{str(folder)!r} was scored in a region of interest; kinds are found in whole pictures. Leave --roi out."
        )
    return run


def _encoder(detector: Mapping[str, Any]) -> Any:
    """The run's own encoder; raises ``UsageError`` where other weights stand under its name now."""
    backbone = load_by_recipe(detector["method"], method_class(detector["method"]).recipe, detector["backbone"])
    if backbone.weights_sha256 != detector["backbone_sha256"]:
        raise UsageError(f"The weights of {detector['backbone']} are not those of the run. Run zsad predict again.")
    return backbone


def _regions(
    folder: Path, rows: Sequence[Mapping[str, Any]], value_range: Sequence[float] | None, files: SourceFiles
) -> tuple[list[str], list[Found], dict[str, str]]:
    """Names of the flagged pictures, their regions by number, and what could not be read."""
    records = Records(folder / HIDDEN)
    records.read()
    known = records.known
    records.order = array("q", [place for place, _ in known.values()])
    scored = [row for row in records.rows() if "score" in row]
    low, high = min(row["least"] for row in scored), max(row["peak"] for row in scored)
    given = None if value_range is None else (value_range[0], value_range[1])
    limits = limits_of([row["peak"] for row in scored], low, high)
    names, regions, errors = list[str](), list[Found](), dict[str, str]()
    for row in rows:
        if not is_flagged(row):
            continue
        (record,) = rows_at(records.file, [known[row["name"]][0]])
        one = records.recall(record)
        try:
            picture = load_image(ImageRef(one.name, files.find(record)), value_range=given).rgb
        except ImageError as error:
            errors[row["name"]] = str(error)
            continue
        assert one.model_map is not None
        regions += regions_of(len(names), picture, eight_bits(one.model_map, low, high), limits)
        names.append(row["name"])
    if errors and not names:
        raise UsageError(f"None of the flagged pictures can be read again. The first: {next(iter(errors.values()))}")
    return names, regions, errors


def _words(rows: Sequence[Mapping[str, Any]], names: list[str], regions: list[Found], groups: NDArray[np.int64]) -> list[str]:
    """For each group the defect word that the run suggests for most of its pictures; "" where there is none."""
    suggested = {row["name"]: [one["suggested_word"] for one in row["regions"] if one["suggested_word"]] for row in rows}
    found = []
    for one in range(int(groups.max()) + 1):
        owners = {names[region.picture] for region, own in zip(regions, groups, strict=True) if own == one}
        words = Counter(word for name in owners for word in set(suggested[name]))
        word, count = next(iter(words.most_common(1)), ("", 0))
        found.append(word if count > len(owners) / 2 and word not in found else "")
    return found


def _assigned(
    known: Kinds, regions: list[Found], features: NDArray[np.float64], names: list[str], errors: Mapping[str, str]
) -> RunKinds:
    """Kinds of regions, and of pictures by those of their regions that are of a kind."""
    each = known.of(features)
    cosines = known.similarity(features)
    chosen = [index for index, kind in enumerate(each) if kind != NEW]
    merged = picture_kinds([regions[index] for index in chosen], cosines[chosen], len(names))
    pictures = {name: NEW if kind < 0 else known.names[kind] for name, kind in zip(names, merged, strict=True)}
    return RunKinds(known, tuple(regions), tuple(each), pictures, errors)


# ------------------------------------------------------------------ on disk
def _load(folder: Path, described: Mapping[str, Any]) -> Kinds:
    try:
        facts, tensors = json.loads((folder / FACTS).read_text(encoding="utf-8")), load_file(folder / CENTRES)
        found = Kinds(tuple(facts["centres"]), tensors["centres"], tensors["limits"], facts["encoder"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UsageError(f"{str(folder)!r} holds no kinds that can be read ({error}). Run zsad kinds on it first.") from error
    if dict(found.encoder) != dict(described):
        raise UsageError(
            f"The kinds of {str(folder)!r} were found with {found.encoder['backbone']}, this run with {described['backbone']} "
            "or other weights of it; their features cannot be compared. Score both with the same."
        )
    return found


def _write(folder: Path, rows: Sequence[dict[str, Any]], found: RunKinds, names: list[str]) -> None:
    write_atomically(
        folder / CENTRES, lambda file: _save(file.name, {"centres": found.kinds.centres, "limits": found.kinds.limits})
    )
    regions = [
        {"picture": names[region.picture], "kind": kind, "box": list(region.box), "area": region.area}
        for region, kind in zip(found.regions, found.region_kinds, strict=True)
    ]
    facts = {
        "kinds": found.counts,
        "centres": list(found.kinds.names),
        "encoder": dict(found.kinds.encoder),
        "regions": regions,
    }
    write_atomically(folder / FACTS, (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    rewrite_rows(folder, ({**row, "kind": found.pictures.get(row["name"])} for row in rows), "kind")
    add_sheets(folder / "report.html", found.regions, found.region_kinds, names, found.counts)


def _save(path: str, tensors: dict[str, NDArray[np.float64]]) -> None:
    save_file({key: np.ascontiguousarray(one) for key, one in tensors.items()}, path)
