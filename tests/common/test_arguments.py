"""What is of another type than stated is refused where it is given, in a sentence; what may pass passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytest
from brightness import Brightness, BrightnessBackbone, registered_methods  # noqa: F401

import zsad
from zsad.common.arguments import checked, fits, in_words
from zsad.errors import UsageError


def inspector(**settings: Any) -> Any:
    return zsad.Inspector(**{"method": "brightness"} | settings)


def calibrate(**settings: Any) -> Any:
    return zsad.Session(inspector()).calibrate([], **settings)


def levels(**settings: Any) -> Any:
    return zsad.Calibration.from_scores(range(40), range(40)).thresholds(**settings)


def evaluate(**settings: Any) -> Any:
    return zsad.evaluate(**{"detector": "brightness", "dataset": "nowhere"} | settings)


NUMBER, WHOLE = "a number or None", "a whole number"
REFUSED: list[tuple[Callable[..., Any], str, Any, str]] = [
    (zsad.create, "name", 3, "a text; got 3 (int)."),
    (inspector, "method", 3, "a text or Detector; got 3 (int)."),
    (inspector, "method", Brightness, "a text or Detector; got <class"),
    (inspector, "backbone", 3, "a text, Backbone or None; got 3 (int)."),
    (inspector, "checkpoint", 3, "a text, a path or None; got 3 (int)."),
    (inspector, "threshold", "x", f"{NUMBER}; got 'x' (str)."),
    (inspector, "threshold", True, f"{NUMBER}; got True (bool)."),
    (inspector, "review_at", "a", f"{NUMBER}; got 'a' (str)."),
    (inspector, "pixel_threshold", [0.5], f"{NUMBER}; got [0.5] (list)."),
    (inspector, "max_false_alarms", "5 %", f"{NUMBER}; got '5 %' (str)."),
    (inspector, "calibration", {}, "Calibration, a text, a path or None; got {} (dict)."),
    (inspector, "batch_size", 2.5, f"{WHOLE} or None; got 2.5 (float)."),
    (inspector, "workers", "2", f"{WHOLE}; got '2' (str)."),
    (inspector, "coreset", None, "a number; got None (NoneType)."),
    (inspector, "device", 0, "a text or torch.device; got 0 (int)."),
    (inspector, "precision", 16, "a text; got 16 (int)."),
    (inspector, "value_range", "ab", "tuple[float, float] or None; got 'ab' (str)."),
    (inspector, "value_range", ("a", "b"), "tuple[float, float] or None; got ('a', 'b') (tuple)."),
    (inspector, "overlap", "half", f"{NUMBER}; got 'half' (str)."),
    (inspector, "keep_aspect", "no", "True or False; got 'no' (str)."),
    (evaluate, "detector", None, "a text, Detector or Inspector; got None (NoneType)."),
    (evaluate, "dataset", 3, "Dataset, a text or a path; got 3 (int)."),
    (evaluate, "metrics", 3, "a text, Collection[str] or None; got 3 (int)."),
    (evaluate, "categories", [1], "a text, Collection[str] or None; got [1] (list)."),
    (evaluate, "map_size", 99.5, f"{WHOLE} or None; got 99.5 (float)."),
    (evaluate, "shots", "one", f"{WHOLE}; got 'one' (str)."),
    (evaluate, "seeds", 0, "Sequence[int]; got 0 (int)."),
    (evaluate, "seeds", ("a",), "Sequence[int]; got ('a',) (tuple)."),
    (evaluate, "out", 3, "a text, a path or None; got 3 (int)."),
    (calibrate, "max_false_alarms", "few", "a number; got 'few' (str)."),
    (levels, "max_false_alarms", "few", f"{NUMBER}; got 'few' (str)."),
    (zsad.from_pretrained, "source", 3, "a text or a path; got 3 (int)."),
    (zsad.load_backbone, "name", None, "a text; got None (NoneType)."),
    (zsad.Session, "inspector", "compact", "Inspector; got 'compact' (str)."),
]


@pytest.mark.parametrize(("call", "key", "value", "said"), REFUSED, ids=lambda one: getattr(one, "__name__", str(one)))
def test_refused(call: Callable[..., Any], key: str, value: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(**{key: value})
    assert str(caught.value).startswith(f"{key} of ")
    assert f" takes {said}" in str(caught.value)


def test_what_counts_as_a_number_or_a_path(tmp_path: Path) -> None:
    found = inspector(threshold=np.float32(0.5), batch_size=np.int64(2), review_at=0, value_range=[0, 4095], overlap=None)
    assert (found.thresholds.anomalous, found.batch_size, found.thresholds.review) == (0.5, 2, 0)
    assert zsad.create("brightness", backbone=BrightnessBackbone()).name == "brightness"
    with pytest.raises(UsageError, match="There is no data set at"):
        evaluate(dataset=tmp_path / "none", metrics={"aupro"}, seeds=range(2))


class Shape(Protocol):
    side: int

    def area(self) -> int:
        """Of the shape."""


class Square:
    def area(self) -> int:
        return 4


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("tuple[str, ...] | None", [("a",), ["a", "b"], (), None], ["a", ("a", 1), 3]),
        ("Literal['a', 'b'] | None", ["a", None], ["c", 1]),
        ("bool | str | Path", [True, "x", Path("x")], [1, None]),
        ("float", [1, 1.5, np.float16(2)], [True, "1", None, 1j]),
        ("Shape", [Square()], [4]),
        ("Any", [1, None, "a"], []),
        ("Unheard | None", [1, None], []),
        ("zsad.Detector", [Brightness(BrightnessBackbone())], [BrightnessBackbone()]),
    ],
)
def test_annotations(annotation: str, good: list[Any], bad: list[Any]) -> None:
    scope = globals()
    assert Literal
    assert [fits(value, annotation, scope) for value in good] == [True] * len(good)
    assert [fits(value, annotation, scope) for value in bad] == [False] * len(bad)


def test_in_words() -> None:
    assert in_words("float | None") == "a number or None"
    assert in_words("Literal['auto', 'cpu']") == "'auto' or 'cpu'"
    assert in_words("str | Path | Detector") == "a text, a path or Detector"


def test_a_checked_function_stays_what_it_is() -> None:
    @checked
    def twice(number: int, *, times: float = 2.0, **rest: str) -> float:
        """Doc."""
        return number * times

    assert (twice(2), twice(number=2, times=3, other=1), twice.__doc__) == (4, 6, "Doc.")
    with pytest.raises(TypeError, match="missing a required argument: 'number'"):
        twice()
    long = "x" * 1000
    with pytest.raises(UsageError, match=r"number of .*twice takes a whole number; got 'x{59}\.\.\. \(str\)\."):
        twice(long)
