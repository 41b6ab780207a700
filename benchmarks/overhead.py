"""What every method costs beside its bare image encoder: time and peak memory, at the paper's backbone and size, batch 1.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --method anomalyclip --pairs 9
    python benchmarks/overhead.py --references 16 --backbone dinov2-base --image-size 518 --no-memory --method nagl

Weights are random (time does not depend on them). Rounds (method, zsad's bare encoder, open_clip's) are interleaved in one
run, text is prepared before. zsad's own trunk is the faster encoder, so the ratio over it is the larger one; the timings of
the authors' code that the README quotes are over open_clip's. Peak memory is that of fresh processes, over the bare encoder
of zsad; the text tower is in both. Peak memory is without references, and at the paper's size.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from pair_options import machine, pair_options
from speed import fresh_peak_mb, measure

import zsad

# scoring one picture; a method that needs the whole set has a benchmark of its own (mutual.py)
METHODS = [name for name in zsad.list_methods() if name != "musc"]


def backbone_of(method: str) -> str | None:
    """The recipe's architecture with random weights; a backbone that ships with zsad as it is."""
    name: str = zsad.registry.method_class(method).recipe.backbone
    if (dinov2 := name.removeprefix("hf:facebook/")).startswith("dinov2-"):
        plain = dinov2.replace("-with-registers", "")
        return f"random:{plain}" + ("-registers" if plain != dinov2 else "")
    if name.startswith("hf:google/siglip-so400m"):
        return "random:siglip-so400m"
    here = name in zsad.list_backbones() and not name.startswith("tips-")
    return None if here else f"random:{name.partition('.')[0]}"


def said(row: dict[str, Any], prefix: str) -> str:
    """Median and range of a ratio."""
    if row[f"{prefix}_median"] is None:
        return "-"
    return f"{row[f'{prefix}_median']:.2f} ({row[f'{prefix}_min']:.2f} to {row[f'{prefix}_max']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pair_options(parser, METHODS)
    parser.add_argument("--no-memory", action="store_true", help="times alone; memory takes two processes per method")
    parser.add_argument("--references", type=int, default=0, help="normal pictures, at least as many as a method needs")
    parser.add_argument("--backbone", help="an architecture for all methods, as dinov2-base; weights are random")
    parser.add_argument("--image-size", type=int, help="side in pixels; without it that of each method's paper")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for method in given.method or METHODS:
        backbone = f"random:{given.backbone}" if given.backbone else backbone_of(method)
        row = measure(method, backbone, 1, given.pairs, given.image_size, given.references, given.cpu_time)
        if not given.no_memory:
            row["memory_ratio"] = fresh_peak_mb(method, backbone, 1, False) / fresh_peak_mb(method, backbone, 1, True)
        rows.append(row)
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print("| method | backbone | px | time over open_clip's encoder | over zsad's own | peak memory | prepare, once |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        own, library = (said(row, prefix) for prefix in ("ratio", "open_clip_ratio"))
        where = f"{row['backbone'].removeprefix('random:')} | {row['image_size']}"
        memory = f"{row['memory_ratio']:.2f}" if "memory_ratio" in row else "-"
        print(f"| {row['method']} | {where} | {library} | {own} | {memory} | {row['prepare_seconds']:.1f} s |")
    print(f"\n{machine(given)}, {given.references} references, or as many as a method needs")


if __name__ == "__main__":
    main()
