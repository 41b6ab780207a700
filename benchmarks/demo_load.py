"""Ten users at once on the demo, with the embedded default: requests answered, answers mixed up, memory of the server.

    python benchmarks/demo_load.py [--users 10] [--rounds 6] [--pictures 6]

Starts ``zsad demo`` on a free port. Every user has pictures of its own (a brick wall with a square of the user's own
brightness, so that no two users' scores are the same), and requests their scores in every round. An answer is mixed up where
its names or scores differ from those that the library gives for this user's pictures in this process. Memory is the server's
resident set.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import zsad
from zsad.common.assets import asset

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/helpers"))
from serving import served

CLOSE = 1e-4  # of a score; the last digits depend on how pictures fall into batches


def pictures_of(user: int, count: int, folder: Path) -> list[Path]:
    """Pictures that only this user has."""
    sources = sorted(asset("demo/examples/brick").glob("*.png"))
    made = []
    for number in range(count):
        rgb = np.array(Image.open(sources[(user + number) % len(sources)]).convert("RGB"))
        rgb[20:70, 20 + 5 * number : 70 + 5 * number] = 20 + 20 * user
        path = folder / f"user{user}-{number}.png"
        Image.fromarray(rgb).save(path)
        made.append(path)
    return made


def request(url: str, files: list[Path], wanted: dict[str, float], outcomes: dict[str, Any], lock: threading.Lock) -> None:
    """One request of one user; compares the answer with the scores of the library."""
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False)
    begun = time.perf_counter()
    try:
        answer = client.predict([handle_file(path) for path in files], "brick", None, "", "compact", api_name="/predict")
    except Exception as error:  # counted and shown
        with lock:
            outcomes["failed"].append(str(error))
        return
    finally:
        client.close()
    found = {row["name"]: row["pred_score"] for row in answer["results"]}
    right = found.keys() == wanted.keys() and all(abs(found[name] - wanted[name]) < CLOSE for name in wanted)
    with lock:
        outcomes["seconds"].append(time.perf_counter() - begun)
        outcomes["mixed"] += not right


def main() -> None:
    import psutil

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("users", 10), ("rounds", 6), ("pictures", 6)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "served").mkdir()
        inspector = zsad.Inspector()
        users = [pictures_of(user, given.pictures, folder) for user in range(given.users)]
        wanted = [{one.name: float(one.pred_score or 0) for one in inspector(files)} for files in users]
        scores = [tuple(sorted(one.values())) for one in wanted]
        assert len(set(scores)) == len(scores), "two users' pictures score alike, so a mix-up could not be seen"
        outcomes: dict[str, Any] = {"seconds": [], "mixed": 0, "failed": []}
        with served(folder / "served") as server:
            process = psutil.Process(server.pid)
            memory = [("before", process.memory_info().rss)]
            for turn in range(1, given.rounds + 1):
                lock = threading.Lock()
                jobs = [
                    threading.Thread(target=request, args=(server.url, files, one, outcomes, lock))
                    for files, one in zip(users, wanted, strict=True)
                ]
                for job in jobs:
                    job.start()
                for job in jobs:
                    job.join()
                memory.append((f"after round {turn}", process.memory_info().rss))
    total = given.users * given.rounds
    seconds = sorted(outcomes["seconds"]) or [float("nan")]
    print(f"users at once: {given.users}, requests: {total} of {given.pictures} pictures each")
    print(f"answered: {len(outcomes['seconds'])} of {total}; mixed up: {outcomes['mixed']}; failed: {len(outcomes['failed'])}")
    print(f"seconds per request: median {seconds[len(seconds) // 2]:.1f}, longest {seconds[-1]:.1f}")
    print("resident memory: " + ", ".join(f"{when} {size / 1e6:.0f} MB" for when, size in memory))
    for error in outcomes["failed"][:3]:
        print(f"failed: {error}")
    raise SystemExit(0 if len(outcomes["seconds"]) == total and not outcomes["mixed"] else 1)


if __name__ == "__main__":
    main()
