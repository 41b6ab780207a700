"""What users of zsad 0.1.0 call is still there: every option of every command, every public name, method and keyword."""

from __future__ import annotations

import inspect
import re
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import zsad
from zsad.cli import app

HERE = Path(__file__).resolve().parent / "v0.1.0"
# names that a later version changed on purpose: either is right
RENAMED = {
    "Inspector.judges_sets": "needs_set",
    "Result.judged": "roi_mask",
    "Calibration.judge": "detector",
    "Calibration.promise": "false_alarm_rate",
    "Thresholds.promise": "false_alarm_rate",
}


# ------------------------------------------------------------------ the command line
def commands() -> dict[str, str]:
    """The ``--help`` of every command by its name."""
    parts = re.split(r"^Usage: zsad (\w+) .*$", (HERE / "help.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(text: str, heading: str) -> list[tuple[list[str], str, str]]:
    """Of every entry below a heading: its names, the kind of its value ("" of a switch), and what is stated of it."""
    body = re.search(rf"^{heading}:\n((?:  .*\n)+)", text, flags=re.MULTILINE)
    lines = "" if body is None else re.sub(r"\n {4,}", " ", body[1])
    found = [
        re.fullmatch(r"([^\s,]+(?:, [^\s,]+)*)(?: <(.*?)>(?:\.\.\.)?)?\s+(.*)", line.strip()) for line in lines.splitlines()
    ]
    return [(one[1].split(", "), one[2] or "", one[3]) for one in found if one]


@cache
def parameters(command: str) -> list[Any]:
    found: Any = get_command(app).commands[command]  # type: ignore[attr-defined]
    return getattr(found, "commands", {}).get("show", found).params  # "prompts METHOD" is "prompts show METHOD" now


def test_the_text_is_read_whole() -> None:
    found = commands()
    assert len(found) == 11
    options = {name: entries(text, "Options") for name, text in found.items()}
    assert [names for names, _, _ in options["convert"]] == [
        *(["--method"], ["--out"], ["--backbone"], ["--set"], ["--trained-on"], ["--licence"], ["--overwrite"], ["--json"]),
        ["-h", "--help"],
    ]
    assert ["--review-false-alarms", "--review-at"] in [names for names, _, _ in options["calibrate"]]
    below = [text.partition("Options:")[2] for text in found.values()]
    assert sum(map(len, options.values())) == sum(text.count("\n  -") for text in below) == 163


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_option_is_still_taken(command: str) -> None:
    text, known = commands()[command], {name: one for one in parameters(command) for name in (*one.opts, *one.secondary_opts)}
    for names, kind, about in entries(text, "Options"):
        if "--help" in names:
            continue
        assert set(names) <= known.keys()
        option = known[names[0]]
        assert (option.multiple, option.is_flag) == (kind.startswith("list["), not kind)
        assert option.required == ("[required]" in about)
        if stated := re.search(r"\[default:\s+(.*?)(;.*)?\]", about):
            assert str(option.default) == stated[1]


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_argument_stands_where_it_stood(command: str) -> None:
    then = [names[0] for names, _, _ in entries(commands()[command], "Arguments")]
    assert [one.name for one in parameters(command) if one.param_type_name == "argument"] == then


# ------------------------------------------------------------------ the library
def names() -> list[tuple[str, list[str] | None]]:
    """Every public name of then, with the names of its parameters; None of what is no function."""
    found = []
    for line in (HERE / "names.txt").read_text(encoding="utf-8").splitlines():
        name, bracket, inside = line.rstrip(")").partition("(")
        found.append((name, [one for one in inside.split(", ") if one] if bracket else None))
    return found


OWNERS = [name for name, _ in names() if "." not in name]


def stands_for(owner: str, name: str) -> set[str]:
    """The names under which a parameter or member may be found today."""
    return {name, RENAMED.get(f"{owner}.{name}", name)}


@cache
def built() -> dict[str, Any]:
    """Objects whose attributes the class alone does not show."""
    inspector = zsad.Inspector("winclip", backbone="tiny")
    return {"Inspector": inspector, "Session": zsad.Session(inspector), "Detector": inspector.detector}


def fields_of(kind: Any) -> set[str]:
    return {key for base in inspect.getmro(kind) for key in getattr(base, "__annotations__", {})}


def test_the_list_is_read_whole() -> None:
    found = dict(names())
    assert len(found) == 199
    assert found["Session.set_threshold"] == ["anomalous", "review"]
    assert found["create"] == ["name", "*backbone", "*checkpoint", "**arguments"]
    assert {name for name in found if "." not in name} <= set(zsad.__all__)


@pytest.mark.parametrize("owner", OWNERS)
def test_every_name_is_still_there(owner: str) -> None:
    kind = getattr(zsad, owner)
    there = set(dir(built().get(owner, kind))) | set(dir(kind)) | (fields_of(kind) if inspect.isclass(kind) else set())
    members = [name.partition(".")[2] for name, _ in names() if name.startswith(f"{owner}.")]
    assert [one for one in members if not stands_for(owner, one) & there] == []


@pytest.mark.parametrize("owner", OWNERS)
def test_every_parameter_is_still_taken(owner: str) -> None:
    for name, then in names():
        if name.partition(".")[0] == owner and then is not None:
            today = f"{owner}.{RENAMED[name]}" if name in RENAMED else name
            now = [one for one in inspect.signature(attrgetter(today)(zsad)).parameters.values() if one.name != "self"]
            check_parameters(name, owner, then, now)


def check_parameters(name: str, owner: str, then: list[str], now: list[inspect.Parameter]) -> None:
    """Each is taken, at its place where it had one, and none has come that has to be given."""
    taken = {one.name for one in now}
    catches_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in now)
    gone = [one for one in then if not (stands_for(owner, one.lstrip("*")) & taken or catches_all)]
    assert not gone, f"{name} takes {taken} and no {gone}"
    in_order = [one.name for one in now if one.kind in (one.POSITIONAL_OR_KEYWORD, one.POSITIONAL_ONLY, one.VAR_POSITIONAL)]
    for place, one in enumerate(one for one in then if not one.startswith("*")):
        assert in_order[place] in stands_for(owner, one), f"{name}: {one} was number {place}"
    added = [one for one in now if not any(one.name in stands_for(owner, old.lstrip("*")) for old in then)]
    needed = [one.name for one in added if one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    assert not needed, f"{name} cannot be called without {needed}"
