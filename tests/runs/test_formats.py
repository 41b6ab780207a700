"""Predictions in other formats hold what predictions.jsonl holds: COCO, Parquet, CSV for Excel."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brightness import folder_of, picture, registered_methods  # noqa: F401
from PIL import Image
from typer.testing import CliRunner

from zsad.cli import app
from zsad.errors import MissingExtra
from zsad.runs.additions import rewrite_rows
from zsad.runs.coco import encode_rle
from zsad.runs.tables import COLUMNS, CsvTable, ParquetTable


def predict(source: Path | str, out: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["predict", str(source), "--out", str(out), "--method", "brightness", *arguments])
    return done.exit_code, done.output


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def decoded(counts: str, size: list[int]) -> np.ndarray:
    """The mask of compressed counts, a letter at a time as COCO's C code reads them."""
    runs: list[int] = []
    letters = iter(counts)
    for letter in letters:
        value, shift = 0, 0
        while True:
            bits = ord(letter) - 48
            value |= (bits & 31) << shift
            shift += 5
            if not bits & 32:
                break
            letter = next(letters)
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    flat = np.repeat(np.arange(len(runs)) % 2, runs)
    return flat.reshape(size[::-1]).T.astype(bool)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a sub-folder, two regions in a picture, a picture that cannot be read and a region of interest."""
    place = tmp_path_factory.mktemp("formats")
    folder_of(place / "in", 9, 2)
    two = np.array(picture(0.3, (8, 8, 24, 24), (90, 70)))
    two[40:64, 50:80] = 230
    two[46:52, 56:62] = 20  # a hole
    (place / "in/sub").mkdir()
    Image.fromarray(two).save(place / "in/sub/=two.png")
    (place / "in/broken.png").write_bytes(b"no picture")
    code, output = predict(place / "in", place / "out", "--format", "coco", "--format", "excel", "--roi", "5%,5%,100%,100%")
    assert (code, "predictions.coco.json" in output) == (3, True)
    return place / "out"


def test_coco_has_every_region_to_the_pixel(run: Path) -> None:
    rows = rows_of(run)
    whole = json.loads((run / "predictions.coco.json").read_text(encoding="utf-8"))
    results = json.loads((run / "predictions.coco_results.json").read_text(encoding="utf-8"))
    scored = [row for row in rows if row["pred_score"] is not None]
    assert [image["file_name"] for image in whole["images"]] == [row["relative_path"] for row in scored]
    assert [image["score"] for image in whole["images"]] == [row["pred_score"] for row in scored]
    assert whole["info"]["not_scored"] == 1
    assert whole["categories"] == [{"id": 1, "name": "anomaly", "supercategory": "anomaly"}]
    keys = ("image_id", "category_id", "segmentation", "score")
    assert results == [{key: one[key] for key in keys} for one in whole["annotations"]]
    assert [one["id"] for one in whole["annotations"]] == list(range(1, 1 + sum(len(row["regions"]) for row in rows)))
    for image, row in zip(whole["images"], scored, strict=True):
        own = [one for one in whole["annotations"] if one["image_id"] == image["id"]]
        with Image.open(run / row["mask"]) as mask:
            union = np.asarray(mask) > 0
        assert (image["height"], image["width"]) == union.shape
        parts = [decoded(one["segmentation"]["counts"], one["segmentation"]["size"]) for one in own]
        assert np.array_equal(np.sum(parts, axis=0) if parts else np.zeros(union.shape), union)
        for one, part, region in zip(own, parts, row["regions"], strict=True):
            x, y, w, h = one["bbox"]
            ys, xs = np.nonzero(part)
            assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x, y, x + w, y + h) == tuple(region["box"])
            assert (one["area"], one["score"]) == (part.sum(), region["peak"]) == (region["area"], region["peak"])
    assert max(len(row["regions"]) for row in rows) >= 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pycocotools' own arrays
def test_pycocotools_opens_it(run: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    found = coco.COCO(str(run / "predictions.coco.json"))
    again = found.loadRes(str(run / "predictions.coco_results.json"))
    assert len(again.anns) == len(found.anns) > 2
    for key, one in found.anns.items():
        assert found.annToMask(one).sum() == one["area"] == again.anns[key]["area"]
        assert list(again.anns[key]["bbox"]) == one["bbox"]


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        (["#"], "01"),
        ([".#", ".."], "211"),
        (["##", "##"], "04"),
        (["##.", "##.", "..#"], "02102O"),  # 0 2 1 2 3 1, and the last three as differences: 2 - 2, 3 - 1, 1 - 2
    ],
)
def test_runs_by_hand(rows: list[str], counts: str) -> None:
    """Columns first, beginning with zeros; the letter of a small count is its digit, of -1 it is "O"."""
    mask = np.array([[cell == "#" for cell in row] for row in rows])
    assert encode_rle(mask, (0, 0), mask.shape) == counts


def test_runs_come_back() -> None:
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.95, 1.0) * 20:
        height, width = rng.integers(1, 90, 2)
        mask = rng.random((height, width)) < share
        if not mask.any():
            continue
        ys, xs = np.nonzero(mask)
        inside = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        counts = encode_rle(inside, (int(xs.min()), int(ys.min())), mask.shape)
        assert np.array_equal(decoded(counts, list(mask.shape)), mask)


def test_a_column_of_another_command_is_added_to_every_format(run: Path, tmp_path: Path) -> None:
    results = Path(shutil.copytree(run, tmp_path / "out"))
    before = json.loads((results / "predictions.coco.json").read_text(encoding="utf-8"))
    rows = [row | {"kind": f"=kind {n}" if n % 2 else None} for n, row in enumerate(rows_of(results))]
    rewrite_rows(results, rows, "kind")
    whole = json.loads((results / "predictions.coco.json").read_text(encoding="utf-8"))
    kinds = [row["kind"] for row in rows if row["pred_score"] is not None]
    assert [image.pop("kind") for image in whole["images"]] == kinds
    assert whole == before
    assert len(kinds) == len(rows) - 1
    with (results / "predictions.excel.csv").open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["kind"] for line in lines] == [f"'{row['kind']}" if row["kind"] else "" for row in rows]
    renamed = [row | {"kind": "b"} for row in rows]
    rewrite_rows(results, [row | {"explanation": {"text": "é"}} for row in renamed], "explanation")
    again = json.loads((results / "predictions.coco.json").read_text(encoding="utf-8"))
    assert [image["kind"] for image in again["images"]] == ["b"] * len(kinds)
    assert (results / "predictions.coco_results.json").read_bytes() == (run / "predictions.coco_results.json").read_bytes()
    assert not (results / "predictions.parquet").exists()
    assert not list((results / ".zsad").glob("kind*"))


def test_excel_reads_utf8_and_runs_no_formula(run: Path, tmp_path: Path) -> None:
    data = (run / "predictions.excel.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbfpath,name,")
    with (run / "predictions.excel.csv").open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as file:
        assert lines == list(csv.DictReader(file))
    table = CsvTable(tmp_path / "a.csv", excel=True)
    row = dict.fromkeys(COLUMNS) | {"name": "=1+1", "path": "é.png", "notes": ["@x", "b"], "error": "\t=1", "pred_score": -0.5}
    table.add(row)
    table.close()
    with (tmp_path / "a.csv").open(encoding="utf-8-sig", newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["name"], line["path"], line["notes"], line["error"]) == ("'=1+1", "é.png", "'@x; b", "'\t=1")
    assert line["pred_score"] == "-0.5"


def test_paths_are_relative_to_the_source_too(run: Path, tmp_path: Path) -> None:
    rows = rows_of(run)
    assert {row["relative_path"] for row in rows} >= {"00.png", "sub/=two.png", "broken.png"}
    folder_of(tmp_path / "in/deep", 2)
    for source, relative in (("in", "deep/00.png"), ("in/*/*.png", "deep/00.png"), ("in/deep/00.png", "00.png")):
        predict(str(tmp_path / source), tmp_path / "out", "--overwrite")
        row = rows_of(tmp_path / "out")[0]
        assert (row["relative_path"], row["path"]) == (relative, str(tmp_path / "in/deep/00.png"))


@pytest.mark.slow
def test_parquet_holds_the_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder_of(tmp_path / "in", 9, 2)
    assert predict(tmp_path / "in", tmp_path / "out", "--format", "parquet")[0] == 0
    found = parquet.read_table(tmp_path / "out/predictions.parquet")
    rows = rows_of(tmp_path / "out")
    assert tuple(found.column_names) == COLUMNS
    for one, row in zip(found.to_pylist(), rows, strict=True):
        assert json.loads(one.pop("prompts")) == row.pop("prompts")
        assert one == row
    table = ParquetTable(tmp_path / "odd.parquet")
    table.add(dict.fromkeys(COLUMNS) | {"path": "caf\udce9.png", "notes": [], "regions": []})
    table.close()
    assert parquet.read_table(tmp_path / "odd.parquet").to_pylist()[0]["path"] == "caf\\udce9.png"
    more = [{"kind": "spot", "explanation": {"text": "é"} if n else None} for n in range(len(rows))]
    rewrite_rows(tmp_path / "out", [row | one for row, one in zip(rows_of(tmp_path / "out"), more, strict=True)], "explanation")
    added = parquet.read_table(tmp_path / "out/predictions.parquet").to_pylist()
    for n, (one, row) in enumerate(zip(added, rows, strict=True)):
        said = one.pop("explanation")
        assert (one.pop("kind"), said if said is None else json.loads(said)) == ("spot", {"text": "é"} if n else None)
        assert {key: value for key, value in one.items() if key != "prompts"} == row


def test_without_pyarrow_nothing_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    folder_of(tmp_path / "in", 2)
    code, output = predict(tmp_path / "in", tmp_path / "out", "--format", "parquet")
    assert code == 2
    assert output.strip() == (
        "zsad: --format parquet needs an optional dependency. Install it with: pip install 'zsad[parquet]'"
    )
    assert not (tmp_path / "out").exists()
    with pytest.raises(MissingExtra):
        ParquetTable(tmp_path / "a.parquet")


def test_a_later_run_leaves_no_older_format_behind(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", 2)
    out = tmp_path / "out"
    predict(tmp_path / "in", out, "--format", "coco")
    assert (out / "predictions.coco.json").is_file()
    assert predict(tmp_path / "in", out, "--resume", "--format", "excel")[0] == 0
    assert sorted(path.name for path in out.glob("predictions*")) == [
        *("predictions.csv", "predictions.excel.csv", "predictions.jsonl"),
    ]
