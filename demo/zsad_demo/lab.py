"""The prompt lab: what each prompt does to the scores, and two sets side by side."""

from __future__ import annotations

from html import escape
from statistics import mean
from typing import Any

import zsad
from zsad_demo.desk import Desk
from zsad_demo.uploads import Refused

MOST = 40  # pictures, the worst first
LONGEST = 60  # prompts that are listed


def words_of(text: str | None) -> tuple[str, ...]:
    """Words between commas or lines, each once."""
    parts = [part.strip() for part in (text or "").replace("\n", ",").split(",")]
    return tuple(dict.fromkeys(part for part in parts if part))


def effects(desk: Desk) -> str:
    """A table of prompts, the strongest on the selected picture first."""
    session = desk.opened()
    numbers = _scored(session)
    place = numbers.index(desk.selected) if desk.selected in numbers else 0
    found = zsad.prompt_effects(session, numbers)
    found.sort(key=lambda one: -abs(one.effects[place]))
    most = max((abs(one.effects[place]) for one in found), default=0) or 1
    dead = sum(one.dead for one in found)
    lines = "".join(_row(one, place, most) for one in found[:LONGEST])
    name = escape(session.scored[numbers[place]].name)
    how = (
        "each word alone, against no words"
        if found and found[0].kind == "word"
        else "each sentence, against the set without it (text part of the score)"
    )
    counted = f"{len(found)} prompt{'s' * (len(found) != 1)}", f"{len(numbers)} picture{'s' * (len(numbers) != 1)}"
    return (
        f"<div class='lab'><p class='soft'>Effect on the score: {how}. {counted[0]}, "
        f"{dead} dead (below {found[0].bound:g} on all "
        f"{counted[1]}).</p><table><thead><tr><th>Prompt</th><th>On {name}</th><th></th><th>Mean of all</th></tr>"
        f"</thead><tbody>{lines}</tbody></table></div>"
    )


def _row(one: zsad.PromptEffect, place: int, most: float) -> str:
    value = one.effects[place]
    bar = f"<span class='bar {'up' if value > 0 else 'down'}' style='width:{100 * abs(value) / most:.0f}px'></span>"
    said = f"{escape(one.text)}{' (dead)' if one.dead else ''}"
    return (
        f"<tr class='{'dead' if one.dead else ''}'><td>{said}</td><td>{value:+.4f}</td><td>{bar}</td>"
        f"<td>{mean(one.effects):+.4f}</td></tr>"
    )


def compare(desk: Desk, first: str, second: str) -> list[list[Any]]:
    """Rows of (picture, score by the first set, score by the second, difference), worst first by the first set."""
    session = desk.opened()
    numbers = _scored(session)
    sets = [_as_set(session, desk, text) for text in (first, second)]
    found = zsad.compare_prompts(session, sets, numbers)
    rows = [
        [session.scored[place].name, round(one[0], 4), round(one[1], 4), round(one[1] - one[0], 4)]
        for place, one in zip(numbers, found, strict=True)
    ]
    return sorted(rows, key=lambda row: -row[1])


def _as_set(session: zsad.Session, desk: Desk, text: str) -> dict[str, Any]:
    """Phrases with {} are a prompt set; other texts are defect words, or the object's name where the method takes none."""
    parts = words_of(text)
    if any("{}" in part for part in parts):
        return {"states": parts, "folder": desk.shown("toml").parent}
    if hasattr(session.inspector.detector, "words"):
        return {"words": parts or None}
    return {"target": text.strip() or None}


def _scored(session: zsad.Session) -> list[int]:
    numbers = [place for place in session.order if session.scored[place].score is not None][:MOST]
    if not numbers:
        raise Refused("No picture has a score, so there is nothing to compare. Inspect some first.")
    return numbers
