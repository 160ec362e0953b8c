"""Weights on disk: safetensors whose header says what they are."""

from __future__ import annotations

import ctypes
import json
import mmap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from citysegzoo.files import replacing

Module = TypeVar("Module", bound=nn.Module)

_ALIGN = 64
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_checkpoint(
    path: str | Path,
    state_dict: Mapping[str, Tensor],
    card: Mapping[str, Any],
    *,
    config: str | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write weights and their card as one safetensors file, whole or not at all.

    Args:
        path: File to write.
        state_dict: The weights.
        card: JSON-serialisable description, stored in the header under ``"citysegzoo"``.
        config: The text of config.json, stored in the header under ``"citysegzoo_config"``, so
            that the file alone is enough to load the model.
        dtype: Floating-point type to store, such as ``torch.float16``; None keeps theirs.

    Raises:
        ValueError: If ``dtype`` is none of these, or a weight is too large for it.
        OSError: If it cannot be written; what was there before is still there then.
    """
    tensors = stored_tensors(state_dict, dtype)
    with replacing(path, needed=sum(tensor.nbytes for tensor in tensors.values())) as partial:
        write_tensors(partial, tensors, card, config)


def stored_tensors(
    state_dict: Mapping[str, Tensor], dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """The weights as they are written: on the CPU, floating-point ones as ``dtype``.

    Raises:
        ValueError: If ``dtype`` is none that is stored, or a weight is too large for it.
    """
    known = [kind for kind in _DTYPES if kind.is_floating_point]
    if dtype not in (None, *known):
        raise ValueError(f"dtype is {', '.join(map(str, known))} or None, not {dtype!r}.")
    return {name: _stored(name, value, dtype) for name, value in state_dict.items()}


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any], config: str | None
) -> None:
    """Write what :func:`stored_tensors` gave, as :func:`save_checkpoint` does, but in place."""
    header = {"citysegzoo": json.dumps(dict(card))}
    if config is not None:
        header["citysegzoo_config"] = config
    _write_aligned(path, tensors, header)


def _stored(name: str, value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor as it is written, on the CPU."""
    value = value.detach().to("cpu")
    if dtype is None or not value.is_floating_point():
        return value.contiguous()
    stored = value.to(dtype).contiguous()
    if not bool(stored.isfinite().all()) and bool(value.isfinite().all()):
        raise ValueError(f"{name} has a number too large for {dtype}; store it as it is.")
    return stored


def _write_aligned(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file whose tensors begin, as far as that can be, at multiples of 64.

    The library writes them in the order of their names, so that one odd bias puts all that follow
    out of line. A mapped tensor that is out of line has to be copied to be computed with as fast,
    and to the same last bit, as one in memory. The format: the length of the header in eight
    bytes, the header in JSON padded with spaces, the data without gaps.
    """
    ordered = sorted(
        tensors.items(), key=lambda item: (item[1].nbytes % _ALIGN != 0, -item[1].element_size())
    )
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            file.write(tensor.flatten().view(torch.uint8).numpy().data)


def load_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, floating-point ones as float32.

    What is float32 already is mapped from the file, not read.

    Args:
        path: The file.

    Raises:
        OSError: If there is no such file, or it may not be read.
        ValueError: If it is no whole safetensors file.
    """
    from safetensors.torch import load_file

    with _reading(path):
        tensors = load_file(path)
    return {name: _usable(tensor) for name, tensor in tensors.items()}


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Say in one sentence that a safetensors file cannot be read."""
    from safetensors import SafetensorError

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no weights file {path}.")
    Path(path).open("rb").close()  # what keeps it from being opened does not make it damaged
    try:
        yield
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}); fetch it again."
        ) from error


def _usable(tensor: Tensor) -> Tensor:
    """As float32, and in line: a copy where the file has it otherwise."""
    if tensor.is_floating_point() and tensor.dtype != torch.float32:
        return tensor.float()
    return tensor.clone() if tensor.data_ptr() % _ALIGN else tensor


class MappedFiles:
    """The files mapped into memory, of which Linux counts what was read as the process's own."""

    def __init__(self) -> None:
        try:
            lines = Path("/proc/self/maps").read_text().splitlines()
        except OSError:
            lines = []  # another system
        # begin-end, permissions, offset, device, inode, path; "p" are copied when written to.
        fields = [line.split(maxsplit=5) for line in lines]
        self._ranges = [
            tuple(int(side, 16) for side in entry[0].split("-"))
            for entry in fields
            if len(entry) == 6 and entry[1].endswith("p") and entry[5].startswith("/")
        ]

    def release(self, tensor: Tensor) -> None:
        """Give back the memory of a tensor that is mapped: when used again, it is read again.

        One in memory, or written to since it was mapped, stays as it is. No other thread may
        write to it meanwhile.
        """
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            return
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        if not any(low <= start and end <= high for low, high in self._ranges):
            return
        first, last = -(-start // mmap.PAGESIZE), end // mmap.PAGESIZE  # whole pages
        if first >= last:
            return
        try:
            with open("/proc/self/pagemap", "rb", buffering=0) as file:
                file.seek(8 * first)
                pages = np.frombuffer(file.read(8 * (last - first)), np.uint64)
        except OSError:
            return
        # Bits 63 and 62: in memory, swapped out; 61: of the file, and not a copy written to.
        states = pages >> np.uint64(61)
        if len(pages) == last - first and np.isin(states, (0, 5)).all():
            address, size = first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE
            libc = ctypes.CDLL(None)
            libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def read_header(path: str | Path) -> dict[str, str]:
    """The texts in the header of a safetensors file.

    Raises:
        OSError: If there is no such file, or it may not be read.
        ValueError: If it is no whole safetensors file.
    """
    from safetensors import safe_open

    with _reading(path), safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def stored_dtype(path: str | Path) -> torch.dtype | None:
    """The floating-point type of all weights in a safetensors file, None where there are several.

    Raises:
        OSError: If there is no such file, or it may not be read.
        ValueError: If it is no whole safetensors file.
    """
    from safetensors import safe_open

    with _reading(path), safe_open(path, framework="pt") as file:
        stored = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    kinds = [kind for kind, name in _DTYPES.items() if kind.is_floating_point and name in stored]
    return kinds[0] if len(kinds) == 1 else None


def build_with(
    build: Callable[[], Module], state_dict: Mapping[str, Tensor], *, source: str
) -> Module:
    """Build a module and put weights in place of its own, which are never drawn.

    Args:
        build: Builds the module.
        state_dict: The weights, of which every key must fit.
        source: Where they come from, for the message.
    """
    module = build_undrawn(build)
    load_weights(module, state_dict, source=source, assign=True)
    if any(value.is_meta for part in module.modules() for value in _tensors_of(part)):
        # There are tensors that no checkpoint holds: they have to be computed.
        with _Undrawn():
            module = build()
        load_weights(module, state_dict, source=source, assign=True)
    return module


def build_undrawn(build: Callable[[], Module]) -> Module:
    """Build a module without drawing its weights, and without memory for them where that works."""
    try:
        # Undrawn there too: on the meta device some draws import PyTorch's compiler.
        with torch.device("meta"), _Undrawn():
            return build()
    except RuntimeError:  # of a layer that reads a value while it is built, which is none there
        with _Undrawn():
            return build()


def _tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """A module's own parameters and buffers, and the tensors that are plain attributes."""
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
    yield from (value for value in vars(module).values() if isinstance(value, Tensor))


class _Undrawn(TorchFunctionMode):
    """Leaves undone what would change a parameter's values; all else is computed as ever."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        in_place = name[-1:] == "_" and name[-2:] != "__" and name != "requires_grad_"
        if in_place and args and isinstance(args[0], nn.Parameter):
            return args[0]
        return func(*args, **(kwargs or {}))


def load_weights(
    model: nn.Module, state_dict: Mapping[str, Tensor], *, source: str, assign: bool = False
) -> None:
    """Load a state dict whose keys and shapes match the model's exactly.

    Args:
        model: The model.
        state_dict: The weights.
        source: Where they come from, for the message.
        assign: Put the tensors in place of the model's own (which may be on the meta device)
            rather than copying them over.

    Raises:
        ValueError: If keys are missing, unknown, of another shape or of another kind of number,
            naming the first few.
    """
    own = model.state_dict()
    problems = []
    for what, keys in (
        ("missing", [k for k in own if k not in state_dict]),
        ("unknown", [k for k in state_dict if k not in own]),
        (
            "of another shape",
            [k for k, v in own.items() if k in state_dict and state_dict[k].shape != v.shape],
        ),
        (
            "of another kind of number",
            [
                k
                for k, v in own.items()
                if k in state_dict and state_dict[k].is_floating_point() != v.is_floating_point()
            ],
        ),
    ):
        if keys:
            more = ", ..." if len(keys) > 3 else ""
            problems.append(f"{len(keys)} {what} ({', '.join(keys[:3])}{more})")
    if problems:
        raise ValueError(f"the weights of {source} do not fit this model: {'; '.join(problems)}.")
    model.load_state_dict(state_dict, strict=True, assign=assign)
