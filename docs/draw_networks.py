"""Draw docs/images/encoder_*.svg and decoder_*.svg, and the table of encoders in docs/parts.md.

python docs/draw_networks.py

Nothing is drawn by hand. A network runs forward on the meta device, where it costs nothing; hooks
see what each block makes, and cut the graph after it, so that the gradients of a block's result say
which blocks it is made of.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import citysegzoo
from citysegzoo.base import Decoder, Encoder, PooledFeatures, PoolingEncoder
from citysegzoo.decoders.aspp import ASPP, ImagePooling
from citysegzoo.decoders.psp import PyramidPooling
from citysegzoo.files import write
from citysegzoo.model import SegmentationModel

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
SIZE = (512, 1024)

# Decoder -> the encoder it is drawn on, with options, and options of its own.
DECODERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "transposed": ("strided_conv", {}, {}),
    "fcn_head": ("resnet50", {"output_stride": 8}, {}),
    "unet": ("pooled_conv", {}, {}),
    "unet_aspp": ("pooled_conv", {}, {}),
    "segnet": ("vgg16_bn", {}, {"convs": (1, 2, 3, 3, 3)}),
    "aspp": ("resnet101", {"output_stride": 8}, {"aspp_rates": (12, 24, 36), "refine": True}),
    "deeplabv3plus": ("resnet101", {"output_stride": 16}, {}),
    "all_mlp": ("mit_b0", {}, {}),
    "fpn": ("resnet50", {}, {}),
    "lraspp": ("mobilenet_v3_large", {"output_stride": 16}, {}),
    "psp": ("resnet50", {"output_stride": 8}, {}),
    "upernet": ("swin_tiny", {}, {"norm_features": True}),
}
ENCODERS = (
    *("strided_conv", "pooled_conv", "vgg16_bn", "resnet50", "mobilenet_v3_large"),
    *("swin_tiny", "mit_b0"),
)
# The families whose receptive field is measured, and the output strides that they can have.
MEASURED: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("strided_conv", "vgg11", "vgg13", "vgg16", "vgg19"), (32,)),
    "pooled_conv": (16,),
    **dict.fromkeys((f"resnet{depth}" for depth in (18, 34, 50, 101, 152)), (32, 16, 8)),
    "swin_tiny": (32,),
}


@dataclass
class Box:
    """A block: what it holds, its map, and the boxes its map is made of."""

    lines: list[str]
    kind: str
    channels: int
    stride: int
    inputs: list[int] = field(default_factory=list)
    column: int = 0
    x: float = 0
    y: float = 0

    @property
    def height(self) -> int:
        return 19 + 13 * len(self.lines)


# What runs in a network


def trace_decoder(model: SegmentationModel) -> list[Box]:
    """The features, the blocks of the decoder in the order they run, and the classifier."""
    image = torch.empty(1, 3, *SIZE, device="meta")
    encoder, decoder = model.encoder, model.decoder
    boxes = [
        Box(["feature"], "encoder", channels, stride, [i - 1] if i else [])
        for i, (channels, stride) in enumerate(zip(encoder.channels, encoder.strides, strict=True))
    ]
    with torch.no_grad():
        pooled = encoder.forward_pooled(image) if decoder.unpools else None
        features = pooled.features if pooled else encoder(image)
    leaves = [feature.detach().requires_grad_() for feature in features]

    def seen(block: nn.Module, _: object, result: Tensor) -> Tensor:
        made_of = torch.autograd.grad(result.sum(), leaves, allow_unused=True, retain_graph=True)
        inputs = [i for i, gradient in enumerate(made_of) if gradient is not None]
        stride = SIZE[0] // result.shape[2]
        boxes.append(Box(describe(block), "decoder", result.shape[1], stride, inputs))
        leaves.append(result.detach().requires_grad_())
        return leaves[-1].clone()  # a copy, because what comes next may work in place

    hooks = [block.register_forward_hook(seen) for block in blocks(decoder)]
    hooks.append(model.classifier.register_forward_hook(seen))
    given = [leaf.clone() for leaf in leaves]
    made = decoder(PooledFeatures(given, pooled.indices) if pooled else given)
    model.classifier(made)
    for hook in hooks:
        hook.remove()
    boxes[-1].lines[0] = f"classifier, {boxes[-1].lines[0]}"
    return boxes


def blocks(decoder: nn.Module) -> Iterator[nn.Module]:
    """The parts of a decoder that are drawn: its children, those of lists and pyramids apart."""
    for child in decoder.children():
        plain = type(child) is nn.Sequential and not isinstance(decoder, nn.ModuleList)
        if plain or isinstance(child, (nn.ModuleList, ASPP, Decoder)):
            yield from blocks(child)
        elif any(True for _ in child.parameters()):
            yield child


def describe(block: nn.Module) -> list[str]:
    """The convolutions inside a block, alike ones counted together."""
    if isinstance(block, ImagePooling):
        return ["mean of the map", *describe(block.conv)]
    if isinstance(block, PyramidPooling):
        areas = ", ".join(f"{side}x{side}" for side in block.bins)
        branches = describe(block.branches)
        return ["means of areas,", areas, *branches, f"join, {describe(block.fuse)[0]}"]
    if hasattr(block, "fuse") and isinstance(getattr(block, "fuse", None), nn.Module):
        fuse = block.fuse
        up = describe(block.up) or ["resize"]
        if getattr(block, "mode", "") == "bilinear":
            up = [f"resize, {up[0]}"]
        if any(isinstance(part, ASPP) for part in fuse.modules()):
            return [*up, "join, ASPP"]
        return [*up, f"join, {', '.join(describe(fuse))}"]
    kinds: Counter[str] = Counter()
    for layer in block.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            kinds[f"{layer.kernel_size[0]}x{layer.kernel_size[1]} transposed"] += 1
        elif isinstance(layer, nn.Conv2d):
            rate = f", rate {layer.dilation[0]}" if layer.dilation[0] > 1 else ""
            kinds[f"{layer.kernel_size[0]}x{layer.kernel_size[1]} conv{rate}"] += 1
    return [kind if count == 1 else f"{count} x {kind}" for kind, count in kinds.items()]


def trace_encoder(encoder: Encoder) -> list[Box]:
    """What makes each feature: the outermost blocks that run, by the stride of what they make."""
    made: dict[int, Counter[str]] = {}

    def seen(block: nn.Module, _: object, result: Tensor) -> None:
        # NCHW or NHWC: the image is twice as wide as high.
        height = result.shape[2 if result.shape[3] == 2 * result.shape[2] else 1]
        made.setdefault(SIZE[0] // height, Counter())[title(block)] += 1

    units = list(outermost(encoder))
    hooks = [unit.register_forward_hook(seen) for unit in units]
    with torch.no_grad():
        encoder(torch.empty(1, 3, *SIZE, device="meta"))
    for hook in hooks:
        hook.remove()
    boxes = [Box(["image"], "image", 3, 1)]
    for channels, stride in zip(encoder.channels, encoder.strides, strict=True):
        parts = made.get(stride, Counter())
        if isinstance(encoder, PoolingEncoder) and stride > 1 and _POOLING not in parts:
            parts = Counter({_POOLING: 1}) + parts  # a function, which has no hook
        lines = [name if count == 1 else f"{count} x {name}" for name, count in parts.items()]
        boxes.append(Box(lines, "encoder", channels, stride, [len(boxes) - 1]))
    return boxes


_POOLING = "2x2 max pooling"
_SKIPPED = (nn.BatchNorm2d, nn.LayerNorm, nn.ReLU, nn.Identity, nn.Dropout)
_HOLDERS = re.compile("Encoder|Sequential|ModuleList|Stage|Feature|^SwinTransformer(V2)?$")


def outermost(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost parts that are no mere holders of others."""
    for child in module.children():
        if _HOLDERS.search(type(child).__name__):
            yield from outermost(child)
        elif not isinstance(child, _SKIPPED):
            yield child


def title(block: nn.Module) -> str:
    """What a block of an encoder is called."""
    if isinstance(block, nn.MaxPool2d):
        return f"{block.kernel_size}x{block.kernel_size} max pooling"
    convs = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
    if len(convs) == 1 and not any(isinstance(layer, nn.Linear) for layer in block.modules()):
        size, step = convs[0].kernel_size[0], convs[0].stride[0]
        return f"{size}x{size} conv{f', stride {step}' if step > 1 else ''}"
    names = {"Block": "MiT block", "SwinTransformerBlock": "Swin block"}
    name = type(block).__name__
    return names.get(name) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


# Where the boxes stand

WIDTH, GAP_X, GAP_Y = 118, 30, 12


def place(boxes: list[Box]) -> tuple[float, float]:
    """Columns by the longest way from the encoder, rows by stride; the size of the drawing."""
    for box in boxes:
        if box.kind == "decoder":
            box.column = 1 + max((boxes[i].column for i in box.inputs), default=0)
    y = 10.0
    for stride in sorted({box.stride for box in boxes}):
        row = [box for box in boxes if box.stride == stride]
        columns: dict[int, list[Box]] = {}
        for box in row:
            columns.setdefault(box.column, []).append(box)
        tall = max(sum(b.height + GAP_Y for b in stack) - GAP_Y for stack in columns.values())
        for column, stack in columns.items():
            at = y + (tall - sum(b.height + GAP_Y for b in stack) + GAP_Y) / 2
            for box in stack:
                box.x, box.y = 44 + column * (WIDTH + GAP_X), at
                at += box.height + GAP_Y
        y += tall + 22
    return max(box.x for box in boxes) + WIDTH + 10, y - 12


# Light text on dark boxes and middling lines, which can be read on white and on black.
_STYLE = (
    "text{font:11px sans-serif;fill:#fff}.s{fill:#80868f;font-size:10px}"
    ".image{fill:#5f6773}.encoder{fill:#31588f}.decoder{fill:#8a4a1f}"
    "path{fill:none;stroke:#80868f;stroke-width:1.5;marker-end:url(#a)}.d{stroke-dasharray:4 3}"
)


def svg(boxes: list[Box], what: str, *, dashed: frozenset[tuple[int, int]] = frozenset()) -> str:
    """The drawing. Arrows are of data; dashed ones of pooling indices."""
    width, height = place(boxes)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img">',
        f"<title>{html.escape(what)}</title><style>{_STYLE}</style>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" '
        'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" '
        'style="fill:#80868f;stroke:none;marker:none"/></marker></defs>',
    ]
    for stride in sorted({box.stride for box in boxes}):
        row = [box for box in boxes if box.stride == stride]
        y = (min(box.y for box in row) + max(box.y + box.height for box in row)) / 2
        scale = "mean" if stride == SIZE[0] else f"1/{stride}"  # a map of one pixel
        parts.append(f'<text class="s" x="4" y="{y + 4:.0f}">{scale}</text>')
    edges = [(i, j, "") for j, box in enumerate(boxes) for i in box.inputs]
    edges += [(i, j, ' class="d"') for i, j in sorted(dashed)]
    for i, j, style in edges:
        parts.append(f'<path{style} d="{arrow(boxes[i], boxes[j])}"/>')
    for box in boxes:
        parts.append(
            f'<rect class="{box.kind}" x="{box.x:.0f}" y="{box.y:.0f}" width="{WIDTH}" '
            f'height="{box.height}" rx="4"/>'
        )
        lines = [*box.lines, f"{box.channels} channels"]
        for n, line in enumerate(lines):
            parts.append(
                f'<text x="{box.x + WIDTH / 2:.0f}" y="{box.y + 13 + 13 * n:.0f}" '
                f'text-anchor="middle">{html.escape(line)}</text>'
            )
    return "\n".join([*parts, "</svg>\n"])


def arrow(start: Box, end: Box) -> str:
    """A path from one box to another: down within a column, else from side to side."""
    if start.column == end.column:
        x = start.x + WIDTH / 2
        return f"M{x:.0f} {start.y + start.height:.0f}V{end.y:.0f}"
    x1, y1 = start.x + WIDTH, start.y + start.height / 2
    x2, y2 = end.x, end.y + end.height / 2
    # Straight along the row, then over in the gap before the box.
    bend = max(x1, x2 - GAP_X)
    curve = f"C{x2 - 6:.0f} {y1:.0f} {bend + 6:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
    return f"M{x1:.0f} {y1:.0f}H{bend:.0f}{curve}"


def drawings() -> dict[Path, str]:
    """Every drawing by its path."""
    written = {}
    for name in ENCODERS:
        with torch.device("meta"):
            encoder = citysegzoo.create_encoder(name).eval()
        boxes = trace_encoder(encoder)
        written[IMAGES / f"encoder_{name}.svg"] = svg(boxes, f"The encoder {name}")
    for name, (encoder_name, encoder_options, options) in DECODERS.items():
        with torch.device("meta"):
            model = citysegzoo.compose(
                encoder_name, name, encoder_options=encoder_options, decoder_options=options
            ).eval()
        boxes = trace_decoder(model)
        count = len(model.encoder.channels)
        indices = frozenset(  # those of a pooling go to the block of the same stride
            (i, j)
            for i in range(count - 1)
            for j, box in enumerate(boxes[:-1])
            if model.decoder.unpools and box.kind == "decoder" and box.stride == boxes[i].stride
        )
        what = f"The decoder {name} on {encoder_name}"
        written[IMAGES / f"decoder_{name}.svg"] = svg(boxes, what, dashed=indices)
    return written


# The table of encoders


def receptive_field(encoder: Encoder, size: int = 2048) -> int:
    """Rows of the image that the middle pixel of the deepest feature depends on.

    Measured: the weights of convolutions are made positive, so that nothing cancels out and no ReLU
    closes, and poolings means, which look at the same pixels; the rows that then have a gradient
    are counted. Channels make no difference.

    Raises:
        ValueError: If it is larger than an image of so many rows, or could not be told.
    """
    encoder = encoder.double().eval()
    with torch.no_grad():
        for layer in encoder.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.abs_().div_(layer.weight.sum((1, 2, 3), keepdim=True))
            elif isinstance(layer, nn.LayerNorm):
                layer.weight.fill_(1)  # some start at 0, which would hide what comes before
    image = torch.rand(1, encoder.in_channels, size, encoder.strides[-1], dtype=torch.float64)
    image.requires_grad_()
    with mock.patch.object(F, "max_pool2d", _mean_pool):
        deepest = encoder(image)[-1]
    (gradient,) = torch.autograd.grad(deepest[:, :, deepest.shape[2] // 2].sum(), image)
    rows = gradient.abs().sum((0, 1, 3)).nonzero()
    if not rows.numel() or rows.min() == 0 or rows.max() == size - 1:
        raise ValueError(f"no receptive field of less than {size} pixels.")
    return int(rows.max() - rows.min()) + 1


def _mean_pool(
    x: Tensor, size: int, stride: int | None = None, padding: int = 0, *_: object, **__: object
) -> Tensor:
    return F.avg_pool2d(x, size, stride, padding)


def measured(name: str, stride: int) -> int:
    """The receptive field of an encoder by name, at an output stride."""
    options = {"output_stride": stride, "width": 1} if name.startswith("resnet") else {}
    return receptive_field(citysegzoo.create_encoder(name, **options))


def row(name: str, strides: tuple[int, ...]) -> str:
    """The line of an encoder; dilation must leave its receptive field as it is."""
    fields = {measured(name, stride) for stride in strides}
    return f"| `{name}` | {', '.join(map(str, strides))} | {', '.join(map(str, fields))} |"


BEGIN = "<!-- Written by docs/draw_networks.py: begin -->\n"
END = "<!-- Written by docs/draw_networks.py: end -->\n"
PAGE = DOCS / "parts.md"


def page(text: str) -> str:
    """docs/parts.md with the table of encoders renewed."""
    lines = ["| encoder | output stride | receptive field, pixels |", "|---|---|---|"]
    lines += [row(name, strides) for name, strides in MEASURED.items()]
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{chr(10).join(lines)}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    for path, text in drawings().items():
        write(path, text)
    write(PAGE, page(PAGE.read_text(encoding="utf-8")))
