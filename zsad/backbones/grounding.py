"""Boxes by words: from a function, a file, or transformers' Grounding DINO (Liu et al. 2023)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zsad.errors import WeightsUnavailable
from zsad.images.boxes import Box, BoxesOfFile, BoxFinder, nowhere
from zsad.weights.download import announce_download, cached_file, quiet_without_a_terminal

__all__ = ["GroundingBoxes", "box_finder"]

log = logging.getLogger("zsad")
NO_BOXES = (
    "No boxes= were given: as in the published code where no box is accepted, a defect is looked for in the centre, and the "
    "map is weaker everywhere. Give a function, a JSON file, or a Grounding DINO by its folder or its name on the hub."
)
FILE = "model.safetensors"
CONFIDENCE = 0.25  # lowest one of a box, and of a word in its phrase (FiLo's)
LARGEST = 0.7  # share of the picture: larger boxes hold the object and no defect (FiLo's)


def box_finder(boxes: str | Path | Callable[..., Any] | None) -> BoxFinder:
    """What finds boxes in a picture.

    Args:
        boxes: a function of an RGB picture and of words (``images.boxes.BoxFinder``), a JSON file of boxes, or a Grounding DINO
            by its folder or its name on the hub, such as "IDEA-Research/grounding-dino-tiny"; None: nothing does.
    """
    if boxes is None:
        log.warning(NO_BOXES)
        return nowhere
    if callable(boxes):
        return boxes
    return BoxesOfFile(boxes) if str(boxes).endswith(".json") else GroundingBoxes(str(boxes))


class GroundingBoxes:
    """Boxes of a ``GroundingDinoForObjectDetection``, on the CPU. Only safetensors are read.

    It sees the picture at the size that the detector scores, and not the file's own. Not verified beside FiLo's program, which
    has a fine-tuned model.

    Args:
        source: a folder that ``save_pretrained`` wrote, or a name on the hub; a download is announced with its size.

    Raises:
        WeightsUnavailable: no network, or no such model.
    """

    def __init__(self, source: str) -> None:
        import transformers

        if not Path(source).is_dir() and cached_file(source, [FILE]) is None:
            announce_download(source, source, [FILE])
        quiet_without_a_terminal()
        try:
            self.processor = transformers.AutoProcessor.from_pretrained(source, trust_remote_code=False)
            model = transformers.GroundingDinoForObjectDetection.from_pretrained(source, use_safetensors=True)
        except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise WeightsUnavailable(
                f"boxes={source!r} could not be loaded as a Grounding DINO ({reason}). Give its folder or its name on the hub, "
                "a JSON file of boxes, or leave boxes out."
            ) from error
        self.model = model.eval().requires_grad_(False)

    def __call__(self, rgb: NDArray[np.uint8], words: Sequence[str]) -> Sequence[Box]:
        """Boxes of one picture (H, W, 3), the words separated by full stops in the caption."""
        inputs = self.processor(images=rgb, text=" . ".join(words) + " .", return_tensors="pt")
        with torch.no_grad():
            outputs = self.model(**inputs)
        (found,) = self.processor.post_process_grounded_object_detection(
            outputs, inputs["input_ids"], threshold=CONFIDENCE, text_threshold=CONFIDENCE
        )
        boxes = []
        for (left, top, right, bottom), phrase, confidence in zip(
            found["boxes"].tolist(), found["text_labels"], found["scores"].tolist(), strict=True
        ):
            width, height = right - left, bottom - top
            if width * height < LARGEST:
                boxes.append(Box(((left + right) / 2, (top + bottom) / 2, width, height), phrase, confidence))
        return boxes
