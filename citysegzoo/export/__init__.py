"""Models as files for other runtimes: ONNX, and PyTorch's own ``.pt2``.

What is exported takes images of any number and size, unless told otherwise. The graph is recorded
at one size and compared with the model at two others, so that no file is written of a network
whose graph only fits the size it was recorded at.
"""

from citysegzoo.export.onnx import export_onnx
from citysegzoo.export.plan import TOLERANCE, Input, Output
from citysegzoo.export.torch import METADATA, export_torch

__all__ = ["METADATA", "TOLERANCE", "Input", "Output", "export_onnx", "export_torch"]
