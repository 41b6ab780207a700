"""What is computed from a memory bank, once, and kept for as long as the bank's rows are in use.

A context holds references in its banks alone, so that one can be left out; what follows from them stands here, and is found
again by the identity of the rows. Rows that are gone take it with them, and learned weights that changed are seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from zsad.alignment.blocks import is_exporting

__all__ = ["derived"]

Value = TypeVar("Value")
_kept: Any = WeakIdKeyDictionary()  # rows -> module -> (key, state of the weights) -> value


def derived(rows: Tensor, module: nn.Module, key: object, make: Callable[[], Value]) -> Value:
    """``make()``, or what it gave before for the same rows, module, key and weights; anew wherever gradients are on.

    Args:
        rows: of a bank.
        module: whose weights have a part in the result.
        key: tells several results apart.
        make: computes it from these.
    """
    if torch.is_grad_enabled():
        return make()
    kept = _kept.setdefault(rows, WeakIdKeyDictionary()).setdefault(module, {})
    if is_exporting() and key in kept:  # by a pass before, with the same weights
        found: Value = kept[key][1]
        return found
    state = tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in module.parameters())
    if kept.get(key, (None, None))[0] != state:
        kept[key] = state, make()
    value: Value = kept[key][1]
    return value
