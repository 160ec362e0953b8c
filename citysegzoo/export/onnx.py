"""Models as ONNX files, compared with the model by onnxruntime."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from citysegzoo.arguments import check_flag
from citysegzoo.export.plan import Input, Output, Plan, quiet
from citysegzoo.files import write
from citysegzoo.model import SegmentationModel

_OPSET = 17  # old enough for most runtimes, new enough for layer norm
_PROTOBUF_LIMIT = 2**31 - 1
_INSTALL = "pip install onnx onnxruntime"


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
    exported. Every value of the metadata is JSON.

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
    plan = Plan(model, input, output, size)
    weights = sum(p.numel() for p in plan.graph.parameters()) * 4
    if weights >= _PROTOBUF_LIMIT:
        raise ValueError(
            f"the model has {weights / 1e9:.1f} GB of weights, and a single ONNX file holds at "
            "most 2.1; export a smaller model, or with export_torch."
        )
    proto = onnx.load_from_string(_recorded_onnx(plan))
    if check:
        session = _session(proto.SerializeToString(), plan)
        plan.compare(lambda x: session.run(["logits"], {plan.input: x.numpy()})[0], "logits")
    if output == "labels":  # the logits were there to be compared
        del proto.graph.output[1:]
    _declare_shape(proto.graph.output[0], plan)
    about = plan.metadata()
    proto.producer_name, proto.producer_version = "citysegzoo", about["citysegzoo_version"]
    onnx.helper.set_model_props(proto, {key: json.dumps(value) for key, value in about.items()})
    data = proto.SerializeToString()
    if check and output == "labels":
        labels = _session(data, plan)
        plan.compare(lambda x: labels.run(None, {plan.input: x.numpy()})[0], "labels")
    return write(path, data)


def _recorded_onnx(plan: Plan) -> bytes:
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
        with quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
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


def _declare_shape(declared: Any, plan: Plan) -> None:
    """Say which shape the output has, which the exporter does not always find out."""
    classes = [] if plan.output == "labels" else [plan.graph.model.num_classes]
    shape = declared.type.tensor_type.shape
    del shape.dim[:]
    for size in ("batch", *classes, *(plan.size or ("height", "width"))):
        shape.dim.add(**{"dim_param" if isinstance(size, str) else "dim_value": size})


def _session(data: bytes, plan: Plan) -> Any:
    ort = _imported("onnxruntime", "checking what was exported")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of its own kinds
        raise plan.refusal(error) from error


def _imported(name: str, purpose: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {name}: {_INSTALL}.") from error
