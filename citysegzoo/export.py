"""Models as files for other runtimes: ONNX, and PyTorch's own ``.pt2``.

What is exported takes images of any number and size, unless told otherwise. The graph is recorded
at one size and compared with the model at two others, so that no file is written of a network
whose graph only fits the size it was recorded at.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from citysegzoo.files import replacing
from citysegzoo.layers import check_flag, check_positives
from citysegzoo.model import SegmentationModel

Input = Literal["pixels", "images"]
Output = Literal["labels", "logits"]

METADATA = "citysegzoo.json"
"""Name of the extra file in a ``.pt2`` that holds what ONNX holds in its metadata."""

TOLERANCE = 1e-4
"""How far logits may be off, for logits up to 1; of larger ones, this share of the largest."""

_OPSET = 17  # old enough for most runtimes, new enough for layer norm
_AXES = {0: "batch", 2: "height", 3: "width"}
_LARGEST = {0: 4096, 2: 65536, 3: 65536}
_PROTOBUF_LIMIT = 2**31 - 1
# How torch.export's errors begin where a graph does not hold for all sizes.
_OF_SIZES = ("Runtime assertion failed", "Specializations", "Constraints violated", "Guard failed")
_INSTALL = 'pip install "citysegzoo[onnx]"'


def export_onnx(
    model: SegmentationModel,
    path: str | os.PathLike[str],
    *,
    input: Input = "pixels",  # noqa: A002
    output: Output = "labels",
    size: Sequence[int] | None = None,
    check: bool = True,
) -> Path:
    """Write a model as ONNX, with its classes and preprocessing in the metadata.

    The model itself is left as it is: a copy on the CPU, in evaluation mode and float32, is
    exported. Every value of the metadata is JSON, see :func:`metadata`.

    Args:
        model: The model.
        path: File to write, replaced in one go.
        input: ``"pixels"``: uint8 RGB ``(N, 3, H, W)``, the preprocessing is part of the graph;
            or ``"images"``: float32 ``(N, C, H, W)``, preprocessed already.
        output: ``"labels"``: uint8 ``(N, H, W)``, the class of each pixel; or ``"logits"``:
            float32 ``(N, num_classes, H, W)``.
        size: (H, W) of all images; None takes any size.
        check: Whether to run the file with onnxruntime and compare it with the model.

    Returns:
        The file.

    Raises:
        ImportError: If onnx, or onnxruntime to check with, is not installed.
        ValueError: If the model cannot be exported so, or what was exported differs from it.
        TypeError: If the model is none of this package.
        OSError: If the file cannot be written.
    """
    onnx = _imported("onnx", "exporting to ONNX")
    if check_flag("check", check):
        _imported("onnxruntime", "checking what was exported (leave it out with check=False)")
    plan = _Plan(model, input, output, size)
    weights = sum(p.numel() for p in plan.graph.parameters()) * 4
    if weights >= _PROTOBUF_LIMIT:
        raise ValueError(
            f"the model has {weights / 1e9:.1f} GB of weights, and a single ONNX file holds at "
            "most 2.1; export a smaller model, or with export_torch."
        )
    proto = onnx.load_from_string(_recorded_onnx(plan))
    if check:
        session = _session(proto.SerializeToString())
        plan.compare(lambda x: session.run(["logits"], {plan.input: x.numpy()})[0], "logits")
    if output == "labels":  # the logits were there to be compared
        del proto.graph.output[1:]
    _declare_shape(proto.graph.output[0], plan)
    proto.producer_name, proto.producer_version = "citysegzoo", _version()
    entries = {key: json.dumps(value) for key, value in metadata(plan).items()}
    onnx.helper.set_model_props(proto, entries)
    data = proto.SerializeToString()
    if check and output == "labels":
        labels = _session(data)
        plan.compare(lambda x: labels.run(None, {plan.input: x.numpy()})[0], "labels")
    return _write(path, data)


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
        model: As for :func:`export_onnx`.
        path: File to write, replaced in one go.
        input: As for :func:`export_onnx`.
        output: As for :func:`export_onnx`.
        size: As for :func:`export_onnx`.
        check: Whether to read the file again and compare it with the model.

    Returns:
        The file.

    Raises:
        ValueError: If the model cannot be exported so, or what was exported differs from it.
        TypeError: If the model is none of this package.
        OSError: If the file cannot be written.
    """
    check_flag("check", check)
    plan = _Plan(model, input, output, size)
    program = _recorded_torch(plan)
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata(plan))})
        data = buffer.getvalue()
        if check:
            loaded = torch.export.load(io.BytesIO(data)).module()
            plan.compare(lambda x: loaded(x).numpy(), output)
    return _write(path, data)


def metadata(plan: _Plan) -> dict[str, Any]:
    """What an exported file says of itself: names, colours, preprocessing, sizes, card."""
    model = plan.graph.model
    labels, preprocessing = model.labels, model.preprocessing
    return {
        "citysegzoo_version": _version(),
        "model": model.name,
        "classes": list(labels.classes),
        "palette": [list(color) for color in labels.palette],
        "ignore_index": labels.ignore_index,
        "input": plan.input,
        "output": plan.output,
        "preprocessing": {
            "scale": 1 / 255,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "channel_order": preprocessing.channel_order,
        },
        "size": None if plan.size is None else list(plan.size),
        "min_size": plan.min_size,
        "card": dict(model.card),
    }


class _Graph(nn.Module):
    """What is recorded: the model with what goes before and comes after it."""

    def __init__(self, model: SegmentationModel, *, pixels: bool, labels: bool) -> None:
        super().__init__()
        self.model = model
        self.pixels = pixels
        self.labels = labels
        self.both = False

    def logits(self, images: Tensor) -> Tensor:
        return self.model(self.model.preprocessing(images) if self.pixels else images)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = self.logits(images)
        if not self.labels:
            return logits
        labels = logits.argmax(1).to(torch.uint8)
        return (labels, logits) if self.both else labels


class _Plan:
    """What is exported, checked; and the images it is recorded and compared with."""

    def __init__(
        self, model: SegmentationModel, input_: Input, output: Output, size: Sequence[int] | None
    ) -> None:
        if not isinstance(model, SegmentationModel):
            raise TypeError(f"a SegmentationModel can be exported, not {type(model).__name__}.")
        for name, value, kinds in (("input", input_, Input), ("output", output, Output)):
            if value not in get_args(kinds):
                raise ValueError(f"{name} is {' or '.join(map(repr, get_args(kinds)))}, not "
                                 f"{value!r}.")  # fmt: skip
        if any(weight.is_meta for weight in model.parameters()):
            raise ValueError("the model is on the meta device and has no weights; load some first.")
        if output == "labels" and model.num_classes > 256:
            raise ValueError(
                f"label maps are 8-bit; the model has {model.num_classes} classes: export its "
                "logits."
            )
        if len(model.labels) != model.num_classes:
            raise ValueError(
                f"the model has {model.num_classes} classes and its labels {model.labels.name!r} "
                f"have {len(model.labels)}; set model.labels."
            )
        self.channels = model.encoder.in_channels
        if input_ == "pixels" and self.channels != 3:
            raise ValueError(
                f"pixels are RGB and the model takes images of {self.channels} channels; export "
                "it with input='images' (--images)."
            )
        self.input, self.output = input_, output
        self.min_size = model.min_size
        self.size = None if size is None else check_positives("size", size)
        if self.size is not None and (len(self.size) != 2 or min(self.size) < self.min_size):
            raise ValueError(f"size is (H, W), both at least {self.min_size}, not {size!r}.")
        copied = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
        self.name = model.name or "the model"
        self.graph = _Graph(copied, pixels=input_ == "pixels", labels=output == "labels").eval()

    def example(self, rows: int = 3, columns: int = 5) -> Tensor:
        """Images to record the graph with: more than one, so that their number stays open.

        Where the size is open, they have that many times the deepest stride on each side.
        """
        unit = 32 * -(-self.min_size // 32)
        return self.images(2, *(self.size or (rows * unit, columns * unit)))

    def others(self) -> list[Tensor]:
        """Images of other numbers and, if those are open, sizes; one odd, one taller than wide."""
        if self.size:
            sizes = [self.size, self.size]
        else:
            low = self.min_size
            sizes = [(max(97, low + 8), max(131, low + 35)), (max(160, low + 64), max(64, low))]
        return [self.images(i + 1, height, width) for i, (height, width) in enumerate(sizes)]

    def axes(self) -> dict[int, str]:
        """The axes of the images that stay open."""
        return {axis: name for axis, name in _AXES.items() if axis == 0 or self.size is None}

    def compare(self, run: Any, kind: Output) -> None:
        """Raise if what was exported differs from the model on other images than recorded."""
        for images in self.others():
            with torch.inference_mode():
                logits = self.graph.logits(images)
            try:
                given = torch.from_numpy(run(images))
            except Exception as error:
                raise self.refusal(error) from error
            wrong = _difference(logits, given, kind)
            if wrong:
                height, width = images.shape[-2:]
                raise ValueError(
                    f"{self.name} was exported, but at {height}x{width} the file differs from it: "
                    f"{wrong}; nothing is written.{self._hint()}"
                )

    def refusal(self, error: Exception) -> ValueError:
        """One sentence for what cannot be exported."""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if reason.startswith(_OF_SIZES):  # in symbols that nobody knows
            reason = "a layer does something else at some sizes, and a .pt2 holds one way only"
        every = "" if self.size else " for every size"
        return ValueError(f"{self.name} cannot be exported{every}: {reason:.200}.{self._hint()}")

    def _hint(self) -> str:
        return "" if self.size else " One size may work: size=(H, W), --size H W."

    def images(self, count: int, height: int, width: int) -> Tensor:
        generator = torch.Generator().manual_seed(count)
        shape = (count, self.channels, height, width)
        if self.input == "pixels":
            return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        return torch.randn(shape, generator=generator)


def _difference(logits: Tensor, given: Tensor, kind: Output) -> str:
    """What is wrong with what a file gave, nothing where it is as the model has it."""
    allowed = TOLERANCE * max(1.0, float(logits.abs().max()))
    expected = logits if kind == "logits" else logits.argmax(1)
    if given.shape != expected.shape:
        return f"{kind} of shape {tuple(given.shape)} instead of {tuple(expected.shape)}"
    if kind == "logits":
        far = float((given - logits).abs().max())
        # Written so that a NaN is wrong too.
        return "" if far <= allowed else f"logits are off by {far:.2g}"
    if logits.shape[1] == 1:
        return "" if not given.any() else "labels that are no class"
    best = logits.topk(2, dim=1).values
    certain = best[:, 0] - best[:, 1] > 2 * allowed
    count = int(((given != expected) & certain).sum())
    return f"{count} pixels have another class" if count else ""


def _recorded_onnx(plan: _Plan) -> bytes:
    """The graph as ONNX, logits last.

    By tracing: the exporter on torch.export cannot keep both sides open for all networks with
    every PyTorch this package works with, and needs far longer.
    """
    graph, axes = plan.graph, plan.axes()
    graph.both = graph.labels
    names = ["labels", "logits"] if graph.labels else ["logits"]
    dynamic = {plan.input: axes, "logits": axes}
    if graph.labels:
        dynamic["labels"] = {max(axis - 1, 0): name for axis, name in axes.items()}
    try:
        with _quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "recorded.onnx")
            torch.onnx.export(
                graph,
                (plan.example(),),
                str(file),
                input_names=[plan.input],
                output_names=names,
                dynamic_axes=dynamic,
                opset_version=_OPSET,
                dynamo=False,
            )
            return file.read_bytes()
    except OSError:  # of the disk, with its own sentence
        raise
    except Exception as error:
        raise plan.refusal(error) from error


def _recorded_torch(plan: _Plan) -> Any:
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
            with _quiet(), _sizes_of_one(), torch.no_grad():
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
        with _quiet(), torch.no_grad():
            program.module()(images)
    except (RuntimeError, AssertionError):
        return False
    return True


def _declare_shape(declared: Any, plan: _Plan) -> None:
    """Say which shape the output has, which the exporter does not always find out."""
    axes = {axis: plan.axes().get(axis) for axis in range(4)}
    classes = plan.graph.model.num_classes
    sizes = dict(zip((2, 3), plan.size or (0, 0), strict=True)) | {1: classes}
    kept = [0, 2, 3] if plan.output == "labels" else [0, 1, 2, 3]
    shape = declared.type.tensor_type.shape
    del shape.dim[:]
    for axis in kept:
        name = axes[axis]
        shape.dim.add(**({"dim_value": sizes[axis]} if name is None else {"dim_param": name}))


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say on their way; what matters is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _session(data: bytes) -> Any:
    ort = _imported("onnxruntime", "checking what was exported")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _imported(name: str, purpose: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {name}: {_INSTALL}.") from error


def _version() -> str:
    import citysegzoo

    return citysegzoo.__version__


def _write(path: str | os.PathLike[str], data: bytes) -> Path:
    with replacing(path, needed=len(data)) as partial:
        partial.write_bytes(data)
    return Path(path)


def resize_by_matrices(x: Tensor, size: Sequence[int]) -> Tensor:
    """The antialiased bilinear resize as two matrix products, which ONNX has.

    ONNX has an antialiased resize too, but that of onnxruntime differs by 1e-3.
    """
    rows = _resize_matrix(x.shape[-2], size[0])
    columns = _resize_matrix(x.shape[-1], size[1])
    return rows @ x @ columns.T


def _resize_matrix(inputs: int, outputs: int) -> Tensor:
    """``(outputs, inputs)``: triangles of one input pixel, wider where the image gets smaller."""
    places = torch.arange(inputs) + 0.5
    step = torch.as_tensor(inputs, dtype=torch.float32) / outputs
    centers = (torch.arange(outputs) + 0.5) * step
    distance = (places - centers[:, None]).abs() / step.clamp(min=1)
    weights = (1 - distance).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)
