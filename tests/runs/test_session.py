"""Sessions: encoded once, scored by whatever a person changes; each change equals doing it from the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zsad
from zsad.common.assets import asset
from zsad.errors import UsageError

BRICKS = sorted(asset("demo/examples/brick").glob("*.png"))


def small(**settings: Any) -> zsad.Inspector:
    """With compact's one small tower, which takes half the time of the two."""
    return zsad.Inspector(tower="small", **settings)


@pytest.fixture(scope="module")
def inspector() -> zsad.Inspector:
    return small()


def opened(inspector: zsad.Inspector, files: list[Path]) -> zsad.Session:
    session = zsad.Session(inspector)
    assert list(session.encode(files))[-1] == len(files)
    session.rescore()
    return session


def scores(session: zsad.Session) -> dict[str, float | None]:
    return {one.name: one.score for one in session.scored}


@pytest.mark.slow
def test_a_session_says_what_the_inspector_says(inspector: zsad.Inspector) -> None:
    session = opened(inspector, BRICKS)
    plain = {result.name: result.pred_score for result in inspector(BRICKS)}
    assert scores(session) == pytest.approx(plain, abs=1e-5)
    assert [session.scored[place].score for place in session.order] == sorted(scores(session).values(), reverse=True)


@pytest.mark.slow
def test_references_equal_an_inspector_that_was_made_with_them(
    inspector: zsad.Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(inspector, BRICKS[4:])
    before = scores(session)
    wanted = {result.name: result.pred_score for result in small(references=BRICKS[:2])(BRICKS[4:])}
    session.add_references(BRICKS[:2])
    assert scores(session) == pytest.approx(wanted, abs=1e-5)
    monkeypatch.setattr(inspector.detector, "encode", None)  # would fail: nothing may be encoded again
    session.remove_references("brick-01.png", "brick-02.png")
    session.set_threshold(0.5)
    assert scores(session) == before


@pytest.mark.slow
def test_sessions_of_one_model_do_not_meet(inspector: zsad.Inspector) -> None:
    first, second = opened(inspector, BRICKS[:3]), opened(inspector, BRICKS[:3])
    untouched = scores(second)
    first.add_references(BRICKS[5:7])
    first.set_threshold(0.1)
    first.miss(0, np.ones(first.scored[0].size, bool))
    assert scores(second) == untouched
    assert (len(second.marks), len(second.inspector.references), len(inspector.references)) == (0, 0, 0)
    assert second.thresholds.anomalous is None


@pytest.mark.slow
def test_corrections_rescore_the_batch_and_undo_gives_it_back(inspector: zsad.Inspector) -> None:
    session = opened(inspector, BRICKS)
    before = scores(session)
    session.set_threshold(0.7)
    worst = session.order[0]
    session.false_alarm(worst, session.result(worst).regions[0])
    after = scores(session)
    assert after[session.scored[worst].name] < before[session.scored[worst].name] - 0.1
    assert all(after[name] <= before[name] + 1e-6 for name in before)  # no picture rises by a false alarm
    last = session.order[-1]
    drawn = np.zeros(session.scored[last].size, bool)
    drawn[60:110, 60:110] = True
    session.miss(last, drawn)
    assert session.scored[last].score > after[session.scored[last].name] + 0.1
    assert session.undo()
    assert scores(session) == after
    assert session.undo()
    assert scores(session) == before
    assert not session.undo()
    kinds = [(row["what"], row.get("kind")) for row in session.log]
    assert kinds[1:] == [
        ("correction", "false alarm"),
        ("correction", "miss"),
        ("undone", "miss"),
        ("undone", "false alarm"),
    ]
    assert session.log[2]["box"] == [60, 60, 110, 110]
    json.dumps(session.log)


@pytest.mark.slow
def test_a_calibration_follows_every_change(inspector: zsad.Inspector) -> None:
    session = opened(inspector, BRICKS[6:])
    made = session.calibrate(BRICKS[:4], 0.25)
    oracle = [result.pred_score for result in inspector(BRICKS[:4])]
    assert sorted(made.scores) == pytest.approx(sorted(oracle), abs=1e-5)
    assert session.thresholds.anomalous > max(made.scores)  # 4 pictures, 1 in 4: one of them may lie above, none of four does
    session.add_references(BRICKS[4:6])
    referenced = small(references=BRICKS[4:6])
    assert sorted(session.inspector.calibration.scores) == pytest.approx(
        sorted(result.pred_score for result in referenced(BRICKS[:4])), abs=1e-5
    )
    session.miss(0, np.ones(session.scored[0].size, bool))
    assert session.inspector.calibration.detector["corrections"] == 1  # so that no other judge takes it for its own


@pytest.mark.slow
def test_leave_one_out_scores_each_reference_by_the_others(inspector: zsad.Inspector) -> None:
    session = opened(inspector, BRICKS[6:])
    session.add_references(BRICKS[:3])
    made = session.calibrate(BRICKS[:3], 0.3, left_out=True)
    first = next(small(references=BRICKS[1:3])([BRICKS[0]])).pred_score
    assert made.scores[0] == pytest.approx(first, abs=1e-5)
    assert made.kind == "leave-one-out"
    session.remove_references("brick-01.png")  # two are too few for 30 %
    assert session.inspector.calibration is None
    assert session.log[-1]["what"] == "calibration dropped"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: s.calibrate(BRICKS[:3], 0.05), "3 normal pictures cannot guarantee less than"),
        (lambda s: s.calibrate(BRICKS[:3], 0.3), "brick-01.png is a reference and would be compared with itself"),
        (lambda s: s.calibrate(BRICKS[4:8], 0.3, left_out=True), "Leave-one-out needs two references or more"),
        (lambda s: s.miss(0, np.zeros((5, 5))), "The drawing is (5, 5), the picture (240, 240)"),
        (lambda s: s.miss(0, np.zeros((240, 240))), "Nothing is marked"),
    ],
)
def test_errors(inspector: zsad.Inspector, call: Any, said: str) -> None:
    session = opened(inspector, BRICKS[8:10])
    session.add_references(BRICKS[:2])
    before = scores(session)
    with pytest.raises(UsageError) as error:
        call(session)
    assert said in str(error.value)
    assert scores(session) == before
    assert session.inspector.calibration is None
    assert not session.marks


def test_an_unreadable_picture_is_a_row_and_cannot_be_marked(inspector: zsad.Inspector, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    session = opened(inspector, [broken, BRICKS[0]])
    assert session.scored[0].error is not None
    assert session.order == [1, 0]
    assert "is no picture" in str(session.result(0).error)
    with pytest.raises(UsageError, match="could not be read, so no place of it can be marked"):
        session.miss(0, np.ones((4, 4)))
    alone = opened(inspector, [broken])
    assert alone.thresholds.anomalous is None


@pytest.mark.slow
def test_writing_equals_predict_in_rows_and_hides_folders(inspector: zsad.Inspector, tmp_path: Path) -> None:
    session = opened(inspector, BRICKS)
    summary = session.write(tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert {row["name"]: row["pred_score"] for row in rows} == pytest.approx(scores(session))
    assert [row["path"] for row in rows] == [path.name for path in BRICKS]
    assert summary.total == len(list((tmp_path / "out" / "maps").glob("*.png"))) == len(BRICKS)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["corrections"], run["detector"]["method"]) == (0, "compact")
    assert str(asset("demo")) not in (tmp_path / "out" / "predictions.csv").read_text()


def test_tiles_are_refused() -> None:
    with pytest.raises(UsageError, match="A session scores whole pictures, and the inspector cuts tiles"):
        zsad.Session(zsad.Inspector(tile=128))
