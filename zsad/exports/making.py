"""``export``: from a method, its target and its references to a folder with a model and its certificate."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zsad.common.arguments import checked
from zsad.common.version import versions
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.exports import standalone
from zsad.exports.certificate import PACKAGES, Certificate, CertificateFailed, Tolerance, certify, tolerance_of
from zsad.exports.detector import CONTEXT, LEARNED, in_batch_mode, open_export
from zsad.exports.graph import FEATURES, SCORES, Graph, resize_facts
from zsad.exports.metadata import FILE, Metadata, sha256_of_files
from zsad.exports.pictures import Pictures, pictures_of
from zsad.exports.quantizing import INT8, PRECISIONS, quantize
from zsad.exports.weights import licences
from zsad.exports.writing import FORMATS, MODEL, NEEDS, require, write_onnx, write_openvino
from zsad.inference.inspector import Inspector

__all__ = ["export", "write_export"]

RUN = "run.py"
Write = Callable[[Graph, Path], None]


@checked
def export(
    method: str | Detector = "compact",
    target: str = "object",
    *,
    out: str | Path,
    backbone: Any = None,
    checkpoint: str | Path | None = None,
    references: Any = None,
    anomalous: Any = None,
    anomalous_masks: Any = None,
    coreset: float = 1.0,
    calibration: Any = None,
    threshold: float | None = None,
    review_at: float | None = None,
    pixel_threshold: float | None = None,
    batch: bool = False,
    format: str = "onnx",
    precision: str = "fp32",
    pictures: Any = None,
    tolerance: Tolerance | None = None,
    allow: bool = False,
    overwrite: bool = False,
    **arguments: Any,
) -> Certificate:
    """Writes a method as a model for another runtime, and compares its outputs with the method's.

    Args:
        method: a name that ``create`` takes, or a built ``Detector``.
        target: the object's name; it and the references are inside the model.
        out: the folder that is made.
        backbone, checkpoint, coreset: as of ``Inspector``.
        references, anomalous, anomalous_masks: pictures that it is compared with, as of ``Inspector``.
        calibration: its levels go into the folder's metadata.
        threshold, review_at, pixel_threshold: levels of your own, instead.
        batch: compare the pictures of a folder with each other: the encoder is exported, and zsad compares its outputs.
        format: "onnx" (onnxruntime) or "openvino".
        precision: "fp32", "int8" (weights and activations, calibrated on ``pictures``) or "int8-weights".
        pictures: what both are compared on: whatever ``list_images`` takes, best the user's own. With a folder called "good"
            beside others, AUROC is compared too. None: example pictures and synthetic defects.
        tolerance: what is let pass; None: 1e-4 in any score and map value, and for int8 an AUROC lower by 0.01, or without
            labels a rank correlation of 0.95.
        allow: keep a model that is beyond the tolerance; its certificate says so.
        overwrite: replace an exported folder.
        **arguments: the method's constructor keywords.

    Returns:
        The certificate, which is in the folder as well.

    Raises:
        CertificateFailed: beyond the tolerance, and not allowed; nothing is written then.
        UsageError: an argument that cannot be carried out, or a method that cannot be exported, with the reason.
        MissingExtra: a package is not installed.
    """
    _check(Path(out), format, precision, pictures, overwrite)
    inspector = Inspector(
        method,
        target,
        backbone=backbone,
        checkpoint=checkpoint,
        references=references,
        anomalous=anomalous,
        anomalous_masks=anomalous_masks,
        coreset=coreset,
        calibration=calibration,
        threshold=threshold,
        review_at=review_at,
        pixel_threshold=pixel_threshold,
        device="cpu",
        batch=batch if batch else "off",
        **arguments,
    )
    if inspector.needs_set:
        inspector.detector = in_batch_mode(inspector.detector, inspector.context)
    if reason := inspector.detector.why_not_exported:
        raise UsageError(f"{inspector.detector.name} cannot be exported: {reason}")
    own = inspector.detector.for_context(inspector.context)
    graph = Graph(own, inspector.context, FEATURES if inspector.needs_set else SCORES)
    shown, allowed = pictures_of(pictures), tolerance_of(precision) if tolerance is None else tolerance
    with _aside(Path(out), overwrite) as folder:
        write_export(inspector, graph, folder, format, precision, shown)
        return _certified(inspector, folder, shown, allowed, allow)


def _check(out: Path, kind: str, precision: str, pictures: Any, overwrite: bool) -> None:
    """Raises ``UsageError`` or ``MissingExtra`` for what can be known before any weights are loaded."""
    for name, value, known in (("format", kind, FORMATS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise UsageError(f"An exported model's {name} is {', '.join(known[:-1])} or {known[-1]}; got {value!r}.")
    if precision == INT8 and pictures is None:
        raise UsageError(
            "int8 is calibrated on pictures like those to come, normal ones for the most part. Give --pictures DIR."
        )
    if out.exists() and not (out / FILE).is_file():
        raise UsageError(f"{str(out)!r} is there and holds no exported model, so it was left alone. Give another --out.")
    if out.exists() and not overwrite:
        raise UsageError(f"{str(out)!r} holds an exported model. Give --overwrite to replace it, or another --out.")
    require("Exporting a model", NEEDS[kind], kind)
    if precision != "fp32" and kind == "openvino":
        require("An int8 model", ("nncf",), "int8")


@contextmanager
def _aside(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place once it is whole, and goes where anything fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        if overwrite and out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_export(inspector: Inspector, graph: Graph, folder: Path, kind: str, precision: str, pictures: Pictures) -> None:
    """Writes everything but the certificate into a folder.

    Args:
        inspector: what is exported, prepared.
        graph: of its detector and context.
        folder: empty.
        kind: "onnx" or "openvino".
        precision: of ``PRECISIONS``.
        pictures: int8 is calibrated on them.
    """
    path = folder / MODEL[kind]
    writers: dict[str, Write] = {"onnx": write_onnx, "openvino": write_openvino}
    writers[kind](graph, path)
    if precision != "fp32":
        quantize(path, precision, inspector, pictures)
    detector, others = inspector.detector, sorted(one for one in folder.iterdir() if one != path)
    model = {
        "files": sha256_of_files([path, *others]),
        "runtime": kind,
        "precision": precision,
        "kind": graph.kind,
        "outputs": graph.names,
        "grids": {name: list(grid) for name, grid in graph.grids.items()},
        "depth": detector.backbone.depth,
    }
    _metadata(inspector, graph, model).save(folder)
    inspector.context.save(folder / CONTEXT)
    if detector.learned_state():
        detector.save(folder / LEARNED)
    shutil.copyfile(standalone.__file__, folder / RUN)


def _metadata(inspector: Inspector, graph: Graph, model: dict[str, Any]) -> Metadata:
    detector, rule, facts = inspector.detector, graph.squash, inspector.describe()
    known, made, references = inspector.known_thresholds(), inspector.calibration, sorted(inspector.references.names)
    kept = None if made is None else {key: value for key, value in vars(made).items() if key != "detector"}
    return Metadata(
        model=model,
        input={
            "size": list(rule.shape),
            "colour": "RGB",
            "layout": "NHWC",
            "type": "uint8",
            "resize": resize_facts(rule),
            "mean": list(rule.mean),
            "deviation": list(rule.std),
            "scaled_inside": True,
        },
        detector=facts,
        target=inspector.target,
        words=facts["words"],
        sentences=facts["sentences"],
        sentences_sha256=hashlib.sha256(json.dumps(facts["sentences"], sort_keys=True).encode()).hexdigest(),
        map_range=facts["map_range"],
        word_margin=detector.word_margin,
        far_score=inspector.far_score,
        smallest_set=detector.smallest_set,
        batch=inspector.needs_set,
        thresholds=None if known.anomalous is None else vars(known),
        calibration=kept,
        references=references,
        weights=licences(detector),
        versions=versions(PACKAGES),
    )


def _certified(inspector: Inspector, folder: Path, pictures: Pictures, tolerance: Tolerance, allow: bool) -> Certificate:
    """The certificate, written into the folder. Raises ``CertificateFailed`` where it is not passed nor allowed."""
    made = certify(inspector, Inspector(open_export(folder), inspector.target, device="cpu"), pictures, tolerance)
    made.save(folder)
    if not made.passed and not allow:
        raise CertificateFailed(
            f"The exported model is not {inspector.detector.name} any more, and nothing was written: {'; '.join(made.failed)} "
            f"({made.summary()}). Give --allow to keep it nevertheless, or --tolerance."
        )
    return made
