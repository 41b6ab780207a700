"""``zsad calibrate`` and what ``zsad predict`` makes of it: levels, p-values, refusals, and no second scoring."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from brightness import Brightness, folder_of, picture, registered_methods  # noqa: F401
from PIL import Image
from typer.testing import CliRunner, Result

import zsad
from zsad.cli import app
from zsad.decision.calibration import Calibration
from zsad.errors import UsageError
from zsad.inference.inspector import Inspector

COUNT = 40


def call(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def calibrate(normal: object, out: Path, *arguments: object) -> Result:
    return call("calibrate", "--normal", normal, "--out", out, "--method", "brightness", "--target", "lamp", *arguments)


def predict(source: object, out: Path, *arguments: object) -> Result:
    return call("predict", source, "--out", out, "--method", "brightness", "--target", "lamp", *arguments)


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def refused(done: Result, *said: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr that says this."""
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert all(part in line for part in said), line


def grey(path: Path, levels: range) -> None:
    """One even picture per grey level of 255, named after it."""
    path.mkdir()
    for level in levels:
        picture(level / 255).save(path / f"{level:03d}.png")


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty grey levels: 5 % of them are 2 of 41 ranks, so anomalous is brighter than the second brightest, 138."""
    folder = tmp_path_factory.mktemp("calibration") / "good"
    grey(folder, range(100, 100 + COUNT))
    return folder


@pytest.fixture(scope="module")
def made(normal: Path) -> Path:
    file = normal.parent / "calibration.json"
    assert calibrate(normal, file).exit_code == 0
    return file


@pytest.fixture(scope="module")
def photos(normal: Path) -> Path:
    folder = normal.parent / "photos"
    grey(folder, range(130, 145))
    return folder


# ------------------------------------------------------------------ calibrate
def test_what_calibrate_says(normal: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "c.json"
    done = calibrate(normal, file)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "40 normal pictures scored.",
        "Anomalous from 0.5412, review from 0.5333, regions from 0.5412:",
        "on average at most 5 % of normal pictures are called anomalous (split-conformal, 40 normal pictures), at most 10 % "
        "anomalous or review, and at most 5 % have a region; assumes that the pictures are taken like those of the "
        "calibration.",
        "The rate that comes true depends on which 40 these were: 4.9 % on average, for nine of ten such sets between 0.9 % "
        "and 11 %.",
        "40 normal pictures cannot guarantee less than 2.5 %.",
        f"Written to {file}; use it with: zsad predict SOURCE --calibration {file}",
    ]


def test_calibrate_as_json(normal: Path, tmp_path: Path) -> None:
    done = calibrate(normal, tmp_path / "c.json", "--json", "--max-false-alarms", "0.1", "--review-false-alarms", "0.3")
    said = json.loads(done.stdout)
    assert (said["normal"], said["kind"], said["errors"], said["outliers"]) == (40, "split", {}, [])
    assert (said["max_false_alarms"], said["review_false_alarms"], said["floor"]) == (0.1, 0.3, 1 / 41)
    assert said["expected_false_alarms"]["mean"] == 4 / 41
    kept = zsad.Calibration.load(tmp_path / "c.json")
    assert kept.detector == said["detector"] == json.loads(json.dumps(Inspector("brightness", "lamp").describe()))
    assert said["thresholds"]["anomalous"] == kept.thresholds().anomalous
    assert sorted(kept.scores) == pytest.approx([level / 255 for level in range(100, 140)], abs=1e-6)
    assert kept.peaks == kept.scores  # the brightest place is the score


def test_an_unreadable_picture_is_said_and_left_out(tmp_path: Path) -> None:
    grey(tmp_path / "good", range(100, 120))
    (tmp_path / "good" / "bad.png").write_bytes(b"no picture")
    done = calibrate(tmp_path / "good", tmp_path / "c.json")
    assert done.exit_code == 3
    assert done.stderr.startswith("zsad: bad.png: ")
    assert "20 normal pictures scored, 1 could not be read." in done.stdout
    assert len(zsad.Calibration.load(tmp_path / "c.json")) == 20
    done = calibrate(tmp_path / "good", tmp_path / "d.json", "--json", "--max-false-alarms", "0.048")
    assert list(json.loads(done.stdout)["errors"]) == ["bad.png"]


def test_an_outlier_among_the_normals_is_named(tmp_path: Path) -> None:
    grey(tmp_path / "good", range(100, 130))
    picture(1.0).save(tmp_path / "good" / "white.png")
    done = calibrate(tmp_path / "good", tmp_path / "c.json")
    assert "Look at white.png (1): 1 of 31 scores far above the others." in done.stdout
    assert zsad.Calibration.load(tmp_path / "c.json").thresholds().anomalous > 1  # as promised, and to no use


def test_too_few_are_refused_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey(tmp_path / "good", range(100, 110))
    monkeypatch.setattr("zsad.cli.calibrate.Inspector", None)
    done = calibrate(tmp_path / "good", tmp_path / "c.json")
    refused(done, "10 normal pictures cannot guarantee less than 9.1 % false alarms, and 5 % was asked for. Give at least 19")
    refused(calibrate(tmp_path / "good", tmp_path / "c.json", "--max-false-alarms", "2"), "The false-alarm rate is 2.0")
    shares = ("--max-false-alarms", "0.2", "--review-false-alarms", "0.1")
    refused(calibrate(tmp_path / "good", tmp_path / "c.json", *shares), "lies below that for anomalous")
    refused(calibrate(tmp_path / "none", tmp_path / "c.json"), "none")
    assert not (tmp_path / "c.json").exists()


def test_too_few_that_can_be_read(tmp_path: Path) -> None:
    grey(tmp_path / "good", range(100, 119))
    (tmp_path / "good" / "100.png").write_bytes(b"")
    done = calibrate(tmp_path / "good", tmp_path / "c.json")
    assert done.exit_code == 2
    assert "zsad: 18 normal pictures cannot guarantee less than 5.3 %" in done.stderr
    assert not (tmp_path / "c.json").exists()


def test_a_file_that_is_there_stays(normal: Path, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("mine")
    refused(calibrate(normal, tmp_path / "c.json"), "is there already. Give --overwrite")
    refused(calibrate(normal, tmp_path, "--overwrite"), "is there already")
    assert (tmp_path / "c.json").read_text() == "mine"
    assert calibrate(normal, tmp_path / "c.json", "--overwrite").exit_code == 0
    refused(
        calibrate(normal, tmp_path / "d.json", "--set", "device=1"), "--set device was given, but that is an option: --device"
    )


# ------------------------------------------------------------------ predict
def test_verdicts_p_values_and_regions(made: Path, photos: Path, tmp_path: Path) -> None:
    done = predict(photos, tmp_path, "--calibration", made)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0].split()[:3] == ["score", "p", "verdict"]
    assert "15 pictures: 6 anomalous, 2 review, 7 normal." in done.stdout
    assert "at most 5 % of normal pictures are called anomalous (split-conformal, 40 normal pictures)" in done.stdout
    for level, row in enumerate(rows(tmp_path), start=130):
        at_or_above = max(140 - level, 0)
        assert row["p_value"] == (1 + at_or_above) / 41
        assert (row["pred_label"] == "anomalous") == (row["p_value"] <= 0.05) == bool(row["regions"])
        assert (row["pred_label"] != "normal") == (row["p_value"] <= 0.1)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["calibration"] == {
        "file": str(made),
        "kind": "split",
        "normal_pictures": 40,
        "max_false_alarms": 0.05,
        "review_false_alarms": 0.1,
    }
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        assert [float(line["p_value"]) for line in csv.DictReader(file)] == [row["p_value"] for row in rows(tmp_path)]
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "6 anomalous, 2 review, 7 normal; on average at most 5 % of normal pictures are called anomalous" in report
    assert "p = 0.0244" in report


@pytest.mark.slow
def test_another_level_scores_nothing_again(made: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert predict(photos, tmp_path).exit_code == 0  # without a calibration
    assert {row["p_value"] for row in rows(tmp_path)} == {None}
    assert json.loads((tmp_path / "run.json").read_text())["calibration"] is None
    record = (tmp_path / ".zsad" / "records.jsonl").read_bytes()
    monkeypatch.setattr(Brightness, "encode", lambda *_: pytest.fail("a picture was scored again"))
    counts = {}
    for share in (0.03, 0.05, 0.2):
        done = predict(photos, tmp_path, "--resume", "--calibration", made, "--max-false-alarms", share)
        assert done.exit_code == 0, done.output
        counts[share] = sum(row["pred_label"] == "anomalous" for row in rows(tmp_path))
        assert json.loads((tmp_path / "run.json").read_text())["calibration"]["max_false_alarms"] == share
    assert counts == {0.03: 5, 0.05: 6, 0.2: 12}
    done = predict(photos, tmp_path, "--resume", "--calibration", made, "--review-false-alarms", "0.05")
    assert "6 anomalous, 0 review, 9 normal" in done.stdout
    assert predict(photos, tmp_path, "--resume", "--threshold", "0.54").exit_code == 0
    assert (tmp_path / ".zsad" / "records.jsonl").read_bytes() == record


def test_error_rows_have_no_p_value(made: Path, tmp_path: Path) -> None:
    folder_of(tmp_path / "in", 3)
    (tmp_path / "in" / "01.png").write_bytes(b"")
    done = predict(tmp_path / "in", tmp_path / "out", "--calibration", made)
    assert done.exit_code == 3
    assert [row["p_value"] for row in rows(tmp_path / "out")] == [1, None, 1]


def test_refusals_of_predict(made: Path, photos: Path, tmp_path: Path) -> None:
    refused(
        predict(photos, tmp_path / "o", "--calibration", made, "--set", "gain=2.0"),
        "made with other settings",
        "arguments.gain was 1.0 and is 2.0",
    )
    refused(call("predict", photos, "--method", "brightness", "--calibration", made), 'target was "lamp" and is "object"')
    refused(
        predict(photos, tmp_path / "o", "--calibration", made, "--threshold", "1"), "A threshold and a calibration were both"
    )
    refused(predict(photos, tmp_path / "o", "--calibration", made, "--max-false-alarms", "0.01"), "Give at least 99 normal")
    refused(predict(photos, tmp_path / "o", "--max-false-alarms", "0.1"), "without a calibration")
    refused(predict(photos, tmp_path / "o", "--calibration", tmp_path / "none"), "cannot be read: No such file")
    assert not (tmp_path / "o").exists()


def test_a_pixel_threshold_of_ones_own(made: Path, photos: Path, tmp_path: Path) -> None:
    assert predict(photos, tmp_path, "--calibration", made, "--pixel-threshold", "0.1").exit_code == 0
    assert all(row["regions"] for row in rows(tmp_path))
    assert rows(tmp_path)[0]["threshold_source"].endswith("; pixel threshold given by the user")


def test_inspector_takes_a_file_or_an_object(made: Path) -> None:
    bright: Image.Image = picture(139 / 255)
    for given in (made, str(made), zsad.Calibration.load(made)):
        (result,) = Inspector("brightness", "lamp", calibration=given)(bright)
        assert (result.pred_label, result.p_value) == ("anomalous", 2 / 41)
        assert result.as_dict()["p_value"] == 2 / 41
    (result,) = Inspector("brightness", "lamp", calibration=made, max_false_alarms=0.03, review_false_alarms=0.05)(bright)
    assert result.pred_label == "review"
    with pytest.raises(UsageError, match="The calibration was made with other settings: arguments.gain was 1.0"):
        Inspector("brightness", "lamp", calibration=made, gain=2.0)


def test_a_raw_review_level_goes_with_a_calibration() -> None:
    made = Calibration.from_scores([float(n) for n in range(40)], [float(n) for n in range(40)], max_false_alarms=0.05)
    inspector = Inspector("brightness", calibration=made, review_at=30.0)
    assert inspector.thresholds.review == 30.0
    assert inspector.thresholds.anomalous == made.thresholds().anomalous
    assert inspector.thresholds.source.endswith("review from 30, given by the user")
    with pytest.raises(UsageError, match="lies above the threshold"):
        Inspector("brightness", calibration=made, review_at=99.0)
    with pytest.raises(UsageError, match="Give one of --review-at and --review-false-alarms"):
        Inspector("brightness", calibration=made, review_at=30.0, review_false_alarms=0.2)
