"""An exported folder scores as the method does, runs with all that surrounds a method, and what is wrong with it is said."""

# ruff: noqa: F811  (fixtures of another file)

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exported import LEVEL, PLACE, exported, made, method_in_torch, pictures, small_tower, tower  # noqa: F401
from typer.testing import CliRunner, Result

import zsad
from zsad.cli import app
from zsad.common.assets import asset
from zsad.distributed.scorer import BatchScorer
from zsad.distributed.specification import specify
from zsad.errors import MissingExtra, UsageError, WeightsUnavailable
from zsad.exports import making, open_export, verify_export
from zsad.exports.certificate import CertificateFailed, Tolerance, certify
from zsad.exports.metadata import Metadata, sha256_of_files
from zsad.exports.pictures import pictures_of
from zsad.exports.writing import load_openvino, write_openvino
from zsad.inference.inspector import Inspector
from zsad.references.corrections import FALSE_ALARM, mark_of


def call(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def changed(exported: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the folder with other metadata."""
    shutil.copytree(exported, folder)
    row = json.loads((folder / "metadata.json").read_text())
    change(row)
    (folder / "metadata.json").write_text(json.dumps(row))
    return folder


def with_other_model(exported: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    """A copy of the folder whose model was changed, as if it had been exported so."""
    shutil.copytree(exported, folder)
    model = onnx.load(str(folder / "model.onnx"))
    change(model)
    onnx.save(model, str(folder / "model.onnx"))
    row = json.loads((folder / "metadata.json").read_text())
    row["model"]["files"] = sha256_of_files([folder / "model.onnx"])
    (folder / "metadata.json").write_text(json.dumps(row))
    return folder


# ------------------------------------------------------------------ the same answers
@pytest.mark.slow
def test_scores_maps_and_verdicts_are_the_method_s(exported: Path, pictures: Path) -> None:
    both = [list(one(str(pictures))) for one in (Inspector(str(exported), batch_size=3), method_in_torch())]
    assert {own.pred_label for own in both[1]} == {"normal", "anomalous"}
    assert any(own.regions for own in both[1])
    for own, other in zip(*both, strict=True):
        assert own.pred_score == pytest.approx(other.pred_score, abs=1e-5)
        assert np.abs(own.anomaly_map - other.anomaly_map).max() < 1e-5
        assert (own.pred_label, own.method, own.prompts) == (other.pred_label, "april_gan", other.prompts)
        assert [one.box for one in own.regions] == [one.box for one in other.regions]


@pytest.mark.slow
def test_what_the_folder_says(exported: Path, pictures: Path) -> None:
    made, meta = json.loads((exported / "certificate.json").read_text()), Metadata.load(exported)
    assert made["passed"]
    assert made["failed"] == []
    assert made["tolerance"]["difference"] == 1e-4
    assert made["score"]["worst"] < 1e-5
    assert made["map"]["worst"] < 1e-5
    assert made["rank_correlation"] == pytest.approx(1)
    assert made["pictures"]["count"] == 10
    assert made["verdicts"] == {"threshold": LEVEL, "review": None, "flipped": []}
    assert made["auroc"]["loss"] == 0
    assert 0 <= made["auroc"]["torch"] <= 1
    assert made["runtime"].startswith("onnxruntime ")
    assert made["precision"] == "fp32"
    assert made["machine"]["cores"]
    assert meta.input["size"] == [64, 64]
    assert meta.input["resize"]["filter"] == "bicubic"
    assert meta.target == "nut"
    assert meta.thresholds is not None
    assert meta.thresholds["anomalous"] == LEVEL
    assert meta.thresholds["pixel"] == PLACE
    assert meta.model["files"] == sha256_of_files([exported / "model.onnx"])
    assert len(meta.sentences["normal"]) > 10
    assert meta.weights["backbone"]["licence"] == "not known"
    assert meta.versions["zsad"] == zsad.__version__


@pytest.mark.slow
def test_the_script_needs_neither_zsad_nor_torch(exported: Path, pictures: Path) -> None:
    """The script in the folder, in a program where importing either fails."""
    code = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['zsad'] = sys.modules['scipy'] = None; sys.argv = sys.argv[1:]\n"
    )
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    broken = pictures / "good" / "broken.png"
    broken.write_bytes(b"no picture")
    command = [sys.executable, "-c", code, str(exported / "run.py"), str(pictures)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=exported)
    broken.unlink()
    assert done.returncode == 3, done.stderr
    rows = {Path(row["path"]).name: row for row in map(json.loads, done.stdout.splitlines())}
    assert "error" in rows.pop("broken.png")
    for result in method_in_torch()(str(pictures)):
        row = rows.pop(Path(result.name).name)
        assert row["score"] == pytest.approx(result.pred_score, abs=1e-5)
        assert row["label"] == result.pred_label
        assert [one["box"] for one in row["regions"]] == [list(one.box) for one in result.regions]
    assert not rows


@pytest.mark.slow
def test_openvino_keeps_float32(exported: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Any] = []
    with contextlib.suppress(ImportError):
        monkeypatch.setattr("openvino_telemetry.utils.sender.TelemetrySender.send", lambda *one: reports.append(one))
    monkeypatch.setattr("zsad.exports.writing.write_onnx", lambda graph, path: shutil.copy(exported / "model.onnx", path))
    write_openvino(None, tmp_path / "model.xml")  # type: ignore[arg-type]
    assert not reports, "OpenVINO reported its use to its makers"
    constants = [
        node
        for node in load_openvino().Core().read_model(tmp_path / "model.xml").get_ops()
        if node.get_type_name() == "Constant"
    ]
    assert {str(node.get_element_type()) for node in constants} & {"<Type: 'float16'>", "<Type: 'bfloat16'>"} == set()
    folder = changed(exported, tmp_path / "model", lambda row: row["model"].update(runtime="openvino", files={}))
    for name in ("model.xml", "model.bin"):
        shutil.move(tmp_path / name, folder / name)
    row = json.loads((folder / "metadata.json").read_text())
    row["model"]["files"] = sha256_of_files([folder / "model.xml", folder / "model.bin"])
    (folder / "metadata.json").write_text(json.dumps(row))
    made = certify(method_in_torch(), Inspector(str(folder)), pictures_of(str(pictures)), Tolerance(1e-5))
    assert made.passed
    assert made.runtime.startswith("openvino ")


# ------------------------------------------------------------------ a method that compares pictures
@pytest.mark.slow
def test_musc_compares_the_encoder_s_outputs(pictures: Path, tmp_path: Path) -> None:
    detector = zsad.create("musc", backbone=tower(), taps=(1, 2), radii=(1, 3))
    made = zsad.export(detector, out=tmp_path / "model", pictures=str(pictures))
    assert made.passed
    assert made.pictures["count"] == 10
    meta = Metadata.load(tmp_path / "model")
    assert (meta.model["kind"], meta.batch, meta.model["grids"]) == ("features", True, {"/1": [4, 4], "/2": [4, 4]})
    scores = [
        [one.pred_score for one in way(str(pictures))] for way in (Inspector(str(tmp_path / "model")), Inspector(detector))
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    with pytest.raises(UsageError, match="compares pictures with each other"):
        next(iter(Inspector(str(tmp_path / "model"))(iter([str(pictures / "good" / "0.png")]))))
    command = [sys.executable, str(tmp_path / "model" / "run.py"), str(pictures)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pictures are compared with each other, which zsad does" in done.stderr


# ------------------------------------------------------------------ certificates that fail
def scaled_mean(model: Any) -> None:
    one = next(one for one in model.graph.initializer if one.name == "mean")
    one.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(one) * np.float32(1.05), one.name))


def halved(model: Any) -> None:
    for one in model.graph.initializer:
        values = onnx.numpy_helper.to_array(one)
        if values.dtype == np.float32:
            one.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16).astype(np.float32), one.name))


@pytest.mark.slow
@pytest.mark.parametrize("change", [scaled_mean, halved])
def test_a_model_that_is_another_one_fails(exported: Path, pictures: Path, tmp_path: Path, change: Any) -> None:
    folder = with_other_model(exported, tmp_path / "model", change)
    made = certify(method_in_torch(), Inspector(str(folder)), pictures_of(str(pictures)), Tolerance(1e-4))
    assert not made.passed
    assert made.failed[0].startswith("scores differ by ")


@pytest.mark.slow
def test_another_activation_fails(exported: Path, pictures: Path) -> None:
    made = certify(method_in_torch("quick_gelu"), Inspector(str(exported)), pictures_of(str(pictures)), Tolerance(1e-4))
    assert not made.passed
    assert made.score["worst"] > 1e-4


@pytest.mark.slow
def test_what_fails_is_not_written_unless_it_is_allowed(
    exported: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = with_other_model(exported, tmp_path / "wrong", scaled_mean) / "model.onnx"

    def write(graph: Any, path: Path) -> None:
        with torch.no_grad():
            graph(graph.example())
        shutil.copy(wrong, path)

    monkeypatch.setattr(making, "write_onnx", write)
    detector, out = made(), tmp_path / "out" / "model"
    with pytest.raises(CertificateFailed, match=r"not april_gan any more, and nothing was written: scores .* --allow"):
        zsad.export(detector, "nut", out=out, pictures=str(pictures))
    assert list(out.parent.iterdir()) == []
    assert not zsad.export(detector, "nut", out=out, pictures=str(pictures), allow=True).passed
    assert json.loads((out / "certificate.json").read_text())["passed"] is False
    assert verify_export(out, str(pictures)).failed
    done = call("verify", out, "--pictures", pictures)
    assert done.exit_code == 1
    assert "Beyond the tolerance: scores differ by" in done.stdout
    with pytest.raises(UsageError, match="holds an exported model. Give --overwrite"):
        zsad.export(detector, "nut", out=out)


@pytest.mark.slow
def test_verify_makes_the_certificate_anew(exported: Path, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    (folder / "certificate.json").unlink()
    done = call("verify", folder, "--pictures", pictures / "good", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["pictures"]["count"] == 5
    assert json.loads((folder / "certificate.json").read_text())["passed"]
    row = changed(exported, tmp_path / "other", lambda row: row["detector"].update(backbone_sha256="0" * 64))
    with pytest.raises(UsageError, match="The encoder 'tiny2' has other weights here"):
        verify_export(row, str(pictures))


# ------------------------------------------------------------------ with all that surrounds a method
@pytest.mark.slow
def test_predict_with_tiles_a_region_and_resume(exported: Path, pictures: Path, tmp_path: Path) -> None:
    out, how = tmp_path / "out", ("--method", exported, "--tile", "64", "--roi", "0,0,90%,90%", "--out", tmp_path / "out")
    done = call("predict", pictures, *how, "--threshold", LEVEL, "--json")
    assert done.exit_code == 0, done.stderr
    again = call("predict", pictures, *how, "--threshold", LEVEL, "--resume", "--json")
    assert json.loads(again.stdout)["results"] == json.loads(done.stdout)["results"]
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    both = [one.pred_score for one in Inspector(made(), "nut", tile=64, roi="0,0,90%,90%")(str(pictures))]
    assert [row["pred_score"] for row in rows] == pytest.approx(both, abs=1e-5)
    facts = json.loads((out / "run.json").read_text())["detector"]
    assert facts["arguments"]["exported"].startswith("onnx fp32 ")
    assert facts["target"] == "nut"
    assert (out / "report.html").is_file()
    refused = call(
        "predict", pictures, "--method", "winclip", "--backbone", "tiny2", "--out", out, "--resume", "--threshold", 1
    )
    assert refused.exit_code == 2
    assert "with other settings" in refused.stderr
    assert call("predict", pictures, "--method", exported, "--dry-run", "--out", tmp_path / "none").exit_code == 0


@pytest.mark.slow
def test_calibration_at_run_time(exported: Path, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    done = call("calibrate", "--normal", pictures, "--method", exported, "--max-false-alarms", 0.2, "--out", file)
    assert done.exit_code == 0, done.stderr
    inspector = Inspector(str(exported), calibration=file)
    assert inspector.thresholds.anomalous not in (None, LEVEL)
    assert next(inspector(str(pictures))).p_value is not None


@pytest.mark.slow
def test_levels_hold_for_pictures_that_are_cut_alike(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Inspector(str(exported)).thresholds.anomalous == LEVEL
    assert Inspector(str(exported), threshold=0.7).thresholds.anomalous == 0.7
    with caplog.at_level(logging.WARNING, "zsad"):
        assert Inspector(str(exported), tile=32).thresholds.anomalous is None
    assert "hold for whole pictures as at its export" in caplog.text


@pytest.mark.slow
def test_places_cannot_be_marked(exported: Path) -> None:
    features = open_export(exported).encode(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    with pytest.raises(UsageError, match="keeps no patches"):
        mark_of(features, torch.ones(4, 4), FALSE_ALARM)


# ------------------------------------------------------------------ what is refused
@pytest.mark.slow
def test_folders_that_are_no_sound_export(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(UsageError, match=r"is no exported model: it has no metadata.json"):
        Inspector(str(tmp_path / "plain"))
    with pytest.raises(UsageError, match="by a later zsad .schema version 99; this one reads 1.. Update zsad."):
        Inspector(str(changed(exported, tmp_path / "later", lambda row: row.update(schema_version=99))))
    with pytest.raises(UsageError, match="was not written by zsad export, or is damaged"):
        Inspector(str(changed(exported, tmp_path / "foreign", lambda row: row.update(format="theirs"))))
    with pytest.raises(UsageError, match="missing or unknown are map_range"):
        Inspector(str(changed(exported, tmp_path / "less", lambda row: row.pop("map_range"))))
    with pytest.raises(UsageError, match="which is no file of its folder"):
        Inspector(str(changed(exported, tmp_path / "outside", lambda row: row["model"].update(files={"../model.onnx": ""}))))
    other = changed(exported, tmp_path / "other", lambda row: None)
    with (other / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UsageError, match="is not the model that was exported: its sha256 begins with"):
        Inspector(str(other))
    (other / "model.onnx").unlink()
    with pytest.raises(UsageError, match="lacks model.onnx, which metadata.json names"):
        Inspector(str(other))


@pytest.mark.slow
def test_a_model_that_no_runtime_can_open(exported: Path, tmp_path: Path) -> None:
    folder = changed(exported, tmp_path / "model", lambda row: None)
    (folder / "model.onnx").write_bytes(b"no model")
    row = json.loads((folder / "metadata.json").read_text())
    row["model"]["files"] = sha256_of_files([folder / "model.onnx"])
    (folder / "metadata.json").write_text(json.dumps(row))
    with pytest.raises(UsageError, match="'model.onnx' cannot be opened by onnx: "):
        Inspector(str(folder))


@pytest.mark.slow
def test_a_missing_runtime_is_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"Running an ONNX model with onnxruntime needs .* pip install 'zsad\[onnx\]'"):
        Inspector(str(exported))
    with pytest.raises(MissingExtra, match=r"'zsad\[onnx\]'"):
        zsad.export("compact", out="model")


@pytest.mark.slow
def test_what_an_exported_model_does_not_take(exported: Path, pictures: Path) -> None:
    with pytest.raises(UsageError, match="was exported for 'nut', not for 'screw'"):
        Inspector(str(exported), "screw")
    with pytest.raises(UsageError, match="takes no checkpoint: everything was settled by zsad export"):
        Inspector(str(exported), checkpoint="x")
    with pytest.raises(UsageError, match="takes no scales"):
        Inspector(str(exported), scales=(2,))
    with pytest.raises(UsageError, match="has its references inside and takes no others"):
        Inspector(str(exported), references=str(pictures))
    with pytest.raises(UsageError, match="computes in its own precision, fp32"):
        list(Inspector(str(exported), precision="bf16")(str(pictures)))
    with pytest.raises(UsageError, match="cannot compare pictures"):
        Inspector(str(exported), batch="on")


def test_exports_that_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    refused: list[tuple[str, dict[str, Any]]] = [
        ("format is onnx or openvino; got 'tensorrt'", {"format": "tensorrt"}),
        ("precision is fp32, int8 or int8-weights; got 'fp16'", {"precision": "fp16"}),
        ("int8 is calibrated on pictures", {"precision": "int8"}),
        ("int8 is calibrated on pictures", {"precision": "int8", "format": "openvino"}),
        ("is there and holds no exported model, so it was left alone", {"out": tmp_path / "mine"}),
    ]
    for said, how in refused:
        with pytest.raises(UsageError, match=said):
            zsad.export("compact", **({"out": tmp_path / "out"} | how))
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]
    assert not list((tmp_path / "mine").iterdir())
    done = call("export", "compact", "--out", tmp_path / "out", "--format", "tensorrt")
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("method", "said"), [("adaclip", "k-means clusters .* Run it in torch"), ("anovl", "22 views, .* views=False")]
)
def test_methods_that_no_graph_can_hold(method: str, said: str, tmp_path: Path) -> None:
    from tiny_methods import tiny_method

    with pytest.raises(UsageError, match=f"{method} cannot be exported: .*{said}"):
        zsad.export(tiny_method(method), out=tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "int8-weights"])
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_int8_is_measured(
    exported: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, runtime: str
) -> None:
    reports: list[Any] = []
    if runtime == "openvino":
        pytest.importorskip("nncf")
        with contextlib.suppress(ImportError):
            monkeypatch.setattr("openvino_telemetry.utils.sender.TelemetrySender.send", lambda *one: reports.append(one))

    def write(graph: Any, path: Path) -> None:
        with torch.no_grad():
            graph(graph.example())
        shutil.copy(exported / "model.onnx", path)

    for module in ("making", "writing"):
        monkeypatch.setattr(f"zsad.exports.{module}.write_onnx", write)
    out = tmp_path / "model"
    found = zsad.export(made(), "nut", out=out, format=runtime, precision=precision, pictures=str(pictures), allow=True)
    assert not reports, "OpenVINO or NNCF reported its use to its makers"
    assert found.precision == precision
    assert 1e-6 < found.map["worst"] < 0.5  # it is another model, and not another method
    assert found.tolerance == {"difference": None, "auroc_loss": 0.01, "rank_correlation": 0.95}
    assert found.auroc is not None
    if runtime == "onnx":
        types = {one.data_type for one in onnx.load(str(out / "model.onnx")).graph.initializer}
        assert onnx.TensorProto.INT8 in types
        assert (out / "model.onnx").stat().st_size < (exported / "model.onnx").stat().st_size
        assert sorted(one.name for one in out.iterdir()) == sorted(one.name for one in exported.iterdir())


@pytest.mark.slow
def test_a_worker_scores_by_the_folder(exported: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported.parent)
    settings = {"method": exported.name, "device": "cpu"}
    inspector = Inspector(**settings, batch="off")
    files = sorted(pictures.rglob("*.png"))
    expected = [(one.pred_score, one.pred_label, len(one.regions)) for one in inspector(files)]
    monkeypatch.chdir(tmp_path)
    scorer = pickle.loads(pickle.dumps(BatchScorer(specify_in(exported.parent, inspector, settings, monkeypatch))))
    rows = scorer.rows([str(path) for path in files])
    assert [(row["score"], row["label"], len(row["regions"])) for row in rows] == expected
    assert {row["label"] for row in rows} == {"normal", "anomalous"}


def specify_in(folder: Path, inspector: Inspector, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> object:
    """The specification as the command makes it in ``folder``; the working folder is another one afterwards."""
    with monkeypatch.context() as there:
        there.chdir(folder)
        return specify(inspector, settings)


@pytest.mark.slow
def test_a_worker_without_the_folder_says_so(exported: Path, tmp_path: Path) -> None:
    inspector = Inspector(str(exported), device="cpu", batch="off")
    spec = specify(inspector, {"method": str(exported), "device": "cpu"})
    moved = exported.rename(tmp_path / "elsewhere")
    try:
        with pytest.raises(WeightsUnavailable, match="does not find '.*model'. Put the weights at the same path"):
            spec.load({})
    finally:
        moved.rename(exported)


@pytest.mark.slow
def test_the_demo_offers_it_beside_the_methods(
    exported: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(asset("demo")))
    from zsad_demo.checkpoints import load
    from zsad_demo.inspectors import InspectorCache, InspectorKey
    from zsad_demo.methods import method_options
    from zsad_demo.workspace import Workspace

    def inspected(loaded: Any, **key: Any) -> Workspace:
        workspace = Workspace(InspectorCache(loaded))
        list(workspace.inspect([str(path) for path in files], InspectorKey(method="model", **key)))
        return workspace

    loaded = load([str(exported)])
    option = method_options(loaded)["model"]
    assert (option.label, option.target, option.focus) == ("model: exported april_gan, fp32", "nut", False)
    files = sorted((pictures / "dent").iterdir())
    workspace = inspected(loaded)
    found = [one.score for one in workspace.current().scored]
    assert found == pytest.approx([one.pred_score for one in Inspector(str(exported))(files)], abs=1e-6)
    with pytest.raises(zsad.ZsadError, match="was exported for 'nut', not for 'screw'"):
        inspected(loaded, target="screw")
    with pytest.raises(zsad.ZsadError, match="takes no words"):
        inspected(loaded, words=("crack",))
    with pytest.raises(zsad.ZsadError, match="another method called 'model'. Rename the exported model's folder"):
        load([str(exported), str(exported)])
    (tmp_path / "metadata.json").write_text("{}")
    with pytest.raises(zsad.ZsadError, match="was not written by zsad export, or is damaged"):
        load([str(tmp_path)])
