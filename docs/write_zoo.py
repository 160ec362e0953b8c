"""Write docs/zoo.md: every model of the zoo in one table, counted on models that hold no memory.

python docs/write_zoo.py
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tables import tenths
from torch import nn

import citysegzoo
from citysegzoo.benchmark import count_flops
from citysegzoo.files import write
from citysegzoo.registry import DECODERS, ENCODERS, Registry, function_of
from citysegzoo.reports import figure_text, overall_iou
from citysegzoo.variant import Result
from citysegzoo.weights import WeightsRecord

PAGE = Path(__file__).with_name("zoo.md")
SIZE = (512, 1024)

INTRODUCTION = """\
<!-- Written by docs/write_zoo.py from the models themselves: change it there. -->

# Model zoo

All {count} names of `citysegzoo.list_models()`. Click on a column's head to sort by it.

- **Parameters** are in millions, with the name's own number of classes.
- **GFLOPs** are of one forward pass on one image of {height}x{width}; one multiply-add is two
  FLOPs. Convolutions, matrix products and attention count, as `torch.utils.flop_counter` counts
  them; norms, activations and resizes do not.
- **Stride** is the output stride of the encoder: how many times smaller than the image its deepest
  map is.
- **CamVid** is the mean IoU on CamVid's validation images in percent, measured here: that of the
  bundled weights ([weights](weights.md)), or of a short training ([reports on CamVid](camvid.md)).
- **Printed elsewhere** is what a report or the authors of the weights print, each measured in its
  own way ([reports](reports.md)): not to be compared with each other, nor with the CamVid column.

"""
COLUMNS = (
    *("name", "encoder", "decoder", "parameters, M", "GFLOPs", "stride", "weights"),
    *("CamVid, %", "printed elsewhere"),
)


def page() -> str:
    """The whole page."""
    names = citysegzoo.list_models()
    head = INTRODUCTION.format(count=len(names), height=SIZE[0], width=SIZE[1])
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *map(row, names)]
    return head + "\n".join(lines) + "\n"


def row(name: str) -> str:
    """The line of one model."""
    info = citysegzoo.model_info(name)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a frozen encoder that was drawn at random
        model = citysegzoo.create_model(name).eval()
    cells = [
        f"`{name}`",
        f"`{part_name(ENCODERS, model.encoder, hint=info.architecture)}`",
        f"`{part_name(DECODERS, model.decoder)}`",
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}",
        f"{count_flops(model, SIZE) / 1e9:.1f}",
        str(model.encoder.strides[-1]),
        ", ".join(f"`{record.tag}`" for record in info.weights),
        next(measured(name, info.weights), ""),
        "; ".join(printed(info)),
    ]
    return f"| {' | '.join(cells)} |"


def part_name(registry: Registry, part: nn.Module, *, hint: str = "") -> str:
    """The registered name of an encoder or decoder: that of its class, of the same layers.

    Names that ``hint`` ends in are tried first, which spares building the others.
    """
    kinds = {name: function_of(registry[name]) for name in registry.names()}
    names = [name for name, kind in kinds.items() if kind is type(part)]
    if len(names) == 1:
        return names[0]
    layers = {key: value.shape for key, value in part.state_dict().items()}
    names.sort(key=lambda name: not hint.endswith(name))
    # Where options changed the layers, none has them, and the name says which it is.
    return next((name for name in names if _layers(name) == layers), names[0])


@functools.cache
def _layers(encoder: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        state = citysegzoo.create_encoder(encoder).state_dict()
    return {key: value.shape for key, value in state.items()}


def measured(name: str, records: tuple[WeightsRecord, ...]) -> Iterator[str]:
    """The scores measured here, on CamVid, those of weights that come with the package first."""
    for record in records:
        if record.file is not None and record.card["data"].startswith("CamVid"):
            yield tenths(record.card["score"]["mean_iou"])
    for run in _trained_on_camvid():
        if run["run"] == name:
            yield f"[{tenths(run['card']['score']['mean_iou'])}](camvid.md)"


@functools.cache
def _trained_on_camvid() -> list[dict[str, Any]]:
    return json.loads(PAGE.with_name("camvid.json").read_text())["reports"]


def printed(info: citysegzoo.ModelInfo) -> Iterator[str]:
    """The IoU over all classes that a report prints, or that the authors of weights do."""
    result = overall_iou(info.results)
    if result:
        yield f"{figure_text(result)}, {result.split}, [{info.report}](reports/{info.report}.md)"
    for record in info.weights[:1]:
        if record.file is None:
            score = record.card["score"]
            result = Result("mean_class_iou_pct", 100 * score["mean_iou"], score["split"], "")
            yield f"{figure_text(result)}, {result.split}, authors"


if __name__ == "__main__":
    write(PAGE, page())
