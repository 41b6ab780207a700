"""Runs a written model: onnxruntime or OpenVINO behind one call."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zsad.errors import UsageError
from zsad.exports.writing import load_openvino, require

__all__ = ["Session", "open_session"]

log = logging.getLogger("zsad")
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Session(Protocol):
    """A loaded model."""

    runtime: str  # name and version

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """(B, H, W, 3) uint8 -> outputs by name; may be called from several threads."""


def open_session(path: Path, runtime: str, outputs: list[str], threads: int, device: str = "cpu") -> Session:
    """Loads a model.

    Args:
        path: ``model.onnx`` or ``model.xml``.
        runtime: "onnx" or "openvino".
        outputs: their names, in the model's order.
        threads: of the runtime.
        device: "cuda" where onnxruntime has it; else the CPU, and a warning says why.

    Raises:
        MissingExtra: the runtime is not installed.
        UsageError: it cannot read the model.
    """
    kinds: dict[str, Any] = {"onnx": OnnxSession, "openvino": OpenVinoSession}
    if runtime not in kinds:
        raise UsageError(f"An exported model runs in {' or '.join(kinds)}; this one asks for {runtime!r}. Export again.")
    try:
        made: Session = kinds[runtime](path, outputs, threads, device)
    except (ImportError, UsageError):
        raise
    except Exception as error:  # each runtime has errors of its own
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"{path.name!r} cannot be opened by {runtime}: {why[0][:200]}. Export it again.") from error
    return made


NO_CUDA = (
    "The exported model runs on the CPU and not on %s: onnxruntime %s has no CUDA here that works. Install onnxruntime-gpu in "
    "place of onnxruntime, with the CUDA libraries that it asks for, or give --device cpu."
)


class OnnxSession:
    """onnxruntime."""

    def __init__(self, path: Path, outputs: list[str], threads: int, device: str) -> None:
        require("Running an ONNX model", ("onnxruntime",), "onnx")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        wanted = [CUDA, CPU] if device == "cuda" and CUDA in onnxruntime.get_available_providers() else [CPU]
        self.session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
        runs_on = self.session.get_providers()[0]  # the CPU too where CUDA's libraries cannot be loaded
        if device != "cpu" and runs_on == CPU:
            log.warning(NO_CUDA, device, onnxruntime.__version__)
        self.runtime, self.outputs = f"onnxruntime {onnxruntime.__version__} ({runs_on})", outputs

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """As ``Session``."""
        return dict(zip(self.outputs, self.session.run(self.outputs, {"images": images}), strict=True))


class OpenVinoSession:
    """OpenVINO on a CPU, in float32: by itself it takes bfloat16 where the processor has it, which moves the maps."""

    def __init__(self, path: Path, outputs: list[str], threads: int, device: str) -> None:
        openvino = load_openvino()
        if device != "cpu":
            log.warning("An exported OpenVINO model runs on the CPU and not on %s. Export with --format onnx for CUDA.", device)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self.model = openvino.Core().compile_model(str(path), "CPU", settings)
        self.runtime, self.outputs = f"openvino {openvino.__version__} (CPU, f32)", outputs

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """As ``Session``."""
        found = self.model.create_infer_request().infer({"images": images}, share_inputs=True, share_outputs=False)
        return {name: np.array(found[name]) for name in self.outputs}
