"""A multi-modal information bottleneck inside an image tower: which tokens a text needs (M2IB).

Wang et al., "Visual Explanations of Image-Text Representations via Multi-Modal Information Bottleneck Attribution", NeurIPS
2023, as HealthX-Lab/MedCLIP-SAMv2 at 07047e3 (MIT) runs it: noise replaces whatever the tokens of one layer do not need for the
picture's feature to stay near the text's, and the information that is left in each token is its relevance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["START", "Attribution", "attribute", "capacity"]

START = 5.0  # of the gates' logits: at first nearly all information passes
MOMENTS, EPSILON = (0.9, 0.999), 1e-8  # of Adam
LEAST = 1e-16  # variance; below what float32 can leave of 1 - a sigmoid


@dataclass(frozen=True)
class Attribution:
    """What was found for one picture and one text."""

    capacity: Tensor  # (1 + L,) nats in each token, class token first, in the last forward pass
    alpha: Tensor  # (1 + L, C) the gates' logits behind the last update
    steps: Tensor  # (steps, 3) mean capacity, mean cosine and loss before each update


def capacity(tokens: Tensor, gates: Tensor) -> Tensor:
    """Divergence of what passes the gates from pure noise, (1 + L, C), of tokens and gates (0 to 1) of that shape."""
    mean, variance = gates * tokens, ((1 - gates) ** 2).clamp(min=LEAST)
    return 0.5 * (mean**2 + variance - 1 - variance.log())


def attribute(
    tokens: Tensor,
    text: Tensor,
    rest: Callable[[Tensor], Tensor],
    noise: Iterable[Tensor],
    *,
    beta: float = 0.1,
    lr: float = 1.0,
) -> Attribution:
    """Learns gates for one picture and one text; gradients have to be on.

    Args:
        tokens: (1 + L, C) behind the layer with the bottleneck.
        text: (D,), of any length.
        rest: (copies, 1 + L, C) tokens -> (copies, D) image features; the layers behind, with frozen weights.
        noise: of each step, (copies, 1 + L, C), standard normal.
        beta: weight of the capacity against the cosine.
        lr: of Adam.
    """
    alpha = torch.full_like(tokens, START)
    first, second = torch.zeros_like(alpha), torch.zeros_like(alpha)
    steps, last = [], tokens.new_zeros(len(tokens))
    for number, drawn in enumerate(noise, 1):
        gates = alpha.requires_grad_().sigmoid()
        held = capacity(tokens, gates)
        seen = gates * tokens + (1 - gates) * drawn  # (copies, 1 + L, C)
        cosine = F.cosine_similarity(rest(seen), text[None]).mean()
        loss = beta * held.mean() - cosine
        (gradient,) = torch.autograd.grad(loss, alpha)
        first, second = MOMENTS[0] * first + (1 - MOMENTS[0]) * gradient, MOMENTS[1] * second + (1 - MOMENTS[1]) * gradient**2
        deviation = (second / (1 - MOMENTS[1] ** number)).sqrt() + EPSILON
        alpha = alpha.detach() - lr * first / (1 - MOMENTS[0] ** number) / deviation
        steps.append(torch.stack([held.mean(), cosine, loss]).detach())
        last = held.detach().sum(dim=1)
    return Attribution(last, alpha, torch.stack(steps))
