"""An exported folder as a detector: ``encode`` runs the session, ``score`` reads what it gave."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zsad.decision.calibration import Calibration
from zsad.decision.thresholds import Thresholds
from zsad.detector import Detector
from zsad.errors import NeedsSet, UsageError
from zsad.exports.graph import FEATURES, rule_of
from zsad.exports.metadata import Metadata
from zsad.exports.sessions import Session, open_session
from zsad.inference.feature_store import unpacked
from zsad.registry import method_class
from zsad.types import Context, ImageFeatures, Prediction, Recipe, References, Tap
from zsad.weights.checkpoints import read_state_dict

__all__ = ["CONTEXT", "LEARNED", "Exported", "in_batch_mode", "open_export"]

CONTEXT, LEARNED = "context.safetensors", "learned.safetensors"  # what torch needs beside the towers, to compare again
log = logging.getLogger("zsad")
NO_PLACE = (0, 0)  # grid of what is no patch, so that nobody takes map values for patches


class Encoder(nn.Module):
    """What is asked of a ``types.Backbone`` beside its forward pass, from the metadata."""

    def __init__(self, meta: Metadata) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(0), requires_grad=False)  # has the device where pictures are expected
        facts = meta.detector
        self.rule = rule_of(meta.input)
        self.name, self.image_size, self.activation = facts["backbone"], self.rule.size, facts["activation"]
        self.position_embedding, self.weights_sha256 = facts["position_embedding"], facts["backbone_sha256"]
        self.depth = meta.model["depth"]

    def encode_image(self, images: Tensor, taps: Sequence[int] = ()) -> ImageFeatures:
        """There is none: the tower is inside the model."""
        raise UsageError(f"{self.name} is inside an exported model and cannot encode by itself.")

    def preprocess(self, rgb: np.ndarray[Any, Any]) -> Tensor:
        """(H, W, 3) uint8 of any size -> (S, S, 3) uint8, or a sheet; the rest is inside the model."""
        return torch.from_numpy(np.array(self.rule.resized(rgb), copy=True))


class Exported(Detector):
    """A model that ``zsad export`` wrote, whose score is of one picture.

    Args:
        folder: with the model.
        threads: of the runtime; None: as many as torch has.
    """

    recipe = Recipe("its own", 0)

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        self.meta = Metadata.load(Path(folder))
        super().__init__(Encoder(self.meta))
        self.file, meta = self.meta.file(Path(folder)), self.meta
        self.name = meta.detector["method"]  # type: ignore[misc]  # of an object here, not of the class
        self.threads = threads
        self.weights_sha256 = meta.detector["weights_sha256"]
        self.map_range = (meta.map_range[0], meta.map_range[1])
        self.word_margin, self.far_score, self.smallest_set = meta.word_margin, meta.far_score, meta.smallest_set  # type: ignore[misc]
        self.sessions: dict[str, Session] = {}
        self.opening = threading.Lock()

    def arguments(self) -> dict[str, Any]:
        """Those of the exported method, and which model it is."""
        model = self.meta.model
        digest = next(iter(model["files"].values()))[:16]
        return self.meta.detector["arguments"] | {"exported": f"{model['runtime']} {model['precision']} {digest}"}

    def called(self, target: str) -> str:
        """The name that the model was exported for. Raises ``UsageError`` for another one."""
        if target not in ("object", self.meta.target):
            raise UsageError(
                f"The model was exported for {self.meta.target!r}, not for {target!r}: export again, with that name."
            )
        return self.meta.target

    def own_levels(self, geometry: Any, value_range: Any) -> tuple[Calibration | None, Thresholds | None]:
        """The calibration and the thresholds of the export; (None, None), with a warning, for pictures cut otherwise."""
        found, facts = (self.meta.calibrated(), self.meta.levels()), self.meta.detector
        now = json.loads(json.dumps([geometry, value_range]))
        if found != (None, None) and now != [facts["geometry"], facts["value_range"]]:
            log.warning(
                "The levels inside the exported model hold for whole pictures as at its export: they are not used here."
            )
            return None, None
        return found

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Words and sentences; all else is inside the model. Raises ``UsageError`` for another name, and for references."""
        self.called(name)
        if references is not None:
            self.reference_rows(ImageFeatures(torch.zeros(0, 1)))
        return Context(
            sentences={kind: tuple(some) for kind, some in self.meta.sentences.items()}, words=tuple(self.meta.words)
        )

    def reference_rows(self, features: ImageFeatures) -> Mapping[str, Tensor]:
        """Raises ``UsageError``."""
        raise UsageError(
            "An exported model has its references inside and takes no others. Export again: zsad export --references DIR."
        )

    def session(self, device: str) -> Session:
        """The loaded model, one for each kind of device."""
        with self.opening:
            if device not in self.sessions:
                threads = self.threads or torch.get_num_threads()
                model = self.meta.model
                self.sessions[device] = open_session(self.file, model["runtime"], model["outputs"], threads, device)
            return self.sessions[device]

    def run(self, images: Tensor) -> dict[str, Tensor]:
        """(B, S, S, 3) uint8 -> outputs by name."""
        if torch.is_autocast_enabled(images.device.type):
            raise UsageError(
                f"An exported model computes in its own precision, {self.meta.model['precision']}. Leave precision out."
            )
        found = self.session(images.device.type).run(np.ascontiguousarray(images.cpu().numpy()))
        return {name: torch.from_numpy(one).to(images.device) for name, one in found.items()}

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, S, S, 3) uint8 -> score (B, 1) as ``image``, map and word maps as streams of no place."""
        found = self.run(images)
        rows = {"map": found["map"]} | ({"words": found["words"].flatten(1, 2)} if "words" in found else {})
        return ImageFeatures(found["score"][:, None], streams={name: {0: Tap(one, NO_PLACE)} for name, one in rows.items()})

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """What the model gave."""
        words = features.streams.get("words")
        maps = None if words is None else words[0].patches.unflatten(1, (len(self.meta.words), -1))
        return Prediction(features.image[:, 0], features.streams["map"][0].patches, maps)


class ExportedEncoder(Exported):
    """A model that ``zsad export`` wrote, whose outputs the method compares with those of the folder's other pictures."""

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        super().__init__(folder, threads)
        cls, facts = method_class(self.name), self.meta.detector
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in facts["arguments"].items()}
        made = cls(self.backbone, **dict.fromkeys(facts.get("encoders", {}), self.backbone), **given)
        if (path := Path(folder) / LEARNED).is_file():
            made.load_learned(read_state_dict(path), LEARNED)
        self.kept = Context.load(Path(folder) / CONTEXT)
        self.method = in_batch_mode(made.eval(), self.kept)

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """The context that was exported. Raises ``UsageError`` as ``Exported.prepare``."""
        super().prepare(name, references)
        return self.kept

    def needs_set(self, context: Context) -> bool:
        """Always."""
        return True

    def scales_within_set(self, context: Context) -> str:
        """As the method."""
        return self.method.scales_within_set(context)

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, S, S, 3) uint8 -> the method's features."""
        return unpacked(self.run(images), self.meta.model["grids"])

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Raises ``NeedsSet``."""
        raise NeedsSet(f"This exported {self.name} compares pictures with each other. Call score_set.")

    def score_set(self, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
        """As the method."""
        return self.method.score_set(features, context)


def in_batch_mode(detector: Detector, context: Context) -> Detector:
    """A detector that compares pictures, in the form that encodes no more than that needs."""
    found = detector.as_batch(context)
    return detector if found is None else found


def open_export(
    folder: str | Path, *, backbone: Any = None, checkpoint: str | Path | None = None, threads: int | None = None, **more: Any
) -> Exported:
    """Opens an exported folder.

    Args:
        folder: as ``zsad export`` wrote it.
        backbone: there is none to choose.
        checkpoint: likewise.
        threads: of the runtime; None: as many as torch has.
        **more: there are no other keywords.

    Raises:
        UsageError: no export, a damaged one, or one of a later version; or keywords that an exported model does not take.
        MissingExtra: its runtime is not installed.
    """
    given = {"backbone": backbone, "checkpoint": checkpoint, **more}
    if wrong := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"An exported model takes no {', '.join(wrong)}: everything was settled by zsad export. Leave it out.")
    kind = Metadata.load(Path(folder)).model["kind"]
    made = (ExportedEncoder if kind == FEATURES else Exported)(folder, threads)
    made.session("cpu")  # a missing runtime and a damaged model show here
    return made.eval()
