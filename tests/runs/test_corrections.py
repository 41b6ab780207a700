"""Missed defects are examples for methods that take anomalous references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from annotated import write_set
from tiny_methods import tiny_method

import zsad
from zsad.errors import UsageError
from zsad.runs.session import Session


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"), ["nut"], good=2, bad=2) / "nut/test"


@pytest.fixture
def session(data: Path) -> Session:
    inspector = zsad.Inspector(tiny_method("nagl"), "nut", references=data / "good", device="cpu")
    made = Session(inspector)
    list(made.encode(data / "defect"))
    made.rescore()
    return made


def scores(session: Session) -> list[float]:
    return [float(one.score or 0) for one in session.scored]


def test_marks_become_anomalous_references_and_are_taken_back(session: Session, data: Path) -> None:
    before = scores(session)
    upper, lower = np.zeros((2, 96, 96), np.uint8)
    upper[20:50, 30:60] = lower[60:90, 30:60] = 1
    session.miss(0, upper)
    once = scores(session)
    assert session.inspector.references.anomalous_names == ("000.png (2)",)  # a normal reference has its name
    assert once != before
    session.miss(0, lower)  # the same picture: one example with both places
    assert len(session.corrections) == 2
    assert session.inspector.references.anomalous_names == ("000.png (2)",)
    both = zsad.Inspector(tiny_method("nagl"), "nut", references=data / "good", device="cpu")
    both.add_anomalous([data / "defect/000.png"], [upper | lower])
    assert scores(session) == pytest.approx([one.pred_score for one in both(sorted((data / "defect").iterdir()))], abs=1e-6)
    assert session.undo()
    assert scores(session) == once
    assert session.undo()
    assert scores(session) == before
    assert not session.undo()
    assert [entry.get("kind") for entry in session.log] == ["miss"] * 4


def test_refused_marks_change_nothing(session: Session, data: Path) -> None:
    before = scores(session)
    with pytest.raises(UsageError, match="The mark is empty. Draw over the defect."):
        session.miss(0, np.zeros((96, 96), np.uint8))
    list(session.encode(data / "good"))
    session.rescore()
    with pytest.raises(UsageError, match="000.png is a reference already"):
        session.miss(2, np.ones((96, 96), np.uint8))
    assert len(session.corrections) == 0
    assert scores(session)[:2] == before
