"""All methods on one data set, with one metric code and on one tower: time over the bare encoder, memory, metrics.

    python benchmarks/methods.py path/to/visa --backbone ViT-L-14-336.openai --checkpoint anomalyclip=epoch_15.pth
    python benchmarks/methods.py demo/examples/castings --backbone random:ViT-B-16 --method crane --method sowa

Every method runs at its paper's size and input settings. Methods that have learned weights need ``--checkpoint METHOD=FILE``;
without one, or with a tower of random weights, their figures of quality mean nothing, and the table says so. A method with a
tower of its own runs on that. Time: the method's forward pass over the encoder's, on one picture, interleaved medians; memory:
peak of a fresh process for each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from pair_options import machine, pair_options
from speed import build, fresh_peak_mb, measure_built

import zsad
from zsad.common.text_table import markdown
from zsad.errors import ZsadError

METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro")


def row_of(method: str, given: argparse.Namespace, checkpoints: dict[str, str]) -> dict[str, Any]:
    """One method: ``error`` where it cannot run on this tower."""
    own = zsad.registry.method_class(method).recipe.backbone in zsad.list_backbones()
    backbone = None if own else given.backbone
    try:
        detector = build(method, backbone, **({"checkpoint": checkpoints[method]} if method in checkpoints else {}))
    except ZsadError as error:
        return {"method": method, "error": str(error)}
    untrained = not detector.trained
    detector.trained = True  # the table marks it
    row: dict[str, Any] = {"method": method, "tower": detector.backbone.name, "px": detector.backbone.image_size}
    if not detector.needs_set(detector.prepare("object")):
        row["time"] = measure_built(detector, 1, given.pairs, None, cpu_time=given.cpu_time)["ratio_median"]
    if given.memory:
        row["memory"] = fresh_peak_mb(method, backbone, 1, False) / fresh_peak_mb(method, backbone, 1, True)
    found = zsad.evaluate(detector, given.data, METRICS, given.categories, map_size=given.map_size)
    row |= {name: found.mean(name).mean if name in found.metrics else None for name in METRICS}
    row["means_nothing"] = untrained or (not own and given.backbone.startswith(("random:", "tiny")))
    return row


def printed(row: dict[str, Any]) -> dict[str, str]:
    """Cells of a row."""
    mark = "*" if row.get("means_nothing") else ""
    cells = {"method": row["method"] + mark, "tower": row.get("tower", row.get("error", "")), "px": str(row.get("px", "-"))}
    cells |= {key: f"{row[key]:.2f}" if row.get(key) is not None else "-" for key in ("time", "memory")}
    return cells | {key: f"{row[key]:.3f}" if row.get(key) is not None else "-" for key in METRICS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of a data set with labels, in any layout of zsad evaluate")
    parser.add_argument("--backbone", default="ViT-L-14-336.openai", help="a name for load_backbone, or random:architecture")
    pair_options(parser, zsad.list_methods())
    parser.add_argument("--checkpoint", action="append", default=[], metavar="METHOD=FILE")
    parser.add_argument("--categories", help="only these, with commas between")
    parser.add_argument("--map-size", type=int, default=256)
    parser.add_argument("--memory", action="store_true", help="peak memory too; starts two processes per method")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    checkpoints = dict(one.split("=", 1) for one in given.checkpoint)
    with torch.inference_mode():
        rows = [row_of(method, given, checkpoints) for method in given.method or zsad.list_methods()]
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print("\n".join(markdown([printed(row) for row in rows])))
    if any(row.get("means_nothing") for row in rows):
        print("\n* The tower or the method's own weights are random: figures of quality mean nothing, times and memory do.")
    print(f"\n{given.data}; {machine(given)}")


if __name__ == "__main__":
    main()
