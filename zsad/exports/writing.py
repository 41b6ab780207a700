"""Writes a graph as ONNX, or as OpenVINO's files."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import MissingExtra, UsageError
from zsad.exports.graph import Graph

__all__ = [
    "FORMATS",
    "MODEL",
    "load_openvino",
    "require",
    "save_onnx",
    "save_openvino",
    "trace",
    "unreported",
    "write_onnx",
    "write_openvino",
]

FORMATS = ("onnx", "openvino")
MODEL = {"onnx": "model.onnx", "openvino": "model.xml"}
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}


def require(what: str, packages: tuple[str, ...], extra: str) -> None:
    """Raises ``MissingExtra`` where a package cannot be imported."""
    for name in packages:
        try:
            with unreported():  # OpenVINO reports that it was imported
                __import__(name)
        except ImportError as error:
            raise MissingExtra(f"{what} with {name}", extra) from error


def write_onnx(graph: Graph, path: Path) -> None:
    """Writes the graph as ONNX; the first axis of its input has any length.

    Raises:
        MissingExtra: a package is missing.
        UsageError: the method does what no graph can hold.
    """
    require("Exporting a model", NEEDS["onnx"][:2], "onnx")
    save_onnx(trace(graph), graph, path)


def trace(graph: Graph) -> Any:
    """The graph as a ``torch.export.ExportedProgram`` for any number of pictures; its outputs' names are known then.

    Raises:
        UsageError: the method does what no graph can hold.
    """
    with torch.no_grad(), _quiet():
        graph(example := graph.example())  # what is computed of the context alone is kept, and found again by the tracer
        with _refusing(graph):
            return torch.export.export(graph, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)


def save_onnx(program: Any, graph: Graph, path: Path) -> None:
    """Writes what ``trace`` made of a graph. Raises ``UsageError`` for an operation that ONNX lacks."""
    with torch.no_grad(), _quiet(), _refusing(graph):
        made: Any = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["images"],
            output_names=graph.names,
            custom_translation_table=_resizes(),
            verbose=False,
        )
    _round_to_half(made.model.graph)
    made.save(str(path))


def write_openvino(graph: Graph, path: Path) -> None:
    """Writes the graph as OpenVINO's ``.xml`` and ``.bin``, its weights in float32.

    Raises:
        MissingExtra, UsageError: as ``write_onnx``.
    """
    openvino = load_openvino()
    between = path.with_suffix(".onnx")  # tracing by OpenVINO itself fails on operations that ONNX's exporter knows
    write_onnx(graph, between)
    with unreported():
        model = openvino.convert_model(str(between))
    between.unlink()
    for extra in path.parent.glob(f"{between.name}*"):
        extra.unlink()
    save_openvino(model, path)


@contextlib.contextmanager
def unreported() -> Iterator[None]:
    """While it is open, OpenVINO and NNCF do not report their use to their makers, which they do without being asked.

    Each report is a process of its own that opens a connection; zsad sends nothing from anybody's machine.
    """
    try:
        from openvino_telemetry.utils.sender import TelemetrySender
    except ImportError:  # without it, neither reports
        yield
        return
    with patch.object(TelemetrySender, "send", lambda *_: None):
        yield


def save_openvino(model: Any, path: Path) -> None:
    """Saves a model without the rounding of its weights to float16 that is OpenVINO's own default."""
    load_openvino().save_model(model, str(path), compress_to_fp16=False)


def load_openvino() -> Any:
    """The module. Raises ``MissingExtra`` where it is not installed."""
    require("A model in OpenVINO's format", ("openvino",), "openvino")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import openvino
    return openvino


@contextlib.contextmanager
def _refusing(graph: Graph) -> Iterator[None]:
    """Says in a sentence what stops the tracer, which fails with whatever the method's code trips over."""
    try:
        yield
    except Exception as error:
        raise UsageError(f"{graph.detector.name} cannot be exported: {_why(error)}. Run it in torch.") from error


def _why(error: Exception) -> str:
    """What stopped the tracer, in a few words."""
    if isinstance(error, UsageError):
        return str(error).rstrip(".")
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if "Constraints violated" in first:
        return "its code takes the number of pictures for a constant, and a model must take any number"
    return f"its code does what no graph can hold ({first})"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporters' remarks from the user's screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [one.level for one in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for one in loggers:
            one.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for one, level in zip(loggers, before, strict=True):
                one.setLevel(level)


# ------------------------------------------------------------------ float16 in between
HALF = 2.0**13 + 1  # float32 keeps 13 bits more


def _round_to_half(graph: Any) -> None:
    """Rounds values to float16's 11 bits before they are cast to it: x c - (x c - x), Veltkamp's split.

    OpenVINO computes in float32 and leaves a cast to float16 out, and with it the rounding that a method's features have.
    """
    import onnx_ir

    factor = onnx_ir.Value(name="half_factor", const_value=onnx_ir.tensor(HALF, onnx_ir.DataType.FLOAT, name="half_factor"))
    casts = [node for node in graph if node.op_type == "Cast" and node.attributes["to"].as_int() == onnx_ir.DataType.FLOAT16]
    for cast in casts:
        (value,) = cast.inputs
        scaled = onnx_ir.node("Mul", [value, factor])
        less = onnx_ir.node("Sub", [scaled.outputs[0], value])
        rounded = onnx_ir.node("Sub", [scaled.outputs[0], less.outputs[0]])
        graph.insert_before(cast, [scaled, less, rounded])
        cast.replace_input_with(0, rounded.outputs[0])
    if casts:
        graph.register_initializer(factor)


# ------------------------------------------------------------------ resizes that ONNX has no operation for, or another one
def _resizes() -> dict[Any, Callable[..., Any]]:
    """Bicubic resizes as products with the matrices of torch's own, which is exact; with antialiasing ONNX has none."""
    import onnx_ir
    from onnxscript import opset18 as op

    def product(antialias: bool) -> Callable[..., Any]:
        def resized(x: Any, size: Any, corners: Any, scales: Any = None) -> Any:
            rows, columns = (
                _matrix(
                    int(x.shape[2 + axis]), size and int(size[axis]), scales and float(scales[axis]), bool(corners), antialias
                )
                for axis in (0, 1)
            )
            left, right = (op.Constant(value=onnx_ir.tensor(one.contiguous().numpy())) for one in (rows, columns.T))
            return op.MatMul(left, op.MatMul(x, right))  # in this order: OpenVINO joins what follows to the second wrongly

        return resized

    aten = torch.ops.aten
    return {aten._upsample_bicubic2d_aa.vec: product(True), aten.upsample_bicubic2d.vec: product(False)}


def _matrix(old: int, new: int | None, scale: float | None, corners: bool, antialias: bool) -> Tensor:
    """(new, old): what torch's bicubic resize of one axis multiplies with; its size is given, or a factor."""
    unit = torch.eye(old)[None, None]
    how: dict[str, Any] = {"mode": "bicubic", "antialias": antialias, "align_corners": corners}
    how |= {"scale_factor": (scale, 1.0)} if new is None else {"size": (new, old)}
    return F.interpolate(unit, **how)[0, 0]
