"""What options become: keywords of the inspector, names and refusals."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from zsad.cli.calibrate import calibrate
from zsad.cli.evaluate import HOW, PLAN, evaluate
from zsad.cli.options import ENCODER, check_out, inspector_settings, names_in
from zsad.cli.predict import LEVELS, predict
from zsad.cli.references import references
from zsad.errors import UsageError
from zsad.inference.inspector import Inspector


def defaults(command: Any) -> dict[str, Any]:
    return {key: one.default for key, one in inspect.signature(command).parameters.items()}


@pytest.mark.parametrize(
    ("command", "more"),
    [(predict, ("references", "coreset", *LEVELS)), (calibrate, ("references", "coreset")), (references, ())],
)
def test_defaults_of_commands_are_those_of_the_inspector(command: Any, more: tuple[str, ...]) -> None:
    known = inspect.signature(Inspector.__init__).parameters
    settings = inspector_settings(defaults(command), *more)
    assert settings == {key: known[key].default for key in (*ENCODER, *more)}


def test_a_coreset_is_of_references_or_of_shots() -> None:
    """It once ended in a KeyError for evaluate, whose references are drawn."""
    with pytest.raises(UsageError, match=r"--coreset 0\.5 was given without --references, so it would do nothing"):
        inspector_settings(defaults(predict) | {"coreset": 0.5}, "references", "coreset")
    assert inspector_settings(defaults(evaluate) | {"coreset": 0.5, "shots": 4}, *PLAN, *HOW)["coreset"] == 0.5


def test_set_may_not_name_an_option() -> None:
    with pytest.raises(UsageError, match=r"--set batch_size was given, but that is an option: --batch-size\."):
        inspector_settings(defaults(references) | {"set_": ["batch_size=2"]})


def test_names_and_an_empty_out() -> None:
    assert (names_in(None), names_in("a, b c,"), names_in("")) == (None, ["a", "b c"], [])
    with pytest.raises(UsageError, match="--out is empty"):
        check_out(" ")
