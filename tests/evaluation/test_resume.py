"""An evaluation that was stopped anywhere and resumed ends in the same files to the bit, and scores nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brightness import Brightness, BrightnessBackbone, registered_methods  # noqa: F401
from noisy_set import write_noisy_set
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.datasets import open_dataset
from zsad.errors import UsageError
from zsad.evaluation.metrics_table import Row
from zsad.evaluation.store import Kept
from zsad.inference.inspector import Inspector

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("metrics.csv", "metrics.json", "metrics.md")


class Counting(Brightness):
    """Scores depend on the batch, in the last digits and beyond; counts the pictures, and raises after ``stop`` of them."""

    name = "counting"

    def __init__(self, backbone: Any, stop: int = 10**9) -> None:
        super().__init__(backbone)
        self.stop, self.seen = stop, 0

    def arguments(self) -> dict[str, Any]:
        return {}

    def score(self, features: Any, context: Any) -> Any:
        found = super().score(features, context)
        self.seen += len(features)
        if self.seen > self.stop:
            raise RuntimeError("the power went")
        shift = found.anomaly_map.mean() / 3
        return zsad.Prediction(found.pred_score + shift, found.anomaly_map + shift, found.word_maps)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_noisy_set(tmp_path_factory.mktemp("sets") / "parts")
    (root / "nut/test/crack/002.png").write_bytes(b"broken")
    return root


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never stopped; batches of 5 over 12 pictures."""
    out = tmp_path_factory.mktemp("whole") / "out"
    measure(Counting(BrightnessBackbone()), data, out)
    return out


def measure(detector: Any, data: Path, out: Path, **options: Any) -> Any:
    return zsad.evaluate(detector, data, out=out, batch_size=5, keep_maps=True, **options)


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("stop", [0, 3, 5, 10, 12, 17, 22])
def test_stopped_anywhere_and_resumed_equals_uninterrupted(data: Path, whole: Path, tmp_path: Path, stop: int) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="the power went"):
        measure(Counting(BrightnessBackbone(), stop), data, out)
    assert not (out / "metrics.csv").exists()
    again = Counting(BrightnessBackbone())
    measure(again, data, out, resume=True)
    assert contents(out) == contents(whole)
    complete = {0: 0, 3: 0, 5: 5, 10: 10, 12: 12, 17: 17, 22: 21}[stop]  # whole batches; one picture of nut is broken
    assert again.seen == 23 - complete


def test_stopped_between_two_answers_of_a_batch(data: Path, whole: Path, tmp_path: Path) -> None:
    """The answers of half a batch are given up, for they came with the others."""
    out, real, count = tmp_path / "out", Kept.add, []

    def add(self: Kept, *arguments: Any) -> None:
        count.append(1)
        if len(count) == 9:
            raise KeyboardInterrupt
        real(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kept, "add", add)
        with pytest.raises(KeyboardInterrupt):
            measure(Counting(BrightnessBackbone()), data, out)
    [scores] = out.rglob("scores.jsonl")
    assert scores.read_bytes().count(b"\n") == 8
    with scores.open("ab") as file:
        file.write(b'{"name": "torn')
    again = Counting(BrightnessBackbone())
    measure(again, data, out, resume=True)
    assert again.seen == 23 - 5
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("part", ["pixel_metrics", "_move_maps"])
def test_stopped_after_the_scoring_scores_nothing_again(data: Path, whole: Path, tmp_path: Path, part: str) -> None:
    from zsad.evaluation import category

    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(category, part, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            measure(Counting(BrightnessBackbone()), data, out)
    again = Counting(BrightnessBackbone())
    measure(again, data, out, resume=True)
    assert again.seen == 11  # of the second category
    assert contents(out) == contents(whole)


def test_a_finished_evaluation_is_read(data: Path, whole: Path, tmp_path: Path) -> None:
    before = contents(whole)
    again = Counting(BrightnessBackbone())
    found = measure(again, data, whole, resume=True)
    assert again.seen == 0
    assert contents(whole) == before
    assert found.to_csv().encode() == before["metrics.csv"]
    assert [Row.from_dict(row) for row in json.loads(before["metrics.json"])["rows"]] == list(found.rows)


def test_maps_are_kept_exactly_and_only_when_asked_for(data: Path, whole: Path, tmp_path: Path) -> None:
    maps = {str(path.relative_to(whole / "maps")): np.load(path) for path in (whole / "maps").rglob("*.npy")}
    assert len(maps) == 23
    opened = open_dataset(data)
    refs = [zsad.images.reading.ImageRef(opened.name_of(one), one.path) for one in opened if one.category == "bolt"]
    for one in Inspector(Counting(BrightnessBackbone()), "bolt", batch_size=5).scored(refs):
        assert np.array_equal(maps[one.name.replace(".png", ".npy")], one.model_map)
    assert not list((whole / ".zsad").rglob("*.npy"))
    zsad.evaluate("brightness", data, "image_auroc", out=tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.npy"))


def test_other_settings_are_refused_by_name(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    zsad.evaluate("brightness", data, "image_auroc", "nut", out=out)
    for changes, message in (
        ({"metrics": "image_ap"}, r'metrics was \["image_auroc"\] and is \["image_ap"\]'),
        ({"map_size": 64}, "map_size was null and is 64"),
        ({"gain": 2.0}, "arguments.gain was 1.0 and is 2.0"),
        ({"batch_size": 3}, "batch_size was 8 and is 3"),
        ({"categories": None}, r'categories was \["nut"\] and is \["bolt", "nut"\]; data was'),
    ):
        with pytest.raises(UsageError, match=f"holds an evaluation with other settings: {message}"):
            zsad.evaluate(
                "brightness", data, **({"metrics": "image_auroc", "categories": "nut", "out": out} | changes), resume=True
            )
    with pytest.raises(UsageError, match="holds an evaluation already. Give --resume"):
        zsad.evaluate("brightness", data, out=out)
    zsad.evaluate("brightness", data, "image_ap", "nut", out=out, overwrite=True)
    assert json.loads((out / "metrics.json").read_text())["metrics"] == ["image_ap"]
    os.utime(data / "nut/test/good/000.png", (1, 1))
    with pytest.raises(UsageError, match="other settings: data was"):
        zsad.evaluate("brightness", data, "image_ap", "nut", out=out, resume=True)


def test_folders_of_others_are_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("mine")
    with pytest.raises(UsageError, match=r"holds metrics.csv, but no evaluation, so nothing was overwritten"):
        zsad.evaluate("brightness", data, out=tmp_path, overwrite=True)
    assert (tmp_path / "metrics.csv").read_text() == "mine"
    with pytest.raises(UsageError, match="is a file; give --out a folder"):
        zsad.evaluate("brightness", data, out=tmp_path / "metrics.csv")
    with pytest.raises(UsageError, match="--resume and --overwrite were both given"):
        zsad.evaluate("brightness", data, out=tmp_path / "new", resume=True, overwrite=True)


def test_a_method_that_needs_the_set_is_scored_as_a_whole(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.begin(4, 4)
    for index in range(3):
        kept.add({"name": str(index), "notes": []}, None)
    assert Kept(tmp_path).begin(4, 4) == 0
    for index in range(4):
        (again := Kept(tmp_path)).begin(4, 1)
        again.add({"name": str(index), "notes": []}, np.zeros((2, 2), np.float32))
    assert Kept(tmp_path).begin(4, 4) == 4
    (tmp_path / "maps/0000002.npy").unlink()
    assert Kept(tmp_path).begin(4, 1) == 2  # a line without its map does not count


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(data: Path, tmp_path: Path) -> None:
    words = ["evaluate", "--data", str(data), "--method", "brightness", "--batch-size", "3", "--set", "pause=0.15", "--out"]
    program = [sys.executable, str(ROOT / "tests/helpers/brightness.py"), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    torn, calm = tmp_path / "torn", tmp_path / "calm"
    run = subprocess.Popen([*program, str(torn)], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and sum(one.read_bytes().count(b"\n") for one in torn.rglob("scores.jsonl")) < 16:
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (torn / "metrics.csv").exists()
    first = next(iter(torn.rglob("row.json"))).stat().st_mtime_ns
    assert CliRunner().invoke(app, [*words, str(calm)]).exit_code == 3
    done = CliRunner().invoke(app, [*words, str(torn), "--resume"])
    assert (done.exit_code, "broken" in done.stdout) == (3, True)
    assert first in {one.stat().st_mtime_ns for one in torn.rglob("row.json")}
    assert contents(torn) == contents(calm)


class Together(Brightness):
    """Compares pictures with the mean of their set; counts those that it encodes and scores."""

    name = "together"

    def __init__(self, backbone: Any, stop: int = 10**9) -> None:
        super().__init__(backbone)
        self.stop, self.encoded, self.answered = stop, 0, 0

    def arguments(self) -> dict[str, Any]:
        return {}

    def needs_set(self, context: Any) -> bool:
        return True

    def encode(self, images: Any) -> Any:
        self.encoded += len(images)
        if self.encoded > self.stop:
            raise RuntimeError("the power went")
        return super().encode(images)

    def score_set(self, features: Any, context: Any) -> Any:
        level = sum(float(one.image.mean()) for one in features) / len(features)
        for one in features:
            self.answered += 1
            found = self.score(one, context)
            yield zsad.Prediction(found.pred_score - level, found.anomaly_map - level)


def test_a_set_is_encoded_once_and_scored_as_a_whole(data: Path, tmp_path: Path) -> None:
    calm, torn = tmp_path / "calm", tmp_path / "torn"
    measure(Together(BrightnessBackbone()), data, calm)
    with pytest.raises(RuntimeError, match="the power went"):
        measure(Together(BrightnessBackbone(), 10), data, torn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kept, "map", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        second = Together(BrightnessBackbone())
        with pytest.raises(KeyboardInterrupt):
            measure(second, data, torn, resume=True)
    assert (second.encoded, second.answered) == (2, 12)  # ten were encoded before
    third = Together(BrightnessBackbone())
    measure(third, data, torn, resume=True)
    assert (third.encoded, third.answered) == (11, 11)  # of the second category
    assert contents(torn) == contents(calm)
    assert not list(torn.rglob("features"))
