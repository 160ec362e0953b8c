"""Models as files of :mod:`torch.export`, compared with the model once read again."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from citysegzoo.arguments import check_flag
from citysegzoo.export.plan import Input, Output, Plan, quiet
from citysegzoo.files import write
from citysegzoo.model import SegmentationModel

METADATA = "citysegzoo.json"
"""Name of the extra file in a ``.pt2`` that holds what ONNX holds in its metadata."""

_LARGEST = {0: 4096, 2: 65536, 3: 65536}


def export_torch(
    model: SegmentationModel,
    path: str | os.PathLike[str],
    *,
    input: Input = "pixels",  # noqa: A002
    output: Output = "labels",
    size: Sequence[int] | None = None,
    check: bool = True,
) -> Path:
    """Write a model with :mod:`torch.export`: a ``.pt2`` that runs without this package.

    ``torch.export.load(path).module()`` runs it; the metadata is its extra file
    ``citysegzoo.json``.

    Args:
        model: As for :func:`~citysegzoo.export.export_onnx`.
        path: File to write, replaced in one go.
        input: As for :func:`~citysegzoo.export.export_onnx`.
        output: As for :func:`~citysegzoo.export.export_onnx`.
        size: As for :func:`~citysegzoo.export.export_onnx`.
        check: Whether to read the file again and compare it with the model.

    Returns:
        The file.

    Raises:
        ValueError: If the model cannot be exported so, or what was exported differs from it.
        TypeError: If the model is none of this package.
        OSError: If the file cannot be written.
    """
    check_flag("check", check)
    plan = Plan(model, input, output, size)
    program = _recorded_torch(plan)
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files={METADATA: json.dumps(plan.metadata())})
        data = buffer.getvalue()
        if check:
            loaded = torch.export.load(io.BytesIO(data)).module()
            plan.compare(lambda x: loaded(x).numpy(), output)
    return write(path, data)


def min_size_of(path: str | os.PathLike[str]) -> int:
    """The least height and width of images that a ``.pt2`` of :func:`export_torch` takes."""
    with zipfile.ZipFile(path) as file:
        name = next(name for name in file.namelist() if name.endswith(METADATA))
        return int(json.loads(file.read(name))["min_size"])


def _recorded_torch(plan: Plan) -> Any:
    """The program of torch.export, open to the smallest images that it can be."""
    from torch.export import Dim

    options: dict[str, Any] = {"strict": False}
    late = "prefer_deferred_runtime_asserts_over_guards"  # public since PyTorch 2.9
    if late in inspect.signature(torch.export.export).parameters:
        options[late] = True
    # The deepest map must be larger than a window of any Swin Transformer, 12: with one window
    # alone their number would be taken to be always one. (Nothing of this size is computed.)
    example = plan.example(13, 25)
    # A map of a single row, or of a single window, is computed in another way than a larger one,
    # and a graph has one way: some networks are open from a larger size on.
    unit = plan.min_size
    least = [unit] if plan.size else [unit, unit + 1, 2 * unit, 4 * unit, 8 * unit + 1]
    failure: Exception | None = None
    while least:
        dims = {
            axis: Dim(name, min=least[0] if axis else 1, max=_LARGEST[axis])
            for axis, name in plan.axes().items()
        }
        try:
            with quiet(), _sizes_of_one(), torch.no_grad():
                program = torch.export.export(
                    plan.graph, (example,), dynamic_shapes=(dims,), **options
                )
        except Exception as error:
            failure = failure or error
            least = least[1:]
            continue
        if plan.size:
            return program
        # What it asserts about sizes shows when it runs only.
        runs = [size for size in least if _runs_at(program, plan.images(1, size, size))]
        if runs[:1] == least[:1]:
            plan.min_size = least[0]
            return program
        least = runs
    failure = failure or RuntimeError("it takes large images only")
    raise plan.refusal(failure) from failure


def _runs_at(program: Any, images: Tensor) -> bool:
    try:
        with quiet(), torch.no_grad():
            program.module()(images)
    except (RuntimeError, AssertionError):
        return False
    return True


@contextlib.contextmanager
def _sizes_of_one() -> Iterator[None]:
    """Let torch.export take a side that may be one as any other, where this PyTorch can."""
    from torch.fx.experimental import _config

    name = "backed_size_oblivious"
    before = getattr(_config, name, None)
    if before is not None:
        setattr(_config, name, True)
    try:
        yield
    finally:
        if before is not None:
            setattr(_config, name, before)
