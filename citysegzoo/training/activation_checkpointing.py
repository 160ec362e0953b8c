"""Less memory for more time: blocks whose insides are computed again for the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(model: nn.Module) -> int:
    """Keep only the inputs of each residual block, transformer block or pair of convolutions.

    Those are the parts of any :class:`torch.nn.Sequential` or :class:`torch.nn.ModuleList` that
    are more than one layer. Results, gradients and the statistics of batch norm stay what they
    are. Weights keep their names. Do it last: a copy made afterwards would compute with the
    original's weights.

    Returns:
        Number of blocks.
    """
    blocks = [block for child in model.children() for block in _blocks(child)]
    for block in blocks:
        forward = block.forward
        block.forward = partial(_checkpointed, block, forward)
    return len(blocks)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost ones: one inside another would compute its insides three times."""
    listed = isinstance(module, (nn.Sequential, nn.ModuleList))
    for child in module.children():
        if listed and type(child) not in (nn.Sequential, nn.ModuleList) and any(child.children()):
            yield child
        else:
            yield from _blocks(child)


def _checkpointed(block: nn.Module, forward: Any, *args: Any, **options: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **options)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _still_statistics(block)

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **options)


@contextmanager
def _still_statistics(block: nn.Module) -> Iterator[None]:
    """Batch norm that computes as in training but does not count the batch a second time."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
