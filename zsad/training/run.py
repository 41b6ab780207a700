"""The out folder of a training run. Every file is written beside its place and renamed, so none is ever half written.

epoch_N.safetensors         the learned weights after epoch N, with a header that says what they are
epoch_N.state.safetensors   the optimizer's state, of the last epoch alone; no pickle
final.safetensors           the last epoch's weights
training.json               the settings, which --resume compares
metrics.jsonl               a row per step, a row per epoch
errors.jsonl                a row per picture that was left out
loss.png                    the curve
"""

from __future__ import annotations

import errno
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from zsad.common.atomic_files import remove_partials, write_atomically
from zsad.common.folder_lock import FolderLock
from zsad.common.output_folder import begin_settings, check_flags, resume_settings
from zsad.detector import Detector
from zsad.errors import CheckpointMismatch, UsageError, WriteError
from zsad.training.plot import draw_losses

__all__ = ["FINAL", "TrainingRun"]

log = logging.getLogger("zsad")
FINAL = "final.safetensors"
LOCK = ".training.lock"  # there while the run is at work
SETTINGS, METRICS, ERRORS, PLOT = "training.json", "metrics.jsonl", "errors.jsonl", "loss.png"
EPOCH = re.compile(r"epoch_(\d+)(\.state)?\.safetensors")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TrainingRun:
    """One run's folder.

    Args:
        out: where; made if it is not there.

    Attributes:
        rows: what ``metrics.jsonl`` holds.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self.rows: list[dict[str, Any]] = []
        self._lock: FolderLock | None = None

    # ------------------------------------------------------------------ whose folder it is
    def claim(self, resume: bool, overwrite: bool) -> None:
        """Makes the folder this run's own until the end of ``guarded``.

        Raises:
            UsageError: it is a file, in use, or holds a run and neither ``resume`` nor ``overwrite`` was given; or there is
                nothing to resume.
        """
        check_flags(self.out, resume=resume, overwrite=overwrite)
        own = [path for path in self._files() if path.exists() and path.name != ERRORS]
        if resume and not (self.out / SETTINGS).is_file():
            raise UsageError(f"{str(self.out)!r} holds no training run to go on with. Leave resume out to start one.")
        if own and not resume and not overwrite:
            raise UsageError(
                f"{str(self.out)!r} holds a training run already ({own[0].name}). Give --resume to go on with it, --overwrite "
                "to start anew, or another folder."
            )
        self.out.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.out / LOCK, "zsad finetune", self.out)
        if overwrite:
            for path in own:
                path.unlink()

    def _files(self) -> list[Path]:
        epochs = [path for path in self.out.glob("epoch_*") if EPOCH.fullmatch(path.name)] if self.out.is_dir() else []
        return [*sorted(epochs), *(self.out / name for name in (FINAL, SETTINGS, METRICS, ERRORS, PLOT))]

    def agree(self, settings: Mapping[str, Any], resume: bool) -> None:
        """Keeps the settings, or compares them with those of the run that is resumed; see ``resume_settings``."""
        if resume:
            resume_settings(self.out / SETTINGS, settings, what="a training run")
        else:
            begin_settings(self.out / SETTINGS, json.loads(json.dumps(settings, sort_keys=True)))

    # ------------------------------------------------------------------ epochs
    def last_epoch(self) -> int:
        """The last epoch of which weights and state are there; 0 where there is none."""
        numbers = [int(hit[1]) for path in self._files() if (hit := EPOCH.fullmatch(path.name)) and not hit[2]]
        return max((n for n in numbers if self.state_path(n).is_file()), default=0)

    def weights_path(self, epoch: int) -> Path:
        """Learned weights of an epoch."""
        return self.out / f"epoch_{epoch}.safetensors"

    def state_path(self, epoch: int) -> Path:
        """Optimizer state of an epoch."""
        return self.out / f"epoch_{epoch}.state.safetensors"

    def save_epoch(self, epoch: int, detector: Detector, optimizer: Any, scaler: Any, about: Mapping[str, Any]) -> None:
        """Writes state, then weights: an epoch counts once both are there. Then the metrics and the curve."""
        state = {"epoch": epoch, "scaler": scaler.state_dict() if scaler is not None else {}}
        tensors = {
            f"{row}.{key}": torch.as_tensor(value).detach().cpu().contiguous()
            for row, values in optimizer.state_dict()["state"].items()
            for key, value in values.items()
        }
        write_atomically(self.state_path(epoch), save(tensors, {"zsad.training": json.dumps(state)}))
        detector.save(self.weights_path(epoch), **about)
        for path in self._files():
            hit = EPOCH.fullmatch(path.name)
            if hit and hit[2] and int(hit[1]) != epoch:
                path.unlink()
        self.write_metrics()

    def load_epoch(self, epoch: int, detector: Detector, optimizer: Any, scaler: Any) -> None:
        """Puts weights, optimizer and metrics back to the end of an epoch.

        Raises:
            CheckpointMismatch: a file that is broken, or another method's.
        """
        detector.load(self.weights_path(epoch))
        try:
            with safe_open(self.state_path(epoch), framework="pt") as file:
                stored = json.loads(file.metadata()["zsad.training"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        except SafetensorError as error:
            raise CheckpointMismatch(f"{self.state_path(epoch).name} is broken: {error}. Start another run.") from error
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            row, _, key = name.partition(".")
            state.setdefault(int(row), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        if scaler is not None and stored["scaler"]:
            scaler.load_state_dict(stored["scaler"])
        lines = (self.out / METRICS).read_text(encoding="utf-8").splitlines()
        self.rows = [row for row in map(json.loads, filter(_is_whole, lines)) if row["epoch"] <= epoch]

    def finish(self, epoch: int) -> None:
        """The last epoch's weights under their final name."""
        write_atomically(self.out / FINAL, self.weights_path(epoch).read_bytes())

    def save_final(self, detector: Detector, about: Mapping[str, Any]) -> None:
        """Weights that took no epoch: what the method remembers."""
        detector.save(self.out / FINAL, **about)

    # ------------------------------------------------------------------ what a person reads
    def log_step(self, epoch: int, losses: Mapping[str, float], board: Any = None) -> None:
        """A row for one step, on disk at once."""
        last = self.rows[-1] if self.rows else {"step": 0}
        number = (last["step"] if "step" in last else last["steps"]) + 1
        self.rows.append({"epoch": epoch, "step": number, "loss": sum(losses.values()), **losses})
        with (self.out / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.rows[-1]) + "\n")
        if board is not None:
            board.add_scalar("loss", self.rows[-1]["loss"], number)

    def log_epoch(self, epoch: int, seconds: float, board: Any = None) -> None:
        """A row for one epoch: the mean of its steps."""
        own = [row for row in self.rows if row["epoch"] == epoch and "step" in row]
        mean = sum(row["loss"] for row in own) / len(own)
        self.rows.append({"epoch": epoch, "steps": own[-1]["step"], "loss": mean, "seconds": round(seconds, 3)})
        if board is not None:
            board.add_scalar("epoch", mean, epoch)
            board.flush()
        log.info("epoch %d: loss %.4f in %.1f s", epoch, mean, seconds)

    def means(self) -> list[float]:
        """The mean loss of every epoch so far."""
        return [row["loss"] for row in self.rows if "steps" in row]

    def write_errors(self, rows: list[dict[str, str]]) -> None:
        """One row per picture that was left out."""
        write_atomically(self.out / ERRORS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())

    def write_metrics(self) -> None:
        """``metrics.jsonl`` and the curve."""
        write_atomically(self.out / METRICS, "".join(json.dumps(row) + "\n" for row in self.rows).encode())
        steps = [row for row in self.rows if "step" in row]
        if steps:
            ends = [row["steps"] for row in self.rows if "steps" in row] or [len(steps)]
            buffer = io.BytesIO()
            draw_losses([row["loss"] for row in steps], ends).save(buffer, "PNG")
            write_atomically(self.out / PLOT, buffer.getvalue())

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turns a full disk into an error with a sentence, leaves no half of a file, and the folder to other runs at its end.

        Raises:
            WriteError: names the last whole checkpoint.
        """
        try:
            yield
        except (OSError, SafetensorError) as error:
            if isinstance(error, OSError) and error.errno not in FULL:
                raise
            remove_partials(self.out)
            done = self.last_epoch()
            whole = f"The last whole checkpoint is {self.weights_path(done).name}" if done else "No epoch was finished"
            again = "go on with --resume" if (self.out / SETTINGS).is_file() else "start again"
            reason = getattr(error, "strerror", None) or error
            raise WriteError(f"{str(self.out)!r}: {reason}. {whole}; free some space and {again}.") from error
        finally:
            if self._lock is not None:
                self._lock.release()


def _is_whole(line: str) -> bool:
    """Whether a row was written to its end before a run was killed."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
