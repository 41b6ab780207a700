"""``zsad predict --engine ray``: room in the cluster, refusals in plain words, and one run on a local Ray."""

from __future__ import annotations

import builtins
import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from brightness import folder_of
from PIL import Image
from typer.testing import CliRunner, Result

from zsad.cli import app
from zsad.cli.predict_engine import watched
from zsad.distributed.job import in_process
from zsad.distributed.ray_engine import RayEngine, load_ray, plain_errors, pool_of
from zsad.distributed.scorer import BatchScorer
from zsad.distributed.specification import Specification
from zsad.distributed.work import Done, Unit, UnitScorer
from zsad.errors import MissingExtra, UsageError


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_one_cpu_stays_free() -> None:
    """A pool of two actors on two CPUs waits for ever."""
    two = pool_of(2, 0, 2)
    assert (two.actors, two.note) == (
        1,
        "2 processes were asked for and 1 are started: the cluster has 2 CPUs, of which one stays free.",
    )
    assert (pool_of(8, 0, None).actors, pool_of(8, 0, 3).actors, pool_of(8, 0, 3).note) == (7, 3, "")
    assert (pool_of(16, 2, None).actors, pool_of(16, 2, None).gpus) == (2, 1)
    assert pool_of(16, 2, 4).note.endswith("and 2 GPUs.")
    assert pool_of(9, 0, None, 4).actors == 2
    with pytest.raises(UsageError, match=r"The cluster has 1 CPUs; .* one has to stay free for reading\. Give it 2 or more\."):
        pool_of(1, 0, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--actors", "2"], "--actors is for --engine ray. Give that too, or leave it out."),
        (["--engine", "ray", "--format", "coco"], "--format does nothing with --engine ray"),
        (["--engine", "ray", "--dry-run"], "--dry-run does nothing with --engine ray"),
        (["--engine", "ray", "--skip-masks", "on"], "--skip-masks on looks at all pictures together"),
        (["--engine", "ray", "--maps", "png"], "With --engine maps need both --maps (png or npy) and --maps-out"),
        (
            ["--engine", "ray", "--method", "musc", "--backbone", "compact"],
            "musc cannot compare pictures with a pool of others",
        ),
    ],
)
def test_options_that_do_not_go_together(options: list[str], message: str, tmp_path: Path) -> None:
    done = call(tmp_path, *options, "--out", tmp_path / "out")
    assert (done.exit_code, message in done.stderr) == (2, True), done.output


@pytest.mark.parametrize(
    ("source", "message"),
    [("-", "reads no list from standard input"), ("p/*.png", "is a pattern"), ("x://y", "No file system here opens 'x://y'")],
)
def test_sources_that_are_refused(source: str, message: str, tmp_path: Path) -> None:
    done = call(source, "--engine", "ray", "--out", tmp_path / "out")
    assert (done.exit_code, message in done.stderr) == (2, True), done.output


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def lacking(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ImportError(name)
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(MissingExtra, match=r"--engine ray needs an optional dependency\. .*zsad\[ray\]"):
        load_ray()


def test_a_line_a_minute_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    assert len(list(watched(iter([Done(10, 1, "w")] * 8), 80, 5))) == 8
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "zsad: 5 pictures are in the table already, 80 to score."
    assert lines[1] == "zsad: 30 of 80, 3 errors, 0.4 per second, 2 minutes to go"
    assert len(lines) == 3


def test_what_a_worker_says_comes_through() -> None:
    from ray.exceptions import RayTaskError

    inner = UsageError("The worker far has zsad 1, and the run was started with 2. Install the same on all machines.")
    with pytest.raises(UsageError, match=r"^The worker far has zsad 1"), plain_errors():
        raise RayTaskError("f", "trace", inner)
    with pytest.raises(UsageError, match=r"^The worker far lacks it\.$"), plain_errors():
        raise RayTaskError("f", "in load\nzsad.errors.UsageError: The worker far lacks it.\n", RuntimeError("the actor died"))
    with pytest.raises(UsageError, match="A worker has no zsad, or one without"), plain_errors():
        raise RayTaskError("f", "ModuleNotFoundError: No module named 'zsad.distributed'", ModuleNotFoundError("zsad"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is this process."""
    monkeypatch.setattr(RayEngine, "__call__", lambda self, scorer, units: in_process(scorer, units))


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_pool_is_made_kept_and_used_again(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", 12, 1)
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in sorted((tmp_path / "in").iterdir())))
    words = [f"@{tmp_path / 'list.txt'}", "--engine", "ray", "--method", "subspacead", "--backbone", "tiny"]
    words += ["--set", "rotations=0", "--pool-size", "9", "--out", str(tmp_path / "out")]
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert "Pictures were compared with a pool of 9, drawn by seed." in done.stdout
    first = rows_of(tmp_path / "out")
    assert len(first) == 13
    with (tmp_path / "list.txt").open("a") as file:
        file.write(f"\n{tmp_path / 'new.png'}")
    folder_of(tmp_path / "other", 1)
    (tmp_path / "other/00.png").rename(tmp_path / "new.png")
    again = json.loads(call(*words, "--json").stdout)
    assert sum(again["counts"].values()) == 14
    second = rows_of(tmp_path / "out")
    assert {name: second[name]["score"] for name in first} == {name: row["score"] for name, row in first.items()}
    pool = json.loads((tmp_path / "out/manifest.json").read_text())["pool"]
    assert pool["pieces"] == 9


def test_a_stop_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(engine: RayEngine, scorer: Any, units: Any) -> Iterator[Done]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(RayEngine, "__call__", stopped)
    folder_of(tmp_path / "in", 2)
    done = call(tmp_path / "in", "--engine", "ray", "--set", "tower=small", "--out", tmp_path / "out")
    assert done.exit_code == 130
    assert done.stderr.endswith("the same command goes on with it.\n")
    assert not (tmp_path / "out/.zsad/lock").exists()


@pytest.mark.slow
def test_no_cluster_at_the_address() -> None:
    """In less than a second, where Ray itself waits for minutes."""
    scorer = UnitScorer(BatchScorer(Specification({}, {})), "nowhere")
    with pytest.raises(UsageError, match=r"^There is no Ray at '127.0.0.1:1': .* Start one \(ray start --head\)"):
        next(RayEngine("127.0.0.1:1")(scorer, [Unit("", 0, 1)]))


# ------------------------------------------------------------------ a local Ray
@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("pictures")
    folder_of(source, 60, 4)
    rng = np.random.default_rng(0)
    for number in range(6):
        memory = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (50, 40, 3), np.uint8)).save(memory, "JPEG")
        (source / f"cut-{number}.jpg").write_bytes(memory.getvalue()[: 30 * number])
    return source


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray = load_ray()
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    rows = pyarrow.parquet.read_table(out / "table").to_pylist()
    named = {row["name"]: row for row in rows}
    assert len(named) == len(rows)
    return named


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.usefixtures("local_ray")
def test_ray_equals_predict_though_a_worker_is_killed(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two actors, of which one is killed (-9) after the first unit."""
    options = ["--set", "tower=small", "--batch", "off", "--batch-size", "4"]
    plain = call(pictures, *options, "--out", tmp_path / "plain")
    assert plain.exit_code == 3
    undisturbed, killed = RayEngine.__call__, list[int]()

    def kill_first(engine: RayEngine, scorer: Any, units: Any) -> Iterator[Done]:
        for one in undisturbed(engine, scorer, units):
            if not killed:
                killed.append(int(one.worker.rpartition(":")[2]))
                os.kill(killed[0], signal.SIGKILL)
            yield one

    monkeypatch.setattr(RayEngine, "__call__", kill_first)
    done = call(pictures, *options, "--engine", "ray", "--actors", "2", "--out", tmp_path / "table")
    assert done.exit_code == 3, done.output
    assert killed
    ours, theirs = rows_of(tmp_path / "table"), (tmp_path / "plain/predictions.jsonl").read_text().splitlines()
    assert len(ours) == len(theirs) == 70
    for other in map(json.loads, theirs):
        own = ours[other["name"]]
        assert (own["label"], own["error"]) == (other["pred_label"], other["error"])
        assert own["score"] == pytest.approx(other["pred_score"], abs=1e-6)
    assert sum(row["error"] is not None for row in ours.values()) == 6
