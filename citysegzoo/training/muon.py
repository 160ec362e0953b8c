"""Muon: momentum made orthogonal, for the weights of convolutions and linear layers.

Keller Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024; with the size of a
step of Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982, equation 4.

PyTorch has a Muon since 2.9, for matrices alone: it refuses the weights of convolutions, which are
what street segmenters are made of. A test holds the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from citysegzoo.hardware import computes_bf16


def split_weights(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What Muon trains of a network, and what is left to another optimiser.

    Muon's are the weights of ungrouped convolutions and of linear layers, other than the
    ``classifier``'s: each row of that answers for a class, and classes are not to be treated alike.
    Left are also biases, norms, tables of positions and depthwise convolutions.

    Args:
        model: A network, also one within another module such as DistributedDataParallel; frozen
            parts are left out.
    """
    kinds = nn.Conv2d, nn.ConvTranspose2d, nn.Linear
    owned = (getattr(owner, "classifier", None) for owner in model.modules())
    head = {part for part in owned if isinstance(part, nn.Module) for part in part.modules()}
    chosen = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, kinds) and module not in head and getattr(module, "groups", 1) == 1
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    return [p for p in trained if id(p) in chosen], [p for p in trained if id(p) not in chosen]


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonal matrix that is nearest to the momentum.

    All directions of a weight are then learnt at the same pace. The weight of a
    convolution is the matrix (first dimension, all others). A step is as long as one of AdamW is
    on average (root mean square 0.2), so that both take the same learning rate and weight decay.

    Args:
        params: Weights of at least two dimensions, :func:`split_weights`' first, or groups of them.
        lr: Learning rate.
        momentum: Decay of the running mean of gradients, with Nesterov's look ahead.
        weight_decay: Decoupled, as in AdamW.

    Raises:
        ValueError: If a weight has fewer than two dimensions or a number is out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(
                "lr and weight_decay are at least 0 and momentum from 0 to below 1, not "
                f"{lr}, {weight_decay} and {momentum}."
            )
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of weights, as every group of the constructor is.

        Raises:
            ValueError: If a weight has fewer than two dimensions.
        """
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.ndim < 2:
                del self.param_groups[-1]
                raise ValueError(
                    f"Muon trains weights of two dimensions and more, not {tuple(p.shape)}; give "
                    "it the first of split_weights(model) and AdamW the second."
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                mean = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(mean, group["momentum"]).flatten(1)
                length = 0.2 * math.sqrt(max(ahead.shape))
                p.mul_(1 - lr * decay)
                p.add_(orthogonal(ahead).view(p.shape), alpha=-lr * length)
        return loss


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly the orthogonal factor U V' of U S V': singular values of 0.7 to 1.2 in place of S.

    By five steps of a Newton-Schulz iteration with Jordan's coefficients, which has them leave 0
    as fast as can be rather than reach 1 exactly; in bfloat16 where that is fast.

    Args:
        matrix: ``(M, N)``.

    Returns:
        ``(M, N)`` of the same dtype.
    """
    fast = torch.bfloat16 if computes_bf16(matrix.device) else torch.float32
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(fast)
    x = x / x.norm().clamp(min=1e-7)  # no singular value above 1
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(
            x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445
        )
    return (x.T if tall else x).to(matrix.dtype)
