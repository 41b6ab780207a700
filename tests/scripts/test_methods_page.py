"""docs/methods.md and docs/methods/ are what the registry says; every method has prose, figures of parity, and a page."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

import zsad
from zsad.verification import list_proofs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    import importlib.util
    import sys

    sys.path.append(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("methods_page", ROOT / "scripts/methods_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_the_script_writes(script: ModuleType) -> None:
    written = script.pages()
    assert written[ROOT / "docs/methods.md"] == (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    assert {path: path.read_text(encoding="utf-8") for path in (ROOT / "docs/methods").iterdir()} == {
        path: text for path, text in written.items() if path.parent.name == "methods"
    }


def test_every_method_has_a_page_with_its_parts(script: ModuleType) -> None:
    for method in zsad.list_methods():
        text = (ROOT / f"docs/methods/{method}.md").read_text(encoding="utf-8")
        for part in ("## Idea", "## When not", "## Cost and parity", "## Weights", "## Source", f"{method}.svg"):
            assert part in text, (method, part)
        idea = text.partition("## Idea")[2].partition("![")[0]
        assert 4 <= idea.count(". ") + idea.count(".\n") <= 7, method


def test_every_proof_has_its_differences(script: ModuleType) -> None:
    measured = json.loads(script.MEASURED.read_text())["methods"]
    assert {name for name, one in measured.items() if "parity" in one} == set(list_proofs()) & set(zsad.list_methods())


def test_a_method_without_prose_is_named(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.zsad, "list_methods", lambda: ["compact", "newest"])
    with pytest.raises(SystemExit, match=r"methods\.toml has no section for newest"):
        script.pages()


def test_differences_are_rounded_up(script: ModuleType) -> None:
    assert [script.rounded(value) for value in (None, 0.0, 1e-6, 1.1e-6, 9.9e-6)] == ["-", "0", "1e-6", "2e-6", "1e-5"]


def test_a_paper_becomes_a_citation(script: ModuleType) -> None:
    paper = 'Bauer et al., "A: Title", ICLR 2024, arXiv 2310.18961'
    assert script.citation("own", paper)[2:9] == [
        *("```bibtex", "@misc{own,", "  title  = {{A: Title}},", "  note   = {ICLR 2024, arXiv 2310.18961},"),
        *("  author = {Bauer and others},", "  year   = {2024},", "}"),
    ]
    assert script.citation("own", "none; described elsewhere") == []


def test_a_figure_shows_what_is_learned_and_what_is_optional(script: ModuleType) -> None:
    from xml.etree import ElementTree

    drawn = script.figure(["picture > tower > patches*", "?references > memory"], "distance > map", "flow of <own>")
    root = ElementTree.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    boxes = root.findall(f"{space}rect")
    assert [one.text for one in root.findall(f"{space}text")] == [
        "picture",
        "tower",
        "patches",
        "references",
        "memory",
        "distance",
        "map",
    ]
    assert [one.get("stroke-dasharray") is not None for one in boxes] == [False, False, False, True, True, False, False]
    assert [one.get("fill") == "#fbdfb2" for one in boxes].index(True) == 2
    assert len(root.findall(f"{space}path")) == 2 + 1 + 2 + 1  # within lanes, from each lane's end, within the chain
