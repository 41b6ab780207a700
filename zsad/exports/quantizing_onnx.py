"""int8 by onnxruntime's own tools, for models that onnxruntime runs."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["quantize_onnx"]

PRODUCTS = ("MatMul", "Gemm")
FIXED_FACTOR = {"MatMulConstBOnly": True}  # attention's products of two activations stay in float
MEAN_RANGE = {"CalibMovingAverage": True}  # of the pictures; a range of all extremes loses more


def quantize_onnx(path: Path, shown: Sequence[NDArray[np.uint8]] | None) -> None:
    """Replaces an ONNX model by its int8 form.

    Args:
        path: of the model.
        shown: pictures (S, S, 3) as the model takes them, for the ranges of the activations; None: weights alone.
    """
    if shown is None:
        _quantize_weights(path)
    else:
        _quantize_activations(path, shown)


def _quantize_activations(path: Path, shown: Sequence[NDArray[np.uint8]]) -> None:
    """int8 weights, per channel, and int8 activations between QDQ pairs."""
    from onnxruntime import quantization as tools
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]  # of a package without types
        left = ({"images": one[None]} for one in shown)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    with _beside(path) as (between, made):
        quant_pre_process(str(path), str(between), skip_symbolic_shape=True)  # shapes, and norms joined to convolutions
        tools.quantize_static(
            str(between),
            str(made),
            Reader(),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=[*PRODUCTS, "Conv"],
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            extra_options=FIXED_FACTOR | MEAN_RANGE,
        )


def _quantize_weights(path: Path) -> None:
    """int8 weights of the matrix products; convolutions stay in float.

    Activations get a range of their own in every pass (onnxruntime's dynamic quantization), so no pictures are needed. Weights
    have one range each: with one per channel its graph fails on constants of more than two axes.
    """
    from onnxruntime import quantization as tools

    with _beside(path) as (_, made):
        tools.quantize_dynamic(
            str(path),
            str(made),
            op_types_to_quantize=list(PRODUCTS),
            weight_type=tools.QuantType.QInt8,
            extra_options=FIXED_FACTOR,
        )


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, Path]]:
    """Two names in a folder beside the model; what is written to the second takes the model's place, weights inside."""
    import onnx

    level, root = logging.root.level, logging.root
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".int8.") as folder:
        root.setLevel(logging.ERROR)  # its tools warn on the root logger, of what is done here
        try:
            yield Path(folder) / "between.onnx", Path(folder) / "made.onnx"
        finally:
            root.setLevel(level)
        model = onnx.load(str(Path(folder) / "made.onnx"))
        for old in path.parent.glob(f"{path.name}*"):
            old.unlink()
        onnx.save(model, str(path))
