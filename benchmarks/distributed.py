"""What scoring into a table costs, and whether it loses anything: engine, memory, resume, faults, equality.

    python benchmarks/distributed.py --speed 400 --workers 1 2       pictures per second of the real detector
    python benchmarks/distributed.py --engine 20000 --workers 1 2 4 8  the same with a scorer that sleeps and hashes
    python benchmarks/distributed.py --memory 100000                 the driver's memory while so many are scored
    python benchmarks/distributed.py --resume 1000000                start of a run over a table of so many rows
    python benchmarks/distributed.py --equal 2000 --workers 1 2 3    rows against those of zsad predict, with hostile files
    python benchmarks/distributed.py --faults 300                    workers and drivers killed at five moments each
    python benchmarks/distributed.py --pool FOLDER                   a pool against the whole folder: rank correlation of scores

Everything runs on this machine, in a temporary folder that goes at the end. Pictures are small textures (``--side`` pixels).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from PIL import Image

from zsad.distributed.job import Job, in_process
from zsad.distributed.levels import Outcome
from zsad.distributed.places import Place
from zsad.distributed.ray_engine import RayEngine
from zsad.distributed.scorer import BatchScorer
from zsad.distributed.specification import attachments_of, specify
from zsad.distributed.table import COLUMNS, arrow_table, lacking, recorded, write_part
from zsad.distributed.work import Done, Unit, UnitScorer
from zsad.inference.inspector import Inspector

ROOT = Path(__file__).resolve().parents[1]
SETTINGS: dict[str, Any] = {"method": "compact", "target": "texture", "tower": "small", "batch_size": 8, "workers": 1}
PAUSE = 0.0005  # seconds per picture of the scorer that sleeps
MOMENTS = 5


def textures(folder: Path, count: int, side: int, seed: int = 0) -> None:
    """So many different pictures in folders of a thousand, one in fifty with a bright spot."""
    rng = np.random.default_rng(seed)
    base = rng.integers(90, 130, (64, side, side, 3), np.uint8)
    for number in range(count):
        place = folder / f"{number // 1000:04d}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.roll(base[number % 64], number, 0) + np.uint8(number % 7)
        if number % 50 == 0:
            pixels[side // 4 : side // 2, side // 4 : side // 2] = 250
        Image.fromarray(pixels).save(place / f"{number:07d}.jpg", quality=90)


class Sleeping(BatchScorer):
    """A scorer that reads a picture's bytes, hashes them and sleeps: what is left is the engine's own time."""

    @property
    def inspector(self) -> Any:
        self.worker = f"sleeping:{os.getpid()}"
        return None

    def rows(self, paths: Any, contents: Any = None) -> list[dict[str, Any]]:
        """Rows whose score is a hash."""
        _ = self.inspector
        time.sleep(PAUSE * len(paths))
        return [dict.fromkeys(COLUMNS) | self._known(path) for path in paths]

    def _known(self, path: str) -> dict[str, Any]:
        digest = hashlib.sha256(Path(path).read_bytes()).digest()
        score = float(np.float32(int.from_bytes(digest[:4], "big") / 2**32))
        facts = {"path": path, "name": self.name_of(path), "score": score, "method": "sleeping", "worker": self.worker}
        return facts | {"blank": False, "regions": [], "notes": [], "width": 64, "height": 64, "milliseconds": 1000 * PAUSE}


class SleepingActor:
    """As ``ray_engine.RayActor``, with ``Sleeping``."""

    def __init__(self, scorer: UnitScorer, attachments: list[Any]) -> None:
        self.score = UnitScorer(Sleeping(scorer.scorer.specification), scorer.place)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Scores units."""
        columns = [batch[key].tolist() for key in ("file", "group", "pictures")]
        done = [vars(self.score(Unit(*values))) for values in zip(*columns, strict=True)]
        return {key: [one[key] for one in done] for key in done[0]}


def job(source: Path | str, out: Path | str, **more: Any) -> tuple[Job, float | None]:
    inspector = Inspector(**SETTINGS, batch="off")
    return Job(
        specify(inspector, SETTINGS, source=str(source)), attachments_of(inspector), str(out), **more
    ), inspector.far_score


def unwatched(done: Iterator[Done], left: int, before: int) -> Iterator[Done]:
    return done


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    rows = pyarrow.parquet.read_table(out / "table").to_pylist()
    named = {row["path"]: row | {"milliseconds": 0, "worker": ""} for row in rows}
    assert len(named) == len(rows), "a picture is there twice"
    return named


def rate_of(source: Path, out: Path, engine: Any, count: int) -> tuple[float, float]:
    """Pictures per second from the first unit that is done to the last, and seconds before the first."""
    seen: list[tuple[float, int]] = []

    def watch(done: Iterator[Done], left: int, before: int) -> Iterator[Done]:
        for one in done:
            seen.append((time.perf_counter(), one.pictures))
            yield one

    given, far = job(source, out)
    begun = time.perf_counter()
    given.run(engine, watch, far)
    assert sum(pictures for _, pictures in seen) == count
    first, last = seen[0][0], seen[-1][0]
    return sum(pictures for _, pictures in seen[1:]) / max(last - first, 1e-9), first - begun


def speed(scratch: Path, count: int, side: int, workers: list[int], sleeping: bool) -> None:
    from zsad.distributed import ray_engine

    textures(scratch / "in", count, side)
    if sleeping:
        ray_engine.RayActor = SleepingActor  # type: ignore[misc,assignment]
        print(f"{count} pictures, each {1000 * PAUSE:g} ms of sleep: at best {1 / PAUSE:.0f} per second and worker")
    else:
        rate, start = rate_of(scratch / "in", scratch / "here", in_process, count)
        print(f"in this process: {rate:.1f} per second, the first after {start:.1f} s")
    for number in workers:
        rate, start = rate_of(scratch / "in", scratch / f"out{number}", RayEngine(actors=number), count)
        print(f"{number} workers: {rate:.1f} per second, the first after {start:.1f} s", flush=True)


def resident() -> float:
    """Resident memory of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def memory(scratch: Path, count: int, side: int, workers: int) -> None:
    from zsad.distributed import ray_engine

    ray_engine.RayActor = SleepingActor  # type: ignore[misc,assignment]
    textures(scratch / "in", count, side)
    seen: list[tuple[int, float]] = []

    def watch(done: Iterator[Done], left: int, before: int) -> Iterator[Done]:
        total = 0
        for one in done:
            total += one.pictures
            seen.append((total, resident()))
            yield one

    given, far = job(scratch / "in", scratch / "out")
    begun = time.perf_counter()
    given.run(RayEngine(actors=workers), watch, far)
    after = [mb for total, mb in seen if total >= count // 10]
    print(f"{count} pictures in {time.perf_counter() - begun:.0f} s")
    print(f"driver {after[0]:.0f} MB at a tenth of them, {max(after):.0f} MB at most, {resident():.0f} MB at the end")
    print(f"grown by {100 * (max(after) / after[0] - 1):.1f} %")


def resume(scratch: Path, count: int) -> None:
    """A table of so many rows, then what a start does with it; in a process of its own for the peak."""
    place = Place(str(scratch / "out"))
    begun, blank = time.perf_counter(), dict.fromkeys(COLUMNS) | {"regions": [], "notes": [], "blank": False}
    rng = np.random.default_rng(0)
    for start in range(0, count, 1024):
        scores = rng.normal(size=1024).astype(np.float32).tolist()
        numbers = range(start, min(start + 1024, count))
        rows = [blank | {"path": path_of(n), "name": f"{n}.jpg", "score": scores[n - start], "worker": "w"} for n in numbers]
        write_part(place, f"part-{start:09d}.parquet", arrow_table(rows))
    size = sum(file.stat().st_size for file in (scratch / "out/table").iterdir())
    print(f"table of {count} rows written in {time.perf_counter() - begun:.0f} s: {size / count:.0f} bytes per row")
    subprocess.run([sys.executable, __file__, "--start", str(scratch / "out"), "--count", str(count)], check=True)


def path_of(number: int) -> str:
    return f"/data/line-{number % 37:02d}/2026-11-{number % 30:02d}/part-{number:09d}.jpg"


def start(out: str, count: int) -> None:
    """Lists what the table has, compares a listing with it, and labels every row."""
    from memory import peak_mb

    from zsad.decision.thresholds import Thresholds
    from zsad.distributed.levels import finish

    before = peak_mb()
    begun = time.perf_counter()
    known = recorded(Place(out))
    scanned = time.perf_counter()
    new = sum(int(lacking([path_of(n) for n in range(at, at + 8192)], known).sum()) for at in range(0, count + 8192, 8192))
    joined = time.perf_counter()
    print(f"scan {scanned - begun:.1f} s, comparison with a listing {joined - scanned:.1f} s ({new} to score)")
    print(f"peak {peak_mb():.0f} MB ({before:.0f} before)")
    outcome = finish(Place(out), Thresholds(), None)
    print(f"finish (repeats, levels, labels) {time.perf_counter() - joined:.1f} s; peak {peak_mb():.0f} MB")
    print(dict(outcome.counts))


def equal(scratch: Path, count: int, side: int, workers: list[int]) -> None:
    sys.path.append(str(ROOT / "tests/cli"))
    from test_hostile import contents

    source = scratch / "in"
    textures(source / "synthetic", count - 24 - 60, side)
    for folder in ("brick", "solar-cells"):
        for path in (ROOT / "demo/examples" / folder).glob("*.png"):
            (source / folder).mkdir(exist_ok=True)
            (source / folder / path.name).write_bytes(path.read_bytes())
    kinds = ("cut-0.02", "empty.", "zeros", "page", "pointer")
    hostile = [(name, data) for name, data in contents() if name.startswith(kinds) and not name.endswith(".avi")]
    hostile += [(f"again-{name}", data) for name, data in hostile]
    (source / "hostile").mkdir()
    for name, data in hostile[:60]:
        (source / "hostile" / name).write_bytes(data)
    words = ["predict", str(source), "--batch", "off", "--set", "tower=small", "--batch-size", "8", "--limit-report", "0"]
    code = "from zsad.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, *words, "--out", str(scratch / "plain")], check=False, stdout=subprocess.DEVNULL
    )
    theirs = {row["path"]: row for row in map(json.loads, (scratch / "plain/predictions.jsonl").read_text().splitlines())}
    tables = []
    for number in workers:
        given, far = job(source, scratch / f"out{number}")
        outcome = given.run(RayEngine(actors=number), unwatched, far)
        tables.append(rows_of(scratch / f"out{number}"))
        compare(tables[-1], theirs, outcome, number)
    same = all(one == tables[0] for one in tables)
    print(f"tables of {workers} workers equal, but for order: {same}")


def compare(ours: dict[str, dict[str, Any]], theirs: dict[str, dict[str, Any]], outcome: Outcome, number: int) -> None:
    both = [(row, theirs[path]) for path, row in ours.items()]
    apart = max(abs(own["score"] - other["pred_score"]) for own, other in both if own["score"] is not None)
    labels = sum(own["label"] != other["pred_label"] for own, other in both)
    errors = sum(own["error"] != other["error"] for own, other in both)
    print(f"{number} workers: {len(ours)} rows of {len(theirs)}, {outcome.counts['error']} errors", end="; ")
    print(f"scores apart by {apart:.2g}, {labels} verdicts and {errors} errors differ", flush=True)


# ------------------------------------------------------------------ faults
def driven(source: Path, out: Path) -> subprocess.Popen[bytes]:
    """A driver in a process of its own."""
    code = [sys.executable, __file__, "--drive", str(source), str(out)]
    return subprocess.Popen(code, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def drive(source: str, out: str) -> None:
    given, far = job(source, out)
    given.run(RayEngine(actors=2), unwatched, far)


def done_in(out: Path) -> int:
    return len(list((out / "table").glob("part-*.parquet"))) if (out / "table").is_dir() else 0


def faults(scratch: Path, count: int, side: int) -> None:
    source = scratch / "in"
    textures(source, count, side)
    (source / "0000/empty.jpg").write_bytes(b"")
    given, far = job(source, scratch / "whole")
    given.run(in_process, unwatched, far)
    whole = rows_of(scratch / "whole")
    units = done_in(scratch / "whole")
    print(f"{len(whole)} pictures in {units} units, undisturbed")
    for moment in range(MOMENTS):
        workers_killed(source, scratch / f"worker{moment}", moment, units, whole)
    for moment in range(MOMENTS):
        driver_killed(source, scratch / f"driver{moment}", moment, units, whole)


def workers_killed(source: Path, out: Path, moment: int, units: int, whole: dict[str, Any]) -> None:
    after, killed = moment * units // MOMENTS, list[int]()

    def watch(done: Iterator[Done], left: int, before: int) -> Iterator[Done]:
        if not after:
            threading.Thread(target=kill_first_worker, args=(killed,), daemon=True).start()
        for number, one in enumerate(done, 1):
            if number >= after and not killed:
                killed.append(int(one.worker.rpartition(":")[2]))
                os.kill(killed[0], signal.SIGKILL)
            yield one

    given, far = job(source, out)
    given.run(RayEngine(actors=2), watch, far)
    check(f"worker killed after {after} units ({len(killed)} killed)", rows_of(out), whole)


def kill_first_worker(killed: list[int]) -> None:
    """Kills the first actor that comes up, before it has scored anything."""
    import psutil

    while not killed:
        for child in psutil.Process().children(recursive=True):
            try:
                if "MapWorker" in " ".join(child.cmdline()):
                    child.kill()
                    killed.append(child.pid)
                    return
            except psutil.Error:
                continue
        time.sleep(0.05)


def driver_killed(source: Path, out: Path, moment: int, units: int, whole: dict[str, Any]) -> None:
    after, driver = moment * units // MOMENTS, driven(source, out)
    while driver.poll() is None and not ((out / "manifest.json").is_file() and done_in(out) >= after):
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    seen = done_in(out)
    given, far = job(source, out)
    given.run(RayEngine(actors=2), unwatched, far)
    check(f"driver killed after {seen} units, then the same command", rows_of(out), whole)


def check(what: str, rows: dict[str, Any], whole: dict[str, Any]) -> None:
    missing = len(whole.keys() - rows.keys())
    other = sum(not alike(rows[path], row) for path, row in whole.items() if path in rows)
    print(f"{what}: {missing} missing, {other} rows differ", flush=True)
    assert missing == other == 0


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether rows are equal, scores to 1e-6: their last digits depend on the pictures of the same pass."""
    keys = ("score", "peak", "threshold")
    near = all(one[key] == other[key] or abs(one[key] - other[key]) < 1e-6 for key in keys)
    return near and one | dict.fromkeys(keys) == other | dict.fromkeys(keys)


# ------------------------------------------------------------------ a pool
def pool(folder: str) -> None:
    """Rank correlation of scores by a pool with those of the whole folder; AUROC of both where folders say what is good."""
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    from zsad.distributed.pool import POOL, POOL_FILE, draw, make_pool, pooled_inspector

    place, inspector = Place(folder), Inspector("compact", "object", batch="off")
    paths = [path for path, _ in place.pictures()]
    scorer = BatchScorer(specify(inspector, {"method": "compact", "target": "object"}, source=folder))
    content, facts = make_pool(inspector, map(scorer.ref, draw(paths, POOL, 0)), 0)
    by_pool = [one.score for one in pooled_inspector(inspector, {POOL_FILE: content}).scored(map(scorer.ref, paths))]
    whole = [one.score for one in Inspector("compact", "object", batch="on").scored(map(scorer.ref, paths))]
    good = [score is not None and other is not None for score, other in zip(by_pool, whole, strict=True)]
    first, second = (np.array([one for one, kept in zip(s, good, strict=True) if kept], float) for s in (by_pool, whole))
    print(f"{len(paths)} pictures, a pool of {facts['pieces']}, {len(content) / 1e6:.0f} MB")
    print(f"rank correlation {spearmanr(first, second)[0]:.3f}")
    truth = [not {"good", "normal", "ok"} & set(Path(path).parts) for path, kept in zip(paths, good, strict=True) if kept]
    if len(set(truth)) == 2:
        print(f"AUROC {roc_auc_score(truth, first):.3f} by the pool, {roc_auc_score(truth, second):.3f} by the whole folder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("speed", "engine", "memory", "resume", "equal", "faults"):
        parser.add_argument(f"--{name}", type=int, metavar="PICTURES")
    parser.add_argument("--pool", metavar="FOLDER")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--drive", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        return drive(*given.drive)
    if given.start:
        return start(given.start, given.count)
    if given.pool:
        pool(given.pool)
    modes: dict[str, Callable[[Path, int], None]] = {
        "speed": lambda place, count: speed(place, count, given.side, given.workers, False),
        "engine": lambda place, count: speed(place, count, given.side, given.workers, True),
        "memory": lambda place, count: memory(place, count, given.side, given.workers[0]),
        "resume": resume,
        "equal": lambda place, count: equal(place, count, given.side, given.workers),
        "faults": lambda place, count: faults(place, count, given.side),
    }
    for name, mode in modes.items():
        if getattr(given, name):
            with tempfile.TemporaryDirectory(prefix="zsad-") as scratch:
                mode(Path(scratch), getattr(given, name))


if __name__ == "__main__":
    main()
