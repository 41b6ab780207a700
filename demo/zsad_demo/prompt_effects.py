"""The tab "Prompt effects": how much each prompt changes the scores, and two prompt sets compared."""

from __future__ import annotations

from html import escape
from statistics import mean
from typing import Any

import zsad
from zsad_demo.uploads import Refused
from zsad_demo.workspace import Workspace

MAX_PICTURES = 40  # the most anomalous first
MAX_PROMPTS = 60  # rows of the table


def split_words(text: str | None) -> tuple[str, ...]:
    """Words between commas or line breaks, each once."""
    parts = [part.strip() for part in (text or "").replace("\n", ",").split(",")]
    return tuple(dict.fromkeys(part for part in parts if part))


def effects_table(workspace: Workspace) -> str:
    """HTML table of prompts, the largest effect on the selected picture first."""
    session = workspace.current()
    numbers = _scored(session)
    place = numbers.index(workspace.selected) if workspace.selected in numbers else 0
    effects = zsad.prompt_effects(session, numbers)
    effects.sort(key=lambda one: -abs(one.effects[place]))
    largest = max((abs(one.effects[place]) for one in effects), default=0) or 1
    none = sum(one.dead for one in effects)
    rows = "".join(_row(one, place, largest) for one in effects[:MAX_PROMPTS])
    name = escape(session.scored[numbers[place]].name)
    definition = (
        "score with this word alone minus score without words"
        if effects and effects[0].kind == "word"
        else "text score with all sentences minus text score without this one"
    )
    prompts = f"{len(effects)} prompt{'s' * (len(effects) != 1)}"
    pictures = f"{len(numbers)} picture{'s' * (len(numbers) != 1)}"
    return (
        f"<div class='effects'><p class='soft'>Effect: {definition}. {prompts}, {none} without effect (below "
        f"{effects[0].bound:g} on all {pictures}).</p><table><thead><tr><th>Prompt</th><th>Effect on {name}</th><th></th>"
        f"<th>Mean effect</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(one: zsad.PromptEffect, place: int, largest: float) -> str:
    value = one.effects[place]
    bar = f"<span class='bar {'up' if value > 0 else 'down'}' style='--share:{abs(value) / largest:.2f}'></span>"
    text = f"{escape(one.text)}{' (no effect)' if one.dead else ''}"
    return (
        f"<tr class='{'no-effect' if one.dead else ''}'><td>{text}</td><td>{value:+.4f}</td><td>{bar}</td>"
        f"<td>{mean(one.effects):+.4f}</td></tr>"
    )


def compare(workspace: Workspace, first: str, second: str) -> list[list[Any]]:
    """Rows of (picture, score by set A, score by set B, B - A), the highest score by set A first."""
    session = workspace.current()
    numbers = _scored(session)
    sets = [_prompt_set(session, workspace, text) for text in (first, second)]
    scores = zsad.compare_prompts(session, sets, numbers)
    rows = [
        [session.scored[number].name, round(a, 4), round(b, 4), round(b - a, 4)]
        for number, (a, b) in zip(numbers, scores, strict=True)
    ]
    return sorted(rows, key=lambda row: -row[1])


def _prompt_set(session: zsad.Session, workspace: Workspace, text: str) -> dict[str, Any]:
    """Keywords of ``zsad.compare_prompts``: phrases with {} are a prompt set; other texts are defect words, or the object's
    name where the method takes no words."""
    parts = split_words(text)
    if any("{}" in part for part in parts):
        return {"states": parts, "folder": workspace.new_file("toml").parent}
    if hasattr(session.inspector.detector, "words"):
        return {"words": parts or None}
    return {"target": text.strip() or None}


def _scored(session: zsad.Session) -> list[int]:
    """Numbers of the pictures that have a score, the most anomalous first."""
    numbers = [number for number in session.order if session.scored[number].score is not None][:MAX_PICTURES]
    if not numbers:
        raise Refused("No picture has a score, so there is nothing to compare. Inspect some pictures first.")
    return numbers
