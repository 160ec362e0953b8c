"""Batch norm folded into the convolution before it: the same function in fewer passes."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# Functions of a tensor that see nothing of its values.
_LOOKS = {
    *(Tensor.dim, Tensor.size, Tensor.stride, Tensor.numel, Tensor.is_floating_point),
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device")),
}


def fold_batch_norm(
    model: nn.Module, example: Tensor, *, on_folded: Callable[[nn.Module], object] | None = None
) -> int:
    """Fold every batch norm that follows a convolution into that convolution's weights.

    In evaluation a batch norm multiplies and shifts each channel by constants, which a convolution
    can do as well: ``weight * gamma / sqrt(var + eps)`` and a shift of the bias. Which batch norm
    follows which convolution is seen by running the model once on zeros, convolutions of one
    channel alone; it is folded where nothing else sees what is between them, and both run once.
    Results differ by rounding alone. Where the model cannot be run on the example, nothing is
    folded.

    Args:
        model: A model in evaluation mode; it is changed, its weights are replaced and not
            written to.
        example: An input, such as a small one; only its shape, dtype and strides matter.
        on_folded: Called with each convolution that has its new weights, before the next one
            gets any: what makes them smaller here keeps the peak of memory low.

    Returns:
        Number of batch norms folded.

    Raises:
        ValueError: If the model is in training mode.
    """
    if model.training:
        raise ValueError("batch norm can be folded in evaluation mode only; call model.eval().")
    pairs = _pairs(model, example)
    rests = {norm: _rest(norm) for _, norm in pairs}
    for conv, norm in pairs:
        _fold(conv, norm)
        if on_folded is not None:
            on_folded(conv)
        # For who calls it by another name, such as in a list of Python.
        norm.forward = rests[norm].forward
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in rests:
                parent._modules[name] = rests[child]
    return len(pairs)


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[nn.Module, nn.Module]]:
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return []  # nobody sees what goes on in them
    try:
        # A copy with the same weights: what modules keep of a run on zeros is not to stay.
        own = {id(t): t for t in chain(model.parameters(), model.buffers())}
        trial = copy.deepcopy(model, own)
    except Exception:  # whatever its modules hold
        return []
    originals = dict(zip(trial.modules(), model.modules(), strict=True))
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor is kept, so that its id is its own
    pairs: list[tuple[nn.Module, nn.Module, Tensor]] = []
    calls: Counter[nn.Module] = Counter()

    def after_convolution(module: nn.Module, args: Any, output: Tensor) -> None:
        calls[module] += 1
        made[id(output)] = module, output

    def before_norm(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        if id(args[0]) in made:
            conv, output = made[id(args[0])]
            pairs.append((conv, module, output))

    hooks = [
        module.register_forward_hook(after_convolution)
        if _is_plain_convolution(module)
        else module.register_forward_pre_hook(before_norm)
        for module in trial.modules()
        if _is_plain_convolution(module) or _is_batch_norm(module)
    ]
    # Zeros that take no memory, on the CPU; each module by one of its names, as by another
    # functional_call would leave it with the zeros.
    weights = {
        f"{path}.{name}" if path else name: torch.zeros(
            (), dtype=weight.dtype, device="cpu"
        ).expand(weight.shape)
        for path, module in trial.named_modules()
        for name, weight in (*module._parameters.items(), *module._buffers.items())
        if weight is not None
    }
    try:
        with _Uses() as uses, torch.no_grad():
            image = torch.zeros_like(example, device="cpu")
            result = functional_call(trial, weights, (image,), tie_weights=False)
    except Exception:  # whatever its layers raise: some take images of one size alone
        return []
    finally:
        for hook in hooks:  # or the trial and what it keeps of them hold each other, and weights
            hook.remove()
    uses.count.update(map(id, tree_leaves(result)))
    return [
        (originals[conv], originals[norm])
        for conv, norm, between in pairs
        if calls[conv] == calls[norm] == 1 and uses.count[id(between)] == 1
    ]


def _is_plain_convolution(module: nn.Module) -> bool:
    """Whether it does nothing else: some standardise their weights, or compute them in hooks."""
    plain = type(module).forward in (nn.Conv2d.forward, nn.ConvTranspose2d.forward)
    return plain and not is_parametrized(module) and not _has_hooks(module)


def _is_batch_norm(module: nn.Module) -> bool:
    """Whether it is one by constants, and of a kind that is known to do nothing unknown."""
    known = type(module).__module__.startswith(("torch.nn.", "citysegzoo.", "timm."))
    if not isinstance(module, nn.BatchNorm2d) or not known or _has_hooks(module):
        return False
    return module.running_mean is not None and not module.training


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _Uses(TorchFunctionMode):
    """Counts how often each tensor goes into a function, as the model's own code calls them.

    A mode for operators (TorchDispatchMode) would count the same, but it imports PyTorch's
    compiler, which takes longer and more memory than all the rest, and so does the meta device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self._kept: list[Tensor] = []  # as long as they live, no other tensor has their ids

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _LOOKS:
            return func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        self.count.update(map(id, tensors))
        self._kept += tensors
        return _THIN.get(func, func)(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Zeros of the shape that a convolution of zeros gives, which is that of one channel."""
    one = input.narrow(-3, 0, 1)
    thin = torch.conv2d(one, weight[:1, :1], None, stride, padding, dilation)
    return torch.cat([thin] * len(weight), -3)


def _conv_transpose2d(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    one, by_one = input.narrow(-3, 0, 1), weight[:1, :1]
    thin = torch.conv_transpose2d(
        one, by_one, None, stride, padding, output_padding, dilation=dilation
    )
    return torch.cat([thin] * (groups * weight.shape[1]), -3)


_THIN: dict[Any, Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    torch.conv_transpose2d: _conv_transpose2d,
}


@torch.no_grad()
def _fold(conv: Any, norm: Any) -> None:
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    weight, kind = conv.weight, conv.weight.dtype
    factor = scale.to(weight)
    if isinstance(conv, nn.ConvTranspose2d):  # (in, out / groups, ...): out is in groups
        by_group = weight.unflatten(0, (conv.groups, -1))
        weight = (by_group * factor.view(conv.groups, 1, -1, 1, 1)).flatten(0, 1)
    else:
        weight = weight * factor[:, None, None, None]
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = nn.Parameter(shift.to(kind), requires_grad=False)


def _rest(norm: nn.Module) -> nn.Module:
    """What timm's batch norms do beside: dropout, which is still in evaluation, and activation."""
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()
