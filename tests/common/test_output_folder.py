"""What differs between settings then and now, as a person reads it; which command owns an output folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zsad.common.output_folder import begin_settings, differences, resume_settings
from zsad.errors import UsageError
from zsad.evaluation.store import Store
from zsad.runs.folder import RunFolder
from zsad.training.run import TrainingRun


def test_of_objects_the_entries_that_differ_are_named() -> None:
    padded = {"tile": None, "overlap": None, "roi": None, "keep_aspect": True}
    assert differences({"geometry": None}, {"geometry": padded}) == ["geometry.keep_aspect was null and is true"]
    cropped = padded | {"keep_aspect": False, "roi": "box:0,0 100,100"}
    assert differences({"geometry": padded}, {"geometry": cropped}) == [
        "geometry.keep_aspect was true and is false",
        'geometry.roi was null and is "box:0,0 100,100"',
    ]
    assert differences({"references": {"count": 6, "sha256": "ab"}}, {"references": {"count": 7, "sha256": "ab"}}) == [
        "references.count was 6 and is 7"
    ]


def test_no_difference_is_lost() -> None:
    """Entries that say the same unset are named by their object where nothing else differs."""
    assert differences({"a": {"b": None}}, {"a": {"b": False}}) == ['a was {"b": null} and is {"b": false}']
    assert differences({"a": None}, {"a": {}}) == ["a was null and is {}"]
    assert differences({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}) == ["a.b.c was 1 and is 2"]
    assert differences({"a": {"b": 0}}, {"a": {"b": None}}) == ['a was {"b": 0} and is {"b": null}']
    assert differences({"a": [1, 2]}, {"a": (1, 2)}) == []


@pytest.mark.parametrize("asked", [{}, {"resume": True}, {"overwrite": True}], ids=str)
def test_a_folder_of_another_command_is_left_alone(asked: dict[str, bool], tmp_path: Path) -> None:
    """A run of predict once cleared the hidden folder of an evaluation, so that nothing could be resumed."""
    evaluation = Store(tmp_path / "evaluation")
    evaluation.claim()
    evaluation.begin({"method": "compact"})
    run = RunFolder(tmp_path / "run", {"method": "compact"})
    evaluation.release()
    run.lock.release()
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(
        UsageError, match=r"holds an evaluation \(zsad evaluate\), and nothing in it was changed\. Give another"
    ):
        RunFolder(evaluation.out, {"method": "compact"}, **asked)
    with pytest.raises(UsageError, match=r"holds a run \(zsad predict\), and nothing in it was changed\. Give another --out"):
        Store(run.out).claim(**asked)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
    Store(evaluation.out).claim(overwrite=True)
    RunFolder(run.out, {"method": "compact"}, overwrite=True)


def predict_again(out: Path, settings: dict[str, Any]) -> None:
    RunFolder(out, settings, resume=True)


def evaluate_again(out: Path, settings: dict[str, Any]) -> None:
    store = Store(out)
    store.claim(resume=True)
    store.begin(settings)


def finetune_again(out: Path, settings: dict[str, Any]) -> None:
    run = TrainingRun(out)
    resume = (out / "training.json").is_file()
    run.claim(resume, overwrite=False)
    run.agree(settings, resume)


@pytest.mark.parametrize(
    ("again", "what", "file"),
    [
        (predict_again, "a run", ".zsad/settings.json"),
        (evaluate_again, "an evaluation", ".zsad/evaluation.json"),
        (finetune_again, "a training run", "training.json"),
    ],
)
def test_other_settings_are_refused_in_one_wording(
    again: Callable[[Path, dict[str, Any]], None], what: str, file: str, tmp_path: Path
) -> None:
    again(tmp_path, {"method": "compact", "seed": 1})
    if what == "a run":
        (tmp_path / ".zsad" / "records.jsonl").touch()  # there from the first picture on
    again(tmp_path, {"method": "compact", "seed": 1})
    with pytest.raises(
        UsageError,
        match=rf"holds {what} with other settings: seed was 1 and is 2\. Give the same settings to resume it, --overwrite to",
    ):
        again(tmp_path, {"method": "compact", "seed": 2})
    for damaged in ("", "[]", "{"):
        (tmp_path / file).write_text(damaged)
        with pytest.raises(UsageError, match=r"is damaged \(.*\)\. Give --overwrite to start anew"):
            again(tmp_path, {"method": "compact", "seed": 1})


def test_settings_of_earlier_versions_are_compared_by_their_new_names(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"judge": {"method": "compact"}, "seed": 1}))
    resume_settings(path, {"detector": {"method": "compact"}, "seed": 1}, what="a run")
    with pytest.raises(UsageError, match='detector.method was "compact" and is "musc"'):
        resume_settings(path, {"detector": {"method": "musc"}, "seed": 1}, what="a run")
    begin_settings(path, {"detector": {"method": "musc"}})
    assert json.loads(path.read_text()) == {"detector": {"method": "musc"}}
