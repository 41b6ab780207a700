"""StableAdamW: AdamW whose step shrinks where a gradient is large for what its second moment knows.

Wortsman et al., "Stable and low-precision training for large-scale vision-language models", NeurIPS 2023, arXiv 2304.13013.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["StableAdamW"]


class StableAdamW(torch.optim.Optimizer):
    """AdamW; the update of each tensor is divided by max(1, root mean square of gradient / denominator).

    Args:
        parameters: tensors, or groups of them.
        lr: learning rate.
        betas: of the two moments.
        eps: added to the denominator.
        weight_decay: decoupled, times the learning rate.
        amsgrad: the denominator is the largest second moment so far.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-10,
        weight_decay: float = 1e-4,
        amsgrad: bool = True,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; parameters without a gradient stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state, (first, second) = parameter.grad, self.state[parameter], group["betas"]
        assert gradient is not None
        if not state:
            state |= {"step": torch.tensor(0.0)} | {key: torch.zeros_like(parameter) for key in ("mean", "square", "largest")}
        state["step"] += 1
        count = float(state["step"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        state["mean"].mul_(first).add_(gradient, alpha=1 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        torch.maximum(state["largest"], state["square"], out=state["largest"])
        used = state["largest" if group["amsgrad"] else "square"]
        denominator = used.sqrt() / math.sqrt(1 - second**count) + group["eps"]
        shrink = max(1.0, float((gradient / denominator).square().mean().sqrt()))
        parameter.addcdiv_(state["mean"], denominator, value=-group["lr"] / (1 - first**count) / shrink)
