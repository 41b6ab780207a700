"""A run into a table, without a cluster: equal to ``zsad predict``, resumed at any point, each picture once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from brightness import folder_of, picture, registered_methods  # noqa: F401
from typer.testing import CliRunner

from zsad.cli import app
from zsad.distributed.job import Job, in_process
from zsad.distributed.levels import Outcome, kind_of
from zsad.distributed.manifest import manifest_of
from zsad.distributed.places import Place
from zsad.distributed.report import histogram_of
from zsad.distributed.scorer import BatchScorer
from zsad.distributed.specification import Specification, attachments_of, specify
from zsad.distributed.table import arrow_table, recorded, write_part
from zsad.distributed.work import Done, Unit, UnitScorer, size_of_unit
from zsad.errors import UsageError, WeightsUnavailable
from zsad.inference.inspector import Inspector

Row = dict[str, Any]


def unwatched(done: Iterator[Done], left: int, before: int) -> Iterator[Done]:
    return done


def job(source: Path | str, out: Path | str, pixel: bool = False, **more: Any) -> Job:
    settings: dict[str, Any] = {"method": "brightness", "target": "lamp", "batch_size": 4, "workers": 1} | more
    kept = {key: settings.pop(key) for key in ("retry_errors", "overwrite", "maps", "maps_out") if key in settings}
    inspector = Inspector(**settings, batch="off")
    maps = {key: kept.pop(key) for key in ("maps", "maps_out") if key in kept}
    spec = specify(inspector, settings, source=str(source), **maps)
    return Job(spec, attachments_of(inspector), str(out), **kept)


def run(source: Path | str, out: Path | str, **more: Any) -> Outcome:
    return job(source, out, **more).run(in_process, unwatched)


def rows_of(out: Path) -> dict[str, Row]:
    rows = pyarrow.parquet.read_table(out / "table").to_pylist()
    named = {row["name"]: row for row in rows}
    assert len(named) == len(rows), "a picture is there twice"
    return named


def timeless(rows: dict[str, Row]) -> dict[str, Row]:
    return {name: row | {"milliseconds": 0, "worker": ""} for name, row in rows.items()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("pictures")
    folder_of(source / "a", 40, 4)
    folder_of(source / "b" / "c", 20)
    deep = np.full((40, 40), 3000, np.uint16)
    deep[5:9, 5:9] = 60000
    from PIL import Image

    Image.fromarray(deep).save(source / "deep.png")
    exif = Image.Exif()
    exif[274] = 6
    picture(0.4, (2, 2, 9, 30), (60, 40)).save(source / "turned.jpg", exif=exif, quality=95)
    Image.new("RGB", (30, 30), (9, 9, 9)).save(source / "flat.png")
    (source / "empty.png").write_bytes(b"")
    (source / "page.jpg").write_bytes(b"<html>404</html>")
    (source / "notes.txt").write_text("no picture")
    return source


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    out = tmp_path_factory.mktemp("undisturbed")
    outcome = run(pictures, out)
    assert outcome.counts["error"] == 2
    return rows_of(out)


def predicted(source: Path, out: Path, *options: str) -> dict[str, Row]:
    words = ["predict", str(source), "--out", str(out), "--method", "brightness", "--target", "lamp", "--batch", "off"]
    done = CliRunner().invoke(app, [*words, "--batch-size", "4", *options])
    assert done.exit_code == 3, done.output
    return {row["name"]: row for row in map(json.loads, (out / "predictions.jsonl").read_text().splitlines())}


@pytest.mark.slow
def test_rows_equal_those_of_predict(pictures: Path, undisturbed: dict[str, Row], tmp_path: Path) -> None:
    theirs = predicted(pictures, tmp_path / "out")
    assert theirs.keys() == undisturbed.keys()
    assert len(theirs) == 69
    for name, row in undisturbed.items():
        other = theirs[name]
        assert (row["label"], row["error"], row["notes"]) == (other["pred_label"], other["error"], other["notes"]), name
        assert (row["path"], row["score"], row["threshold"]) == (other["path"], other["pred_score"], other["threshold"])
    assert {row["label"] for row in undisturbed.values()} == {"normal", "anomalous", "review", None}
    assert undisturbed["turned.jpg"]["width"] == 40


@pytest.mark.slow
def test_levels_that_are_known_give_regions_and_p_values_at_once(pictures: Path, tmp_path: Path) -> None:
    from zsad.decision.calibration import Calibration

    made = Calibration.from_scores(np.linspace(0.2, 0.5, 60).tolist(), np.linspace(0.2, 0.5, 60).tolist())
    made.save(tmp_path / "calibration.json")
    run(pictures, tmp_path / "table", calibration=tmp_path / "calibration.json")
    theirs = predicted(pictures, tmp_path / "out", "--calibration", str(tmp_path / "calibration.json"))
    regions = 0
    for name, row in rows_of(tmp_path / "table").items():
        other = theirs[name]
        assert (row["label"], row["p_value"]) == (other["pred_label"], other["p_value"])
        plain = [{key: value for key, value in one.items() if key not in ("peak", "margin")} for one in row["regions"]]
        assert plain == [{key: one[key] for key in plain[0]} for one in other["regions"]] if plain else not other["regions"]
        for own, stored in zip(row["regions"], other["regions"], strict=True):  # predict keeps maps in 16 bits
            assert (own["peak"], own["margin"]) == pytest.approx((stored["peak"], stored["margin"]), abs=1e-3)
        regions += len(row["regions"])
    assert regions >= 4


@pytest.mark.parametrize("units", [0, 1, 3])
def test_a_stopped_run_goes_on(units: int, pictures: Path, undisturbed: dict[str, Row], tmp_path: Path) -> None:
    def stops(scorer: UnitScorer, given: list[Unit]) -> Iterator[Done]:
        yield from islice(in_process(scorer, given), units)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job(pictures, tmp_path).run(stops, unwatched)
    seen = len(recorded(Place(str(tmp_path))))
    assert (seen > 0) == (units > 0)
    scored = list[int]()

    def counts(scorer: UnitScorer, given: list[Unit]) -> Iterator[Done]:
        for one in in_process(scorer, given):
            scored.append(one.pictures)
            yield one

    job(pictures, tmp_path).run(counts, unwatched)
    assert sum(scored) == len(undisturbed) - seen
    assert timeless(rows_of(tmp_path)) == timeless(undisturbed)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".zsad", "manifest.json", "summary.json", "table"]


def test_repeats_damage_and_new_pictures(undisturbed: dict[str, Row], tmp_path: Path) -> None:
    """A worker that outlived its driver wrote rows again, a file was cut, and a picture came."""
    source, out = tmp_path / "in", tmp_path / "out"
    folder_of(source, 50, 2)
    run(source, out)
    whole = rows_of(out)
    parts = sorted((out / "table").iterdir())
    assert len(parts) == 4
    rows = pyarrow.parquet.read_table(parts[0]).to_pylist()
    write_part(Place(str(out)), "part-orphan.parquet", arrow_table([*rows, *rows[:3]]))
    parts[1].write_bytes(parts[1].read_bytes()[:-100])
    outcome = run(source, out)
    assert outcome.repeats == len(rows) + 3
    assert timeless(rows_of(out)) == timeless(whole)
    picture(0.31).save(source / "new.png")
    assert run(source, out).counts.total() == 53


def test_failures_are_tried_again_when_asked(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    folder_of(source, 12)
    whole = (source / "03.png").read_bytes()
    (source / "03.png").write_bytes(whole[:40])
    assert run(source, out).counts["error"] == 1
    (source / "03.png").write_bytes(whole)
    assert run(source, out).counts["error"] == 1
    assert run(source, out, retry_errors=True).counts["error"] == 0
    assert len(rows_of(out)) == 12


def test_another_manifest_is_refused(pictures: Path, undisturbed: dict[str, Row], tmp_path: Path) -> None:
    source = tmp_path / "in"
    folder_of(source, 8)
    run(source, tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds a table with other settings: detector.arguments.gain was 1.0 and is 2.0"):
        run(source, tmp_path / "out", gain=2.0)
    with pytest.raises(UsageError, match="thresholds.anomalous was null and is 0.5"):
        run(source, tmp_path / "out", threshold=0.5)
    assert run(source, tmp_path / "out", gain=2.0, overwrite=True).counts.total() == 8


def test_places_that_are_no_folders_on_disk(tmp_path: Path) -> None:
    """A store in memory: pictures are fetched, table and maps are written there, paths have its scheme."""
    store = Place("memory://bucket")
    folder_of(tmp_path / "in", 9)
    for path in sorted((tmp_path / "in").iterdir()):
        store.write(f"in/sub/{path.name}", path.read_bytes())
    store.write("in/broken.png", b"")
    job("memory://bucket/in", "memory://bucket/out", maps="png", maps_out="memory://bucket/maps").run(in_process, unwatched)
    place = Place("memory://bucket/out")
    (part,) = [place.read(f"table/{name}") for name in place.names("table")]
    rows = {row["name"]: row for row in pyarrow.parquet.read_table(pyarrow.BufferReader(part)).to_pylist()}
    assert len(rows) == 10
    assert rows["sub/00.png"]["path"] == "memory://bucket/in/sub/00.png"
    assert rows["broken.png"]["error"] == "'broken.png' is empty (0 bytes). Copy or record it again."
    (there,) = {row["map"].rpartition("/")[0].rpartition("/")[0] for row in rows.values() if row["map"]}
    assert there == "memory://bucket/maps"
    assert store.read(rows["sub/00.png"]["map"].removeprefix("memory://bucket/")).startswith(b"\x89PNG")
    run("memory://bucket/in", "memory://bucket/out2", threshold=0.5)
    assert sorted(json.loads(Place("memory://bucket/out2").read("summary.json"))["counts"]) == ["error", "normal"]


def test_a_worker_names_what_it_lacks(pictures: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    spec = job(pictures, tmp_path).specification
    with pytest.raises(UsageError, match=r"The worker .* has zsad .*, and the run was started with 9\.9\."):
        replace(spec, zsad="9.9").load({})
    with pytest.raises(WeightsUnavailable, match=r"The worker .* does not find '/nowhere/weights.pth'\. Put"):
        replace(spec, files={"/nowhere/weights.pth": ""}).load({})
    other = replace(spec, detector={**spec.detector, "backbone_sha256": "1" * 64})
    with pytest.raises(UsageError, match="has another detector: backbone_sha256 was"):
        other.load({})


def test_the_manifest_holds_no_keys(pictures: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    spec = replace(job(pictures, tmp_path).specification, source="s3://me:secret@bucket/in?region=x&token=secret")
    assert manifest_of(spec)["source"] == "s3://bucket/in"
    assert "secret" not in json.dumps(manifest_of(spec))


def test_paths_have_one_spelling(tmp_path: Path) -> None:
    scorer = BatchScorer(Specification({}, {}, source="memory://bucket/in"))
    assert scorer.path_of("bucket/in/a/b.png") == scorer.path_of("memory://bucket/in/a/b.png") == "memory://bucket/in/a/b.png"
    assert scorer.name_of("memory://bucket/in/a/b.png") == "a/b.png"
    local = BatchScorer(Specification({}, {}, source=str(tmp_path)))
    assert local.path_of(f"file:{tmp_path}/a.png") == local.path_of(f"file://{tmp_path}/a.png") == f"{tmp_path}/a.png"
    assert local.name_of(f"{tmp_path}/x/a.png") == "x/a.png"
    assert local.name_of("/elsewhere/a.png") == "a.png"


def test_units_grow_to_a_limit() -> None:
    assert [size_of_unit(before) for before in (0, 1000, 5000, 65_536, 10**8)] == [16, 16, 64, 1024, 1024]


def test_errors_of_one_kind_are_counted_together() -> None:
    kinds = {kind_of(f"'a/{n}.png' is cut off: {n} bytes of 9. Copy it again.") for n in (3, 4)}
    assert kinds == {"is cut off"}
    assert kind_of("'empty.png' is empty (0 bytes). Copy or record it again.") == "is empty (N bytes)"


@pytest.mark.parametrize("high", [0.7, float(np.nextafter(0.7, 1)), 3.0])
def test_bins_hold_every_score_though_they_hardly_differ(high: float) -> None:
    found = histogram_of(np.array([0.7, high, np.nan, high]))
    assert (len(found), sum(count for _, count in found), found[0][0]) == (20, 3, 0.7)
    assert histogram_of(np.array([np.nan])) == []


def test_the_report_shows_the_worst(pictures: Path, tmp_path: Path) -> None:
    run(pictures, tmp_path / "out")
    words = ["report", str(tmp_path / "out"), "--out", str(tmp_path / "page.html"), "--limit-report", "3"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "69 pictures: " in done.stdout
    assert "Error of 1 picture: is empty (N bytes)." in done.stdout
    page = (tmp_path / "page.html").read_text()
    assert page.count('<img loading="lazy" alt="picture"') == 3
    assert page.count("<tr data-") == 5
    counts = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert sum(count for _, count in counts["histogram"]) == 67
    nothing = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert (nothing.exit_code, "holds no table of zsad predict --engine" in nothing.stderr) == (2, True)


def test_a_folder_that_is_called_like_the_method_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brightness").mkdir()
    monkeypatch.chdir(tmp_path)
    spec = job(tmp_path, tmp_path / "out").specification
    assert (spec.settings["method"], spec.files) == ("brightness", {})
    plain = specify(Inspector("brightness", "lamp", batch="off"), {"target": "lamp"})
    assert (plain.settings, plain.files) == ({"target": "lamp"}, {})
