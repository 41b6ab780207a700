"""The site builds without a warning and without network, its links lead somewhere, and its search answers what users ask."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, unquote, urldefrag

import pytest

import zsad

ROOT = Path(__file__).resolve().parents[2]
if not all(map(find_spec, ("furo", "myst_parser"))):  # the build's process imports them
    pytest.skip("the extra docs is not installed", allow_module_level=True)
pytestmark = pytest.mark.slow
QUESTIONS = {  # what users wrote, and the page that answers it
    "custom images zero-shot no masks folder": "how-to/folder-without-labels",
    "decide good or bad for one image": "start",
    "F1 threshold picked minimum flags everything": "how-to/threshold-without-anomalies",
    "heatmap red good images": "how-to/when-it-does-not-work",
    "couple of healthy images few-shot": "how-to/four-good-pictures",
    "tiling tiny defects 8000 x 2000": "how-to/small-defects-in-large-pictures",
    "contours object background ROI": "how-to/one-object-in-clutter",
    "16-bit PNG all white": "how-to/sixteen-bit-and-dicom",
    "identical defect several images batch missed": "how-to/repeated-defects",
    "cannot be reproduced paper seed": "how-to/the-same-result-again",
    "licence of the weights, commercial use": "how-to/licences-and-weights",
    "anomalib WinClip predict folder error": "how-to/coming-from-other-tools",
    "load model once predict many out of memory": "how-to/many-pictures",
    "weights download fails offline air-gapped": "how-to/licences-and-weights",
}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    out = tmp_path_factory.mktemp("site") / "html"
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    arguments = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(out.parent / "trees"), "docs", str(out)]
    done = subprocess.run(arguments, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


class Links(HTMLParser):
    """Targets of links and pictures, and names that can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.names |= {str(found[key]) for key in ("id", "name") if found.get(key)}
        key = {"a": "href", "link": "href", "img": "src", "script": "src"}.get(tag)
        if key and found.get(key):
            self.targets.add(str(found[key]))


def links_of(path: Path) -> Links:
    found = Links()
    found.feed(path.read_text(encoding="utf-8"))
    return found


def broken_links(site: Path) -> list[str]:
    """Internal links that lead nowhere, with the page that they are on."""
    pages = {path: links_of(path) for path in site.rglob("*.html")}
    broken = []
    for page, found in pages.items():
        for target in sorted(found.targets):
            if re.match(r"[a-z]+:|//", target):
                continue
            path, name = urldefrag(target)
            place = (page.parent / unquote(path.partition("?")[0])).resolve() if path else page
            if not place.exists():
                broken.append(f"{page.relative_to(site)}: {target}")
            elif name and place in pages and name not in pages[place].names:
                broken.append(f"{page.relative_to(site)}: {target} (no such name)")
    return broken


def test_no_internal_link_is_broken(site: Path) -> None:
    assert broken_links(site) == []
    assert sum(len(links_of(path).targets) for path in site.rglob("*.html")) > 1000


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html#there">x</a><a href="c.html">x</a><a href="https://x">x</a>')
    (tmp_path / "b.html").write_text('<p id="here"></p><img src="p.png">')
    assert sorted(broken_links(tmp_path)) == ["a.html: b.html#there (no such name)", "a.html: c.html", "b.html: p.png"]


def test_llms_txt_names_pages_that_exist(site: Path) -> None:
    targets = re.findall(r"\]\(([^)]+)\)", (site / "llms.txt").read_text(encoding="utf-8"))
    assert len(targets) > 10
    assert [target for target in targets if not (site / target).exists()] == []


def test_every_public_name_method_and_command_has_its_place(site: Path) -> None:
    from typer.main import get_command

    from zsad.cli import app

    group: Any = get_command(app)
    names = set().union(*(links_of(path).names for path in (site / "reference").glob("*.html")))
    assert {f"zsad.{name}" for name in zsad.__all__} <= names
    assert {f"zsad-{name}" for name in group.commands} <= names
    assert all((site / f"methods/{name}.html").exists() for name in zsad.list_methods())


def index_of(site: Path) -> dict[str, Any]:
    """The search index that the built pages load."""
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    return found


def search(index: dict[str, Any], query: str) -> list[str]:
    """Pages that hold every word, the best first, by the rules of Sphinx's searchtools.js.

    15 for a title, 5 for the text; numbers do not count, words of one or two letters need not be there.
    """
    from sphinx.search.en import SearchEnglish

    language = SearchEnglish({})
    words = [word for word in re.findall(r"\w+", query.lower()) if word not in language.stopwords]
    words = [word for word in words if len(word) > 2 and not word.isdigit()]
    scores: dict[int, int] = {}
    for place, word in enumerate(words):
        found: dict[int, int] = {}
        for key, weight in (("terms", 5), ("titleterms", 15)):
            documents = index[key].get(language.stem(word), [])
            for number in [documents] if isinstance(documents, int) else documents:
                found[number] = max(found.get(number, 0), weight)
        kept = found.keys() & scores.keys() if place else found.keys()
        scores = {number: scores.get(number, 0) + found[number] for number in kept}
    return [index["docnames"][number] for number in sorted(scores, key=lambda one: -scores[one])]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_finds_its_page(site: Path, question: str) -> None:
    assert QUESTIONS[question] in search(index_of(site), question)[:3]


def test_what_no_page_says_is_not_found(site: Path) -> None:
    assert search(index_of(site), "quarterly dividends") == []
    assert "how-to/choose-a-method" not in search(index_of(site), "16-bit PNG all white")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian's package: chromium)")
def test_the_search_page_finds_them_from_disk(site: Path) -> None:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        for question in list(QUESTIONS)[2:5]:
            page.goto(f"file://{site}/search.html?q={quote_plus(question)}")
            page.wait_for_selector("#search-results li a", timeout=10_000)
            found = page.eval_on_selector_all("#search-results li a", "all => all.slice(0, 3).map(one => one.pathname)")
            assert any(path.endswith(f"/{QUESTIONS[question]}.html") for path in found), (question, found)
        browser.close()
