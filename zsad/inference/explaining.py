"""``Inspector.explain``: what a vision-language model says about results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from zsad.common.threads import ahead
from zsad.decision.thresholds import ANOMALOUS, REVIEW, Thresholds
from zsad.errors import UsageError
from zsad.explain.asking import Asker
from zsad.explain.endpoint import KEY, Endpoint
from zsad.explain.local import LocalModel
from zsad.explain.model import VisionLanguageModel
from zsad.explain.pictures import Case, Drawing, Outline, Seen
from zsad.images.reading import list_images, load_image
from zsad.inference.result import Result

__all__ = ["Explains", "first_picture", "open_model"]

DRAWINGS = ("box", "contour", "heat")


def open_model(
    model: str | Path,
    endpoint: str | None,
    *,
    key_variable: str = KEY,
    parallel: int = 4,
    timeout: float = 120.0,
    device: Any = "cpu",
) -> VisionLanguageModel:
    """The model at an address, or without one that of a folder.

    Args:
        model: its name at the address, or the folder.
        endpoint: the address of an OpenAI-compatible server; pictures go there.
        key_variable: environment variable that holds its key.
        parallel: requests at a time, of an address.
        timeout: seconds for one answer of an address.
        device: of a model of a folder.
    """
    if endpoint is not None:
        return Endpoint(endpoint, str(model), key_variable=key_variable, parallel=parallel, timeout=timeout)
    return LocalModel(model, device)


def first_picture(source: Any, value_range: tuple[float, float] | None = None) -> NDArray[np.uint8] | None:
    """The first picture of a source, (H, W, 3) uint8; None of None.

    Raises:
        UsageError: the source holds no picture, or the first cannot be read.
    """
    if source is None:
        return None
    return load_image(next(iter(list_images(source))), value_range=value_range).rgb


def checked_drawing(how: str) -> Drawing:
    """Raises ``UsageError`` for a way of drawing regions that there is not."""
    if how not in DRAWINGS:
        raise UsageError(f"Regions cannot be drawn as {how!r}; choose 'box', 'contour' or 'heat'.")
    return cast(Drawing, how)


class Explains:
    """The part of an ``Inspector`` that asks a vision-language model about its results."""

    target: str
    thresholds: Thresholds
    value_range: tuple[float, float] | None

    def explain(
        self,
        results: Iterable[Result],
        *,
        model: str | Path,
        endpoint: str | None = None,
        drawing: str = "contour",
        reference: Any = None,
        every: bool = False,
        **of_model: Any,
    ) -> Iterator[Result]:
        """The results, in their order, with what a vision-language model says in ``explanation``; verdicts stay as they are.

        Args:
            results: of this inspector.
            model: its name at the endpoint, or a folder that transformers wrote.
            endpoint: address of an OpenAI-compatible server, to which the pictures go; None: nothing leaves the machine.
            drawing: of the regions: "box", "contour" or "heat".
            reference: a normal picture, or a source whose first is taken; it is shown beside each.
            every: explain normal pictures too, and not only those that are anomalous or for review.
            **of_model: keywords of ``open_model``.

        Raises:
            UsageError: no such model, or it does not answer.
            MissingExtra: ``zsad[explain]`` is not installed.
        """
        asked = open_model(model, endpoint, **of_model)
        try:
            normal = first_picture(reference, self.value_range)
            ask = Asker(asked, self.target, checked_drawing(drawing), normal)

            def explained(result: Result) -> Result:
                wanted = result.image is not None and (every or result.pred_label in (ANOMALOUS, REVIEW))
                return replace(result, explanation=ask(_case(result))) if wanted else result

            yield from ahead(results, explained, asked.parallel, 2 * asked.parallel)
        finally:
            asked.close()


def _case(result: Result) -> Case:
    assert result.image is not None
    picture = result.image
    regions = tuple(Outline(region.box, region.contour) for region in result.regions)
    heat = None
    if result.anomaly_map is not None and result.pred_mask is not None:
        heat = np.where(result.pred_mask, result.anomaly_map, np.float32("nan"))
    return Case(
        name=result.name,
        size=(picture.shape[0], picture.shape[1]),
        identity=blake2b(picture.tobytes(), digest_size=16).hexdigest(),
        flagged=result.pred_label in (ANOMALOUS, REVIEW),
        regions=regions,
        map_range=result.map_range,
        load=lambda: Seen(picture, heat),
    )
