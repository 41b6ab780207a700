"""``tips-l14-hr`` and its siblings, ``tips:folder``, ``tips-tiny``: TIPS from its published ``.npz`` files, or random weights.

Sizes are read off the shapes; the heads are width / 64, but for the widths of ``ODD_WIDTHS``.
"""

from __future__ import annotations

import hashlib
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from zsad.backbones.blocks import TowerShape
from zsad.backbones.filling import fill, unfilled
from zsad.backbones.tips import TIPS, TIPSVision
from zsad.backbones.tips_text import SentencePieces, TIPSText, WordHashes
from zsad.errors import CheckpointMismatch, SourceNotFound, UsageError
from zsad.registry import register_backbone
from zsad.weights.checkpoints import AuthorsFile, sha256_of
from zsad.weights.plain_files import fetched_once, plain_folder

__all__ = ["PUBLISHED", "listed", "load_tips", "load_tips_tiny"]

ADDRESS = "https://storage.googleapis.com/tips_data/v1_0/checkpoints/"
VISION, TEXT, TOKENIZER = "_vision.npz", "_text.npz", "tokenizer.model"  # endings of the files' names


class Published(NamedTuple):
    """A TIPS that its authors publish."""

    stem: str  # of its files' names
    megabytes: int  # about, by the authors' count of parameters
    width: int  # of both towers


PUBLISHED = {
    "tips-s14-hr": Published("tips_oss_s14_highres_distilled", 221, 384),
    "tips-b14-hr": Published("tips_oss_b14_highres_distilled", 781, 768),
    "tips-l14-hr": Published("tips_oss_l14_highres_distilled", 1948, 1024),
    "tips-so400m14-hr": Published("tips_oss_so400m14_highres_largetext_distilled", 3443, 1152),
    "tips-g14-hr": Published("tips_oss_g14_highres", 5956, 1536),
}
ODD_WIDTHS = {1152: 16}  # width -> heads
VISION_FILE = AuthorsFile(
    {
        r"^mask_token$": None,  # of the training
        r"^patch_embed\.proj\.": "conv1.",
        r"^cls_token$": "class_embedding",
        r"^register_tokens$": "registers",
        r"^pos_embed$": "positional_embedding",
        r"^norm\.": "ln_post.",
        r"^blocks\.": "transformer.resblocks.",
        r"\.norm([12])\.": r".ln_\1.",
        r"\.attn\.qkv\.": ".attn.in_proj_",
        r"\.attn\.proj\.": ".attn.out_proj.",
        r"\.mlp\.(fc1|w12)\.": ".mlp.c_fc.",
        r"\.mlp\.(fc2|w3)\.": ".mlp.c_proj.",
    }
)
SCALED = {"ls1.gamma": "attn.out_proj", "ls2.gamma": "mlp.c_proj"}  # layer scale -> the linear layer that it is folded into
FIRST = "transformer.resblocks.0."


def load_tips(
    name: str,
    *,
    activation: str | None = None,
    position_embedding: str | None = None,
    image_size: int | None = None,
    vision: str | Path | None = None,
    text: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> TIPS:
    """Loads a published TIPS by name, or local files.

    Args:
        name: of ``PUBLISHED``, or ``tips:folder``, which has one ``*_vision.npz``, one ``*_text.npz`` and ``tokenizer.model``.
        activation: not used: it belongs to the weights, whatever a method's recipe says; nor is ``position_embedding``.
        position_embedding: not used.
        image_size: side of the input in pixels; None is the native one (448 of the published).
        vision: path of the image tower's file, in place of the published or the folder's.
        text: path of the text tower's.
        tokenizer: path of the SentencePiece model.

    Raises:
        SourceNotFound, UsageError: a local file is missing, or there are several.
        WeightsUnavailable: a published file is neither here nor to be had.
        CheckpointMismatch: other keys or shapes.
    """
    files = {ending: _found(name, given, ending) for given, ending in ((vision, VISION), (text, TEXT), (tokenizer, TOKENIZER))}
    image_state = _folded(VISION_FILE.own_names(_read(files[VISION])))
    text_state = _read(files[TEXT])
    if (temperature := text_state.pop("temperature", None)) is None:
        raise CheckpointMismatch(f"{files[TEXT].name} is no text tower of TIPS: temperature is missing.")
    with unfilled():
        towers = _vision(image_state, files[VISION]), _text(text_state, files[TEXT])
    model = TIPS(name, *towers, SentencePieces(files[TOKENIZER]), image_size, float(temperature))
    _load(model.vision, image_state, files[VISION])
    _load(model.text, text_state, files[TEXT])
    digests = "".join(sha256_of(path) for path in files.values())
    model.weights_sha256 = hashlib.sha256(digests.encode()).hexdigest()
    return model


register_backbone("tips:")(load_tips)
for _name in PUBLISHED:
    register_backbone(_name)(load_tips)


@register_backbone("tips-tiny")
def load_tips_tiny(
    name: str,
    *,
    activation: str | None = None,
    position_embedding: str | None = None,
    image_size: int | None = None,
    width: int = 64,
    layers: int = 12,
    side: int = 5,
    seed: int = 0,
    text_layers: int = 12,
) -> TIPS:
    """A TIPS with seeded random weights, for tests, dry runs and measurements; its scores mean nothing.

    Args:
        name: "tips-tiny".
        activation: not used; nor is ``position_embedding``.
        position_embedding: not used.
        image_size: side of the input in pixels, a multiple of 14; None is ``side`` * 14.
        width: channels of both towers, 64 per head.
        layers: blocks of the image tower.
        side: patches of a side of the native grid.
        seed: of the weights.
        text_layers: blocks of the text tower. Its tokens are hashed words.
    """
    heads, words = max(1, width // 64), 1000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vision = TIPSVision(TowerShape(width, layers, heads, 4 * width), 14, side)
        text = TIPSText(TowerShape(width, text_layers, heads, 4 * width), words)
        return TIPS(name, vision, text, WordHashes(words), image_size, 0.05)


def listed(name: str) -> dict[str, str]:
    """Size, whether it is here, licence and source of a published TIPS, as ``zsad list`` shows them."""
    here = all((plain_folder() / f"{PUBLISHED[name].stem}{ending}").is_file() for ending in (VISION, TEXT))
    source = "google-deepmind/tips, downloaded when first used"
    return {"size": f"{PUBLISHED[name].megabytes} MB", "here": "yes" if here else "no", "licence": "CC BY 4.0", "from": source}


def _found(name: str, given: str | Path | None, ending: str) -> Path:
    """One of the files: the given one, a published one, or the one of a folder with that ending."""
    if given is not None:
        if not Path(given).is_file():
            raise SourceNotFound(f"There is no file at {str(given)!r}, which {name} is to be loaded from. Check the path.")
        return Path(given)
    if name in PUBLISHED:
        if ending == TOKENIZER:
            return fetched_once(name, ADDRESS + TOKENIZER, f"tips_{TOKENIZER}")
        return fetched_once(name, f"{ADDRESS}pytorch/{PUBLISHED[name].stem}{ending}")
    folder = Path(name.removeprefix("tips:"))
    found = sorted(folder.glob(f"*{ending}"))
    if len(found) != 1:
        there = f"has {len(found)} files" if folder.is_dir() else "is no folder with a file"
        raise SourceNotFound(
            f"{str(folder)!r} {there} whose name ends in {ending}; one is needed. Or give paths: vision=, text=, tokenizer=."
        )
    return found[0]


def _read(path: Path) -> dict[str, Tensor]:
    """The arrays of an ``.npz`` as float32; pickles are refused."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {key: torch.from_numpy(np.asarray(file[key])).float() for key in file.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointMismatch(f"{path.name} is no .npz file of arrays that can be read: {error}") from error


def _folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower's tensors in the tower's shapes, with layer scale in the linear layers before it."""
    found = dict(state)
    for key in [key for key in found if key.endswith(tuple(SCALED))]:
        gamma, (scale, linear) = found.pop(key), next(pair for pair in SCALED.items() if key.endswith(pair[0]))
        for kind in ("weight", "bias"):
            own = f"{key.removesuffix(scale)}{linear}.{kind}"
            if own in found:
                found[own] = found[own] * (gamma[:, None] if kind == "weight" else gamma)
    for key in ("class_embedding", "registers", "positional_embedding"):
        if key in found:
            found[key] = found[key].flatten() if key == "class_embedding" else found[key].flatten(0, -2)
    return found


def _shape(state: Mapping[str, Tensor], needed: tuple[str, ...], path: Path) -> TowerShape:
    """Sizes of a tower.

    Raises:
        CheckpointMismatch: a tensor that they are read off is missing.
        UsageError: the width does not tell the number of heads.
    """
    if absent := [key for key in (*needed, f"{FIRST}mlp.c_fc.weight", f"{FIRST}mlp.c_proj.weight") if key not in state]:
        start = ", ".join(sorted(state)[:3]) or "nothing"
        raise CheckpointMismatch(f"{path.name} is no tower of TIPS: {', '.join(absent)} missing; it starts with {start}.")
    layers = 1 + max(int(found[1]) for key in state if (found := re.match(r"transformer\.resblocks\.(\d+)\.", key)))
    width, hidden = state[f"{FIRST}mlp.c_proj.weight"].shape
    if width % 64 and width not in ODD_WIDTHS:
        raise UsageError(f"{path.name} has a width of {width}, which does not tell the number of attention heads.")
    return TowerShape(width, layers, ODD_WIDTHS.get(width, width // 64), hidden)


def _vision(state: Mapping[str, Tensor], path: Path) -> TIPSVision:
    needed = ("conv1.weight", "class_embedding", "registers", "positional_embedding")
    shape = _shape(state, needed, path)
    side = math.isqrt(len(state["positional_embedding"]) - 1)
    gated = len(state[f"{FIRST}mlp.c_fc.weight"]) == 2 * shape.mlp
    return TIPSVision(shape, state["conv1.weight"].shape[-1], side, len(state["registers"]), gated)


def _text(state: Mapping[str, Tensor], path: Path) -> TIPSText:
    return TIPSText(_shape(state, ("token_embedding.weight",), path), len(state["token_embedding.weight"]))


def _load(tower: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Loads strictly. Raises ``CheckpointMismatch``, which names what is missing, unexpected or of another shape."""
    try:
        fill(tower, state)
    except RuntimeError as error:
        raise CheckpointMismatch(f"{path.name} does not fit TIPS: {str(error).partition(chr(10))[2].strip()}") from error
