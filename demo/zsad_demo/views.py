"""What the page shows, as HTML and plain rows. Every text that came from outside is escaped here."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from html import escape
from pathlib import Path

from PIL import Image

import zsad
from zsad_demo.desk import Desk

COLUMNS = ("Score", "Verdict", "Picture", "p-value", "Note")
THUMB, LARGE = 320, 1400  # pixels
ORDER = ("anomalous", "review", "normal")
WITHOUT = "no verdict"


def verdict(result: zsad.Result) -> str:
    """One word."""
    return "error" if result.error else result.pred_label or WITHOUT


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


# ------------------------------------------------------------------ the batch
def summary(session: zsad.Session, labels: list[str], refused: list[str]) -> str:
    """How many of which verdict, where the levels come from, the scores on the fixed scale, and what was not taken."""
    counts = Counter(labels)
    chips = "".join(
        f'<span class="chip is-{kind.replace(" ", "-")}"><b>{counts[kind]}</b> {kind}</span>'
        for kind in (*ORDER, WITHOUT, "error")
        if counts[kind]
    )
    levels = session.thresholds
    marks = f" {len(session.marks)} correction{'s' * (len(session.marks) != 1)} in force." if session.marks else ""
    names = session.inspector.references.names
    references = f" {len(names)} reference{'s' * (len(names) != 1)}." if names else " No references."
    said = f"<p class='soft'>Levels: {escape(levels.source)}.{references}{marks}</p>"
    promise = f"<p class='promise'>Promise: {escape(levels.false_alarm_rate)}.</p>" if levels.false_alarm_rate else ""
    lost = "".join(f"<li>{escape(one)}</li>" for one in refused)
    left = f"<ul class='refused' role='alert'>{lost}</ul>" if refused else ""
    return f'<div class="summary"><div class="chips">{chips}</div>{strip(session, labels)}{promise}{said}{left}</div>'


def strip(session: zsad.Session, labels: list[str]) -> str:
    """Every score as a dot on the method's fixed scale, and the levels as lines."""
    scores = [one.score for one in session.scored]
    known = [score for score in scores if score is not None]
    if not known:
        return ""
    low, high = session.inspector.detector.map_range
    levels = session.thresholds
    marks = [(name, level) for name, level in (("review", levels.review), ("anomalous", levels.anomalous)) if level is not None]
    left, right = min(low, *known), max(high, *known, *(level for _, level in marks)) * 1.02

    def x(value: float) -> float:
        return 1 + 98 * (value - left) / ((right - left) or 1)  # per cent

    dots = "".join(
        f'<circle class="is-{label.replace(" ", "-")}" cx="{x(score):.2f}%" cy="{38 - 10 * (place % 3)}" r="6">'
        f"<title>{escape(one.name)}: {score:.3f}</title></circle>"
        for place, (score, label, one) in enumerate(zip(scores, labels, session.scored, strict=True))
        if score is not None
    )
    lines = "".join(
        f'<line class="is-{name}" x1="{x(level):.2f}%" x2="{x(level):.2f}%" y1="2" y2="52"/>' for name, level in marks
    )
    return (
        f'<svg class="strip" role="img" aria-label="scores of all pictures">'
        f'<line class="axis" x1="0" x2="100%" y1="52" y2="52"/>{lines}{dots}</svg>'
        f'<div class="ends"><span>{left:.2g}</span><span>higher is more anomalous</span><span>{right:.2g}</span></div>'
    )


def labels_of(session: zsad.Session) -> list[str]:
    """Verdict of every picture, from stored scores."""
    levels = session.thresholds
    return ["error" if one.error else levels.label(one.score) or WITHOUT for one in session.scored]


def rows(session: zsad.Session, labels: list[str]) -> list[list[str | float | None]]:
    """The table, worst first."""
    found: list[list[str | float | None]] = []
    for place in session.order:
        one = session.scored[place]
        score = None if one.score is None else round(one.score, 4)
        p_value = session.inspector.calibration.p_value(one.score) if session.inspector.calibration and one.score else None
        found.append([score, labels[place], one.name, p_value, one.error or "; ".join(one.notes)])
    return found


def gallery(desk: Desk, session: zsad.Session, labels: list[str]) -> list[tuple[str, str]]:
    """Thumbnails with captions, worst first; drawn once per judgement, not per threshold."""
    if desk.drawn_for is not session.scored:
        desk.drawn_for, desk.thumbs = session.scored, {}
    found = []
    for place in session.order:
        if place not in desk.thumbs:
            desk.thumbs[place] = thumb(desk, replace(session.result(place), regions=()))
        one = session.scored[place]
        found.append((desk.thumbs[place], f"{number(one.score)} {labels[place]} | {one.name}"))
    return found


# ------------------------------------------------------------------ one picture
def facts(result: zsad.Result, map_range: tuple[float, float]) -> str:
    """Verdict, score and regions."""
    label = verdict(result)
    head = f'<h3>{escape(result.name)} <span class="chip is-{label.replace(" ", "-")}">{label}</span></h3>'
    if result.error:
        return f"<div class='facts'>{head}<p role='alert'>{escape(result.error)}</p></div>"
    p_value = "" if result.p_value is None else f" &nbsp; p-value <b>{result.p_value:.3f}</b>"
    score = f"<p>Score <b>{number(result.pred_score)}</b>, anomalous from {number(result.threshold)}{p_value}</p>"
    notes = "".join(f"<p class='soft'>{escape(note)}</p>" for note in result.notes)
    listed = "".join(
        f"<tr><td>{place}</td><td>{region.peak:.3f}</td><td>{region.area}</td><td>{region.box[0]}, {region.box[1]} to "
        f"{region.box[2]}, {region.box[3]}</td><td>{escape(region.suggested_word or '-')}</td></tr>"
        for place, region in enumerate(result.regions, start=1)
    )
    table = (
        "<table><thead><tr><th>Region</th><th>Peak</th><th>Area, px</th><th>Box, px</th><th>Maybe</th></tr></thead>"
        f"<tbody>{listed}</tbody></table>"
        if listed
        else "<p class='soft'>No region reaches the level for places.</p>"
    )
    scale = (
        f"<div class='scale'></div><div class='ends'><span>{map_range[0]:g}</span><span>heat map, the same scale for every "
        f"picture</span><span>{map_range[1]:g}</span></div>"
    )
    return f"<div class='facts'>{head}{score}{scale}{table}{notes}</div>"


def prompts(result: zsad.Result) -> str:
    """The exact sentences that were used."""
    if not result.prompts:
        return "<p class='soft'>This method uses no sentences.</p>"
    parts = []
    for kind, lines in result.prompts.items():
        listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
        parts.append(f"<p><b>{escape(kind)}</b> ({len(lines)})</p><ul class='prompts'>{listed}</ul>")
    return "".join(parts)


def regions_of(result: zsad.Result) -> list[tuple[str, int]]:
    """Choices for the menu of regions."""
    return [(f"{place + 1}: peak {one.peak:.2f}, {one.area} px", place) for place, one in enumerate(result.regions)]


# ------------------------------------------------------------------ pictures
def pair(desk: Desk, result: zsad.Result) -> tuple[str, str] | None:
    """Files of the picture and of its heat map, reduced where they are large."""
    if result.image is None or result.anomaly_map is None:
        return None
    return _kept(desk, Image.fromarray(result.image), LARGE), _kept(desk, result.overlay(), LARGE)


def thumb(desk: Desk, result: zsad.Result) -> str:
    """File of a small picture with its heat map."""
    if result.image is None or result.anomaly_map is None:
        return _kept(desk, Image.new("RGB", (THUMB, THUMB), (225, 225, 230)), THUMB)
    return _kept(desk, result.overlay(), THUMB)


def _kept(desk: Desk, picture: Image.Image, side: int) -> str:
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    path: Path = desk.shown("jpg")
    small.save(path, quality=88, comment=desk.token.encode())
    return str(path)
