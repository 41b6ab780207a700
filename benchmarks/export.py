"""Exported models beside torch: pictures per second in interleaved rounds, peak memory of fresh processes, differences.

    python benchmarks/export.py --quick                     # compact, with the small tower alone and with both
    python benchmarks/export.py                             # and WinCLIP, APRIL-GAN, AnomalyCLIP on ViT-L/14-336 and ViT-B/16+
    python benchmarks/export.py --quick --real DIR          # image AUROC of the default on DIR's sets (see real_pictures.py)
    python benchmarks/export.py --case ViT-L --rounds 3 --batch-size 2 --json all.json      # a part, merged into the file
    python benchmarks/export.py --show all.json             # one table of what several runs measured

A run in parts: ``--case`` takes the cases whose name contains a text ("compact", "ViT-B", "winclip random:ViT-L"), ``--json``
keeps the rows of other cases that the file has, and ``--form`` leaves forms out. The forms of a case are of one run,
interleaved. A method is traced once for all its forms. ``--pictures 2 --rounds 3 --batch-size 1`` is for ViT-L/14-336, where a
pass takes seconds.

Towers of the papers' methods have random weights, as in ``speed.py``: time does not depend on their values. What is timed is
the model alone, from preprocessed pixels to maps. Differences are those of the certificate, on the example pictures and, in
float32, synthetic defects; int8 is calibrated on the example pictures, with ``--real`` on a few normal ones of every set.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from memory import peak_mb
from real_pictures import Pictures, auroc, scores_of
from speed import build, timed

import zsad
from zsad.common.assets import asset
from zsad.detector import Detector
from zsad.exports import open_export
from zsad.exports.graph import Graph
from zsad.exports.pictures import EXAMPLES
from zsad.exports.writing import write_onnx
from zsad.images.reading import list_images

COMPACT = [("compact", None, {"tower": "small"}), ("compact", None, {})]
LARGE = [
    (method, f"random:{tower}", {})
    for tower in ("ViT-B-16-plus-240", "ViT-L-14-336")
    for method in ("winclip", "april_gan", "anomalyclip")
]
FORMS = {
    "onnxruntime": {"format": "onnx"},
    "OpenVINO": {"format": "openvino"},
    "OpenVINO int8": {"format": "openvino", "precision": "int8"},
    "onnxruntime int8": {"format": "onnx", "precision": "int8"},
}
TARGET = "metal nut"
NORMAL = 4  # pictures of each real set that int8 is calibrated on


def named(case: tuple[str, str | None, dict[str, Any]]) -> str:
    """A case in the table."""
    return " ".join([case[0], *filter(None, [case[1]]), *map(str, case[2].values())])


def made(method: str, backbone: str | None, arguments: dict[str, Any]) -> Detector:
    """The method; weights that are not there count as trained."""
    torch.manual_seed(0)
    detector: Detector = build(method, backbone, **arguments)
    detector.trained = True
    return detector.eval()


def ready(detector: Detector, batch_size: int) -> Callable[[], Any]:
    """A call that scores one seeded batch; random pixels as the detector takes them."""
    side = detector.backbone.image_size
    drawn = torch.randint(0, 256, (batch_size, side, side, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    context = detector.prepare(TARGET)
    own = detector.for_context(context)
    images = torch.stack([own.preprocess(one.numpy()) for one in drawn])
    return lambda: own(images, context)


@contextmanager
def traced_once(path: Path) -> Iterator[None]:
    """Exports within write the ONNX model of the first of them, which a ViT-L takes a minute for."""

    def write(graph: Graph, wanted: Path) -> None:
        if path.is_file():
            with torch.no_grad():
                graph(graph.example())  # the names of its outputs
        else:
            write_onnx(graph, path)
        shutil.copyfile(path, wanted)

    with patch("zsad.exports.making.write_onnx", write), patch("zsad.exports.writing.write_onnx", write):
        yield


def exported(
    detector: Detector, folder: Path, calibration: Any, forms: Sequence[str] = tuple(FORMS), count: int = 0
) -> Iterator[tuple[str, Detector, dict[str, Any]]]:
    """Name, opened model and differences of each form."""
    folder.mkdir(exist_ok=True)
    for name, how in ((name, FORMS[name]) for name in forms):
        out = folder / name.replace(" ", "-")
        shown = calibration if "precision" in how or count else None
        with traced_once(folder / "traced.onnx"):
            found = zsad.export(detector, TARGET, out=out, pictures=shown, allow=True, **how)
        figures = {"score": found.score["worst"], "map": found.map["worst"], "rank": found.rank_correlation}
        yield name, open_export(out), figures | {"passed": found.passed}


def fresh_peak_mb(case: tuple[str, str | None, dict[str, Any]], folder: Path | None, batch_size: int, threads: int) -> float:
    """Peak resident memory of a fresh process that scores three batches, by the method in torch or a folder's model."""
    told = json.dumps([case, None if folder is None else str(folder)])
    words = [sys.executable, __file__, "--only", told, "--batch-size", str(batch_size), "--threads", str(threads)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1])


def only(told: str, batch_size: int) -> None:
    """What ``fresh_peak_mb`` starts."""
    case, folder = json.loads(told)
    call = ready(made(*case) if folder is None else open_export(folder), batch_size)
    with torch.inference_mode():
        for _ in range(3):
            call()
    print(peak_mb())


def measure(case: tuple[str, str | None, dict[str, Any]], folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per form, torch first."""
    detector = made(*case)
    calls, rows = {"torch": ready(detector, given.batch_size)}, {"torch": dict[str, Any]()}
    shown = sorted(asset(EXAMPLES).glob("*.png"))[: given.pictures or None]
    for name, model, figures in exported(detector, folder, shown, given.form or tuple(FORMS), given.pictures):
        calls[name], rows[name] = ready(model, given.batch_size), figures
    with torch.inference_mode():
        for call in [*calls.values()] * 2:
            call()
        rounds = [{name: timed(call) for name, call in calls.items()} for _ in range(given.rounds)]
    for name, row in rows.items():
        own = None if name == "torch" else folder / name.replace(" ", "-")
        row["pictures per second"] = given.batch_size / median(one[name] for one in rounds)
        row["times torch"] = median(one["torch"] / one[name] for one in rounds)
        row["peak MB"] = fresh_peak_mb(case, own, given.batch_size, given.threads)
    about = {"batch": given.batch_size, "rounds": given.rounds}
    return [{"case": named(case), "form": name} | about | row for name, row in rows.items()]


def real(folder: Path, sets: list[str], place: Path) -> list[dict[str, Any]]:
    """Image AUROC of the default, each picture by itself, in torch and in every form: a row per set."""
    read = [Pictures.read(folder / name) for name in sets]
    normal = [path for one in read for path in one.paths[: min(NORMAL, int((~one.bad).sum()))]]
    models: dict[str, Any] = {"torch": made("compact", None, {})}
    models |= {name: model for name, model, _ in exported(models["torch"], place, normal)}
    rows = []
    for one in read:
        row: dict[str, Any] = {"set": one.name}
        for name, model in models.items():
            scored = list(zsad.Inspector(model, TARGET, device="cpu", batch="off").scored(list_images(one.paths)))
            row[name] = auroc(one, scores_of(scored), range(len(one.paths)))
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def kept(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a file about other cases than the new ones, and the new ones behind them."""
    old = json.loads(path.read_text()) if path.is_file() else []
    new = {row.get("case", row.get("set")) for row in rows}
    return [row for row in old if row.get("case", row.get("set")) not in new] + rows


def write(path: Path | None, rows: list[dict[str, Any]]) -> None:
    """Writes rows to a file, if there is to be one, beside those that it has of other cases."""
    if path:
        path.write_text(json.dumps(kept(path, rows), indent=1))


def chosen(case: tuple[str, str | None, dict[str, Any]], parts: list[str] | None) -> bool:
    """Whether a case's name contains one of some texts; None: all do."""
    return parts is None or any(part in named(case) for part in parts)


def print_table(rows: list[dict[str, Any]]) -> None:
    """As Markdown."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    print("| " + " | ".join(keys) + " |\n" + "|---" * len(keys) + "|")
    for row in rows:
        values = [row.get(key, "") for key in keys]
        print("| " + " | ".join(f"{value:.3g}" if type(value) is float else str(value) for value in values) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="compact alone")
    parser.add_argument("--case", action="append", help="only cases whose name contains this; may be repeated")
    parser.add_argument("--form", action="append", choices=list(FORMS), help="only these beside torch; may be repeated")
    parser.add_argument("--pictures", type=int, default=0, help="examples for differences and int8; 0: all, fp32 with defects")
    parser.add_argument("--show", type=Path, help="print the table of a file that --json wrote, and measure nothing")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--real", type=Path, help="image AUROC on the sets of this folder, in place of times")
    parser.add_argument("--sets", help="only these, with commas between")
    parser.add_argument("--json", type=Path, help="file of all rows; those of other cases that it has are kept")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.only:
        only(given.only, given.batch_size)
        return
    if given.show:
        print_table(json.loads(given.show.read_text()))
        return
    cases = [case for case in (COMPACT if given.quick else COMPACT + LARGE) if chosen(case, given.case)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if given.real:
            sets = sorted(path.name for path in given.real.iterdir() if (path / "bad").is_dir())
            rows = real(given.real, given.sets.split(",") if given.sets else sets, Path(folder))
        else:
            for number, case in enumerate(cases):
                rows += measure(case, Path(folder) / str(number), given)
                write(given.json, rows)
                shutil.rmtree(Path(folder) / str(number))  # of a ViT-L, several gigabytes
    print_table(rows)
    print(f"\n{platform.machine()}, {given.threads} threads, batches of {given.batch_size}, torch {torch.__version__}")
    write(given.json, rows)


if __name__ == "__main__":
    main()
