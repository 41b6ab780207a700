"""Readers of data sets that a file lists: meta.json (AnomalyCLIP), CSV or JSONL manifests, VisA, Real-IAD, HeadCT."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zsad.datasets import words
from zsad.datasets.dataset import Sample
from zsad.datasets.layout import Found, Layout, entries, subfolders
from zsad.datasets.parsing import csv_rows, json_of, label_of, mask_of, phases_of, place_of, text_of
from zsad.errors import UsageError

__all__ = ["HEAD_CT", "MANIFEST", "META", "REAL_IAD", "VISA"]

RESOLUTIONS = ("realiad_1024", "realiad_512", "realiad_256", "realiad_raw")  # in the order of preference


# ---------------------------------------------------------------- meta.json
def _meta_file(path: Path) -> Path:
    return path / "meta.json" if path.is_dir() else path


def _is_meta(path: Path) -> bool:
    file = _meta_file(path)
    return file.is_file() and file.suffix.lower() == ".json" and not _is_real_iad(path)


def _read_meta(path: Path, found: Found) -> None:
    file = _meta_file(path)
    for split, table in phases_of(json_of(file), dict, file):
        for category, rows in table.items():
            found.category(category)
            for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
                where = f"{file.name} {split}/{category} row {number}"
                if not isinstance(row, dict) or "img_path" not in row:
                    found.problem(where, "is no object with 'img_path'.")
                elif (place := place_of(row["img_path"], where, found, file.parent)) is not None:
                    label = label_of(row.get("anomaly", ""), where, found)
                    mask = mask_of(row.get("mask_path", ""), where, found, file.parent)
                    found.add(Sample(place, label, mask, category, split, str(row.get("specie_name") or "")))


# ---------------------------------------------------------------- a manifest of one's own
def _manifest_files(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in (path / "manifest.csv", path / "manifest.jsonl") if file.is_file()]
    taken = path.suffix.lower() in (".csv", ".jsonl") and path.is_file() and not _is_visa(path)
    return [path] if taken else []


def _json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text_of(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UsageError(f"{file.name!r} line {number} is no JSON: {error}.") from error
        if not isinstance(row, dict) or "path" not in row:
            raise UsageError(f"{file.name!r} line {number} is no object with the key 'path'.")
        yield f"{file.name} line {number}", row


def _read_manifest(path: Path, found: Found) -> None:
    """Columns or keys: path, label, mask, category, split, kind; only path is needed, others are ignored."""
    files = _manifest_files(path)
    if len(files) > 1:
        raise UsageError(f"{str(path)!r} holds manifest.csv and manifest.jsonl. Give the path of one of them.")
    file = files[0]
    for where, row in csv_rows(file, "path") if file.suffix.lower() == ".csv" else _json_lines(file):
        place = place_of(row["path"], where, found, file.parent, absolute=True)
        if place is not None:
            mask = mask_of(row.get("mask"), where, found, file.parent, absolute=True)
            category = str(row.get("category") or file.resolve().parent.name)
            label = label_of(row.get("label", ""), where, found)
            found.add(
                Sample(place, label, mask, category, words.split_of(str(row.get("split") or "")), str(row.get("kind") or ""))
            )


# ---------------------------------------------------------------- VisA
def _visa_file(path: Path) -> Path:
    return path / "split_csv" / "1cls.csv" if path.is_dir() else path


def _is_visa(path: Path) -> bool:
    file = _visa_file(path)
    return file.is_file() and file.parent.name == "split_csv"


def _read_visa(path: Path, found: Found) -> None:
    file = _visa_file(path)
    root = found.root = path if path.is_dir() else file.parent.parent
    for where, row in csv_rows(file, "image"):
        place = place_of(row["image"], where, found, root)
        if place is not None:
            label = label_of(row.get("label", ""), where, found)
            kind = {None: "", 0: "good", 1: "anomaly"}[label]
            mask = mask_of(row.get("mask", ""), where, found, root)
            found.add(
                Sample(place, label, mask, row.get("object", "") or root.name, words.split_of(row.get("split", "")), kind)
            )


# ---------------------------------------------------------------- Real-IAD
def _lists(path: Path) -> list[Path]:
    """The json files of one variant: those of the multi-view set, unless the path names another folder, or a file."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" and path.parent.name.startswith("realiad_jsons") else []
    folders = [path / "realiad_jsons" / "realiad_jsons", path / "realiad_jsons"]
    if path.resolve().name.startswith("realiad_jsons"):
        folders = [path, path / "realiad_jsons"]
    found = ([file for file in entries(folder) if file.suffix.lower() == ".json"] for folder in folders)
    return next((files for files in found if files), [])


def _is_real_iad(path: Path) -> bool:
    return bool(_lists(path))


def _resolution(file: Path, found: Found) -> Path:
    for base in file.absolute().parents[1:4]:
        names = [folder.name for folder in subfolders(base) if folder.name in RESOLUTIONS]
        if names:
            best = min(names, key=RESOLUTIONS.index)
            if len(names) > 1 and not found.samples:
                found.problem(best, f"taken of {', '.join(names)}.")
            found.root = base
            return base / best
    raise UsageError(f"Real-IAD's pictures are not beside {str(file)!r}: looked for a folder {', '.join(RESOLUTIONS)}.")


def _read_real_iad(path: Path, found: Found) -> None:
    for file in _lists(path):
        root = _resolution(file, found) / file.stem
        found.category(file.stem)
        for split, rows in phases_of(json_of(file), list, file):
            for number, row in enumerate(rows):
                where = f"{file.name} {split} row {number}"
                if not isinstance(row, dict) or "image_path" not in row:
                    found.problem(where, "is no object with 'image_path'.")
                elif (place := place_of(row["image_path"], where, found, root)) is not None:
                    kind = str(row.get("anomaly_class", ""))
                    mask = mask_of(row.get("mask_path"), where, found, root)
                    view = re.search(r"_(C\d+)_", place.name)
                    label = int(kind != "OK") if kind else None
                    found.add(Sample(place, label, mask, file.stem, split, kind, view[1] if view else ""))


# ---------------------------------------------------------------- HeadCT
def _is_head_ct(path: Path) -> bool:
    file = path / "labels.csv"
    return file.is_file() and bool(re.match(rb"(\xef\xbb\xbf)?id *, *hemorrhage\s", file.read_bytes()[:40]))


def _read_head_ct(path: Path, found: Found) -> None:
    """Kaggle's layout: ``labels.csv`` (id, hemorrhage) and ``head_ct/head_ct/000.png``, the id with three digits."""
    folder = next((one for one in (path / "head_ct" / "head_ct", path / "head_ct") if one.is_dir()), path)
    for where, row in csv_rows(path / "labels.csv", "id"):
        place = place_of(f"{row['id']:0>3}.png", where, found, folder)
        if place is not None:
            label = label_of(row.get("hemorrhage", ""), where, found)
            found.add(Sample(place, label, None, "head_ct", kind="hemorrhage" if label else "good"))


META = Layout(
    "meta",
    "meta.json: {'train': ..., 'test': {category: [{img_path, mask_path, anomaly, specie_name}]}}",
    _is_meta,
    _read_meta,
    index=True,
)
MANIFEST = Layout(
    "manifest",
    "manifest.csv or manifest.jsonl (or such a file by its path) with path, label (0 or 1), mask, category, split",
    lambda path: bool(_manifest_files(path)),
    _read_manifest,
    index=True,
)
VISA = Layout(
    "visa", "split_csv/1cls.csv (or another of its files by its path) and <category>/Data", _is_visa, _read_visa, index=True
)
REAL_IAD = Layout(
    "real_iad", "realiad_jsons/.../<category>.json and realiad_1024/<category>", _is_real_iad, _read_real_iad, index=True
)
HEAD_CT = Layout(
    "head_ct", "labels.csv (id, hemorrhage) and head_ct/head_ct/000.png", _is_head_ct, _read_head_ct, index=True, masks=False
)
