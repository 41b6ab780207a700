"""The demo without a browser: what is taken in, whose it is, what the endpoints answer, and what hostile uploads get."""

from __future__ import annotations

import io
import json
import struct
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from serving import Served, served
from tiny_training import tiny
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.common.assets import asset
from zsad.weights.checkpoints import sha256_of

sys.path.insert(0, str(asset("demo")))
from zsad_demo import lab, views
from zsad_demo.desk import Desk, Key, Models
from zsad_demo.desks import Desks
from zsad_demo.facts import offers
from zsad_demo.uploads import MEGAPIXELS, PICTURES, Refused, safe_name, take
from zsad_demo.weights import load

BRICKS = sorted(asset("demo/examples/brick").glob("*.png"))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to nothing inside."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def tiff_bomb() -> bytes:
    """40,000 x 40,000 zeros, deflated to a few kilobytes per strip that repeat: 1.6 GB when opened."""
    memory = io.BytesIO()
    rows = np.zeros((400, 40_000), np.uint8)
    strip = zlib.compress(rows.tobytes(), 9)
    tifffile.imwrite(
        memory,
        data=iter([strip] * 100),
        shape=(40_000, 40_000),
        dtype=np.uint8,
        compression="zlib",
        rowsperstrip=400,
        photometric="minisblack",
        bigtiff=False,
    )
    return memory.getvalue()


HOSTILE = {
    "huge.png": (png_header(50_000, 50_000), "megapixels"),
    "bomb.tif": (tiff_bomb(), "megapixels"),
    "drawing.svg": (
        b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "is no picture of a kind that is read here",
    ),
    "page.png": (b"<html><script>alert(1)</script></html>", "is no picture of a kind that is read here"),
    "empty.png": (b"", "is empty"),
}


# ------------------------------------------------------------------ uploads
@pytest.mark.parametrize("name", ["huge.png", "bomb.tif"])
def test_bombs_are_refused_from_their_header(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(HOSTILE[name][0])
    assert path.stat().st_size < 3_000_000
    taken, refused = take([path], tmp_path / "own", PICTURES)
    assert taken == []
    assert len(refused) == 1
    assert "megapixels" in refused[0]
    assert refused[0].startswith(f"{name} ")


def test_limits_and_names(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=f"5000 pictures were given, and {PICTURES} are taken at once"):
        take([BRICKS[0]] * 5000, tmp_path / "own", PICTURES)
    assert not (tmp_path / "own").exists()
    with pytest.raises(Refused, match="No pictures were given"):
        take([], tmp_path / "own", PICTURES)
    taken, refused = take([BRICKS[0], BRICKS[0], tmp_path / "gone.png"], tmp_path / "own", PICTURES)
    assert [path.name for path in taken] == ["brick-01.png"] * 2
    assert len({path.parent for path in taken}) == 2
    assert refused == ["gone.png is not there any more. Upload it again."]
    assert safe_name("../../x.png") == "_.._x.png"
    assert safe_name("a/b\x00\n.png") == "a_b__.png"
    assert len(safe_name("x" * 500 + ".png")) < 130


def test_a_picture_at_the_limit_is_taken(tmp_path: Path) -> None:
    side = 8000
    assert side * side < MEGAPIXELS * 1_000_000
    Image.new("1", (side, side)).save(tmp_path / "large.png")
    assert take([tmp_path / "large.png"], tmp_path / "own", 1)[1] == []


# ------------------------------------------------------------------ desks
def inspected(models: Models, files: list[Path], **key: Any) -> Desk:
    desk = Desk(models)
    list(desk.inspect([str(path) for path in files], Key(**key)))
    return desk


def test_one_model_serves_all_and_desks_do_not_meet() -> None:
    models = Models()
    first, second = inspected(models, BRICKS[:4]), inspected(models, BRICKS[4:6])
    assert first.opened().inspector.detector is second.opened().inspector.detector
    before = [one.score for one in second.opened().scored]
    first.set_references([str(BRICKS[6])])
    assert first.opened().inspector.references.names == ("00000-brick-07.png",)
    assert [one.score for one in second.opened().scored] == before
    first.set_references([])
    assert len(first.opened().inspector.references) == 0
    for desk in (first, second):
        desk.close()
        assert not desk.folder.exists()


def test_a_stopped_inspection_changes_nothing() -> None:
    desk = inspected(Models(), BRICKS[:3])
    session = desk.session
    steps = desk.inspect([str(path) for path in BRICKS], Key())
    assert [next(steps), next(steps)] == [(0, 12), (8, 12)]
    steps.close()
    assert desk.session is session
    assert views.labels_of(desk.opened()) == [views.WITHOUT] * 3
    desk.close()


def test_a_share_that_few_pictures_cannot_promise_is_raised_to_what_they_can() -> None:
    desk = inspected(Models(), BRICKS[6:])
    made = desk.calibrate([str(path) for path in BRICKS[:4]], 0.05)
    assert made.max_false_alarms == pytest.approx(0.2)
    with pytest.raises(Refused, match="Leave-one-out needs two references or more"):
        desk.leave_one_out(0.05)
    desk.close()


def test_closing_deletes_own_files_and_spares_the_others(tmp_path: Path) -> None:
    desks = Desks(tmp_path)
    shared, own = tmp_path / "a" / "shared.png", tmp_path / "b" / "own.png"
    for path in (shared, own):
        path.parent.mkdir()
        path.write_bytes(b"x")
    one, two = desks("one", [str(shared), str(own)]), desks("two", [str(shared)])
    shown = tmp_path / "c" / f"{one.token}-00001.jpg"
    other = tmp_path / "d" / f"{two.token}-00001.jpg"
    for path in (shown, other):
        path.parent.mkdir()
        path.write_bytes(b"x")
    desks.close("one")
    assert [path.exists() for path in (shared, own, shown, other)] == [True, False, False, True]
    desks.close("two")
    assert list(tmp_path.iterdir()) == []
    desks.close("two")  # a second time is no error


# ------------------------------------------------------------------ what is shown
def test_everything_from_outside_is_escaped() -> None:
    evil = "<img src=x onerror=alert(1)>"
    result = zsad.Result(evil, error=evil, prompts={evil: (evil,)}, notes=(evil,))
    shown = views.facts(result, (0, 1)) + views.prompts(result)
    good = zsad.Result(evil, pred_score=1.0, regions=(zsad.Region((0, 0, 1, 1), 1, 1.0, ((0, 0),), evil),), notes=(evil,))
    desk = inspected(Models(), BRICKS[:2])
    shown += views.facts(good, (0, 1)) + views.summary(desk.opened(), ["normal", "normal"], [evil])
    desk.close()
    assert "<img" not in shown
    assert shown.count("&lt;img") == 8


def test_the_lab_lists_prompts_and_compares() -> None:
    desk = inspected(Models(), BRICKS[:3])
    assert lab.words_of(" a, b\nb,, c ") == ("a", "b", "c")
    assert "9 prompts" in lab.effects(desk)
    rows = lab.compare(desk, "scratch", "")
    assert len(rows) == 3
    assert all(row[3] == pytest.approx(row[2] - row[1], abs=2e-4) for row in rows)
    desk.close()


def test_offers_say_what_a_download_weighs() -> None:
    found = offers()
    assert next(iter(found)) == "compact"
    assert set(found) == set(zsad.list_methods())
    assert found["compact"].download == 0
    assert not found["adaclip"].usable
    winclip = found["winclip"]
    assert winclip.download == 0 or 700 < winclip.download < 900
    assert "MB" in winclip.label


# ------------------------------------------------------------------ learned weights
@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a method that has none of its own, on the tiny backbone."""
    path = tmp_path_factory.mktemp("private-folder") / "prompts.safetensors"
    tiny("anomalyclip", context=4).save(path, trained_on="steel & glass")
    return path


def test_weights_that_are_given_are_offered_by_name(learned: Path) -> None:
    given = load([str(learned)])
    offer = offers(given)["anomalyclip"]
    assert (offer.usable, offer.download, offer.words) == (True, 0, False)
    digits = sha256_of(learned)[:8]
    assert offer.label == f"anomalyclip: prompts.safetensors ({digits})"
    assert offer.note == f"Weights prompts.safetensors ({digits}) on tiny, here. Learned from: steel & glass."
    assert "private-folder" not in repr(offer)
    bare = offers()["anomalyclip"]
    assert (bare.usable, bare.label) == (False, "anomalyclip: needs --checkpoint")
    assert "zsad demo --checkpoint anomalyclip=FILE." in bare.note


def test_weights_that_are_given_judge_for_all_targets(learned: Path) -> None:
    models = Models(load([str(learned)]))
    nut, bolt = models(Key("anomalyclip", "nut")), models(Key("anomalyclip", "bolt"))
    assert nut.detector is bolt.detector
    wanted = [one.pred_score for one in zsad.Inspector(zsad.from_pretrained(learned), "nut")(BRICKS[:2])]
    assert [one.pred_score for one in nut(BRICKS[:2])] == wanted


def test_weights_of_compact_keep_its_words(tmp_path: Path) -> None:
    head = tmp_path / "head.safetensors"
    detector = zsad.create("compact")
    detector.bias += 1
    detector.save(head)
    for text in (str(head), f"compact={head}"):
        models = Models(load([text]))
        plain, worded = models(Key()), models(Key(words=("scratch",)))
        assert (plain.detector.words, worded.detector.words) == (None, ("scratch",))
        assert float(plain.detector.bias) == float(worded.detector.bias) == float(detector.bias)


def test_weights_that_cannot_be_given(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        zsad.ZsadError, match=r"Two checkpoints of anomalyclip were given, prompts\.safetensors .*one per method"
    ):
        load([str(learned), str(learned)])
    torch.save({"a": torch.zeros(1)}, tmp_path / "bare.pt")
    with pytest.raises(zsad.ZsadError, match=r"bare\.pt does not say which method .* --checkpoint METHOD=FILE"):
        load([str(tmp_path / "bare.pt")])
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    done = CliRunner().invoke(app, ["demo", "--port", "0", "--checkpoint", str(tmp_path / "none.safetensors")])
    assert (done.exit_code, "There are no weights at" in done.output) == (2, True)


@pytest.mark.slow
def test_a_visitor_gets_the_weights_that_were_given_and_no_others(learned: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    with served(tmp_path, "--checkpoint", learned) as running:
        client = pytest.importorskip("gradio_client").Client(running.url, verbose=False)
        (found,) = [row for row in client.predict(api_name="/methods") if row["name"] == "anomalyclip"]
        assert found["usable"]
        assert "private-folder" not in json.dumps(found)
        answer = client.predict(files(BRICKS[0]), "brick", None, "", "anomalyclip", api_name="/predict")
        assert answer["results"][0]["error"] is None
        for method in (f"anomalyclip={learned}", str(learned), "anomalyclip.mvtec"):
            with pytest.raises(Exception, match="No method is called"):
                client.predict(files(BRICKS[0]), "brick", None, "", method, api_name="/predict")
        client.close()


# ------------------------------------------------------------------ the server
@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    with served(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[Any]:
    found = pytest.importorskip("gradio_client").Client(server.url, verbose=False)
    yield found
    found.close()


def files(*paths: Path) -> list[Any]:
    from gradio_client import handle_file

    return [handle_file(path) for path in paths]


def post(server: Served, count: int, name: str = "x.png", content: bytes = b"x") -> tuple[int, str]:
    """A raw upload, past the page's own checks."""
    bound = "zsadzsad"
    parts = [
        f'--{bound}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
    ]
    body = b"".join(parts * count) + f"--{bound}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={bound}"}
    request = urllib.request.Request(f"{server.url}/gradio_api/upload", body, kind)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def call(server: Served, paths: list[str]) -> str:
    """The events that /predict answers to paths on the server, as a client without manners gives them."""
    given = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]
    body = json.dumps({"data": [given, "brick", None, "", "compact"]}).encode()
    url = f"{server.url}/gradio_api/call/predict"
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=60) as answer:
        event = json.loads(answer.read())["event_id"]
    with urllib.request.urlopen(f"{url}/{event}", timeout=60) as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_the_endpoints_keep_their_names(client: Any) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/predict", "/calibrate", "/prompts", "/methods"}
    taken = [one["parameter_name"] for one in named["/predict"]["parameters"]]
    assert taken == ["pictures", "target", "references", "words", "method"]


@pytest.mark.slow
def test_predict_and_calibrate_answer_as_the_library_does(client: Any, server: Served) -> None:
    found = client.predict(files(*BRICKS[2:]), "brick", files(*BRICKS[:2]), "", "compact", api_name="/predict")
    wanted = {one.name: one.pred_score for one in zsad.Inspector(references=BRICKS[:2])(BRICKS[2:])}
    assert {row["name"]: row["pred_score"] for row in found["results"]} == pytest.approx(wanted, abs=1e-5)
    assert found["counts"] == {"anomalous": 3, "normal": 7}
    assert str(server.scratch) not in json.dumps(found)
    made = client.predict(files(*BRICKS[:4]), None, "brick", "", "compact", 0.25, api_name="/calibrate")
    assert (made["kind"], made["normal"]) == ("split", 4)
    assert "on average at most 25 %" in made["thresholds"]["promise"]
    assert len(client.predict("nut", "compact", api_name="/prompts")) == 11
    assert client.predict(api_name="/methods")[0]["name"] == "compact"


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_uploads_get_a_sentence_and_the_next_request_an_answer(name: str, client: Any, tmp_path: Path) -> None:
    content, said = HOSTILE[name]
    path = tmp_path / name
    path.write_bytes(content)
    found = client.predict(files(path, BRICKS[0]), "brick", None, "", "compact", api_name="/predict")
    told = found["refused"] + [row["error"] for row in found["results"] if row["error"]]
    assert len(told) == 1
    assert said in told[0]
    assert [row["name"] for row in found["results"] if row["error"] is None] == ["brick-01.png"]


@pytest.mark.slow
def test_five_thousand_files_are_refused_at_both_doors(client: Any, server: Served) -> None:
    status, said = post(server, 5000)
    assert (status >= 400, "Too many files" in said) == (True, True), (status, said[:200])
    upload = json.loads(post(server, 1, "brick.png", BRICKS[0].read_bytes())[1])[0]
    said = call(server, [upload] * 5000)
    assert "event: error" in said
    assert f"5000 pictures were given, and {PICTURES} are taken at once" in said
    found = client.predict(files(BRICKS[0]), "brick", None, "", "compact", api_name="/predict")
    assert found["results"][0]["name"] == "brick-01.png"


@pytest.mark.slow
def test_a_name_with_folders_stays_in_the_upload_folder(server: Served) -> None:
    status, said = post(server, 1, "../../x.png", BRICKS[0].read_bytes())
    if status == 200:
        place = Path(json.loads(said)[0]).resolve()
        assert place.is_relative_to(server.scratch.resolve())
        assert place.name == "x.png"
    assert not [path for path in (server.scratch.parent, server.scratch.parent.parent) if (path / "x.png").exists()]


@pytest.mark.slow
def test_a_file_that_is_too_large_is_refused(server: Served) -> None:
    status, said = post(server, 1, "large.png", b"\0" * 51_000_000)
    assert status == 413, (status, said[:200])


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/etc/passwd", "pyproject.toml", "../../../../etc/passwd", str(asset("demo/app.py"))])
def test_nothing_else_can_be_read(path: str, server: Served) -> None:
    for route in (f"/gradio_api/file={path}", f"/file={path}"):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(server.url + route, timeout=30)
        error.value.close()
        assert error.value.code in (403, 404)
    said = call(server, [path])
    assert "event: error" in said
    assert "root:" not in said
    assert "pred_score" not in said
    upload = json.loads(post(server, 1, "brick.png", BRICKS[0].read_bytes())[1])[0]
    assert "pred_score" in call(server, [upload])  # the way itself is open


@pytest.mark.slow
def test_what_needs_a_download_is_not_fetched_without_consent(client: Any) -> None:
    if not offers()["winclip"].download:
        pytest.skip("WinCLIP's weights are on this machine")
    with pytest.raises(Exception, match="winclip needs 8.. MB that are not here"):
        client.predict(files(BRICKS[0]), "brick", None, "", "winclip", api_name="/predict")
    with pytest.raises(Exception, match="adaclip: Needs the authors' file of learned weights"):
        client.predict(files(BRICKS[0]), "brick", None, "", "adaclip", api_name="/predict")
    with pytest.raises(Exception, match="No method is called 'winclp'"):
        client.predict(files(BRICKS[0]), "brick", None, "", "winclp", api_name="/predict")
