"""The demo without a browser: uploads, workspaces, what the page shows, the API's answers, and hostile uploads."""

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
from types import SimpleNamespace
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
from zsad.methods.compact.detector import Compact
from zsad.weights.checkpoints import sha256_of

sys.path.insert(0, str(asset("demo")))
from zsad_demo import prompt_effects, rendering
from zsad_demo.checkpoints import load
from zsad_demo.inspectors import InspectorCache, InspectorKey
from zsad_demo.methods import MethodOption, method_options
from zsad_demo.uploads import MEGAPIXELS, PICTURES, Refused, safe_name, take
from zsad_demo.workspace import Workspace
from zsad_demo.workspaces import Workspaces

BRICKS = sorted(asset("demo/examples/brick").glob("*.png"))
TINY = "anomalyclip"  # the served method that answers at once: ``learned`` has a tiny tower


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
    with pytest.raises(Refused, match=f"5000 pictures were given; at most {PICTURES} are accepted at once"):
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


# ------------------------------------------------------------------ workspaces
def inspected(inspectors: InspectorCache, files: list[Path], **key: Any) -> Workspace:
    workspace = Workspace(inspectors)
    list(workspace.inspect([str(path) for path in files], InspectorKey(**key)))
    return workspace


@pytest.mark.slow
def test_workspaces_share_one_model_and_nothing_else() -> None:
    inspectors = InspectorCache()
    first, second = inspected(inspectors, BRICKS[:4]), inspected(inspectors, BRICKS[4:6])
    assert first.current().inspector.detector is second.current().inspector.detector
    before = [one.score for one in second.current().scored]
    first.set_references([str(BRICKS[6])])
    assert first.current().inspector.references.names == ("00000-brick-07.png",)
    assert [one.score for one in second.current().scored] == before
    first.set_references([])
    assert len(first.current().inspector.references) == 0
    for workspace in (first, second):
        workspace.close()
        assert not workspace.folder.exists()


@pytest.mark.slow
def test_a_stopped_inspection_changes_nothing() -> None:
    workspace = inspected(InspectorCache(), BRICKS[:3])
    session = workspace.session
    steps = workspace.inspect([str(path) for path in BRICKS], InspectorKey())
    assert [next(steps), next(steps)] == [(0, 12), (8, 12)]
    steps.close()
    assert workspace.session is session
    assert rendering.labels_of(workspace.current()) == [rendering.NO_VERDICT] * 3
    workspace.close()


@pytest.mark.slow
def test_a_false_alarm_rate_that_few_pictures_cannot_guarantee_is_raised() -> None:
    workspace = inspected(InspectorCache(), BRICKS[6:])
    made = workspace.calibrate([str(path) for path in BRICKS[:4]], 0.05)
    assert made.max_false_alarms == pytest.approx(0.2)
    with pytest.raises(Refused, match="Leave-one-out calibration needs two reference images or more"):
        workspace.leave_one_out(0.05)
    workspace.close()


@pytest.mark.slow
def test_a_calibration_alone_encodes_each_picture_once(monkeypatch: pytest.MonkeyPatch) -> None:
    inspectors, normals = InspectorCache(), [str(path) for path in BRICKS[:4]]
    workspace = inspected(inspectors, BRICKS[6:8])
    wanted = workspace.calibrate(normals, 0.2)
    encoded, encode = [], Compact.encode
    monkeypatch.setattr(Compact, "encode", lambda self, images: encoded.append(len(images)) or encode(self, images))
    assert workspace.calibrate_alone(normals, InspectorKey(), None, 0.05) == wanted
    assert sum(encoded) == 4
    workspace.calibrate_alone(normals[:2], InspectorKey(), normals[2:], 0.05)
    assert sum(encoded) == 8  # references too
    with pytest.raises(zsad.ZsadError, match="is no picture of a kind"):
        workspace.calibrate_alone([__file__], InspectorKey(), None, 0.05)
    workspace.close()


def test_closing_deletes_own_files_and_spares_the_others(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path)
    shared, own = tmp_path / "a" / "shared.png", tmp_path / "b" / "own.png"
    for path in (shared, own):
        path.parent.mkdir()
        path.write_bytes(b"x")
    one, two = workspaces("one", [str(shared), str(own)]), workspaces("two", [str(shared)])
    shown = tmp_path / "c" / f"{one.token}-00001.jpg"
    other = tmp_path / "d" / f"{two.token}-00001.jpg"
    for path in (shown, other):
        path.parent.mkdir()
        path.write_bytes(b"x")
    workspaces.close("one")
    assert [path.exists() for path in (shared, own, shown, other)] == [True, False, False, True]
    workspaces.close("two")
    assert list(tmp_path.iterdir()) == []
    workspaces.close("two")  # a second time is no error


# ------------------------------------------------------------------ what is shown
@pytest.mark.slow
def test_everything_from_outside_is_escaped() -> None:
    evil = "<img src=x onerror=alert(1)>"
    result = zsad.Result(evil, error=evil, prompts={evil: (evil,)}, notes=(evil,))
    shown = rendering.details(result, (0, 1)) + rendering.prompts(result)
    good = zsad.Result(evil, pred_score=1.0, regions=(zsad.Region((0, 0, 1, 1), 1, 1.0, ((0, 0),), evil),), notes=(evil,))
    workspace = inspected(InspectorCache(), BRICKS[:2])
    shown += rendering.details(good, (0, 1)) + rendering.summary(workspace.current(), ["normal", "normal"], [evil])
    workspace.close()
    assert "<img" not in shown
    assert shown.count("&lt;img") == 8


@pytest.mark.slow
def test_prompt_effects_and_comparison() -> None:
    workspace = inspected(InspectorCache(), BRICKS[:3])
    assert prompt_effects.split_words(" a, b\nb,, c ") == ("a", "b", "c")
    assert "9 prompts" in prompt_effects.effects_table(workspace)
    rows = prompt_effects.compare(workspace, "scratch", "")
    assert len(rows) == 3
    assert all(row[3] == pytest.approx(row[2] - row[1], abs=2e-4) for row in rows)
    workspace.close()


def test_method_options_state_the_size_of_a_download() -> None:
    found = method_options()
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


def test_loaded_checkpoints_are_listed_by_name(learned: Path) -> None:
    checkpoints = load([str(learned)])
    option = method_options(checkpoints)["anomalyclip"]
    assert (option.usable, option.download, option.words) == (True, 0, False)
    digits = sha256_of(learned)[:8]
    assert option.label == f"anomalyclip: prompts.safetensors ({digits})"
    assert (
        option.note == f"Weights prompts.safetensors ({digits}) with backbone tiny, on this machine. Trained on: steel & glass."
    )
    assert "private-folder" not in repr(option)
    bare = method_options()["anomalyclip"]
    assert (bare.usable, bare.label) == (False, "anomalyclip: needs --checkpoint")
    assert "zsad demo --checkpoint anomalyclip=FILE." in bare.note


def test_a_loaded_checkpoint_scores_for_all_targets(learned: Path) -> None:
    inspectors = InspectorCache(load([str(learned)]))
    nut, bolt = inspectors(InspectorKey("anomalyclip", "nut")), inspectors(InspectorKey("anomalyclip", "bolt"))
    assert nut.detector is bolt.detector
    wanted = [one.pred_score for one in zsad.Inspector(zsad.from_pretrained(learned), "nut")(BRICKS[:2])]
    assert [one.pred_score for one in nut(BRICKS[:2])] == wanted


@pytest.mark.slow
def test_a_checkpoint_of_compact_takes_defect_words(tmp_path: Path) -> None:
    head = tmp_path / "head.safetensors"
    detector = zsad.create("compact")
    detector.bias += 1
    detector.save(head)
    for text in (str(head), f"compact={head}"):
        inspectors = InspectorCache(load([text]))
        plain, worded = inspectors(InspectorKey()), inspectors(InspectorKey(words=("scratch",)))
        assert (plain.detector.words, worded.detector.words) == (None, ("scratch",))
        assert float(plain.detector.bias) == float(worded.detector.bias) == float(detector.bias)


def test_what_an_exported_model_has_inside_is_not_shown() -> None:
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    from zsad_demo.checks import checked_words
    from zsad_demo.handlers import Handlers

    ui = SimpleNamespace(method_note="note", agree="agree", target="target", inside=["references", "words"])
    options = {"compact": MethodOption("compact", "", ""), "model": MethodOption("model", "", "", target="nut")}
    with pytest.raises(Refused, match="is an exported model, whose words are inside it"):
        checked_words(options["model"], "crack")
    handlers = Handlers(ui, None, options, {})  # type: ignore[arg-type]
    shown = handlers.show_method("model")
    assert (shown["target"]["value"], shown["target"]["interactive"]) == ("nut", False)
    assert [shown[name]["visible"] for name in ui.inside] == [False, False]
    shown = handlers.show_method("compact")
    assert shown["target"]["interactive"]
    assert "value" not in shown["target"]
    assert [shown[name]["visible"] for name in ui.inside] == [True, True]


def test_checkpoints_that_cannot_be_loaded(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


# ------------------------------------------------------------------ the server
@pytest.fixture(scope="module")
def server(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With one checkpoint, for all tests of the file."""
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    with served(tmp_path_factory.mktemp("served"), "--checkpoint", learned) as running:
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
    """The events that /predict answers to paths on the server, without an upload."""
    given = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]
    body = json.dumps({"data": [given, "brick", None, "", TINY]}).encode()
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
def test_a_visitor_can_use_the_loaded_checkpoints_and_no_others(learned: Path, client: Any) -> None:
    (found,) = [row for row in client.predict(api_name="/methods") if row["name"] == "anomalyclip"]
    assert found["usable"]
    assert "private-folder" not in json.dumps(found)
    answer = client.predict(files(BRICKS[0]), "brick", None, "", "anomalyclip", api_name="/predict")
    assert answer["results"][0]["error"] is None
    for method in (f"anomalyclip={learned}", str(learned), "anomalyclip.mvtec"):
        with pytest.raises(Exception, match="No method is called"):
            client.predict(files(BRICKS[0]), "brick", None, "", method, api_name="/predict")


def scores_of(answer: Any, paths: list[Path] | None = None) -> dict[str, float]:
    """Scores by name: of an answer of /predict, or by an inspector."""
    rows = answer["results"] if paths is None else [one.as_dict() for one in answer(paths)]
    return {row["name"]: row["pred_score"] for row in rows}


@pytest.mark.slow
def test_predict_and_calibrate_answer_as_the_library_does(client: Any, server: Served) -> None:
    """The default with both towers: a folder, and few pictures beside a reference, which both see finely."""
    found = client.predict(files(*BRICKS[2:10]), "brick", None, "", "compact", api_name="/predict")
    assert scores_of(found) == pytest.approx(scores_of(zsad.Inspector(target="brick"), BRICKS[2:10]), abs=1e-5)
    assert found["counts"] == {"anomalous": 3, "normal": 5}
    assert str(server.scratch) not in json.dumps(found)
    found = client.predict(files(*BRICKS[2:4]), "brick", files(BRICKS[0]), "", "compact", api_name="/predict")
    beside = zsad.Inspector(target="brick", references=BRICKS[:1])
    assert scores_of(found) == pytest.approx(scores_of(beside, BRICKS[2:4]), abs=1e-5)
    assert str(server.scratch) not in json.dumps(found)
    made = client.predict(files(*BRICKS[:3]), None, "brick", "", TINY, 0.25, api_name="/calibrate")
    assert (made["kind"], made["normal"]) == ("split", 3)
    assert "on average at most 25 %" in made["thresholds"]["false_alarm_rate"]
    assert len(client.predict("nut", "compact", api_name="/prompts")) == 11
    assert client.predict(api_name="/methods")[0]["name"] == "compact"


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_uploads_get_a_message_and_the_next_request_an_answer(name: str, client: Any, tmp_path: Path) -> None:
    content, message = HOSTILE[name]
    path = tmp_path / name
    path.write_bytes(content)
    found = client.predict(files(path, BRICKS[0]), "brick", None, "", TINY, api_name="/predict")
    messages = found["refused"] + [row["error"] for row in found["results"] if row["error"]]
    assert len(messages) == 1
    assert message in messages[0]
    assert [row["name"] for row in found["results"] if row["error"] is None] == ["brick-01.png"]


@pytest.mark.slow
def test_too_many_files_are_refused_by_the_upload_and_by_the_api(client: Any, server: Served) -> None:
    status, answer = post(server, 1001)
    assert (status >= 400, "Too many files" in answer) == (True, True), (status, answer[:200])
    upload = json.loads(post(server, 1, "brick.png", BRICKS[0].read_bytes())[1])[0]
    answer = call(server, [upload] * (PICTURES + 1))
    assert "event: error" in answer
    assert f"{PICTURES + 1} pictures were given; at most {PICTURES} are accepted at once" in answer
    found = client.predict(files(BRICKS[0]), "brick", None, "", TINY, api_name="/predict")
    assert found["results"][0]["name"] == "brick-01.png"


@pytest.mark.slow
def test_a_name_with_folders_stays_in_the_upload_folder(server: Served) -> None:
    status, answer = post(server, 1, "../../x.png", BRICKS[0].read_bytes())
    if status == 200:
        place = Path(json.loads(answer)[0]).resolve()
        assert place.is_relative_to(server.scratch.resolve())
        assert place.name == "x.png"
    assert not [path for path in (server.scratch.parent, server.scratch.parent.parent) if (path / "x.png").exists()]


@pytest.mark.slow
def test_a_file_that_is_too_large_is_refused(server: Served) -> None:
    status, answer = post(server, 1, "large.png", b"\0" * 51_000_000)
    assert status == 413, (status, answer[:200])


@pytest.mark.slow
def test_nothing_else_can_be_read(server: Served) -> None:
    for path in ("/etc/passwd", "pyproject.toml", "../../../../etc/passwd", str(asset("demo/app.py"))):
        for route in (f"/gradio_api/file={path}", f"/file={path}"):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(server.url + route, timeout=30)
            error.value.close()
            assert error.value.code in (403, 404), route
        answer = call(server, [path])
        assert "event: error" in answer, path
        assert "root:" not in answer
        assert "pred_score" not in answer
    upload = json.loads(post(server, 1, "brick.png", BRICKS[0].read_bytes())[1])[0]
    assert "pred_score" in call(server, [upload])  # the way itself is open


@pytest.mark.slow
def test_what_needs_a_download_is_not_fetched_without_consent(client: Any) -> None:
    if not method_options()["winclip"].download:
        pytest.skip("WinCLIP's weights are on this machine")
    with pytest.raises(
        Exception,
        match="winclip needs 8.. MB of weights that are not on this machine. Tick .Download 8.. MB of weights. below Method",
    ):
        client.predict(files(BRICKS[0]), "brick", None, "", "winclip", api_name="/predict")
    with pytest.raises(Exception, match="adaclip: Needs the authors' checkpoint, which is not on this machine"):
        client.predict(files(BRICKS[0]), "brick", None, "", "adaclip", api_name="/predict")
    with pytest.raises(Exception, match="No method is called 'winclp'"):
        client.predict(files(BRICKS[0]), "brick", None, "", "winclp", api_name="/predict")
