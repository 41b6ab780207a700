"""Deterministic tiny CLIP weights, tensors and pictures: the same bits from the same seed on every platform.

The reference outputs of ``zsad verify`` were computed by the authors' programs on these weights. No library function of
floating-point numbers (exp, log, sin) and no random generator of torch has a part: every value comes from the raw 64-bit words
of numpy's PCG64 (a stream that numpy promises not to change), sums of integers, and IEEE + - * / and square roots.
``fingerprint`` checks a regenerated state dict.

Each word is cut into four lanes of 16 bits, whose sum (0 to 4 * 65535) is scaled to mean 0 and variance 1. Weights are rounded
to numbers that float16 holds, so that a loader which passes them through half precision loses nothing. They are scaled so that
the residual stream stays of order one over 24 layers, attention is neither uniform nor one-hot, and the softmax of 100 times a
cosine is not saturated.
"""

from __future__ import annotations

import hashlib
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["described_tensors", "fingerprint", "half_exact", "random_tensor", "tiny_clip_state_dict", "unit_noise"]

# a rule of a fixture's settings, such as random_tensor(seed, 'name', (4, 128), 0.5, mean=0.0)
RULE = re.compile(r"random_tensor\(seed, '([^']+)', \(([\d, ]+)\), ([\d.e-]+)(?:, mean=([\d.e-]+))?\)")

LANES = np.uint64(0x0000FFFF0000FFFF)  # every other lane of a word
PIECE = 32_768  # words at a time, which stay in the processor's cache

Gains: TypeAlias = tuple[float, float, float, float]  # of queries and keys, values, attention's output, MLP's output
VISION_GAINS: Gains = (1.3, 0.7, 0.7, 0.6)
TEXT_GAINS: Gains = (1.5, 1.0, 1.2, 0.6)


def unit_noise(seed: int, name: str, shape: Sequence[int]) -> NDArray[np.float64]:
    """Near-normal values of mean 0, variance 1 and |x| < 3.47, fixed by (seed, name).

    A longer request begins with the values of a shorter one.
    """
    count = math.prod(int(side) for side in shape)
    bits = np.random.PCG64(np.random.SeedSequence([int(seed), zlib.crc32(name.encode("utf-8"))]))
    words = np.asarray(bits.random_raw(count), dtype=np.uint64).reshape(-1)
    unit = np.empty(count)
    for i in range(0, count, PIECE):
        unit[i : i + PIECE] = _unit(words[i : i + PIECE])
    return unit.reshape(tuple(shape))


def _unit(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The sum of each word's four lanes, scaled."""
    pairs = (words & LANES) + ((words >> np.uint64(16)) & LANES)  # two sums of two lanes, 32 bits apart
    total = ((pairs & np.uint64(0xFFFFFFFF)) + (pairs >> np.uint64(32))).astype(np.int64)
    unit: NDArray[np.float64] = (total - 131070).astype(np.float64) / math.sqrt((2.0**32 - 1.0) / 3.0)
    return unit


def _tensor(values: NDArray[Any], half_exact: bool = True) -> Tensor:
    """float32, by way of float16 where every value has to be one that float16 holds."""
    rounded = values.astype(np.float16) if half_exact else values
    return torch.from_numpy(np.ascontiguousarray(rounded.astype(np.float32)))


def half_exact(values: NDArray[np.float64]) -> Tensor:
    """float32 tensor of the nearest values that float16 holds."""
    return _tensor(values)


def random_tensor(seed: int, name: str, shape: Sequence[int], std: float, mean: float = 0.0) -> Tensor:
    """float32 tensor of learned weights (prompts, adapters), fixed by (seed, name).

    It is not rounded to float16, so that a method which casts to half precision is seen to do so in its outputs.
    """
    return _tensor(mean + std * unit_noise(seed, name, shape), half_exact=False)


def described_tensors(settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Learned tensors of a fixture by the authors' names: those for which ``extra_tensors`` has a rule of this form, or a sum
    of such rules."""
    found = {}
    for key, rule in settings["extra_tensors"].items():
        terms = [RULE.fullmatch(term) for term in rule.split(" + ")]
        if all(terms):
            found[key] = torch.stack([_by_rule(settings["seed"], hit) for hit in terms if hit]).sum(dim=0)
    return found


def _by_rule(seed: int, rule: re.Match[str]) -> Tensor:
    shape = [int(side) for side in rule[2].split(",") if side.strip()]
    return random_tensor(seed, rule[1], shape, float(rule[3]), mean=float(rule[4] or 0))


def tiny_clip_state_dict(
    seed: int,
    *,
    vision_width: int = 128,
    vision_layers: int = 24,
    patch_size: int = 14,
    image_size: int = 70,
    embed_dim: int = 64,
    text_width: int = 128,
    text_layers: int = 12,
    context_length: int = 77,
    vocab_size: int = 49408,
) -> dict[str, Tensor]:
    """State dict of a small CLIP ViT under OpenAI's key names, float32.

    Loaders derive everything from the shapes: heads are width / 64 in both towers, the grid is image_size / patch_size.

    Raises:
        ValueError: a width that 64 does not divide, or an image size that the patch size does not divide.
    """
    if vision_width % 64 or text_width % 64:
        raise ValueError(
            f"Widths are {vision_width} and {text_width}; they must be multiples of 64 (one head per 64 channels)."
        )
    if image_size % patch_size:
        raise ValueError(f"The image size {image_size} must be a multiple of the patch size {patch_size}.")
    state: dict[str, Tensor] = {}

    def put(key: str, shape: Sequence[int], std: float, mean: float = 0.0) -> None:
        state[key] = _tensor(mean + std * unit_noise(seed, key, shape))

    def put_blocks(tower: str, layers: int, width: int, gains: Gains) -> None:
        for layer in range(layers):
            state.update(_block(seed, f"{tower}transformer.resblocks.{layer}.", width, gains))

    put("visual.class_embedding", (vision_width,), 0.7)
    put("visual.positional_embedding", ((image_size // patch_size) ** 2 + 1, vision_width), 0.35)
    put("visual.proj", (vision_width, embed_dim), vision_width**-0.5)
    # neighbouring pixels differ little, so the patch filter is scaled up
    put("visual.conv1.weight", (vision_width, 3, patch_size, patch_size), 1.5 / math.sqrt(3 * patch_size * patch_size))
    put("visual.ln_pre.weight", (vision_width,), 0.1, 1.0)
    put("visual.ln_pre.bias", (vision_width,), 0.05)
    put_blocks("visual.", vision_layers, vision_width, VISION_GAINS)
    put("visual.ln_post.weight", (vision_width,), 0.1, 1.0)
    put("visual.ln_post.bias", (vision_width,), 0.3)
    put("text_projection", (text_width, embed_dim), text_width**-0.5)
    put("positional_embedding", (context_length, text_width), 0.3)
    state["token_embedding.weight"] = _token_embedding(seed, vocab_size, text_width)
    put_blocks("", text_layers, text_width, TEXT_GAINS)
    put("ln_final.weight", (text_width,), 0.1, 1.0)
    put("ln_final.bias", (text_width,), 0.8)  # large: a component that all texts share
    state["logit_scale"] = torch.tensor(np.float32(np.float16(4.6052)))
    return state


# Towers of several sizes have most of their tensors in common. Whoever would write on one is told by ``fingerprint``.
@lru_cache(maxsize=1)
def _token_embedding(seed: int, words: int, width: int) -> Tensor:
    return _tensor(0.7 * unit_noise(seed, "token_embedding.weight", (words, width)))


@lru_cache(maxsize=36)  # blocks of both towers
def _block(seed: int, prefix: str, width: int, gains: Gains) -> Mapping[str, Tensor]:
    """One pre-norm residual attention block."""
    queries, values, attention, mlp = gains
    state: dict[str, Tensor] = {}

    def put(key: str, shape: Sequence[int], std: Any, mean: float = 0.0) -> None:
        state[prefix + key] = _tensor(mean + std * unit_noise(seed, prefix + key, shape))

    fan = width**-0.5
    rows = np.repeat(np.array([queries, queries, values]), width)[:, None]  # of the queries, keys, values
    put("attn.in_proj_weight", (3 * width, width), rows * fan)
    put("attn.in_proj_bias", (3 * width,), 0.05)
    put("attn.out_proj.weight", (width, width), attention * fan)
    put("attn.out_proj.bias", (width,), 0.02)
    put("ln_1.weight", (width,), 0.1, 1.0)
    put("ln_1.bias", (width,), 0.05)
    put("mlp.c_fc.weight", (4 * width, width), fan)
    put("mlp.c_fc.bias", (4 * width,), 0.05)
    put("mlp.c_proj.weight", (width, 4 * width), mlp * 0.5 * fan)
    put("mlp.c_proj.bias", (width,), 0.02)
    put("ln_2.weight", (width,), 0.1, 1.0)
    put("ln_2.bias", (width,), 0.05)
    return MappingProxyType(state)


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted keys, shapes and float32 little-endian bytes."""
    digest = hashlib.sha256()
    for key in sorted(state):
        array = state[key].detach().cpu().numpy().astype("<f4")
        digest.update(f"{key}{tuple(array.shape)}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
