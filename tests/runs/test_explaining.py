"""``zsad explain`` on runs of the small detector that ships with the package, and ``Inspector.explain``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from vlm_server import GOOD, pictures_of, vlm_server

from zsad import Inspector
from zsad.cli import app
from zsad.images.reading import ImageRef
from zsad.runs.records import state_of

SIDE = 64
SCHEMA = json.loads((Path(__file__).parents[2] / "docs/result.schema.json").read_text(encoding="utf-8"))
ANSWER = json.dumps(GOOD)


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [*map(str, words)])


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of three flagged pictures and two normal ones, with a reference."""
    folder = tmp_path_factory.mktemp("scored")
    for index in range(6):
        pixels = np.random.default_rng(index).integers(10, 30, (SIDE, SIDE, 3)).astype(np.uint8)
        if index < 3:
            pixels[8:24, 8:24] = 250
        place = folder / ("normal" if index == 5 else "new")
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / f"{index}.png")
    levels = ("--threshold", "0.2", "--pixel-threshold", "0.2", "--references", folder / "normal")
    done = run("predict", folder / "new", "--out", folder / "out", *levels)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def results(scored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scored / "out", tmp_path / "out"))


def rows_of(results: Path) -> dict[str, Any]:
    lines = (results / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["name"]: row for row in map(json.loads, lines)}


@pytest.mark.slow
def test_explanations_are_added_to_rows_and_report(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSAD_API_KEY", "sk-secret")
    before = rows_of(results)
    flagged = [name for name, row in before.items() if row["pred_label"] == "anomalous"]
    assert 0 < len(flagged) < len(before)
    with vlm_server(lambda number, _: ANSWER if number > 1 else '{"defect_seen": "no", "findings": []}') as server:
        told = run("explain", results, "--endpoint", server.url, "--model", "tiny", "--dry-run")
        assert not server.requests
        done = run("explain", results, "--endpoint", server.url, "--model", "tiny", "--drawing", "heat")
        again = run("explain", results, "--endpoint", server.url, "--model", "tiny", "--drawing", "heat", "--json")
    assert done.exit_code == 0, done.output
    assert told.stderr.splitlines() == done.stderr.splitlines()[:2]
    assert done.stderr.startswith(f"Pictures go to {server.url} (model tiny).")
    assert f"{len(flagged)} pictures to explain: {3 * len(flagged)} images to send" in done.stderr
    assert len(server.requests) == len(flagged)  # and none of the second run
    assert all(len(pictures_of(request)) == 3 for request in server.requests)
    assert "sk-secret" not in done.output + again.output
    after = rows_of(results)
    assert {name: {k: v for k, v in row.items() if k != "explanation"} for name, row in after.items()} == before
    for name, row in after.items():
        jsonschema.validate(row, SCHEMA)
        assert (row["explanation"] is not None) == (name in flagged)
    assert sum(row["explanation"]["disagrees"] for row in after.values() if row["explanation"]) == 1
    assert len(json.loads(again.stdout)["disagreements"]) == 1
    report = (results / "report.html").read_text(encoding="utf-8")
    assert report.count('id="explanations"') == 1
    assert report.count("disagrees with the verdict") == 1
    assert "bright spot: upper left at x 8 to 16, y 32 to 64; white square" in report
    header = (results / "predictions.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.endswith(",explanation")
    everything = b"".join(path.read_bytes() for path in results.rglob("*") if path.suffix in (".json", ".jsonl", ".html"))
    assert b"sk-secret" not in everything


def test_a_crafted_folder_gets_no_other_picture_sent(results: Path, scored: Path, tmp_path: Path) -> None:
    """Records that name other files, by each way out of the source, and with the true state of the file or without it."""
    secret = tmp_path / "private" / "secret.png"
    secret.parent.mkdir()
    Image.new("RGB", (SIDE, SIDE), "red").save(secret)
    link = scored / "new" / ".link.png"
    link.symlink_to(secret)
    ways = [str(secret), str(scored / "new/../../../../../../..") + str(secret), str(link)]
    lines = (results / ".zsad/records.jsonl").read_text(encoding="utf-8").splitlines()
    flagged = [name for name, row in rows_of(results).items() if row["pred_label"] == "anomalous"]
    assert len(flagged) == len(ways)
    facts = json.loads((results / "run.json").read_text(encoding="utf-8"))
    try:
        for state in ("known", "forged"):
            records = {row["name"]: row for row in map(json.loads, lines)}
            for name, way in zip(flagged, ways, strict=True):
                seen = state_of(ImageRef(name, Path(way))) if state == "known" else [way, *records[name]["file"][1:]]
                records[name] |= {"path": way, "file": seen}
            (results / ".zsad/records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records.values()))
            changed = {"source": str(scored / "new" if state == "known" else "/"), "references_from": str(secret.parent)}
            changed["first_reference"] = [str(secret), *facts["first_reference"][1:]]
            (results / "run.json").write_text(json.dumps(facts | changed))
            with vlm_server(lambda *_: ANSWER) as server:
                done = run("explain", results, "--endpoint", server.url, "--model", "tiny", "--json")
            assert not server.requests
            assert done.exit_code == 3, done.output
            assert "3 pictures will not be sent" in done.stderr
            assert "no normal picture is sent: the run's first reference, 'secret.png', is gone, was changed" in done.stderr
            why = "does not lie in" if state == "known" else "is not the file that was scored"
            assert all(why in one for one in json.loads(done.stdout)["errors"].values())
    finally:
        link.unlink()


def test_a_folder_that_a_person_names(results: Path, scored: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(scored / "new", tmp_path / "copied"))
    given = ("--model", "tiny", "--reference", copied / "4.png")
    with vlm_server(lambda *_: ANSWER) as server:
        done = run("explain", results, "--endpoint", server.url, "--source", copied, *given)
        nowhere = run("explain", results, "--endpoint", server.url, "--source", tmp_path / "no", *given)
        facts = json.loads((results / "run.json").read_text(encoding="utf-8"))
        (results / "run.json").write_text(json.dumps(facts | {"source": "-"}))
        listed = run("explain", results, "--endpoint", server.url, *given)
    assert done.exit_code == 0, done.output
    whence = f"3 pictures of '{copied}', with '{copied / '4.png'}' beside each."
    assert done.stderr.startswith(f"Pictures go to {server.url} (model tiny). {whence}")
    assert len(server.requests) == 3
    facts["source"] = str(tmp_path / "copied" / "4.png")
    (results / "run.json").write_text(json.dumps(facts))
    with vlm_server(lambda *_: ANSWER) as other:
        moved = run("explain", results, "--endpoint", other.url, *given, "--json")
    assert not other.requests  # answers from before need no picture
    assert json.loads(moved.stdout)["counts"] == {"yes": 3}
    assert "is no folder. Give the folder" in nowhere.output
    assert "came from a list, so it is not known which pictures may be sent" in " ".join(listed.output.split())


def test_failed_explanations_keep_their_scores_and_kinds_stay(results: Path) -> None:
    rows = [row | {"kind": "spot"} for row in rows_of(results).values()]
    (results / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with vlm_server(lambda _, body: "400" if len(pictures_of(body)) and body["model"] == "tiny" else ANSWER) as server:
        failed = run("explain", results, "--endpoint", server.url, "--model", "tiny")
    assert failed.exit_code == 2
    assert "cannot be asked: it answers 400" in failed.output
    answers = iter([ANSWER])
    with vlm_server(lambda *_: next(answers, "413")) as server:
        done = run("explain", results, "--endpoint", server.url, "--model", "tiny", "--parallel", "1", "--json")
    assert done.exit_code == 3, done.output
    found = json.loads(done.stdout)
    assert found["counts"]["yes"] == 1
    assert all("it answers 413" in why for why in found["errors"].values())
    after = rows_of(results)
    assert {row["kind"] for row in after.values()} == {"spot"}
    assert all(row["pred_score"] is not None for row in after.values())
    assert (results / "predictions.csv").read_text(encoding="utf-8").splitlines()[0].endswith(",kind,explanation")


def test_what_cannot_be_explained(results: Path, tmp_path: Path) -> None:
    def message(*words: object) -> str:
        done = run("explain", *words)
        assert done.exit_code == 2, done.output
        return " ".join(done.output.split())

    address = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "tiny")
    assert "No model was given" in message(results)
    assert "No model was given" in message(results, "--endpoint", "http://127.0.0.1:9/v1")
    assert "is no folder with a model" in message(results, "--model", tmp_path)
    assert "is no address of a server" in message(results, "--endpoint", "localhost", "--model", "tiny")
    assert "holds no results with maps" in message(tmp_path / "nothing", *address)
    rows = [row | {"pred_label": "normal"} for row in rows_of(results).values()]
    (results / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "(every picture is normal), so there is nothing to explain" in message(results, *address)


@pytest.mark.slow
def test_inspector_explain(scored: Path) -> None:
    inspector = Inspector("compact", "brick", threshold=0.2, pixel_threshold=0.2, batch=False)
    results = list(inspector(scored / "new"))
    with vlm_server(lambda *_: ANSWER) as server:
        found = list(inspector.explain(results, model="tiny", endpoint=server.url, drawing="box"))
    assert [one.name for one in found] == [one.name for one in results]
    for one, plain in zip(found, results, strict=True):
        assert (one.pred_score, one.pred_label) == (plain.pred_score, plain.pred_label)
        assert (one.explanation is not None) == (one.pred_label == "anomalous")
        assert ("explanation" in one.as_dict()) == (one.explanation is not None)
    assert len(server.requests) == sum(one.pred_label == "anomalous" for one in results) > 0
    with pytest.raises(ValueError, match="Regions cannot be drawn as 'cloud'"), vlm_server(lambda *_: ANSWER) as server:
        list(inspector.explain(results, model="tiny", endpoint=server.url, drawing="cloud"))
