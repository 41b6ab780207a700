"""Batch zero-shot against a pool: drawn by seed, the same for any division of the work, and a picture is not its own judge."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotated import spoil, texture
from PIL import Image

import zsad
from zsad.distributed.job import Job, in_process
from zsad.distributed.places import Place
from zsad.distributed.pool import POOL_FILE, draw, kept_pool, make_pool
from zsad.distributed.scorer import BatchScorer
from zsad.distributed.specification import specify
from zsad.errors import UsageError
from zsad.inference.inspector import Inspector
from zsad.methods.compact import folder, pooled
from zsad.references.sum_banks import SUMS, joined
from zsad.types import Context

SETTINGS: dict[str, Any] = {"method": "compact", "target": "tile", "batch_size": 4, "workers": 1}


def test_the_pool_follows_from_the_seed_and_the_paths() -> None:
    paths = [f"/data/{n}.png" for n in range(1000)]
    first = draw(paths, 20, 0)
    random.Random(1).shuffle(paths)
    assert draw(paths, 20, 0) == first
    assert draw(paths, 20, 1) != first
    assert len(set(first)) == 20


@pytest.mark.slow
def test_sums_of_shards_add_up() -> None:
    """subspacead: the principal components of a pool that was divided among machines."""
    detector = zsad.create("subspacead", backbone="tiny", rotations=0, batch=True)
    images = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = [detector.encode(one[None]) for one in images]
        whole = detector.pool_banks(features, Context())[SUMS].rows
        shards = [detector.pool_banks(features[start : start + 2], Context())[SUMS].rows for start in (0, 2, 4)]
        merged = joined(SUMS, [*map(sum_of, shards)])
        alone = detector.against_pool(Context())
        banks = {SUMS: pooled.Bank(sum_of(whole), torch.zeros(len(sum_of(whole)), dtype=torch.int64))}
        others = {SUMS: pooled.Bank(merged, banks[SUMS].source)}
        assert not alone.needs_set(Context(banks=banks))
        maps = [alone.score(features[0], Context(banks=one)).anomaly_map for one in (banks, others)]
        in_a_batch = next(iter(detector.score_set(features, Context()))).anomaly_map
    torch.testing.assert_close(maps[0], maps[1])
    torch.testing.assert_close(maps[0], in_a_batch)


def sum_of(rows: torch.Tensor) -> torch.Tensor:
    """One bank of packed sums, from one or several below each other."""
    from zsad.references.sum_banks import packed, unpacked

    return packed(unpacked(rows))


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, rng = tmp_path_factory.mktemp("tiles"), np.random.default_rng(0)
    for number in range(12):
        rgb = texture(rng, 96)
        Image.fromarray(rgb if number else spoil(rgb, rng)[0]).save(source / f"{number:02}.png")
    return source


@pytest.fixture(scope="module")
def made(tiles: Path) -> Iterator[tuple[Inspector, bytes, dict[str, Any]]]:
    """The embedded default and its pool of ten, of which one cannot be read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "SMALL", 8)
        patch.setattr(pooled, "SMALL", 8)
        inspector = Inspector(**SETTINGS, batch="off")
        scorer = BatchScorer(specify(inspector, SETTINGS, source=str(tiles)))
        drawn = [*draw([str(tiles / f"{n:02}.png") for n in range(2, 12)], 10, 0), "/nowhere.png"]
        yield inspector, *make_pool(inspector, map(scorer.ref, drawn), 0)


def scores(made: tuple[Inspector, bytes, dict[str, Any]], tiles: Path, out: Path, batch_size: int) -> dict[str, float]:
    from dataclasses import replace

    import pyarrow.parquet

    inspector, content, facts = made
    settings = SETTINGS | {"batch_size": batch_size}
    spec = replace(specify(inspector, settings, source=str(tiles)), pool=facts)
    Job(spec, {POOL_FILE: content}, str(out)).run(in_process, lambda done, left, before: done)
    assert kept_pool(Place(str(out)), {"pool": facts}, 0) is None, "nothing was written to go on with"
    return {row["name"]: row["score"] for row in pyarrow.parquet.read_table(out / "table").to_pylist()}


@pytest.mark.slow
def test_a_score_depends_on_the_pool_alone(made: tuple[Inspector, bytes, dict[str, Any]], tiles: Path, tmp_path: Path) -> None:
    """Not on the batch; the copy of a picture of the pool has its score; the spoilt one scores highest."""
    assert made[2]["pieces"] == 10
    copied = tmp_path / "in"
    copied.mkdir()
    for path in tiles.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    (copied / "copy.png").write_bytes((tiles / "05.png").read_bytes())
    four, one = scores(made, copied, tmp_path / "four", 4), scores(made, copied, tmp_path / "one", 1)
    assert one == pytest.approx(four, abs=2e-5)
    assert four["copy.png"] == pytest.approx(four["05.png"], abs=2e-5)
    assert max(four, key=lambda name: four[name]) == "00.png"


@pytest.mark.slow
def test_too_small_a_pool_and_a_method_without_are_refused(tiles: Path, made: Any) -> None:
    inspector = made[0]
    scorer = BatchScorer(specify(inspector, SETTINGS, source=str(tiles)))
    with pytest.raises(UsageError, match=r"compact compares pictures with a pool of 8 or more that can be read; got 2\."):
        make_pool(inspector, [scorer.ref(str(tiles / f"{n:02}.png")) for n in range(2)], 0)
    alone = Inspector(**SETTINGS, tower="small", batch="off")
    with pytest.raises(UsageError, match=r"compact cannot compare pictures with a pool of others"):
        make_pool(alone, [], 0)


def test_the_pool_of_a_table_is_kept(tmp_path: Path) -> None:
    import hashlib

    place = Place(str(tmp_path))
    place.write(POOL_FILE, b"bytes")
    known = {"pool": {"seed": 3, "sha256": hashlib.sha256(b"bytes").hexdigest()}}
    assert kept_pool(place, known, 3) == (b"bytes", known["pool"])
    assert kept_pool(place, known, 4) is None
    assert kept_pool(place, None, 3) is None
    place.write(POOL_FILE, b"other")
    with pytest.raises(UsageError, match="is damaged"):
        kept_pool(place, known, 3)
