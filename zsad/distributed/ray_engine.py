"""Ray Data as the engine: a pool of actors, each of which loads the model once and scores units.

Units and not pictures go through Ray: an actor reads its pictures itself, in threads, a few at a time. The object store holds
no picture, one that cannot be read fails nothing but itself, and a unit's file of the table is written by one process.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from zsad.distributed.scorer import BatchScorer
from zsad.distributed.work import Done, Unit, UnitScorer
from zsad.errors import MissingExtra, UsageError, ZsadError

__all__ = ["Pool", "RayEngine", "load_ray", "pool_of"]

log = logging.getLogger("zsad")
BLOCKS = 4096  # of the list of units; each goes to an actor as a whole
SECONDS = 20  # that a cluster has to answer
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass(frozen=True)
class Pool:
    """Actors, and what each of them takes."""

    actors: int
    cpus: float
    gpus: float
    note: str = ""


def pool_of(cpus: float, gpus: float, wanted: int | None, each: int = 1) -> Pool:
    """How many actors a cluster has room for.

    One CPU stays free for Ray's own tasks: a pool that takes all of them waits for ever for what it is to work on.

    Args:
        cpus: of the cluster.
        gpus: likewise; with any, each actor takes one.
        wanted: number of actors; None: as many as there is room for.
        each: CPUs of an actor.

    Raises:
        UsageError: there is no room for one.
    """
    room = int((cpus - 1) // each)
    most = min(room, int(gpus)) if gpus >= 1 else room
    if most < 1:
        raise UsageError(
            f"The cluster has {cpus:g} CPUs; a process that scores takes {each}, and one has to stay free for reading. Give it "
            f"{each + 1} or more."
        )
    if wanted is not None and wanted > most:
        note = (
            f"{wanted} processes were asked for and {most} are started: the cluster has {cpus:g} CPUs, of which one stays free"
        )
        return Pool(most, each, float(gpus >= 1), f"{note}{f', and {gpus:g} GPUs' if gpus >= 1 else ''}.")
    return Pool(wanted or most, each, float(gpus >= 1))


def load_ray() -> Any:
    """The package ray, which reports nothing to its makers and prints no dashboard.

    Raises:
        MissingExtra: it is not installed.
    """
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtra("--engine ray", "ray") from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray


class RayActor:
    """What runs in an actor: ``UnitScorer`` on rows that name units.

    Args:
        scorer: without the attachments.
        attachments: in a list, a reference to them in the object store, which every machine fetches once.
    """

    def __init__(self, scorer: UnitScorer, attachments: list[Any]) -> None:
        import ray

        pictures = BatchScorer(scorer.scorer.specification, ray.get(attachments[0]))
        self.score = UnitScorer(pictures, scorer.place)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        columns = [batch[key].tolist() for key in ("file", "group", "pictures")]
        done = [asdict(self.score(Unit(*values))) for values in zip(*columns, strict=True)]
        return {key: [one[key] for one in done] for key in done[0]}


@dataclass
class RayEngine:
    """The engine of a cluster, or of this machine.

    Args:
        address: of a cluster ("auto": the one that this machine is part of); None starts Ray on this machine alone.
        actors: processes that score; None: one per GPU, or one per CPU but one.
        threads: CPUs of each.
        cpus: of a Ray that is started here; None: those of the machine, and with ``actors`` one more than these need.
    """

    address: str | None = None
    actors: int | None = None
    threads: int = 1
    cpus: int | None = None

    def __call__(self, scorer: UnitScorer, units: list[Unit]) -> Iterator[Done]:
        """Scores units; see ``job.Engine``.

        Raises:
            UsageError: no cluster at the address, or no room in it; whatever a worker raised as a sentence.
        """
        ray = load_ray()
        with self._started(ray), plain_errors():
            found = ray.cluster_resources()
            pool = pool_of(found.get("CPU", 0), found.get("GPU", 0), self.actors, self.threads)
            if pool.note:
                log.warning("%s", pool.note)
            yield from self._scored(ray, pool, scorer, units)

    def _scored(self, ray: Any, pool: Pool, scorer: UnitScorer, units: list[Unit]) -> Iterator[Done]:
        attachments = ray.put(scorer.scorer.attachments)
        bare = UnitScorer(BatchScorer(scorer.scorer.specification), scorer.place)
        rows = ray.data.from_items([asdict(unit) for unit in units], override_num_blocks=min(len(units), BLOCKS))
        scored = rows.map_batches(
            RayActor,
            batch_size=1,
            fn_constructor_args=(bare, [attachments]),
            compute=ray.data.ActorPoolStrategy(size=min(pool.actors, len(units)), max_tasks_in_flight_per_actor=2),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
        )
        for row in scored.iter_rows():
            yield Done(**row)

    def reach(self) -> None:
        """Raises ``OSError`` where nothing listens at the address; Ray itself would wait for minutes."""
        host, _, port = (self.address or "").removeprefix("ray://").rpartition(":")
        if host and port.isdigit():
            socket.create_connection((host.strip("[]"), int(port)), SECONDS).close()

    @contextmanager
    def _started(self, ray: Any) -> Iterator[None]:
        """Ray, connected or started here; one that runs in this process already is used and left alone."""
        if ray.is_initialized():
            yield
            return
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is None:
            cpus = self.cpus or max(os.cpu_count() or 1, (self.actors or 1) * self.threads + 1)
            how |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        else:
            how |= {"address": self.address}
        try:
            self.reach()
            with no_stderr():
                ray.init(**how)
        except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            where = "on this machine" if self.address is None else f"at {self.address!r}"
            raise UsageError(
                f"There is no Ray {where}: {reason}. Start one (ray start --head) and give its address, or leave --address "
                "out: then Ray runs on this machine alone."
            ) from error
        quiet(ray)
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def no_stderr() -> Iterator[None]:
    """Drops what is written to the descriptor of stderr: Ray's core states its own log level there, unasked."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def quiet(ray: Any) -> None:
    """Keeps Ray Data's progress bars and logs off the terminal: the command shows its own."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.verbose_stats_logs = False
    context.print_on_execution_start = False
    for name in ("ray.data.exceptions", "ray.data._internal.execution", "ray.data._internal.planner"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # tracebacks of what ends as a sentence


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turns what a worker raised into its sentence."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise _plain(error) from error


def _plain(error: BaseException) -> ZsadError:
    """The sentence of the first error of zsad behind one of Ray; else one that names what is known."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ZsadError):
            return UsageError(str(seen.args[0]).partition("\n")[0])
        seen = getattr(seen, "cause", None) or seen.__cause__
    text = str(error)
    if named := re.findall(r"zsad\.errors\.\w+: (.+)", text):  # of an actor that failed while it loaded
        return UsageError(named[-1].strip())
    if "No module named 'zsad" in text:
        return UsageError("A worker has no zsad, or one without zsad.distributed. Install the same version on all machines.")
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return UsageError(
        f"Ray stopped: {lines[-1].strip() if lines else type(error).__name__}. The same command goes on from here."
    )
