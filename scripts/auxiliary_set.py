"""Draws an annotated set under permissive licences: pictures, synthetic defects and masks, in MVTec AD's layout.

    pip install 'zsad[train]'
    python scripts/auxiliary_set.py --out auxiliary --pictures 5200
    python scripts/auxiliary_set.py --out kept --pictures 800 --kept-out

Every family of pictures (``auxiliary_pictures.py`` lists them with their licences) is a category: a folder with ``test/good``,
``test/<kind of defect>`` and ``ground_truth``. Every normal picture comes with two defects of random kinds. ``--kept-out``
draws the families and the kind of defect that the first command leaves out, with one defect each, of every kind in turn.
Seeded: the same command draws the same pixels, whatever the number of processes.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from auxiliary_pictures import OBJECTS, TEXTURES, camera, crop, photographs, textiles
from PIL import Image
from tqdm import tqdm

from zsad.synthetic.defects import DEFECTS, make_defect

CHOOSING = ("mesh", "several", "brick", "china")  # kept out of training; constants are chosen on them
REPORTING = ("grains", "brushed", "coffee", "coins")  # kept out of training; figures are measured on them
UNSEEN_KIND = "texture_blend"  # a kind of defect that is kept out of training
SIDE, PART, NOMINAL = 256, 50, 500  # pixels; normal pictures per task of a process; textiles for training
SHARE = dict.fromkeys(TEXTURES, 5.0) | {"single": 22.0, "several": 10.0, "board": 7.0, "textile": 6.0}
PHOTOGRAPH = 1.5  # share of each photograph
Array: TypeAlias = np.ndarray[Any, Any]
Source: TypeAlias = Callable[[np.random.Generator], tuple[Array, Array | None]]
Row: TypeAlias = tuple[str, str, Array, Array]  # family, kind ("good": none), picture, mask


@cache
def families() -> dict[str, Source]:
    """Every source of normal pictures: generator -> picture (uint8) and where the object is (None: everywhere)."""
    woven = list(itertools.islice(textiles("nominal"), NOMINAL))
    found: dict[str, Source] = {name: lambda rng, f=f: (camera(rng, f(rng, SIDE)), None) for name, f in TEXTURES.items()}

    def object_picture(rng: np.random.Generator, draw: Any) -> tuple[Array, Array]:
        picture, where = draw(rng, SIDE)
        return camera(rng, picture), where

    found |= {name: partial(object_picture, draw=draw) for name, draw in OBJECTS.items()}
    found |= {name: lambda rng, p=p: (crop(rng, p, SIDE), None) for name, p in photographs().items()}
    return found | {"textile": lambda rng: (woven[int(rng.integers(len(woven)))], None)}


def rows(kept_out: bool, first: int, count: int, seed: int) -> Iterator[Row]:
    """Each normal picture, then the same with defects; ``first`` is the number of the first normal picture."""
    rng, source = np.random.default_rng((seed, kept_out, first)), families()
    names = [name for name in source if (name in CHOOSING + REPORTING) == kept_out]
    share = np.array([1.0 if kept_out else SHARE.get(name, PHOTOGRAPH) for name in names])
    kinds, other = [kind for kind in DEFECTS if kept_out or kind != UNSEEN_KIND], None
    for number in range(first, first + count):
        name = str(rng.choice(names, p=share / share.sum()))
        rgb, where = source[name](rng)
        yield name, "good", rgb, np.zeros((SIDE, SIDE), np.uint8)
        for _ in range(1 if kept_out else 2):
            kind = kinds[number % len(kinds)] if kept_out else str(rng.choice(kinds))
            if where is not None and rng.random() < 0.15:
                where = None  # sometimes beside the object too
            bad, mask, _ = make_defect(rgb, rng, kind, where, other)
            while not mask.any():  # a bend or a pasted patch changes nothing on a plain surface: take another kind
                kind = str(rng.choice(kinds))
                bad, mask, _ = make_defect(rgb, rng, kind, where, other)
            yield name, kind, bad, mask
        other = rgb


def write_part(out: Path, kept_out: bool, seed: int, first: int, count: int) -> int:
    """Draws some pictures into the folder, named by the number of the normal picture and of its version (0: normal)."""
    number = version = 0
    for name, kind, rgb, mask in rows(kept_out, first, count, seed):
        good = kind == "good"
        number, version = (number + 1, 0) if good else (number, version + 1)
        stem = f"{first + number - 1:05}_{version}"
        for folder, picture, end in [("test", rgb, ""), ("ground_truth", mask * 255, "_mask")][: 1 if good else 2]:
            path = out / name / folder / kind / f"{stem}{end}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path, compress_level=1)
    return number


def draw(out: Path, pictures: int, kept_out: bool, seed: int = 0, processes: int = 2) -> None:
    """Draws the set in parallel processes; the folder gets its name when it is complete."""
    aside = out.with_name(f"{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    firsts, work = range(0, pictures, PART), partial(write_part, aside, kept_out, seed)
    counts = [min(PART, pictures - first) for first in firsts]
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=pictures, desc=f"drawing {out.name}", disable=None))
        run = map if processes == 1 else stack.enter_context(ProcessPoolExecutor(processes)).map
        for done in run(work, firsts, counts):
            bar.update(done)
    aside.rename(out)


def main() -> None:
    """Draws one set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--pictures", type=int, default=5200, help="normal pictures")
    parser.add_argument("--kept-out", action="store_true", help="draw the families that the training set leaves out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    if given.out.exists():
        parser.error(f"{given.out} is there already; name a new folder.")
    draw(given.out, given.pictures, given.kept_out, given.seed, given.processes)


if __name__ == "__main__":
    main()
