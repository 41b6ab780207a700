"""What ``zsad predict`` takes as its source, besides a folder."""

from __future__ import annotations

import json
import shutil
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brightness import folder_of, picture, registered_methods  # noqa: F401
from typer.testing import CliRunner, Result

from zsad.cli import app


def predict(*arguments: object, stdin: str | bytes | None = None) -> Result:
    given = [str(argument) for argument in arguments]
    done = CliRunner().invoke(app, ["predict", *given, "--out", "out", "--method", "brightness"], input=stdin)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert "Traceback" not in done.output
    return done


def rows(out: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(out) / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def names() -> list[str]:
    return [row["name"] for row in rows()]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of(Path("photos/a"), 2)
    folder_of(Path("photos/b"), 2)


# ------------------------------------------------------------------ lists of paths
LINES = ["photos", "photos/b", "photos/b/01.png", "photos/b/00.png", "photos/a/00.png", "photos/a/00.png", ""]


@pytest.mark.parametrize("joined", ["\n", "\r\n", "\0"])
def test_a_list_on_standard_input(joined: str) -> None:
    done = predict("-", *["-0"] * (joined == "\0"), stdin=joined.join(LINES))
    assert done.exit_code == 0, done.output
    assert names() == ["photos/b/01.png", "photos/b/00.png", "photos/a/00.png"]
    assert [row["path"] for row in rows()] == names()
    assert json.loads(Path("out/run.json").read_text())["source"] == "-"
    assert Path("out/overlays/photos/b/01.jpg").is_file() or not any(row["overlay"] for row in rows())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_in_a_file(encoding: str) -> None:
    folder_of(Path("photos/é"), 1)
    Path("list.txt").write_text("photos/é/00.png\nphotos/a\ngone/00.png\n", encoding=encoding)
    done = predict("@list.txt")
    assert done.exit_code == 3
    assert names() == ["photos/é/00.png", "photos/a/00.png", "photos/a/01.png", "gone/00.png"]
    assert rows()[-1]["error"] == "'gone/00.png' does not exist. Check the path."


def test_a_list_of_absolute_paths_and_paths_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("below").mkdir()
    monkeypatch.chdir("below")
    done = predict("-", stdin=f"../photos/a/00.png\n{tmp_path}/photos/b/00.png\n./../photos/a/01.png\n")
    assert done.exit_code == 0, done.output
    assert names() == ["00.png", "b/00.png", "01.png"]


def test_a_run_over_a_list_goes_on() -> None:
    lines = "photos/a/00.png\nphotos/a/01.png\n"
    assert predict("-", stdin=lines).exit_code == 0
    before = Path("out/predictions.jsonl").read_bytes()
    assert predict("-", "--resume", stdin=lines).exit_code == 0
    assert Path("out/predictions.jsonl").read_bytes() == before
    assert json.loads(Path("out/run.json").read_text())["times"]["on_record_before"] == 2


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["-"], "", "The list on standard input holds no path. Give one path a line."),
        (["-"], "\n \n", "holds no path"),
        (["-"], "a\0b", "holds NUL characters. Give -0"),
        (["@gone.txt"], None, "The list 'gone.txt' cannot be read: No such file or directory."),
        (["@photos"], None, "The list 'photos' cannot be read: Is a directory."),
        (["photos", "-0"], None, "-0 is for lists of paths, and the source is 'photos'."),
    ],
)
def test_lists_that_cannot_be_read_are_one_sentence(arguments: list[str], stdin: str | None, said: str) -> None:
    done = predict(*arguments, stdin=stdin)
    assert done.exit_code == 2
    (line,) = done.stderr.strip().splitlines()
    assert said in line


# ------------------------------------------------------------------ names that look like something else
@pytest.mark.parametrize("name", ["-x.png", "--method.png", "-0.png", "@x.png", "a[1]*.png"])
def test_an_existing_file_wins_over_its_reading(name: str) -> None:
    picture(0.3).save(name)
    done = predict(name)
    assert (done.exit_code, names()) == (0, [name]), done.output


def test_an_option_stays_an_option() -> None:
    Path("--overwrite").mkdir()
    assert predict("photos", "--overwrite").exit_code == 0
    assert len(rows()) == 4
    picture(0.3).save("-x.png")
    assert predict("photos", "--target", "-x.png", "--overwrite").exit_code == 0
    assert predict("--", "-x.png", "--overwrite").exit_code == 2


def test_a_folder_with_brackets_in_a_pattern() -> None:
    folder_of(Path("line 3 [2024]"), 2)
    folder_of(Path("line 3 2"), 1)
    folder_of(Path("all/lot[1]"), 1)
    for pattern, wanted in (
        ("line 3 [2024]/*.png", ["00.png", "01.png"]),
        (f"{Path.cwd()}/line 3 [2024]/0[0-1].png", ["00.png", "01.png"]),
        ("line 3 [0-9]/*.png", ["line 3 2/00.png"]),
        ("*/lot[1]/*.png", ["all/lot[1]/00.png"]),
    ):
        assert predict(pattern, "--overwrite").exit_code == 0
        assert names() == wanted


# ------------------------------------------------------------------ archives
@pytest.mark.slow
@pytest.mark.parametrize("batch", ["off", "auto"])
@pytest.mark.parametrize("ending", ["zip", "gztar"])
def test_a_run_over_an_archive_equals_one_over_its_folder(ending: str, batch: str) -> None:
    folder_of(Path("photos/c"), 8, 2)
    archive = shutil.make_archive("all", ending, "photos")
    assert predict("photos", "--batch", batch, "--maps", "npy").exit_code == 0
    wanted = {row["name"]: (row["pred_score"], row["overlay"] is None) for row in rows()}
    done = predict(Path(archive).name, "--batch", batch, "--overwrite", "--maps", "npy")
    assert done.exit_code == 0, done.output
    head = f"{Path(archive).name}/"
    assert {row["name"].removeprefix(head): (row["pred_score"], row["overlay"] is None) for row in rows()} == wanted
    before = Path("out/predictions.jsonl").read_bytes()
    assert predict(Path(archive).name, "--batch", batch, "--resume", "--maps", "npy").exit_code == 0
    assert json.loads(Path("out/run.json").read_text())["times"]["on_record_before"] == len(wanted)
    assert Path("out/predictions.jsonl").read_bytes() == before


def test_a_changed_archive_is_scored_anew() -> None:
    for value in (0.3, 0.6):
        picture(value).save("0.png")
        with zipfile.ZipFile("a.zip", "w") as archive:
            archive.write("0.png")
        assert predict("a.zip", *["--resume"] * (value > 0.5)).exit_code == 0
        assert rows()[0]["pred_score"] == pytest.approx(value, abs=0.01)


# ------------------------------------------------------------------ what is passed over
def test_what_is_passed_over_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad.images.formats._has", lambda package: False)
    for name in ("a.heic", "b.HEIC", "c.pdf"):
        Path("photos", name).write_bytes(b"x")
    for _ in range(2):  # the second time with the first one's results beside the pictures
        done = predict(".", "--overwrite")
        assert done.exit_code == 0, done.output
        assert "zsad: passed over, by ending: 2 .heic, 1 .pdf; .heic: pip install 'zsad[heic]'." in done.stderr.splitlines()
        assert json.loads(Path("out/run.json").read_text())["passed_over"] == {".heic": 2, ".pdf": 1}


# ------------------------------------------------------------------ masks beside their pictures
@pytest.mark.slow
def test_masks_beside_their_pictures_are_left_out() -> None:
    for folder in "ab":
        for name in ("00", "01"):
            picture(1.0).point(lambda value: 255 if value > 128 else 0).save(f"photos/{folder}/{name}_mask.png")
    done = predict("photos")
    assert names() == ["a/00.png", "a/01.png", "b/00.png", "b/01.png"]
    line = "zsad: left out as masks of pictures beside them: 4 files such as a/00_mask.png; --skip-masks off scores them."
    assert line in done.stderr.splitlines()
    assert json.loads(Path("out/run.json").read_text())["masks_left_out"] == 4
    done = predict("photos", "--skip-masks", "off", "--overwrite")
    assert (len(names()), "masks" in done.stderr) == (8, False)
    Path("photos/a/00_mask.png").unlink()
    done = predict("photos", "--overwrite")
    assert len(names()) == 7
    assert "zsad: scored though they look like masks: 3 files such as a/01_mask.png (not every picture has one)" in done.stderr
    predict("photos", "--skip-masks", "on", "--overwrite")
    assert len(names()) == 4
    assert json.loads(Path("out/run.json").read_text())["masks_left_out"] == 3


# ------------------------------------------------------------------ videos
@pytest.mark.parametrize("every", ["0", "-1s", "1x", "", "s"])
def test_no_time_between_frames_is_one_sentence(every: str) -> None:
    done = predict("photos", "--every", every)
    assert done.exit_code == 2
    assert "--every takes a time above 0, such as 1s, 500ms or 2m" in done.stderr


def test_a_run_over_a_video() -> None:
    av = pytest.importorskip("av")
    with av.open("clip.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for value in (40, 80, 120, 200):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), value, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    done = predict("clip.mp4", "--every", "500ms", "--threshold", "0.1")
    assert done.exit_code == 0, done.output
    assert names() == ["clip.mp4/00h00m00s000", "clip.mp4/00h00m00s500"]
    assert rows()[1]["overlay"] == "overlays/clip.mp4/00h00m00s500.jpg"
    before = Path("out/predictions.jsonl").read_bytes()
    assert predict("clip.mp4", "--every", "500ms", "--threshold", "0.1", "--resume").exit_code == 0
    assert Path("out/predictions.jsonl").read_bytes() == before


@pytest.mark.slow
def test_addresses_are_fetched_only_when_allowed() -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(Path.cwd()))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_address[1]}"
        done = predict(f"http://{host}/photos/a/00.png")
        assert done.exit_code == 2
        assert "Give --allow-urls" in done.stderr
        lines = f"http://{host}/photos/a/00.png?key=1\nhttp://{host}/photos/gone.png\n"
        done = predict("-", "--allow-urls", "--threshold", "0.1", stdin=lines)
        server.shutdown()
    assert done.exit_code == 3
    assert names() == [f"{host}/photos/a/00.png", f"{host}/photos/gone.png"]
    assert "HTTP 404" in rows()[1]["error"]
    assert "key" not in Path("out/predictions.jsonl").read_text() + Path("out/run.json").read_text()
    assert Path("out", rows()[0]["overlay"]).is_file()
