"""``zsad predict --dry-run``: what would be scored, how long about and in how much memory, before any model is loaded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import typer
from PIL import Image

from zsad.cli.console import print_json
from zsad.cli.options import method_arguments
from zsad.common.file_names import many, printable
from zsad.common.output_folder import HIDDEN
from zsad.errors import ImageError, UsageError
from zsad.images.reading import ImageRef, list_images
from zsad.images.tiling import read_geometry
from zsad.inference.reference_files import is_saved, read_saved
from zsad.inference.settings import AUTO_FEWEST, at_least_one, default_batch, pick_device
from zsad.methods.compact.scoring import FEW
from zsad.registry import method_class
from zsad.runs.folder import is_outside

__all__ = ["plan_of", "show_plan"]

# Pictures a second of compact on two CPU threads: benchmarks/folder.py, with decoding of JPEGs of 640 x 480
COMPARED, ALONE = 13.0, 28.0
# GFLOP a second in float32: measured for a CPU thread (x86-64), usual for the others and not measured here
SPEED = {"cpu": 35.0, "cuda": 12_000.0, "mps": 2_500.0, "xpu": 5_000.0}
COMPACT_GAIN = 5.0  # of compact on an accelerator over two CPU threads, where decoding sets the pace; not measured here
# of the towers that are named: million parameters of the image tower and of all, patch, width, layers
TOWERS = {
    "ViT-B-32": (88, 151, 32, 768, 12),
    "ViT-B-16": (86, 150, 16, 768, 12),
    "ViT-B-16-plus-240": (118, 208, 16, 896, 12),
    "ViT-L-14": (304, 428, 14, 1024, 24),
    "ViT-L-14-336": (304, 428, 14, 1024, 24),
    "ViT-H-14": (632, 986, 14, 1280, 32),
}
# run time over the tower's own: benchmarks/speed.py and benchmarks/overhead.py
OVER_TOWER = {"winclip": 9.6, "anomalyclip": 1.2, "april_gan": 1.03, "adaclip": 2.12, "musc": 1.1}
BASE_MEMORY, COMPACT_MEMORY = 450e6, 830e6  # bytes: Python with torch; a run of compact, benchmarks/folder.py
LOOKED_AT = 32  # pictures whose headers are read, where the number of tiles depends on their sizes


def plan_of(given: Mapping[str, Any], pictures: Iterable[ImageRef]) -> dict[str, Any]:
    """What a run would do, as a JSON object; no model is loaded, no pixel decoded and nothing written.

    Args:
        given: parameters of ``zsad predict`` by name.
        pictures: of the source.

    Raises:
        UsageError: no such source, method or device, or a geometry that cannot be.
    """
    device = pick_device(given["device"])
    refs, endings, size, left_out = list[ImageRef](), Counter[str](), 0, 0
    for ref, mine in is_outside(pictures):
        left_out += not mine
        if mine:
            refs.append(ref)
            endings[_ending(ref)] += 1
            size += _bytes(ref)
    if not refs:
        raise UsageError("Every picture of the source is output of an earlier run. Give other pictures.")
    kept = _on_record(Path(given["out"]))
    known = kept if given["resume"] else 0
    tiles = _tiles(refs, given)
    plan = {
        "dry_run": True,
        "source": given["source"],
        "pictures": len(refs),
        "output_of_earlier_runs": left_out,
        "by_ending": dict(endings.most_common()),
        "bytes": size,
        "on_record": known,
        "tiles_per_picture": None if given["tile"] is None else tiles,
        "method": given["method"],
        "backbone": given["backbone"] or method_class(given["method"]).recipe.backbone,
        "device": str(device),
        "references": _references(given["references"]),
        "batch_size": at_least_one("batch_size", given["batch_size"] or default_batch(device)),
        "compared_with_each_other": _compared(given, len(refs)),
        "out": given["out"],
        "out_holds_a_run": kept > 0,
    }
    left = max(len(refs) - known, 0) + plan["references"]
    return plan | _cost(plan, left, tiles, method_arguments(given["method"], given["set_"], given["word"]).get("pool"))


def _ending(ref: ImageRef) -> str:
    return printable(os.path.splitext(ref.name)[1].lower()) or "without ending"  # noqa: PTH122 (a name, no path)


def _bytes(ref: ImageRef) -> int:
    try:
        return 0 if ref.path is None else ref.path.stat().st_size
    except (OSError, ValueError):  # becomes an error row
        return 0


def _references(given: str | None) -> int:
    """Reference images that have to be encoded: not those that ``zsad references`` saved."""
    return 0 if given is None or is_saved(given) else sum(1 for _ in list_images(given))


def _on_record(out: Path) -> int:
    """Pictures that a run in the folder has scored."""
    try:
        return (out / HIDDEN / "records.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _compared(given: Mapping[str, Any], count: int) -> bool:
    """Whether the pictures would be compared with each other; see ``Inspector.over``."""
    method, references = given["method"].partition(".")[0], given["references"]
    small = method_arguments(given["method"], given["set_"], given["word"]).get("tower") == "small"
    held = len(read_saved(Path(references))[1]) if is_saved(references) else _references(references)
    known = any(given[key] is not None for key in ("calibration", "threshold")) or held >= (1 if small else FEW)
    auto = given["batch"] in (None, "auto") and not known and count >= AUTO_FEWEST
    return method == "musc" or (method == "compact" and (given["batch"] == "on" or auto))


def _tiles(refs: list[ImageRef], given: Mapping[str, Any]) -> float:
    """Tiles of a picture on average, from the sizes of some; 1 where pictures are not cut."""
    geometry = read_geometry(given["tile"], given["overlap"], given["roi"], given["keep_aspect"])
    if geometry.tile is None:
        return 1.0
    counts = []
    for ref in refs[:: max(1, len(refs) // LOOKED_AT)]:
        try:
            with Image.open(ref.path or "") as image:  # the header alone
                counts.append(len(geometry.places((image.height, image.width))))
        except (OSError, ValueError, ImageError, Image.DecompressionBombError):  # becomes an error row, or is no file
            continue
    return mean(counts) if counts else 1.0


# ------------------------------------------------------------------ time and memory
def _cost(plan: Mapping[str, Any], pictures: int, tiles: float, pool: Any = None) -> dict[str, Any]:
    """Seconds and bytes, about, and what they rest on; None where nothing is known of the encoder."""
    method, kind = str(plan["method"]).partition(".")[0], str(plan["device"]).partition(":")[0]
    if method == "compact":
        together = plan["compared_with_each_other"] or plan["references"]
        rate = (COMPARED if together else ALONE) * (torch.get_num_threads() / 2 if kind == "cpu" else COMPACT_GAIN)
        measured = "benchmarks/folder.py on two CPU threads" + ("" if kind == "cpu" else "; its gain on this device is a guess")
        return {"seconds": round(pictures * tiles / rate, 1), "memory_bytes": int(COMPACT_MEMORY), "basis": measured}
    tower = TOWERS.get(str(plan["backbone"]).removeprefix("random:").partition(".")[0])
    if tower is None or method not in OVER_TOWER:
        return {"seconds": None, "memory_bytes": None, "basis": "no figure of this method and encoder is at hand"}
    visual, whole, patch, width, layers = tower
    tokens = (method_class(method).recipe.image_size // patch) ** 2 + 1
    work = 2e-3 * visual * tokens + 4e-9 * layers * tokens**2 * width  # GFLOP a picture: linear layers and attention
    total = pictures * tiles * work * OVER_TOWER[method]
    if method == "musc":  # every pair of pictures, tile by tile: 3 radii of 4 layers, each unordered pair once
        others = min(pool, pictures - 1) if isinstance(pool, int) else pictures - 1
        total += pictures * others / 2 * tiles * 12 * 2e-9 * tokens**2 * width
    speed = SPEED[kind] * (torch.get_num_threads() if kind == "cpu" else 1)
    activations = 4.0 * plan["batch_size"] * tokens * width * (layers + 12)
    stated = f"{total / max(pictures, 1):.3g} GFLOP a picture at {speed:g} GFLOP a second"
    return {
        "seconds": round(total / speed, 1),
        "memory_bytes": int(BASE_MEMORY + 4e6 * whole + activations),
        "basis": stated,
    }


# ------------------------------------------------------------------ stdout
def show_plan(plan: Mapping[str, Any], as_json: bool) -> None:
    """Prints the plan, as lines or as one JSON document."""
    print_json(plan) if as_json else typer.echo("\n".join(_lines(plan)))


def _lines(plan: Mapping[str, Any]) -> Iterable[str]:
    kinds = ", ".join(f"{count} {ending}" for ending, count in plan["by_ending"].items())
    yield f"Would score {many(plan['pictures'], 'picture')} ({_size(plan['bytes'])}): {kinds}."
    if plan["output_of_earlier_runs"]:
        yield f"Left out as output of earlier runs: {many(plan['output_of_earlier_runs'], 'picture')}."
    if plan["references"]:
        yield f"Would encode {many(plan['references'], 'reference image')}."
    if plan["on_record"]:
        yield f"Scored already in {plan['out']}: {many(plan['on_record'], 'picture')}."
    elif plan["out_holds_a_run"]:
        yield f"{plan['out']} holds a run already: it needs --resume or --overwrite."
    tiles = f", about {plan['tiles_per_picture']:.3g} tiles a picture" if plan["tiles_per_picture"] else ""
    how = "compared with each other" if plan["compared_with_each_other"] else "each by itself"
    yield f"Detector: {plan['method']} on {plan['backbone']}, {plan['device']}, batches of {plan['batch_size']}{tiles}; {how}."
    if plan["seconds"] is None:
        yield f"Time and memory: not known; {plan['basis']}."
    else:
        yield f"Time: about {_duration(plan['seconds'])} ({plan['basis']})."
        yield f"Memory: about {_size(plan['memory_bytes'])}."
    yield "Nothing was loaded, scored or written."


def _duration(seconds: float) -> str:
    """Two digits of the unit that fits."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.2g} {unit}"
    return many(max(1, round(seconds)), "second")


def _size(count: float) -> str:
    """Bytes in the unit that fits."""
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
