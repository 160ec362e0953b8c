"""A model made ready for inference: what computes the logits, and how."""

from __future__ import annotations

import copy
import operator
import weakref
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from citysegzoo.hardware import computes_bf16, find_device
from citysegzoo.inference.folding import fold_batch_norm
from citysegzoo.model import SegmentationModel, require_weights
from citysegzoo.weights.checkpoint import MappedFiles

Precision = Literal["auto", "fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LOW_PRECISION = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class Network:
    """A copy of a model for inference; weights that need no change are shared with it.

    Args:
        model: The model; it stays as it is.
        device: Where to compute, such as ``"cuda"``; ``"auto"`` is a GPU if there is one.
        precision: Of convolutions and matrix products: ``"fp32"``, ``"bf16"``, ``"fp16"``, or
            ``"auto"``: bf16 where the hardware computes it (AMX, AVX512-bf16, GPUs), else fp32.
        fold: Whether batch norm is folded into convolutions.
        channels_last: Whether the channels are innermost in memory.
        compile: Whether it goes through :func:`torch.compile`, on a GPU with CUDA graphs.

    Attributes:
        model: The copy.
        device: Where it computes.
        dtype: In what it computes.

    Raises:
        ValueError: If the model is on the meta device, the device is not there, or the precision
            is unknown.
    """

    def __init__(
        self,
        model: SegmentationModel,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        fold: bool = True,
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002
    ) -> None:
        require_weights(model)
        self.device = find_device(device)
        self.dtype = find_dtype(precision, self.device)
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = _sharing_copy(model).eval()
        originals = dict(zip(self.model.modules(), model.modules(), strict=True))
        mapped = MappedFiles()

        def prepare(module: nn.Module) -> None:
            self._prepare(module)
            original = originals.get(module)
            if isinstance(original, _LOW_PRECISION) and original.weight is not module.weight:
                mapped.release(original.weight)  # read once, and not needed any more

        for module in self.model.modules():
            _replace(module, lambda t: t.to(self.device, _single(t)))
        if fold:
            side = max(64, self.model.min_size)
            shape = (1, self.model.encoder.in_channels, side, side)
            example = torch.empty(shape, dtype=torch.float32, device="cpu")
            fold_batch_norm(self.model, example, on_folded=prepare)
        for module in self.model.modules():
            prepare(module)
        self._source: Callable[[], SegmentationModel | None] = weakref.ref(model)
        self._weights = [(weakref.ref(t), _state(t)) for t in _weights(model)]
        self._values = _values(_weights(model))
        self._compile = compile
        # CUDA graphs spare a GPU the launches, and write every result to the same place.
        self._graphs = compile and self.device.type == "cuda"
        self._logits = self._prepared_logits()

    def _prepared_logits(self) -> Callable[[Tensor], Tensor]:
        if not self._compile:
            return self.model.coarse_logits
        mode = "reduce-overhead" if self._graphs else None
        return torch.compile(self.model.coarse_logits, mode=mode)

    def __getstate__(self) -> dict[str, Any]:
        # A copy shares nothing, and compiles anew: what is compiled cannot be pickled.
        return {**self.__dict__, "_source": _nothing, "_weights": [], "_logits": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._logits = self._prepared_logits()

    def _prepare(self, module: nn.Module) -> None:
        def prepared(weight: Tensor) -> Tensor:
            layout = self._layout if weight.ndim == 4 else torch.preserve_format
            if isinstance(module, _LOW_PRECISION) and weight.dtype != self.dtype:
                return weight.to(self.dtype, memory_format=layout)
            return weight.contiguous(memory_format=layout) if weight.ndim == 4 else weight

        _replace(module, prepared)

    def require_current(self) -> None:
        """Raise where this is not the model's any more: once for an image, as it takes a while.

        Raises:
            ValueError: If weights of the model were changed since, so that those of this copy are
                old, or partly old and partly new.
        """
        if self._is_stale():
            raise ValueError(
                "the model was trained, converted or loaded other weights after this was made from "
                "it; make another from the model as it is now."
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Logits before they are enlarged.

        Args:
            images: ``(N, 3, H, W)`` float32, preprocessed, on the device.

        Returns:
            float32 ``(N, C, h, w)``.

        Raises:
            ValueError: If a logit is NaN or infinity; minus infinity may be.
        """
        images = images.contiguous(memory_format=self._layout)
        low = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype if low else None, enabled=low):
            logits = self._logits(images).to(torch.float32, copy=self._graphs)
        if not logits.amax() < torch.inf:  # which NaN is not either
            hint = " precision='fp32' may help, or" if low else ""
            raise ValueError(f"the network gives NaN or infinite logits;{hint} check its weights.")
        return logits

    def _is_stale(self) -> bool:
        """Whether weights were replaced, written to or moved since the copy was made."""
        kept = [(weight(), state) for weight, state in self._weights]
        model = self._source()
        if model is not None:
            now = _weights(model)
            then = [tensor for tensor, _ in kept]
            if len(now) != len(then) or any(map(operator.is_not, now, then)):
                return True
        if any(tensor is not None and _state(tensor) != state for tensor, state in kept):
            return True
        there = [tensor for tensor, _ in kept if tensor is not None]
        whole = 0 < len(there) == len(kept)
        return whole and not torch.equal(_values(there), self._values)

    def images(self, pixels: Tensor) -> Tensor:
        """Preprocess uint8 ``(N, H, W, 3)`` to float32 ``(N, 3, H, W)`` on the device."""
        return self.model.preprocessing(pixels.to(self.device).permute(0, 3, 1, 2))


def find_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What to compute in.

    Raises:
        ValueError: If the precision is unknown, or fp16 is asked of a CPU.
    """
    if precision == "auto":
        return torch.bfloat16 if computes_bf16(device) else torch.float32
    if precision not in _DTYPES:
        known = ", ".join(map(repr, get_args(Precision)))
        raise ValueError(f"precision is one of {known}, not {precision!r}.")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision 'fp16' is for GPUs; use 'bf16' or 'fp32' on a CPU.")
    return _DTYPES[precision]


def _nothing() -> None:
    """What a reference to nothing gives."""


def _weights(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _single(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else tensor.dtype


def _state(tensor: Tensor) -> tuple[int, int]:
    """What changes when a tensor is written to, or moved."""
    return 0 if tensor.is_inference() else tensor._version, tensor.data_ptr()


@torch.no_grad()
def _values(tensors: list[Tensor]) -> Tensor:
    """The first value of a few filters of each weight.

    Fused optimizers write to weights and leave the version as it is.
    """
    found = [torch.empty(0, device="cpu")]
    for weight in tensors:
        if isinstance(weight, nn.Parameter) and weight.ndim and weight.is_floating_point():
            step = max(1, len(weight) // 4)
            found.append(weight.as_strided((-(-len(weight) // step),), (step * weight.stride(0),)))
    return torch.cat([few.to(found[-1].device) for few in found]).nan_to_num()


def _sharing_copy(model: SegmentationModel) -> SegmentationModel:
    """A copy with modules of its own and the same parameters and buffers."""
    return copy.deepcopy(model, {id(t): t for t in _weights(model)})


@torch.no_grad()
def _replace(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Replace its own weights and buffers by changed ones; unlike ``to``, none is written to."""
    for name, weight in module.named_parameters(recurse=False):
        new = change(weight)
        if new is not weight:
            module._parameters[name] = nn.Parameter(new, requires_grad=False)
    for name, buffer in module.named_buffers(recurse=False):
        module._buffers[name] = change(buffer)
