"""A folder of pictures: pictures per second with decoding, the share of each stage, and resident memory as it goes.

    python benchmarks/folder.py                          # 1,000 made JPEGs of 640 x 480, compared with each other
    python benchmarks/folder.py --batch off              # each by itself
    python benchmarks/folder.py --report                 # all that `zsad predict` writes too: overlays, tables, report
    python benchmarks/folder.py --folder photos/ --method winclip

Memory after the first 100 pictures and at the end should be alike: nothing may be kept of a scored picture. Seconds of a stage
are summed over its threads: pictures are read and drawn beside the model, so all stages together can take longer than the run.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import torch
from PIL import Image
from tqdm import tqdm

import zsad
from zsad.decision.thresholds import Thresholds
from zsad.images.reading import ImageRef, list_images
from zsad.inference import encoded, scorer
from zsad.inference.inspector import Inspector
from zsad.runs import drawing, writers
from zsad.runs.drawing import Options
from zsad.runs.folder import RunFolder
from zsad.synthetic.defects import smooth_noise

SCORES = "scores and maps"


def make_pictures(folder: Path, count: int) -> None:
    """Seeded JPEGs of a mottled surface, 640 x 480."""
    for number in range(count):
        rng = np.random.default_rng(number)
        grey = 128 + 25 * smooth_noise(rng, (480, 640), 12, 3)
        Image.fromarray(np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)).save(
            folder / f"{number:05}.jpg"
        )


class Stages:
    """Seconds that were spent in functions, by stage and summed over threads; a stage within another counts for itself."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.lock, self.local = threading.Lock(), threading.local()

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts for ``stage``."""

        def call(*arguments: Any, **named: Any) -> Any:
            outer, self.local.inner = getattr(self.local, "inner", 0.0), 0.0
            begun = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                took = time.perf_counter() - begun
                with self.lock:
                    self.seconds[stage] += took - self.local.inner
                self.local.inner = outer + took

        return call

    def watching(self, detector: zsad.Detector) -> ExitStack:
        """Until it is left, what a run with that detector spends is counted."""
        stack = ExitStack()
        for stage, owner, name in (
            ("decoding", scorer, "load_image"),
            ("decoding for the drawing", drawing, "load_image"),
            ("preprocessing", type(detector), "preprocess"),
            ("encoder", scorer.Scorer, "encode"),
            ("features to and from disk", encoded, "save_features"),
            ("features to and from disk", encoded.FeatureFiles, "__getitem__"),
            (SCORES, type(detector), "score"),
            ("drawing", drawing.Drawer, "__call__"),
            ("report", writers, "write_report"),
        ):
            stack.enter_context(mock.patch.object(owner, name, self.timed(stage, getattr(owner, name))))
        compared = type(detector).score_set
        stack.enter_context(mock.patch.object(type(detector), "score_set", lambda *given: self.each(compared(*given))))
        return stack

    def each(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items, whose making counts for scores and maps."""
        step = self.timed(SCORES, iter(items).__next__)
        while True:
            try:
                yield step()
            except StopIteration:
                return


def measure(folder: Path, report: bool, **settings: Any) -> dict[str, object]:
    """Runs the whole folder once; ``report`` writes what ``zsad predict`` does, else it ends with maps at model size."""
    refs = list(list_images(folder))
    inspector = Inspector(**settings).over(len(refs))
    process, memory, done = psutil.Process(), dict[str, float](), 0

    def watched(items: Iterable[Any], label: str = "scoring", total: int = len(refs)) -> Iterator[Any]:
        nonlocal done
        for item in tqdm(items, label, total, disable=None):
            done += label == "scoring"
            if done == 100:
                memory.setdefault("resident_mb_after_100", process.memory_info().rss / 1e6)
            yield item

    stages, begun = Stages(), time.perf_counter()
    with stages.watching(inspector.detector):
        if report:
            write_run(refs, inspector, watched)
        else:
            for _ in watched(inspector.scored(refs)):
                pass
    seconds = time.perf_counter() - begun
    memory["resident_mb_at_the_end"] = process.memory_info().rss / 1e6
    found = settings | {"compared with each other": inspector.needs_set, "pictures": done}
    spent = {f"share of {stage}": took / stages.seconds.total() for stage, took in stages.seconds.most_common()}
    return found | {"pictures_per_second": done / seconds} | memory | spent


def write_run(refs: list[ImageRef], inspector: Inspector, watch: writers.Watch) -> None:
    """The files of ``zsad predict``, in a folder that goes."""
    with tempfile.TemporaryDirectory() as made, RunFolder(Path(made) / "out", inspector.describe()) as run:
        run.fill(refs, inspector.scored, inspector.batch_size, watch=watch)
        run.write(inspector, Thresholds(), Options(), watch=watch)
        run.finish({})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--count", type=int, default=1000, help="made pictures, where no folder is given")
    parser.add_argument("--method", default="compact")
    parser.add_argument("--backbone")
    parser.add_argument("--batch", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--tower", choices=("both", "small"), help="of compact")
    parser.add_argument("--report", action="store_true", help="write what zsad predict writes")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if given.folder is None:
            make_pictures(Path(made), given.count)
        settings = {"method": given.method, "backbone": given.backbone, "batch": given.batch}
        settings |= {"tower": given.tower} if given.tower else {}
        found = measure(given.folder or Path(made), given.report, **settings)
    found |= {
        "data": str(given.folder or "made, 640 x 480 JPEG"),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    found |= {"torch": torch.__version__, "python": platform.python_version()}
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        print(
            "\n".join(
                f"{key:36} {value:.{2 if value < 1 else 1}f}" if isinstance(value, float) else f"{key:36} {value}"
                for key, value in found.items()
            )
        )


if __name__ == "__main__":
    main()
