"""What every format shares: what is exported, checked, and compared with what was written."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from citysegzoo.arguments import check_choice, check_size
from citysegzoo.model import (
    SegmentationModel,
    require_label_for_each_class,
    require_labels_that_fit,
    require_weights,
)

Input = Literal["pixels", "images"]
Output = Literal["labels", "logits"]

TOLERANCE = 1e-4
"""How far logits may be off, for logits up to 1; of larger ones, this share of the largest."""

_AXES = {0: "batch", 2: "height", 3: "width"}
# How torch.export's errors begin where a graph does not hold for all sizes.
_OF_SIZES = ("Runtime assertion failed", "Specializations", "Constraints violated", "Guard failed")


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


class Plan:
    """What is exported, checked; and the images it is recorded and compared with."""

    def __init__(
        self, model: SegmentationModel, input_: Input, output: Output, size: Sequence[int] | None
    ) -> None:
        if not isinstance(model, SegmentationModel):
            raise TypeError(f"a SegmentationModel can be exported, not {type(model).__name__}.")
        check_choice("input", input_, get_args(Input))
        check_choice("output", output, get_args(Output))
        require_weights(model)
        if output == "labels":
            require_labels_that_fit(model, remedy=": export its logits")
        require_label_for_each_class(model)
        self.channels = model.encoder.in_channels
        if input_ == "pixels" and self.channels != 3:
            raise ValueError(
                f"pixels are RGB and the model takes images of {self.channels} channels; export "
                "it with input='images' (--images)."
            )
        self.input, self.output = input_, output
        self.min_size = model.min_size
        self.size = None if size is None else check_size("size", size, least=self.min_size)
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

    def metadata(self) -> dict[str, Any]:
        """What the file says of itself: names, colours, preprocessing, sizes, card."""
        from citysegzoo import __version__

        model = self.graph.model
        labels, preprocessing = model.labels, model.preprocessing
        return {
            "citysegzoo_version": __version__,
            "model": model.name,
            "classes": list(labels.classes),
            "palette": [list(color) for color in labels.palette],
            "ignore_index": labels.ignore_index,
            "input": self.input,
            "output": self.output,
            "preprocessing": {
                "scale": 1 / 255,
                "mean": list(preprocessing.mean),
                "std": list(preprocessing.std),
                "channel_order": preprocessing.channel_order,
            }
            if self.channels == 3  # nothing is known of others
            else None,
            "size": None if self.size is None else list(self.size),
            "min_size": self.min_size,
            "card": dict(model.card),
        }

    @cached_property
    def _expected(self) -> list[tuple[Tensor, Tensor]]:
        """Other images than recorded, and the model's own logits of them."""
        images = self.others()
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            logits = [self.graph.logits(one) for one in images]
        if not all(one.isfinite().all() for one in logits):
            raise ValueError(
                f"{self.name} gives logits that are no finite numbers: its weights are damaged, or "
                "its training failed; nothing is written."
            )
        return list(zip(images, logits, strict=True))

    def compare(self, run: Any, kind: Output) -> None:
        """Raise if what was exported differs from the model on other images than recorded."""
        for images, logits in self._expected:
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
        generator = torch.Generator("cpu").manual_seed(count)
        shape = (count, self.channels, height, width)
        if self.input == "pixels":
            return torch.randint(256, shape, generator=generator, dtype=torch.uint8, device="cpu")
        return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """In float32, and without what the exporters say on their way; what matters is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
            torch.autocast("cpu", enabled=False),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
