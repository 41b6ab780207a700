"""The demo's focus fields, kinds and explanations, without a browser."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner
from vlm_server import GOOD, pictures_of, vlm_server

from zsad.cli import app
from zsad.common.assets import asset

sys.path.insert(0, str(asset("demo")))
from zsad_demo.inspectors import InspectorCache, InspectorKey
from zsad_demo.methods import MethodOption
from zsad_demo.uploads import Refused
from zsad_demo.workspace import Workspace

BRICKS = sorted(asset("demo/examples/brick").glob("*.png"))


@pytest.fixture(scope="module")
def workspace() -> Iterator[Workspace]:
    found = Workspace(InspectorCache())
    list(found.inspect([str(path) for path in BRICKS[:8]], InspectorKey(target="brick")))
    found.current().set_threshold(min(one.score or 0 for one in found.current().scored))
    yield found
    found.close()


def test_focus_is_for_methods_whose_words_and_pictures_share_a_space() -> None:
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    from zsad_demo.checks import checked_focus

    winclip, compact = MethodOption("winclip", "", ""), MethodOption("compact", "", "")
    assert checked_focus(winclip, "scratch, crack") == ("scratch", "crack")
    assert checked_focus(compact, " ") == ()
    with pytest.raises(Refused, match="compact has no space of texts and pictures"):
        checked_focus(compact, "scratch")


@pytest.mark.slow
def test_kinds_are_grouped_renamed_merged_and_downloaded(workspace: Workspace) -> None:
    with pytest.raises(Refused, match="There are no kinds yet"):
        workspace.rename("kind 1", "crack")
    sheets, names = workspace.group(2)
    assert names == ["kind 1", "kind 2"]
    assert sheets.count("<h3>") >= 2
    assert sheets.count("data:image/jpeg") >= 8
    sheets, names = workspace.rename("kind 1", "<b>crack")
    assert names == ["<b>crack", "kind 2"]
    assert "&lt;b&gt;crack" in sheets
    assert "<b>crack" not in sheets
    assert workspace.rename("kind 2", "<b>crack")[1] == ["<b>crack"]
    with zipfile.ZipFile(workspace.results_zip()) as archive:
        rows = [json.loads(line) for line in archive.read("predictions.jsonl").splitlines()]
    assert {row["kind"] for row in rows} <= {"<b>crack", "new"}


@pytest.mark.slow
def test_the_model_is_asked_about_the_selected_picture(workspace: Workspace) -> None:
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    from zsad_demo.language import Explainer, explanation

    with pytest.raises(Refused, match="No model was given to this page"):
        explanation(workspace, None)
    answer = {**GOOD, "findings": [{**GOOD["findings"][0], "type": "<i>crack"}]}
    with vlm_server(lambda number, _: json.dumps(answer if number == 1 else {"defect_seen": "no", "findings": []})) as server:
        explainer = Explainer("tiny", server.url)
        shown = [explanation(workspace, explainer) for _ in range(2)]
    assert server.url in explainer.label
    assert len(server.requests) == 2
    assert len(pictures_of(server.requests[0])) in (1, 2)
    assert "sees a defect" in shown[0]
    assert "&lt;i&gt;crack" in shown[0]
    assert "They change no verdict" in shown[0]
    assert "Disagrees" in shown[1]
    assert "Disagrees" not in shown[0]


def test_an_endpoint_needs_a_model() -> None:
    done = CliRunner().invoke(app, ["demo", "--endpoint", "http://127.0.0.1:9/v1"])
    assert done.exit_code == 2
    assert "one was given without the other" in " ".join(done.output.split())
