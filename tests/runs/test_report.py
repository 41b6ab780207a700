"""The report: harmless whatever a file is called, readable without network, sortable."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zsad
from zsad.decision.thresholds import Thresholds
from zsad.runs.report import Shown, write_report
from zsad.runs.summary import verdict_line

EVIL = "<img src=x onerror=alert(1)>\"'&.png"
DETECTOR = {
    "target": "<b>nut</b>",
    "method": "m",
    "backbone": "b",
    "image_size": 8,
    "backbone_sha256": "a" * 64,
    "weights_sha256": "",
    "map_range": [0.0, 2.5],
    "sentences": {"normal": ["a <i>good</i> nut"]},
}


def row(name: str, score: float | None, label: str | None = "normal", **others: Any) -> dict[str, Any]:
    base = {"name": name, "pred_score": score, "pred_label": label, "regions": [], "error": None, "notes": []}
    return base | {"overlay": f"overlays/{name}.jpg"} | others


def written(tmp_path: Path, rows: list[Shown], limit: int = 500, thresholds: Thresholds | None = None) -> str:
    scores = np.array([np.nan if shown.row["pred_score"] is None else shown.row["pred_score"] for shown in rows])
    counts: dict[str, int] = {}
    for shown in rows:
        label = "error" if shown.row["error"] else shown.row["pred_label"] or "unlabelled"
        counts[label] = counts.get(label, 0) + 1
    path = tmp_path / "report.html"
    levels = thresholds or Thresholds(1.0, 0.5, 0.7, "a <rule>")
    write_report(path, iter(rows), counts=counts, thresholds=levels, detector=DETECTOR, scores=scores, limit=limit)
    return path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Every tag with its attributes, and what has to be closed."""

    VOID = frozenset({"img", "meta", "link", "input", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


REGION = {"box": [1, 2, 30, 40], "area": 9, "peak": 0.93, "suggested_word": "<u>crack</u>", "margin": 0.2, "contour": []}
ROWS = [
    Shown(row(EVIL, 1.2, "anomalous", regions=[REGION] * 8, notes=["<s>12 bit</s>"]), b"\xff\xd8one", b"\xff\xd8two"),
    Shown(row("b.png", 0.6, "review")),
    Shown(row("c.png", None, None, error="<script>is broken", overlay=None)),
]


def test_everything_is_escaped_and_closed(tmp_path: Path) -> None:
    text = written(tmp_path, ROWS)
    tags = Tags(text)
    assert tags.stack == []
    names = [tag for tag, _ in tags.found]
    assert not {"i", "b", "s", "u", "rule"} & set(names)
    assert names.count("script") == 1
    assert names.count("img") == 2
    assert not [attrs for _, attrs in tags.found if any(key.startswith("on") for key in attrs)]
    assert EVIL in [attrs.get("data-name") for _, attrs in tags.found]


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    text = written(tmp_path, ROWS)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.split("<script>")[0])
    links = [attrs.get("href") or attrs.get("src") or "" for _, attrs in Tags(text).found]
    assert all(link.startswith(("data:", "overlays/")) for link in links if link)


def test_what_it_says(tmp_path: Path) -> None:
    text = written(tmp_path, ROWS)
    assert "3 pictures: 1 anomalous, 1 review, 0 normal, 1 could not be scored." in text
    assert "a &lt;rule&gt;" in text
    assert "m on b at 8 px" in text
    assert "x 1 to 30, y 2 to 40: 9 px, peak 0.93, maybe &lt;u&gt;crack" in text
    assert "and 2 smaller peaks in predictions.jsonl" in text
    assert "<span>0</span><span>2.5</span>" in text  # the colour scale's ends
    assert "Sentences that were used (1)" in text
    assert "a &lt;i&gt;good&lt;/i&gt; nut" in text


def test_limits_are_said(tmp_path: Path) -> None:
    rows = [Shown(row(f"{i}.png", 1.0 - i / 10000)) for i in range(5003)]
    text = written(tmp_path, rows, limit=2)
    assert "Pictures are shown for the 2 highest scores of 5003." in text
    assert "3 more rows are in predictions.csv." in text
    assert text.count("<tr data-rank") == 5000


def test_no_thresholds_no_pictures(tmp_path: Path) -> None:
    text = written(tmp_path, [Shown(row("a.png", None, None, error="x"))], thresholds=Thresholds())
    assert "none, so there are no verdicts" in text
    assert "1 picture: 1 could not be scored." in text


def test_equal_scores_and_negative_levels(tmp_path: Path) -> None:
    written(tmp_path, [Shown(row("a.png", -1.0)), Shown(row("b.png", -1.0))], thresholds=Thresholds(-0.5, -0.7))
    text = written(
        tmp_path, [Shown(row("a.png", 0.7)), Shown(row("b.png", float(np.nextafter(0.7, 1))))], thresholds=Thresholds()
    )
    assert "Scores of 2 pictures" in text


def test_verdict_line() -> None:
    assert verdict_line({"unlabelled": 2}) == "2 pictures: 2 scored without a verdict"
    assert verdict_line({"normal": 9, "anomalous": 1}) == "10 pictures: 1 anomalous, 0 review, 9 normal"


SHIM = """
const cells = JSON.parse(process.argv[2]);
function element(extra) {
  const listeners = {}, attributes = {};
  return Object.assign({
    dataset: {}, value: "", hidden: true, textContent: "",
    addEventListener(kind, call) { listeners[kind] = call; }, fire(kind) { listeners[kind](); },
    getAttribute(key) { return key in attributes ? attributes[key] : null; },
    setAttribute(key, value) { attributes[key] = value; }, removeAttribute(key) { delete attributes[key]; },
  }, extra);
}
const body = { rows: cells.map(dataset => element({ dataset, hidden: false })) };
body.appendChild = row => { body.rows = body.rows.filter(other => other !== row).concat([row]); };
const heads = {};
for (const key of ["score", "name", "verdict", "regions"]) {
  const button = element();
  heads[key] = element({ dataset: { key }, querySelector: () => button, button });
}
heads.score.setAttribute("aria-sort", "descending");
const ids = { verdict: element(), text: element(), shown: element() }, tools = element();
const table = { tBodies: [body], querySelectorAll: () => Object.values(heads) };
globalThis.document = { querySelector: s => s === "table" ? table : tools, getElementById: id => ids[id] };
const names = () => body.rows.filter(row => !row.hidden).map(row => row.dataset.name);
"""
USE = """
const seen = {};
for (const key of ["score", "score", "name", "name", "regions"]) {
  heads[key].button.fire("click");
  (seen[key] ??= []).push([heads[key].getAttribute("aria-sort"), names()]);
}
ids.verdict.value = "normal"; ids.verdict.fire("change"); seen.filtered = [names(), ids.shown.textContent, tools.hidden];
ids.verdict.value = ""; ids.text.value = "X1"; ids.text.fire("input"); seen.found = names();
console.log(JSON.stringify(seen));
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_sorting_and_filtering_run() -> None:
    cells = [
        {"rank": "0", "score": "1.5", "name": "x10.png", "verdict": "4", "label": "anomalous", "regions": "1"},
        {"rank": "1", "score": "-2", "name": "x9.png", "verdict": "2", "label": "normal", "regions": "12"},
        {"rank": "2", "score": "", "name": "a.png", "verdict": "0", "label": "error", "regions": "0"},
    ]
    script = (Path(zsad.__file__).parent / "runs/report.js").read_text(encoding="utf-8")
    done = subprocess.run(
        ["node", "-e", SHIM.replace("argv[2]", "argv[1]") + script + USE, json.dumps(cells)],
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout)
    assert seen["score"] == [["ascending", ["x9.png", "x10.png", "a.png"]], ["descending", ["x10.png", "x9.png", "a.png"]]]
    assert seen["name"] == [["ascending", ["a.png", "x9.png", "x10.png"]], ["descending", ["x10.png", "x9.png", "a.png"]]]
    assert seen["regions"] == [["descending", ["x9.png", "x10.png", "a.png"]]]
    assert seen["filtered"] == [["x9.png"], "1 of 3 shown", False]
    assert seen["found"] == ["x10.png"]
