"""Networks whose weights come from a file: built without drawing first values, then given the file's tensors as their own.

Values that a file replaces take 3.5 s of a ViT-L/14, more than reading the file does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["fill", "unfilled"]
DRAWING = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)  # in place


class unfilled(TorchFunctionMode):  # noqa: N801 (used as a context, like torch.no_grad)
    """A context in which a new network's weights are whatever the memory holds; ``fill`` is to follow."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in DRAWING:
            return args[0] if args else given["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **given)


def fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Takes the tensors over, strictly, in float32.

    Raises:
        RuntimeError: names what is missing, unexpected or of another shape.
    """
    network.load_state_dict({key: tensor.float().contiguous() for key, tensor in state.items()}, strict=True, assign=True)
