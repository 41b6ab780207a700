"""int8: weights alone, or weights and activations calibrated on pictures. Its loss is measured, never promised.

OpenVINO's models go through NNCF, which cannot read the ONNX graphs of torch; those go through onnxruntime's tools.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from zsad.errors import MissingExtra, UsageError
from zsad.exports.pictures import Pictures
from zsad.exports.quantizing_onnx import quantize_onnx
from zsad.exports.writing import load_openvino, require, save_openvino, unreported
from zsad.inference.inspector import Inspector

__all__ = ["INT8", "INT8_WEIGHTS", "PRECISIONS", "quantize"]

INT8, INT8_WEIGHTS = "int8", "int8-weights"
PRECISIONS = ("fp32", INT8, INT8_WEIGHTS)
MOST = 300  # pictures of the calibration


def quantize(path: Path, precision: str, inspector: Inspector, pictures: Pictures) -> None:
    """Replaces a written model by its int8 form.

    Args:
        path: of the model, ONNX or OpenVINO's.
        precision: ``INT8`` or ``INT8_WEIGHTS``.
        inspector: cuts pictures as it will when it runs.
        pictures: for the ranges of the activations; the first ``MOST``.

    Raises:
        MissingExtra: the runtime's tools are not installed.
        UsageError: no picture could be read, or the tools cannot quantize this model.
    """
    shown = None if precision == INT8_WEIGHTS else pixels_of(inspector, pictures)
    with _quiet():
        try:
            if path.suffix == ".onnx":
                quantize_onnx(path, shown)
            else:
                _by_nncf(path, shown, _is_transformer(inspector))
        except MissingExtra:
            raise
        except Exception as error:  # the tools fail with whatever their passes trip over
            why = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(
                f"{inspector.detector.name} cannot be quantized ({why[0][:200]}). Give --precision fp32."
            ) from error


def _by_nncf(path: Path, shown: list[Any] | None, transformer: bool) -> None:
    """Replaces OpenVINO's files; ``shown`` are pictures for the activations' ranges, None: weights alone."""
    require("An int8 model", ("nncf",), "int8")
    import nncf

    model = _opened(path)
    with unreported():
        if shown is None:
            made = nncf.compress_weights(model)
        else:
            # a transformer's softmax and norms stay in float; SmoothQuant costs CLIP more than it gains, so it is off
            parameters = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=_no_smoothing(nncf))
            made = nncf.quantize(
                model,
                nncf.Dataset([{"images": one[None]} for one in shown]),
                subset_size=len(shown),
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
                preset=nncf.QuantizationPreset.MIXED,
                advanced_parameters=parameters,
            )
    save_openvino(made, path)


def pixels_of(inspector: Inspector, pictures: Pictures) -> list[Any]:
    """The pictures, at most ``MOST``, as the model takes them: (S, S, 3) uint8. Raises ``UsageError`` where there are none."""
    from zsad.errors import ImageError
    from zsad.exports.graph import squash_of
    from zsad.images.reading import load_image

    rule, found = squash_of(inspector.detector.for_context(inspector.context)), []
    for ref in pictures.refs[:MOST]:
        with contextlib.suppress(ImageError):
            rgb = load_image(ref, value_range=inspector.value_range).rgb
            found.append(rule.resized(rgb))
    if not found:
        raise UsageError("No picture could be read to calibrate int8 on. Give other --pictures.")
    return found


def _opened(path: Path) -> Any:
    """A written model, held in memory and not mapped, so that its files can be replaced."""
    openvino = load_openvino()
    weights = np.frombuffer(path.with_suffix(".bin").read_bytes(), np.uint8)
    return openvino.Core().read_model(path.read_bytes(), openvino.Tensor(weights))


def _is_transformer(inspector: Inspector) -> bool:
    return any(hasattr(one, "patch_size") or hasattr(one, "blocks") for one in inspector.detector.frozen_encoders().values())


def _no_smoothing(nncf: Any) -> Any:
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters

    return AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("nncf")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
