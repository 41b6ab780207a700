"""Scores pictures with an exported model. Needs numpy, Pillow and onnxruntime or openvino; neither zsad nor torch.

    python run.py photos/ part.png > scores.jsonl

Each line is a JSON object: path, score, label and regions, or path and error. This file lies beside metadata.json and the
model, is copied into every folder that ``zsad export`` writes, and may be changed freely.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SPECK = 2e-4  # regions below this share of the picture are left out


def main() -> int:
    """Scores the given pictures, prints a line for each; 3 where one could not be read."""
    parser = argparse.ArgumentParser(description="Scores pictures with an exported model.")
    parser.add_argument("source", nargs="+", help="pictures and folders")
    parser.add_argument("--model", default=Path(__file__).parent, type=Path, help="the exported folder")
    parser.add_argument("--threshold", type=float, help="score from which on a picture is anomalous, instead of the model's")
    parser.add_argument("--pixel-threshold", type=float, help="map value from which on a place is a region, likewise")
    parser.add_argument("--threads", type=int, default=0, help="of the runtime; 0: its own choice")
    given = parser.parse_args()
    model = Model(given.model, given.threads)
    failed = False
    for path in pictures(given.source):
        try:
            row = model.answer(read(path), given.threshold, given.pixel_threshold)
        except Exception as error:  # one unreadable picture is one line
            row, failed = {"error": f"{type(error).__name__}: {error}"}, True
        print(json.dumps({"path": str(path), **row}, ensure_ascii=False), flush=True)
    return 3 if failed else 0


def pictures(sources: list[str]) -> Iterator[Path]:
    """The files, and those below the folders, in order."""
    for source in map(Path, sources):
        inside = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES) if source.is_dir() else [source]
        yield from inside


def read(path: Path) -> np.ndarray[Any, Any]:
    """(H, W, 3) uint8 RGB, upright, transparency on white; 8 bits a channel alone."""
    with Image.open(path) as file:
        if file.mode.startswith(("I", "F")):
            raise ValueError(f"{file.mode} has more than 8 bits a channel; convert it first, or use zsad")
        see_through = file.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in file.info
        image = ImageOps.exif_transpose(file).convert("RGBA" if see_through else "RGB")
    if not see_through:
        return np.asarray(image)
    pixels = np.asarray(image).astype(np.uint16)
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    if not alpha.any():  # an unused byte and no transparency
        return colour.astype(np.uint8)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


class Model:
    """A model and its metadata.

    Args:
        folder: as ``zsad export`` wrote it.
        threads: of the runtime; 0: its own choice.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.meta = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        facts = self.meta["model"]
        if facts["kind"] != "scores":
            sys.exit(
                "run.py: this model's pictures are compared with each other, which zsad does: zsad predict --method FOLDER"
            )
        for name, digest in facts["files"].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                sys.exit(f"run.py: {name} is not the file that was exported; copy the folder again")
        path = str(folder / next(iter(facts["files"])))
        self.run = openvino_model(path, threads) if facts["runtime"] == "openvino" else onnx_model(path, threads)

    def answer(
        self, rgb: np.ndarray[Any, Any], threshold: float | None = None, pixel_threshold: float | None = None
    ) -> dict[str, Any]:
        """Score, label and regions of one picture, (H, W, 3) uint8."""
        found = self.run(resized(rgb, self.meta["input"])[None])
        score, levels = float(str(found["score"][0])), self.meta["thresholds"] or {}
        row: dict[str, Any] = {"score": score, "label": label(score, levels, threshold)}
        level = levels.get("pixel") if pixel_threshold is None else pixel_threshold
        row["regions"] = [] if level is None else regions(enlarged(found["map"][0], rgb.shape[:2]), level)
        return row


def resized(rgb: np.ndarray[Any, Any], facts: dict[str, Any]) -> np.ndarray[Any, Any]:
    """(H, W, 3) uint8 of any size -> what the model takes: a square, or squares of several sides beside each other."""
    (height, width), how = facts["size"], facts["resize"]
    sheet, left = np.zeros((height, width, 3), np.uint8), 0
    for side in how.get("sides", [width]):
        small = Image.fromarray(rgb)
        if small.size != (side, side):
            small = small.resize((side, side), Image.Resampling[how["filter"].upper()])
        sheet[:side, left : left + side] = small
        left += side
    return sheet


def onnx_model(path: str, threads: int) -> Any:
    """A function from pixels to outputs by name, by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


def openvino_model(path: str, threads: int) -> Any:
    """A function from pixels to outputs by name, by OpenVINO in float32, which is not its own choice everywhere."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
    model = openvino.Core().compile_model(path, "CPU", settings)
    return lambda images: {one.get_any_name(): value for one, value in model({"images": images}).items()}


def label(score: float, levels: dict[str, Any], threshold: float | None) -> str | None:
    """ "anomalous", "review" or "normal"; None where there is no threshold."""
    anomalous = levels.get("anomalous") if threshold is None else threshold
    if anomalous is None:
        return None
    if score >= anomalous:
        return "anomalous"
    review = levels.get("review") if threshold is None else None
    return "review" if review is not None and score >= review else "normal"


def enlarged(grid: np.ndarray[Any, Any], size: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """(h, w) -> (H, W), bilinear, pixel centres aligned."""
    for axis, wanted in enumerate(size):
        old = grid.shape[axis]
        at = np.clip((np.arange(wanted) + 0.5) * old / wanted - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape((-1, 1) if axis == 0 else (1, -1)).astype(np.float32)
        grid = grid.take(low, axis) * (1 - share) + grid.take(np.minimum(low + 1, old - 1), axis) * share
    return grid


def regions(places: np.ndarray[Any, Any], level: float) -> list[dict[str, Any]]:
    """Connected places (8 neighbours) of a map (H, W) at or above a level, the highest first: box x0 y0 x1 y1, area, peak."""
    left, found = places >= level, []
    for start in np.argwhere(left):
        if not left[tuple(start)]:
            continue
        left[tuple(start)] = False
        waiting, inside = deque([(int(start[0]), int(start[1]))]), []
        while waiting:
            y, x = waiting.popleft()
            inside.append((y, x))
            y0, x0 = max(y - 1, 0), max(x - 1, 0)
            for dy, dx in np.argwhere(left[y0 : y + 2, x0 : x + 2]).tolist():
                left[y0 + dy, x0 + dx] = False
                waiting.append((y0 + dy, x0 + dx))
        if len(inside) >= SPECK * places.size:
            ys, xs = np.array(inside).T
            box = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
            found.append({"box": box, "area": len(inside), "peak": float(str(places[ys, xs].max()))})
    return sorted(found, key=lambda one: (-one["peak"], one["box"]))


if __name__ == "__main__":
    sys.exit(main())
