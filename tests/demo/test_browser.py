"""The demo as a person uses it: Debian's Chromium, driven by Playwright, against ``zsad demo``."""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from serving import Served, served

from zsad.common.assets import asset

if find_spec("gradio") is None:  # the server's process imports it
    pytest.skip("the extra demo is not installed", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium is installed (Debian's package: chromium)", allow_module_level=True)
pytestmark = pytest.mark.slow
BRICKS = sorted(asset("demo/examples/brick").glob("*.png"))
DEFECTIVE = {"brick-03.png", "brick-05.png", "brick-08.png"}
NORMAL = [path for path in BRICKS if path.name[6:8] in ("01", "02", "04", "06")]
LONG = 60_000  # ms


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served"), small=True) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture
def page(server: Served, browser: Any) -> Iterator[Any]:
    """A page whose console has to stay free of errors, and whose pictures go when it is closed."""
    context = browser.new_context(
        viewport={"width": 1440, "height": 1000},
        device_scale_factor=0.25,  # few pixels for a processor to draw; sizes are those of the page, as elsewhere
        reduced_motion="reduce",
        accept_downloads=True,
    )
    opened = context.new_page()
    errors: list[str] = []
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("dialog", lambda dialog: (errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    opened.goto(server.url)
    opened.wait_for_selector("#inspect", timeout=LONG)
    yield opened
    left = server.pictures_left()
    context.close()
    assert errors == []
    assert left
    until(lambda: not server.pictures_left(), 60)


def until(happens: Callable[[], Any], seconds: float = 30) -> Any:
    """Waits for something true, and gives it back."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := happens():
            return found
        time.sleep(0.1)
    raise AssertionError(f"did not happen within {seconds} s")


def inspect(page: Any, files: list[Path]) -> None:
    page.set_input_files("#pictures input[type=file]", [str(path) for path in files])
    until(lambda: page.locator("#pictures tr.file").count() == len(files))
    page.click("#inspect")
    page.wait_for_selector("#details h3", timeout=LONG)


def chip(page: Any, kind: str) -> int:
    """How many pictures have a verdict, read from the page."""
    found = page.locator(f"#status .chip.is-{kind} b").all_inner_texts()  # in one look: it may go while one waits for it
    return int(found[0]) if found else 0


def scores(page: Any) -> dict[str, float]:
    """Score by picture, from the captions of the gallery."""
    captions = page.locator("#gallery .caption-label").all_inner_texts()
    return {text.split("|")[1].strip(): float(text.split()[0]) for text in captions}


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def downloaded(page: Any) -> str:
    page.wait_for_selector("#file a[download]", timeout=LONG)
    with page.expect_download() as got:
        page.click("#file a[download]")
    return str(got.value.path())


def test_upload_score_thresholds_slider_zip_and_references(page: Any) -> None:
    inspect(page, BRICKS)
    found = scores(page)
    assert set(found) == {path.name for path in BRICKS}
    assert {*sorted(found, key=found.__getitem__)[-3:]} == DEFECTIVE
    assert list(found.values()) == sorted(found.values(), reverse=True)
    thresholds_flip_verdicts(page, found)
    slider_shows_the_picture_and_its_map(page)
    zip_holds_what_predict_writes(page)
    references_change_the_scores(page, found)
    page.set_viewport_size({"width": 390, "height": 844})  # a phone
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def thresholds_flip_verdicts(page: Any, found: dict[str, float]) -> None:
    level = sorted(found.values())[-4] + 0.01  # just above the fourth
    page.fill("#anomalous input[type=number]", f"{level:.3f}")
    page.keyboard.press("Enter")
    until(lambda: chip(page, "anomalous") == 3)
    page.fill("#anomalous input[type=number]", f"{max(found.values()) + 0.01:.3f}")
    page.keyboard.press("Enter")
    until(lambda: chip(page, "anomalous") == 0)
    assert scores(page) == found  # a threshold scores nothing
    page.click("#reset")
    until(lambda: "robust rule" in page.inner_text("#status"))


def slider_shows_the_picture_and_its_map(page: Any) -> None:
    images = page.locator("#slider img")
    until(lambda: images.count() >= 2)
    assert len({images.nth(i).get_attribute("src") for i in range(images.count())}) == 2
    handle = page.locator("#slider .inner").first
    handle.scroll_into_view_if_needed()
    before = handle.bounding_box()
    page.mouse.move(before["x"] + before["width"] / 2, before["y"] + before["height"] / 2)
    page.mouse.down()
    page.mouse.move(before["x"] + 120, before["y"] + before["height"] / 2, steps=5)
    page.mouse.up()
    assert handle.bounding_box()["x"] > before["x"] + 60
    page.locator("#gallery .thumbnail-lg").nth(2).click()
    worst_first = list(scores(page))
    until(lambda: page.inner_text("#details h3").startswith(worst_first[2]))


def zip_holds_what_predict_writes(page: Any) -> None:
    tab(page, "Download")
    page.click("#zip")
    with zipfile.ZipFile(downloaded(page)) as archive:
        names = archive.namelist()
        rows = [json.loads(line) for line in archive.read("predictions.jsonl").splitlines()]
        report = archive.read("report.html").decode()
    assert {"predictions.jsonl", "predictions.csv", "report.html", "run.json", "log.json"} <= set(names)
    for folder in ("overlays", "masks", "maps"):
        assert sum(name.startswith(f"{folder}/") for name in names) == len(BRICKS), folder
    assert {row["path"] for row in rows} == {path.name for path in BRICKS}  # and no path of the server
    assert "zsad-workspace" not in report
    tab(page, "Pictures")


def references_change_the_scores(page: Any, before: dict[str, float]) -> None:
    page.click("#more button")
    page.set_input_files("#references input[type=file]", [str(BRICKS[0]), str(BRICKS[1])])
    until(lambda: "2 reference images" in page.inner_text("#status"))
    after = until(lambda: (now := scores(page)) != before and now)
    assert after.keys() == before.keys()
    assert after["brick-08.png"] > 2 * after["brick-10.png"]


def test_long_work_is_stopped_and_a_false_alarm_and_a_miss_rescore_the_batch(page: Any, tmp_path: Path) -> None:
    many = [Path(shutil.copy(BRICKS[number % len(BRICKS)], tmp_path / f"{number:03}.png")) for number in range(80)]
    page.set_input_files("#pictures input[type=file]", [str(path) for path in many])
    until(lambda: page.locator("#pictures tr.file").count() == len(many))
    page.click("#inspect")
    until(lambda: "of 80 pictures" in page.inner_text("#status"))
    page.click("#stop")
    until(lambda: "Stopped. Nothing was changed." in page.inner_text("#status"))
    page.click("#stop")  # nothing runs: nothing happens, and what is asked for next is not stopped by it
    page.click("#example-brick")
    page.wait_for_selector("#details h3", timeout=LONG)
    assert chip(page, "anomalous") == 3
    before = scores(page)
    page.set_input_files("#pictures input[type=file]", [str(path) for path in many])
    until(lambda: page.locator("#pictures tr.file").count() == len(many) + 10)
    page.click("#inspect")
    until(lambda: "of 90 pictures" in page.inner_text("#status"))
    page.click("#stop")
    until(lambda: chip(page, "anomalous") == 3)
    page.wait_for_timeout(1000)  # for a badge to come
    assert (page.get_by_text("Error", exact=True).count(), page.locator(".error, .toast-body").count()) == (0, 0)
    assert scores(page) == before
    false_alarm_is_undone(page, before)
    last = list(before)[-1]
    page.locator("#gallery .thumbnail-lg").nth(len(before) - 1).click()
    until(lambda: page.inner_text("#details h3").startswith(last))
    draw_a_miss(page)
    until(lambda: "1 correction applied" in page.inner_text("#status"))
    assert scores(page)[last] > before[last] + 0.1
    tab(page, "Download")
    page.click("#log")
    log = json.loads(Path(downloaded(page)).read_text())
    assert [row["kind"] for row in log if row["what"] in ("correction", "undone")] == ["false alarm", "false alarm", "miss"]


def false_alarm_is_undone(page: Any, before: dict[str, float]) -> None:
    page.click("#false-alarm")
    until(lambda: "1 correction applied" in page.inner_text("#status"))
    worst = next(iter(before))
    assert scores(page)[worst] < before[worst] - 0.1
    page.click("#undo")
    until(lambda: scores(page) == before)


def draw_a_miss(page: Any) -> None:
    page.click("#draw")
    page.wait_for_selector("#editor canvas", timeout=LONG)
    page.wait_for_timeout(1500)  # the canvas fits itself to the picture
    page.locator("#editor canvas").first.scroll_into_view_if_needed()
    box = page.locator("#editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y)
    page.mouse.down()
    for step in range(4):
        page.mouse.move(x - 60 + 30 * step, y + 20 * (step % 2))
    page.mouse.up()
    page.click("#miss")


def test_broken_files_have_messages_names_are_text_and_normal_pictures_calibrate(page: Any, tmp_path: Path) -> None:
    evil = tmp_path / "<img src=x onerror=alert(1)>.png"
    shutil.copy(NORMAL[0], evil)
    broken = tmp_path / "<b onmouseover=alert(2)>.png"
    broken.write_bytes(b"")
    text = tmp_path / "broken.png"
    text.write_text("<html>not a picture</html>")
    inspect(page, [*(path for path in BRICKS if path.name in DEFECTIVE), evil, broken, text])
    assert chip(page, "error") == 2
    assert chip(page, "no-verdict") == 4
    tab(page, "Table")
    until(lambda: "is no picture of a kind that is read here" in page.inner_text("#table"))
    tab(page, "Pictures")
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("[onerror], [onmouseover]").count() == 0
    tab(page, "Calibration")
    page.set_input_files("#normals input[type=file]", [str(path) for path in NORMAL])
    until(lambda: page.locator("#normals tr.file").count() == 4)
    page.click("#calibrate")
    until(lambda: "split-conformal, 4 normal pictures" in page.inner_text("#calibration"))
    assert "at most 20" in page.inner_text("#calibration")  # four cannot guarantee less than one in five
    assert chip(page, "anomalous") == 3
    tab(page, "Prompt effects")
    page.click("#show-effects")
    until(lambda: "9 prompts" in page.inner_text("#effects"))
    page.fill("#set-a input, #set-a textarea", "scratch")
    page.click("#compare")
    until(lambda: "brick-03.png" in page.inner_text("#compared"))
