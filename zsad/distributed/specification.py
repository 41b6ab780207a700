"""What a worker needs to score: plain values that travel to other processes and machines, checked when they arrive."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from zsad.common.output_folder import differences
from zsad.common.version import __version__
from zsad.decision.calibration import Calibration
from zsad.decision.thresholds import Thresholds
from zsad.distributed.pool import pooled_inspector
from zsad.errors import UsageError, WeightsError, WeightsUnavailable
from zsad.exports.detector import Exported
from zsad.inference.inspector import Inspector
from zsad.registry import method_class

__all__ = ["Attachments", "Specification", "attachments_of", "go_offline", "specify"]

Attachments = Mapping[str, bytes]  # files that go with a specification: saved references, the pool
LEVELS = ("threshold", "review_at", "pixel_threshold", "calibration", "max_false_alarms", "review_false_alarms")
ON_THE_DRIVER = (*LEVELS, "references", "anomalous", "anomalous_masks", "batch")
REFERENCES = "references/"  # before the names of the attachments that are a folder of saved references


@dataclass(frozen=True)
class Specification:
    """A detector and what its rows depend on, in plain values.

    Attributes:
        settings: keywords of ``Inspector``, without references and levels.
        detector: ``Inspector.describe()`` of the one that it was taken from; a worker's has to be the same.
        thresholds: levels that are known before any picture is scored.
        calibration: the fields of a ``Calibration``, for p-values; None: there is none.
        pool: what the pictures are compared with, see ``pool.py``; None: each is scored by itself.
        source: the place of the pictures; names in rows are relative to it.
        maps: "png", "npy" or None, and ``maps_out``, the place where maps are written.
        files: weights that every worker has to find, by path, with their sha256 ("" of a folder).
        network: whether a worker may download weights.
        threads: of torch, per process.
        zsad: the version of zsad.
    """

    settings: Mapping[str, Any]
    detector: Mapping[str, Any]
    thresholds: Thresholds = field(default_factory=Thresholds)
    calibration: Mapping[str, Any] | None = None
    pool: Mapping[str, Any] | None = None
    source: str = ""
    maps: str | None = None
    maps_out: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    network: bool = False
    threads: int = 1
    zsad: str = __version__

    @property
    def fingerprint(self) -> str:
        """Sixteen digits for the detector: equal ones give equal scores."""
        text = json.dumps([self.zsad, dict(self.detector), self.pool and dict(self.pool)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def known_calibration(self) -> Calibration | None:
        """The calibration, if there is one."""
        if self.calibration is None:
            return None
        numbers = {key: tuple(self.calibration[key]) for key in ("scores", "peaks")}
        return Calibration(**(dict(self.calibration) | numbers))

    def load(self, attachments: Attachments) -> Inspector:
        """The inspector, on the machine where it is called.

        Raises:
            UsageError: zsad or the detector is another one here; names what differs.
            WeightsUnavailable: weights are not here.
        """
        where = f"The worker {socket.gethostname()}"
        if self.zsad != __version__:
            raise UsageError(
                f"{where} has zsad {__version__}, and the run was started with {self.zsad}. Install the same on all machines."
            )
        if missing := [path for path in self.files if not os.path.exists(path)]:  # noqa: PTH110
            raise WeightsUnavailable(
                f"{where} does not find {missing[0]!r}. Put the weights at the same path on every machine, or on a disk that "
                "all of them see."
            )
        if not self.network:
            go_offline()
        torch.set_num_threads(self.threads)
        try:
            inspector = self._build(attachments)
        except WeightsError as error:
            raise WeightsUnavailable(f"{where} cannot load the weights: {error}") from error
        if differ := differences(self.detector, inspector.describe()):
            raise UsageError(f"{where} has another detector: {'; '.join(differ)}. Put the same weights on all machines.")
        return inspector if self.pool is None else pooled_inspector(inspector, attachments)

    def _build(self, attachments: Attachments) -> Inspector:
        with tempfile.TemporaryDirectory(prefix="zsad-") as folder:
            given = {key: content for key, content in attachments.items() if key.startswith(REFERENCES)}
            for key, content in given.items():
                (Path(folder) / key.removeprefix(REFERENCES)).write_bytes(content)
            return Inspector(**self.settings, references=folder if given else None, batch="off")


def specify(inspector: Inspector, settings: Mapping[str, Any], **more: Any) -> Specification:
    """The specification of an inspector.

    Args:
        inspector: has the references and the levels.
        settings: the keywords that it was made with, ``method`` and ``target`` among them.
        **more: further fields.

    Raises:
        UsageError: a keyword that is no plain value.
    """
    plain = {key: _plain(one) for key, one in settings.items() if key not in ON_THE_DRIVER}
    if _is_exported(plain):
        plain["method"] = str(Path(plain["method"]).resolve())
    try:
        json.dumps(plain)
    except TypeError as error:
        raise UsageError(f"A setting cannot be sent to other machines: {error}. Give names and paths, not objects.") from error
    made = inspector.calibration
    spec = Specification(plain, inspector.describe(), inspector.known_thresholds(), files=_weights(plain))
    calibration = None if made is None else asdict(made) | {"detector": {}}
    return replace(spec, calibration=calibration, **more)


def attachments_of(inspector: Inspector) -> dict[str, bytes]:
    """The references of an inspector as files."""
    if not (inspector.references.names or inspector.references.anomalous_names):
        return {}
    with tempfile.TemporaryDirectory(prefix="zsad-") as folder:
        inspector.save_references(folder)
        return {f"{REFERENCES}{path.name}": path.read_bytes() for path in sorted(Path(folder).iterdir())}


def go_offline() -> None:
    """Keeps this process from downloading weights, whether or not the hub's client is imported already."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True


def _plain(value: Any) -> Any:
    """A keyword as JSON has it; a path in full, because other processes have other working folders."""
    return str(value.resolve() if value.exists() else value) if isinstance(value, Path) else value


def _is_exported(settings: Mapping[str, Any]) -> bool:
    """Whether the method is an exported model's folder, as the registry understands its name."""
    return issubclass(method_class(settings.get("method", "compact")), Exported)


def _weights(settings: Mapping[str, Any]) -> dict[str, str]:
    """Paths of the weights that the settings name, an exported model's folder among them, with their digests."""
    named = [settings.get("checkpoint"), str(settings.get("backbone") or "").removeprefix("file:").removeprefix("hf:")]
    named += [settings["method"]] if _is_exported(settings) else []
    paths = [str(Path(one).resolve()) for one in named if one and Path(one).exists()]
    return {path: _digest(Path(path)) for path in paths}


def _digest(path: Path) -> str:
    if path.is_dir():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
