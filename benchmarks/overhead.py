"""What every method costs beside its bare image encoder: time and peak memory, at the paper's backbone and size, batch 1.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --method anomalyclip --pairs 9

Weights are random (time does not depend on them); pairs (method, bare encoder) are interleaved in one run, text is prepared
before. Peak memory is that of fresh processes; the text tower is in both.
"""

from __future__ import annotations

import argparse
import json
import platform

import torch
from speed import measure, peak_mb

import zsad


def backbone_of(method: str) -> str | None:
    """The recipe's architecture with random weights; a backbone that ships with zsad as it is."""
    name: str = zsad.registry.method_class(method).recipe.backbone
    return None if name in zsad.list_backbones() else f"random:{name.partition('.')[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", action="append", choices=zsad.list_methods())
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for method in given.method or zsad.list_methods():
        backbone = backbone_of(method)
        row = measure(method, backbone, 1, given.pairs)
        row["memory_ratio"] = peak_mb(method, backbone, 1, False) / peak_mb(method, backbone, 1, True)
        rows.append(row)
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print("| method | backbone | px | time over the bare encoder (median, range) | peak memory over it | prepare, once |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        ratio = f"{row['ratio_median']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
        where = f"{row['backbone'].removeprefix('random:')} | {row['image_size']}"
        print(f"| {row['method']} | {where} | {ratio} | {row['memory_ratio']:.2f} | {row['prepare_seconds']:.1f} s |")
    print(f"\n{platform.machine()}, {given.threads} threads, torch {torch.__version__}, {given.pairs} interleaved pairs")


if __name__ == "__main__":
    main()
