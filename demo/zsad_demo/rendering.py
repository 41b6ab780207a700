"""What the page shows, as HTML, table rows and image files. Every text from outside is escaped here."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from html import escape
from pathlib import Path

from PIL import Image

import zsad
from zsad.common.file_names import many
from zsad.inference.verdict import verdict_of
from zsad_demo.workspace import Workspace

COLUMNS = ("Score", "Verdict", "Picture", "p-value", "Note")
THUMBNAIL, LARGE = 320, 1400  # pixels
VERDICTS = ("anomalous", "review", "normal")
NO_VERDICT = "no verdict"


def verdict(result: zsad.Result) -> str:
    """The result's label, "error" or "no verdict"."""
    return "error" if result.error else result.pred_label or NO_VERDICT


def number(value: float | None) -> str:
    """Three decimals, or "-"."""
    return "-" if value is None else f"{value:.3f}"


# ------------------------------------------------------------------ the batch
def summary(session: zsad.Session, labels: list[str], refused: list[str]) -> str:
    """Counts of verdicts, all scores as dots, the thresholds and where they come from, and refused uploads."""
    counts = Counter(labels)
    chips = "".join(
        f'<span class="chip is-{kind.replace(" ", "-")}"><b>{counts[kind]}</b> {kind}</span>'
        for kind in (*VERDICTS, NO_VERDICT, "error")
        if counts[kind]
    )
    levels = session.thresholds
    corrections = f" {many(len(session.corrections), 'correction')} applied." if session.corrections else ""
    names = session.inspector.references.names
    references = f" {len(names)} reference image{'s' * (len(names) != 1)}." if names else " No reference images."
    source = f"<p class='soft'>Thresholds: {escape(levels.source)}.{references}{corrections}</p>"
    rate = (
        f"<p class='false-alarms'>False-alarm rate: {escape(levels.false_alarm_rate)}.</p>" if levels.false_alarm_rate else ""
    )
    messages = "".join(f"<li>{escape(one)}</li>" for one in refused)
    left_out = f"<ul class='refused' role='alert'>{messages}</ul>" if refused else ""
    return f'<div class="summary"><div class="chips">{chips}</div>{strip(session, labels)}{rate}{source}{left_out}</div>'


def strip(session: zsad.Session, labels: list[str]) -> str:
    """Every score as a dot on the method's fixed scale, and the thresholds as lines."""
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
        f'<svg class="strip" role="img" aria-label="anomaly scores of all pictures">'
        f'<line class="axis" x1="0" x2="100%" y1="52" y2="52"/>{lines}{dots}</svg>'
        f'<div class="ends"><span>{left:.2g}</span><span>score, higher is more anomalous</span>'
        f"<span>{right:.2g}</span></div>"
    )


def labels_of(session: zsad.Session) -> list[str]:
    """Verdict of every picture, from stored scores."""
    levels = session.thresholds
    return ["error" if one.error else verdict_of(one, levels) or NO_VERDICT for one in session.scored]


def rows(session: zsad.Session, labels: list[str]) -> list[list[str | float | None]]:
    """Rows of the table, the most anomalous first."""
    found: list[list[str | float | None]] = []
    for place in session.order:
        one = session.scored[place]
        score = None if one.score is None else round(one.score, 4)
        p_value = session.inspector.calibration.p_value(one.score) if session.inspector.calibration and one.score else None
        found.append([score, labels[place], one.name, p_value, one.error or "; ".join(one.notes)])
    return found


def gallery(workspace: Workspace, session: zsad.Session, labels: list[str]) -> list[tuple[str, str]]:
    """Thumbnails with captions, the most anomalous first; drawn anew after rescoring, not after a change of thresholds."""
    if workspace.thumbnails_of is not session.scored:
        workspace.thumbnails_of, workspace.thumbnails = session.scored, {}
    found = []
    for place in session.order:
        if place not in workspace.thumbnails:
            workspace.thumbnails[place] = thumbnail(workspace, replace(session.result(place), regions=()))
        one = session.scored[place]
        found.append((workspace.thumbnails[place], f"{number(one.score)} {labels[place]} | {one.name}"))
    return found


# ------------------------------------------------------------------ one picture
def details(result: zsad.Result, map_range: tuple[float, float]) -> str:
    """Verdict, score and regions of a picture."""
    label = verdict(result)
    head = f'<h3>{escape(result.name)} <span class="chip is-{label.replace(" ", "-")}">{label}</span></h3>'
    if result.error:
        return f"<div class='details'>{head}<p role='alert'>{escape(result.error)}</p></div>"
    p_value = "" if result.p_value is None else f" &nbsp; p-value <b>{result.p_value:.3f}</b>"
    score = f"<p>Anomaly score <b>{number(result.pred_score)}</b>, threshold {number(result.threshold)}{p_value}</p>"
    notes = "".join(f"<p class='soft'>{escape(note)}</p>" for note in result.notes)
    listed = "".join(
        f"<tr><td>{place}</td><td>{region.peak:.3f}</td><td>{region.area}</td><td><span>{region.box[0]}, {region.box[1]} to"
        f"</span> <span>{region.box[2]}, {region.box[3]}</span></td><td>{escape(region.suggested_word or '-')}</td></tr>"
        for place, region in enumerate(result.regions, start=1)
    )
    table = (
        "<table><thead><tr><th>Region</th><th>Peak score</th><th>Area, px</th><th>Box, px</th><th>Defect word</th></tr>"
        f"</thead><tbody>{listed}</tbody></table>"
        if listed
        else "<p class='soft'>No region of the anomaly map reaches the pixel threshold.</p>"
    )
    scale = (
        f"<div class='scale'></div><div class='ends'><span>{map_range[0]:g}</span><span>anomaly map, one scale for all "
        f"pictures</span><span>{map_range[1]:g}</span></div>"
    )
    return f"<div class='details'>{head}{score}{scale}{table}{notes}</div>"


def prompts(result: zsad.Result) -> str:
    """The exact text prompts that the method used."""
    if not result.prompts:
        return "<p class='soft'>This method uses no text prompts.</p>"
    parts = []
    for kind, lines in result.prompts.items():
        listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
        parts.append(f"<p><b>{escape(kind)}</b> ({len(lines)})</p><ul class='prompts'>{listed}</ul>")
    return "".join(parts)


def regions_of(result: zsad.Result) -> list[tuple[str, int]]:
    """Choices for the menu of regions."""
    return [(f"{place + 1}: peak {one.peak:.2f}, {one.area} px", place) for place, one in enumerate(result.regions)]


# ------------------------------------------------------------------ image files
def pair(workspace: Workspace, result: zsad.Result) -> tuple[str, str] | None:
    """Files of the picture and of its overlay with the anomaly map, reduced where they are large."""
    if result.image is None or result.anomaly_map is None:
        return None
    return _saved(workspace, Image.fromarray(result.image), LARGE), _saved(workspace, result.overlay(), LARGE)


def thumbnail(workspace: Workspace, result: zsad.Result) -> str:
    """File of a small overlay; a grey square where there is no map."""
    if result.image is None or result.anomaly_map is None:
        return _saved(workspace, Image.new("RGB", (THUMBNAIL, THUMBNAIL), (225, 225, 230)), THUMBNAIL)
    return _saved(workspace, result.overlay(), THUMBNAIL)


def _saved(workspace: Workspace, picture: Image.Image, side: int) -> str:
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    path: Path = workspace.new_file("jpg")
    small.save(path, quality=88, comment=workspace.token.encode())
    return str(path)
