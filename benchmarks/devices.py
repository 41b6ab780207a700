"""Every method at its paper's size on an accelerator: pictures per second, memory, and differences to the CPU's outputs.

    python benchmarks/devices.py                                   # all methods, the card that torch finds
    python benchmarks/devices.py --device cpu --method compact --pictures 4
    python benchmarks/devices.py --compile --method anomalyclip --json figures.json

Towers have random weights (time does not depend on them) but for those that ship with zsad. Pictures are noise, eight of them
are references where a method needs some. Differences are those of float32 on the CPU to each precision on the device, on two
pictures (more where a method compares pictures), as a share of the largest value; methods whose float32 lies within 1e-3 are
marked "ok". ``--compile`` also times the image tower after ``torch.compile``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from overhead import backbone_of
from speed import build
from torch import Tensor

import zsad
from zsad.common.precision import inference
from zsad.common.text_table import markdown
from zsad.inference.scorer import PRECISIONS
from zsad.types import Context, Prediction

CLOSE = 1e-3  # float32 on the device against float32 on the CPU, as a share of the largest value
REFERENCES = 8
COMPARED = 2  # pictures; more where a method needs more


def predicted(detector: Any, context: Context, images: Tensor, precision: str) -> Prediction:
    """Scores and maps, by the encoder in a precision; methods that compare pictures compare these."""
    dtype = PRECISIONS[precision]
    with inference(images.device):
        with torch.autocast(images.device.type, dtype, enabled=dtype is not torch.float32):
            features = detector.encode(images)
        features = features.to(torch.float32)
        if not detector.needs_set(context):
            return detector.score(features, context)
        found = list(detector.score_set([features[row : row + 1] for row in range(len(images))], context))
    return Prediction(torch.cat([one.pred_score for one in found]), torch.cat([one.anomaly_map for one in found]))


def pictures(count: int, size: int, seed: int = 0) -> Tensor:
    """(N, 3, H, W) of noise, as networks want it."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def seconds_of(call: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """Median time of a call, after two that are not counted."""

    def once() -> float:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return median([once() for _ in range(2 + rounds)][2:])


def apart(got: Tensor, expected: Tensor) -> float:
    """Worst difference as a share of the largest expected value."""
    return float((got.cpu() - expected).abs().max() / expected.abs().max())


def measured(detector: Any, device: torch.device, given: argparse.Namespace) -> dict[str, Any]:
    """Figures of one method; the detector moves to the device."""
    few, size = type(detector).needs_references, detector.backbone.image_size
    detector.trained = True  # random weights; nothing here says that scores are good
    shown = pictures(min(REFERENCES, type(detector).most_references or REFERENCES), size, seed=1) if few else None
    few_pictures = pictures(max(COMPARED, detector.smallest_set), size)

    def context_on(where: torch.device) -> Context:
        return detector.prepare("metal nut", None if shown is None else zsad.References(shown.to(where))).to(where)

    expected = predicted(detector, context_on(torch.device("cpu")), few_pictures, "fp32")
    detector.to(device)
    context, batch = context_on(device), pictures(given.pictures, size).to(device)
    row: dict[str, Any] = {"method": detector.name, "backbone": detector.backbone.name, "px": size}
    for precision in given.precision:
        found = predicted(detector, context, few_pictures.to(device), precision)
        row[f"{precision}_score"] = apart(found.pred_score, expected.pred_score)
        row[f"{precision}_map"] = apart(found.anomaly_map, expected.anomaly_map)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = seconds_of(lambda one=precision: predicted(detector, context, batch, one), device, given.rounds)
        row[f"{precision}_per_second"] = len(batch) / seconds
        if device.type == "cuda":
            row[f"{precision}_memory_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    if given.compile:
        detector.backbone.visual.compile()
        precision = given.precision[-1]
        seconds = seconds_of(lambda: predicted(detector, context, batch, precision), device, given.rounds)
        row[f"{precision}_compiled_per_second"] = len(batch) / seconds
    return row


def row_of(method: str, device: torch.device, given: argparse.Namespace) -> dict[str, Any]:
    """``measured``, or what went wrong."""
    try:
        with torch.inference_mode():
            return measured(build(method, given.backbone or backbone_of(method)), device, given)
    except Exception as error:  # one method's failure is a row, the others go on
        return {"method": method, "error": f"{type(error).__name__}: {error}"}


def printed(row: dict[str, Any]) -> dict[str, str]:
    """Cells of a row."""
    if "error" in row:
        return {"method": row["method"], "tower": row["error"].splitlines()[0][:100]}
    cells = {"method": row["method"], "tower": row["backbone"].removeprefix("random:"), "px": str(row["px"])}
    for key, value in row.items():
        if key not in ("method", "backbone", "px"):
            cells[key.replace("_", " ")] = f"{value:.1e}" if key.endswith(("_score", "_map")) else f"{value:.4g}"
    if "fp32_map" in row:
        cells["equal"] = "ok" if max(row["fp32_score"], row["fp32_map"]) <= CLOSE else "no"
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--method", action="append", choices=zsad.list_methods())
    parser.add_argument("--backbone", help="one tower for all, instead of each paper's")
    parser.add_argument("--precision", action="append", choices=list(PRECISIONS))
    parser.add_argument("--pictures", type=int, default=16, help="of one batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="times with torch.compile too, in the last precision")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    found = zsad.inference.settings.pick_device(given.device)
    given.precision = given.precision or (["fp32", "bf16"] if found.type == "cpu" else ["fp32", "fp16", "bf16"])
    rows = []
    for method in given.method or zsad.list_methods():
        rows.append(row_of(method, found, given))
        if found.type == "cuda":
            torch.cuda.empty_cache()
    card = torch.cuda.get_device_name(found) if found.type == "cuda" else f"{found.type}, {torch.get_num_threads()} threads"
    about = {"device": card, "machine": platform.machine(), "torch": torch.__version__, "pictures": given.pictures}
    if given.json:
        given.json.write_text(json.dumps({**about, "methods": rows}, indent=1))
    cells = [printed(row) for row in rows]
    heads = list(dict.fromkeys(key for one in cells for key in one))
    print("\n".join(markdown([{key: one.get(key, "-") for key in heads} for one in cells])))
    print("\n" + ", ".join(f"{key} {value}" for key, value in about.items()))


if __name__ == "__main__":
    main()
