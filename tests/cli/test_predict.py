"""The command line: one row or one sentence for whatever is wrong, the right exit code, never a traceback or a lost row."""

from __future__ import annotations

import csv
import json
import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import brightness
import numpy as np
import pytest
import torch
from brightness import folder_of, picture, registered_methods  # noqa: F401
from PIL import Image
from typer.testing import CliRunner, Result

import zsad
from zsad.cli import app
from zsad.inference.inspector import Inspector

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert "Traceback" not in done.output
    return done


def predict(source: object, out: Path, *arguments: object) -> Result:
    return call("predict", source, "--out", out, "--method", "brightness", *arguments)


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def one_sentence(done: Result, *said: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr that says this."""
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("zsad: ")
    for part in said:
        assert part in line


# ------------------------------------------------------------------ the good way
def test_a_folder_ends_in_a_verdict(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    folder_of(source, 10, 3)
    done = predict(source, out, "--target", "lamp")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["score", "verdict", "picture", "strongest", "region"]
    assert [line.split()[1:] for line in lines[1:4]] == [["anomalous", f"{i}.png", "7,7-25,25"] for i in (10, 11, 12)]
    assert "13 pictures: 3 anomalous, 0 review, 10 normal." in lines
    assert any(line.startswith("Threshold: 0.") and "more than half of the pictures are normal" in line for line in lines)
    assert "Detector: brightness on grey (32 px)." in lines
    assert lines[-1] == f"Written to {out}: report.html, predictions.jsonl, predictions.csv, run.json, overlays/, masks/"
    assert done.stderr == ""


def test_what_is_written(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    folder_of(source, 8)
    picture(0.3, (10, 20, 50, 40), (90, 60)).save(source / "wide.png")
    assert predict(source, out, "--maps", "npy").exit_code == 0
    row = rows(out)[-1]
    assert (row["name"], row["path"], row["pred_label"]) == ("wide.png", str(source / "wide.png"), "anomalous")
    assert row["prompts"]["count"] == {"anomalous": 1}
    assert (row["overlay"], row["mask"], row["map"]) == ("overlays/wide.jpg", "masks/wide.png", "maps/wide.npy")
    values = np.load(out / row["map"])
    assert (values.shape, values.dtype) == ((60, 90), np.float32)
    mask = pixels(out / row["mask"])
    assert (mask.shape, mask.dtype, set(np.unique(mask))) == ((60, 90), np.uint8, {0, 255})
    assert (mask > 0).sum() == sum(region["area"] for region in row["regions"])
    assert pixels(out / row["overlay"]).shape == (60, 90, 3)
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["name"] for line in table] == [one["name"] for one in rows(out)]
    assert float(table[-1]["pred_score"]) == row["pred_score"]
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["zsad"] == zsad.__version__
    assert run["detector"]["sentences"] == {"anomalous": ["a bright object"]}
    assert run["counts"] == {"anomalous": 1, "normal": 8}
    assert {"versions", "source", "seeds", "device", "batch_size", "thresholds", "times"} < run.keys()


def test_map_survives_the_record(tmp_path: Path) -> None:
    """The stored 16 bits cost at most 1/131070 of the map's range, at original size too."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(source / "a.png")
    predict(source, out, "--maps", "npy")
    (result,) = Inspector("brightness")(source)
    assert np.abs(np.load(out / "maps/a.npy") - result.anomaly_map).max() < 1e-5
    assert rows(out)[0]["pred_score"] == result.pred_score


def test_maps_as_png_are_on_the_models_scale(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    picture(0.5, plain=True).save(source / "a.png")
    predict(source, out, "--maps", "png")
    levels = pixels(out / "maps/a.png")
    assert np.unique(levels).tolist() == [round(128 / 255 * 65535)]
    assert json.loads((out / "run.json").read_text())["maps"] == "16 bit at original size: 0 is 0 and 65535 is 1"


def test_json_is_one_document(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    folder_of(source, 3)
    (source / "x.png").write_bytes(b"")
    done = predict(source, out, "--json")
    assert done.exit_code == 3
    document = json.loads(done.stdout)
    assert document["results"] == rows(out)
    assert document["run"]["counts"] == {"error": 1, "unlabelled": 3}


def test_long_tables_are_cut(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", 25)
    done = predict(tmp_path / "in", tmp_path / "out")
    assert f"\u2026 and 5 more in {tmp_path / 'out' / 'predictions.csv'}" in done.stdout


def test_given_thresholds(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", 2, 1)
    done = predict(tmp_path / "in", tmp_path / "out", "--threshold", 0.9, "--review-at", 0.31)
    assert [row["pred_label"] for row in rows(tmp_path / "out")] == ["normal", "review", "anomalous"]
    assert (
        "Threshold: 0.9; threshold given by the user; regions lie above the maps of all pictures classified as normal."
        in done.stdout
    )
    assert (tmp_path / "out" / "masks" / "02.png").exists()


def test_few_pictures_have_no_rule(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", 2)
    done = predict(tmp_path / "in", tmp_path / "out")
    assert "2 pictures: 2 scored without a verdict." in done.stdout
    assert "Threshold: none; no rule: 2 scored pictures, and the batch rule needs at least 8" in done.stdout
    assert done.exit_code == 0


def test_set_and_word(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", 2)
    assert predict(tmp_path / "in", tmp_path / "out", "--set", "gain=2.0").exit_code == 0
    assert rows(tmp_path / "out")[0]["pred_score"] > 0.5
    again = tmp_path / "again"
    one_sentence(predict(tmp_path / "in", again, "--word", "crack"), "brightness takes no defect words")
    one_sentence(predict(tmp_path / "in", again, "--set", "gian=2"), "Did you mean 'gain'?")
    one_sentence(predict(tmp_path / "in", again, "--set", "gain"), "--set takes key=value, and got 'gain'.")
    one_sentence(predict(tmp_path / "in", again, "--set", "device=cpu"), "that is an option: --device.")
    assert not again.exists()


# ------------------------------------------------------------------ tiles and regions of interest
def test_tiles_find_what_is_small(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    picture(0.2, (403, 205, 415, 217), (700, 500)).save(source / "a.png")
    assert predict(source, out, "--tile", "64x48", "--overlap", 0.5, "--pixel-threshold", 0.6, "--maps", "npy").exit_code == 0
    (row,) = rows(out)
    assert row["pred_score"] == 1.0
    assert np.abs(np.subtract(row["regions"][0]["box"], (403, 205, 415, 217))).max() <= 1
    assert np.load(out / row["map"]).shape == pixels(out / row["mask"]).shape == (500, 700)
    detector = json.loads((out / "run.json").read_text())["detector"]
    assert detector["geometry"] == {"tile": [64, 48], "overlap": 0.5, "roi": None, "keep_aspect": False}


def test_a_region_of_interest(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    picture(0.2, (0, 0, 20, 20), (100, 80)).save(source / "a.png")
    picture(0.2, (60, 40, 80, 60), (100, 80)).save(source / "b.png")
    picture(0.2, size=(50, 50)).save(source / "c.png")
    done = predict(source, out, "--roi", "50,30,90,70", "--keep-aspect", "--pixel-threshold", 0.6, "--threshold", 0.6)
    assert done.exit_code == 3
    first, second, third = rows(out)
    assert (first["pred_label"], second["pred_label"], third["pred_label"]) == ("normal", "anomalous", None)
    assert [np.abs(np.subtract(region["box"], (60, 40, 80, 60))).max() <= 1 for region in second["regions"]] == [True]
    assert "50 x 50 pixels, and the region of interest box:50,30 90,70 lies outside it" in third["error"]
    overlay = pixels(out / first["overlay"]).astype(int)
    assert (overlay.shape, abs(overlay[70:, :40].mean() - 51 // 3) < 2) == ((80, 100, 3), True), "dark where it is not scored"


def test_geometry_that_cannot_be(good: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> Result:
        return predict(good, tmp_path / "out", *arguments)

    one_sentence(refused("--tile", 16), "The tile is '16'; its sides have to be at least 32 pixels of the picture.")
    one_sentence(refused("--tile", 64, "--overlap", 1), "The overlap is 1.0; give a share of the tile from 0 to 0.9")
    one_sentence(refused("--overlap", 0.5), "An overlap of 0.5 was given without a tile size")
    one_sentence(refused("--roi", "polygon:1,1 5,5"), "is no polygon: that takes three or more corners x,y.")
    one_sentence(refused("--roi", "mask.png"), "The region of interest 'mask.png' is no file.")
    one_sentence(refused("--set", "tile=64"), "that is an option: --tile.")
    assert not (tmp_path / "out").exists()
    (mask := tmp_path / "mask.png").write_bytes((good / "00.png").read_bytes()[:50])
    one_sentence(refused("--roi", mask), "The mask of the region of interest is no picture: 'mask.png' ")
    picture(1.0, size=(9, 9)).save(mask)
    assert refused("--roi", mask).exit_code == 3
    assert {row["error"] for row in rows(tmp_path / "out")} == {
        "The picture has 64 x 64 pixels, and the region of interest is a mask of 9 x 9. Give a mask of its size."
    }


# ------------------------------------------------------------------ bad pictures: a row each
def png_header(width: int, height: int) -> bytes:
    """A PNG that claims that size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    folder_of(tmp_path / "in", 2)
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("truncated", "02.png"),
        ("empty", "is empty (0 bytes)"),
        ("text", "'02.png' "),
        ("bomb", "is too large: 60000 x 60000"),
        ("zero", "'02.png' "),
    ],
)
def test_a_bad_picture_is_a_row(good: Path, tmp_path: Path, kind: str, said: str) -> None:
    content = {
        "truncated": (good / "00.png").read_bytes()[:70],
        "empty": b"",
        "text": b"not a picture\n",
        "bomb": png_header(60_000, 60_000),
        "zero": png_header(0, 5),
    }
    (good / "02.png").write_bytes(content[kind])
    done = predict(good, tmp_path / "out")
    assert done.exit_code == 3
    *fine, bad = rows(tmp_path / "out")
    assert [row["error"] for row in fine] == [None, None]
    assert said in bad["error"]
    assert "\n" not in bad["error"]
    assert (bad["pred_score"], bad["pred_label"], bad["overlay"], bad["regions"]) == (None, None, None, [])
    assert "3 pictures: 2 scored without a verdict, 1 could not be scored." in done.stdout
    assert "error    02.png" in done.stdout


def test_unreadable_permission_is_a_row(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root every file can be read, so opening is made to fail."""
    from zsad.images import decoding

    def refuse(path: Any, *rest: Any, **others: Any) -> Any:
        if str(path).endswith("01.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *rest, **others)

    monkeypatch.setattr(decoding, "open", refuse, raising=False)
    assert predict(good, tmp_path / "out").exit_code == 3
    assert "Permission denied" in rows(tmp_path / "out")[1]["error"]


def test_one_pixel(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture(0.5, size=(1, 1), plain=True).save(tmp_path / "in" / "dot.png")
    assert predict(tmp_path / "in", tmp_path / "out", "--pixel-threshold", 0.1).exit_code == 0
    (row,) = rows(tmp_path / "out")
    assert row["regions"][0]["contour"] == [[0, 0], [1, 0], [1, 1], [0, 1]]


def test_a_folder_named_like_a_picture(good: Path, tmp_path: Path) -> None:
    (good / "x.png").mkdir()
    picture(0.4).save(good / "x.png" / "in.png")
    picture(0.4).save(good / "x.jpg")
    assert predict(good, tmp_path / "out", "--pixel-threshold", 0.1).exit_code == 0
    assert [row["name"] for row in rows(tmp_path / "out")] == ["00.png", "01.png", "x.jpg", "x.png/in.png"]
    assert all((tmp_path / "out" / row[kind]).is_file() for row in rows(tmp_path / "out") for kind in ("overlay", "mask"))


def test_same_names_in_two_folders_keep_both(tmp_path: Path) -> None:
    source = tmp_path / "in"
    folder_of(source / "a", 1)
    folder_of(source / "b", 1)
    picture(0.9).save(source / "b" / "00.jpg")
    assert predict(source, tmp_path / "out", "--maps", "npy").exit_code == 0
    found = rows(tmp_path / "out")
    assert [row["name"] for row in found] == ["a/00.png", "b/00.jpg", "b/00.png"]
    assert len({row["overlay"] for row in found}) == len({row["map"] for row in found}) == 3
    assert found[0]["overlay"] == "overlays/a/00.jpg"
    assert all((tmp_path / "out" / row["map"]).is_file() for row in found)


def test_odd_names(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    names = [
        "\u592a\u9633\u80fd \u7535\u6c60.png",
        "n" * 246 + ".png",
        "<img src=x onerror=alert(1)>.png",
        "a\nb\x1b[31m.png",
        "=1+1.png",
    ]
    for name in names:
        picture(0.4).save(source / name)
    (source / "=1+1.png").rename(os.fsdecode(os.fsencode(source) + b"/\xff\xfe.png"))
    done = predict(source, tmp_path / "out", "--pixel-threshold", 0.1)
    assert done.exit_code == 0, done.output
    found = rows(tmp_path / "out")
    assert len(found) == len(names)
    assert all((tmp_path / "out" / row[kind]).is_file() for row in found for kind in ("overlay", "mask"))
    assert "\x1b" not in done.stdout
    assert "<img src=x" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    document = json.loads(predict(source, tmp_path / "out2", "--json").stdout)
    assert len(document["results"]) == len(names)


def test_symlink_loop(good: Path, tmp_path: Path) -> None:
    (good / "loop").symlink_to(good)
    (good / "self.png").symlink_to(good / "self.png")
    done = predict(good, tmp_path / "out")
    assert done.exit_code == 3
    assert [row["name"] for row in rows(tmp_path / "out")] == ["00.png", "01.png", "self.png"]


def test_all_rows_errors_still_writes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    done = predict(tmp_path / "in", tmp_path / "out")
    assert done.exit_code == 3
    assert "1 picture: 1 could not be scored." in done.stdout
    for name in ("report.html", "predictions.csv", "predictions.jsonl", "run.json"):
        assert (tmp_path / "out" / name).stat().st_size


# ------------------------------------------------------------------ bad calls: a sentence each
def test_missing_path_with_near_matches(good: Path, tmp_path: Path) -> None:
    one_sentence(predict(tmp_path / "im", tmp_path / "out"), "There is nothing at", f"Did you mean {str(good)!r}")
    assert not (tmp_path / "out").exists()


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    one_sentence(predict(tmp_path / "in", tmp_path / "out"), "holds no picture")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "word " * 500), "The target has 500 words"),
        (("--target", ""), "The target is empty"),
        (("--method", "winclap"), "No method is called 'winclap'. Did you mean 'winclip'"),
        (("--backbone", "gray"), "Did you mean 'grey'"),
        (("--device", "warp"), "No device is called 'warp'"),
        (("--batch-size", "0"), "batch_size is 0"),
        (("--threshold", "nan"), "The threshold is nan"),
        (("--review-at", "0.5"), "without a threshold"),
        (("--value-range", "5", "2"), "value_range must be two finite numbers, the lower one first"),
        (("--method", "learner"), "learner has no learned weights yet"),
        (("--method", "learner", "--checkpoint", "nowhere.pt"), "There is no file of weights at 'nowhere.pt'"),
    ],
)
def test_bad_calls(good: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    one_sentence(predict(good, tmp_path / "out", *arguments), said)


class Evil:
    """Loading it would create a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.trace), "w"))


def test_a_pickle_with_code_is_not_run(good: Path, tmp_path: Path) -> None:
    trace, torch_file, bare = tmp_path / "trace", tmp_path / "evil.pt", tmp_path / "bare.pth"
    torch.save({"factor": torch.ones(()), "extra": Evil(trace)}, torch_file)
    bare.write_bytes(pickle.dumps(Evil(trace)))
    for file in (torch_file, bare):
        done = predict(good, tmp_path / "out", "--method", "learner", "--checkpoint", file)
        one_sentence(done, f"{file.name} is a pickle", "so it was not loaded")
        one_sentence(predict(good, tmp_path / "out", "--method", "winclip", "--backbone", f"file:{file}"), file.name)
    assert not trace.exists()


def test_a_learned_checkpoint_is_used(good: Path, tmp_path: Path) -> None:
    detector = brightness.Learner(brightness.BrightnessBackbone())
    detector.save(tmp_path / "learned.safetensors")
    arguments = ("--method", "learner", "--checkpoint", tmp_path / "learned.safetensors", "--word", "crack", "--word", "hole")
    assert predict(good, tmp_path / "out", *arguments).exit_code == 0
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["detector"]["words"] == ["crack", "hole"]
    assert len(run["detector"]["weights_sha256"]) == 64
    assert rows(tmp_path / "out")[0]["prompts"] is None


def test_out_that_is_a_file(good: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    one_sentence(predict(good, tmp_path / "out"), "is a file; give --out a folder.")
    one_sentence(predict(good, tmp_path / "out" / "deeper"), "Not a directory")


def test_stopped_by_the_user(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(brightness.Brightness, "encode", stop)
    done = predict(good, tmp_path / "out")
    assert done.exit_code == 130
    assert done.stderr == f"zsad: stopped. What is scored is kept in {tmp_path / 'out'}; give --resume to go on with it.\n"


def test_a_full_disk_is_a_sentence(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zsad.runs import writers

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "report.html")

    monkeypatch.setattr(writers, "write_report", full)
    done = predict(good, tmp_path / "out")
    one_sentence(done, "No space left on device (report.html). Check the path, its rights and the free space.")


# ------------------------------------------------------------------ the other commands
def test_help_says_the_exit_codes() -> None:
    for arguments in (["--help"], ["predict", "--help"]):
        assert "3 some rows are errors" in " ".join(call(*arguments).stdout.split())
    assert call("--version").stdout.strip() == zsad.__version__
    assert call("predict").exit_code == 2


@pytest.mark.slow
def test_list() -> None:
    said = call("list").stdout
    assert all(part in said for part in ("methods:", "winclip", "backbones:", "ViT-L-14-336.openai", "checkpoints:"))
    methods = json.loads(call("list", "methods", "--json").stdout)["methods"]
    assert {"name", "backbone", "px", "references", "batch", "scores", "weights", "what"} == methods[0].keys()
    assert [row["weights"] for row in methods if row["name"] in ("brightness", "learner")] == [
        "none of its own",
        "pass --checkpoint",
    ]
    assert "brightness" in call("list", "methods").stdout
    assert call("list", "nothing").exit_code == 2


def test_prompts() -> None:
    assert call("prompts", "brightness", "--target", "lamp").stdout == "anomalous (1):\n  a bright lamp\n"
    document = json.loads(call("prompts", "winclip", "--backbone", "tiny", "--target", "metal nut", "--json").stdout)
    assert any("metal nut" in line for line in document["sentences"]["normal"])
    assert "learner uses no sentences: the target's name changes nothing." in call("prompts", "learner").stdout
    one_sentence(call("prompts", "brightness", "--target", "w " * 50), "The target has 50 words")


def test_doctor(good: Path) -> None:
    said = call("doctor").stdout
    assert all(part in said for part in ("python:", "torch:", "--device auto takes:", "HF_HUB_OFFLINE", "JPEG: yes"))
    twelve = (np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 4096).astype(np.uint16)
    Image.fromarray(twelve).save(good / "deep.png")
    (good / "bad.png").write_bytes(b"")
    found = json.loads(call("doctor", good, "--json").stdout)["source"]
    assert found["pictures looked at"] == 4
    assert any("4095" in note or "12" in note for note in found["how they are read"])
    assert "is empty" in found["broken"][0]
    one_sentence(call("doctor", good / "nowhere"), "There is nothing at")


def test_doctor_knows_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", "/somewhere")
    weights = json.loads(call("doctor", "--json").stdout)["weights"]
    assert weights["offline (HF_HUB_OFFLINE)"] == "yes: nothing is downloaded"
    assert weights["HF_HOME"] == "/somewhere (set)"


@pytest.mark.slow
def test_help_is_light_and_a_broken_pipe_is_quiet(good: Path, tmp_path: Path) -> None:
    code = "import sys, zsad; from typer.testing import CliRunner; from zsad.cli import app, main; "
    code += "CliRunner().invoke(app, ['--help']); zsad.load_backbone('tiny').tokenize(['a nut']); zsad.listings(); "
    code += "print({'open_clip', 'timm', 'transformers', 'sklearn', 'torch._dynamo'} & set(sys.modules), file=sys.stderr); "
    code += "from brightness import register_methods; register_methods(); main()"
    command = [sys.executable, "-c", code, "predict", str(good), "--method", "brightness", "--json"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == b"set()\n"


def test_earlier_runs_below_the_source_are_left_out(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", 9)
    assert predict(tmp_path / "in", tmp_path / "in" / "first").exit_code == 0
    done = predict(tmp_path / "in", tmp_path / "in" / "second")
    assert "9 pictures: " in done.stdout
    assert "output of earlier runs in" in done.stderr


def test_a_bad_range_deletes_nothing(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", 2)
    predict(tmp_path / "in", tmp_path / "out")
    done = predict(tmp_path / "in", tmp_path / "out", "--overwrite", "--value-range", 5, 1)
    assert done.exit_code == 2
    assert "value_range must be two finite numbers" in done.stderr
    assert (tmp_path / "out" / "report.html").is_file()


def test_an_empty_out_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", 2)
    done = call("predict", tmp_path / "in", "--out", "")
    assert done.exit_code == 2
    assert "--out is empty" in done.stderr


def test_formulas_stay_text_in_the_table(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", 1)
    next((tmp_path / "in").glob("*.png")).rename(tmp_path / "in" / "=1+1.png")
    predict(tmp_path / "in", tmp_path / "out")
    assert "'=1+1.png" in (tmp_path / "out" / "predictions.csv").read_text()
    assert rows(tmp_path / "out")[0]["name"] == "=1+1.png"
