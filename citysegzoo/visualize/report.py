"""A report of errors as one HTML file, which needs nothing but a browser."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from PIL.Image import Resampling

from citysegzoo.data.labels import Color, LabelSet, Palette
from citysegzoo.images import read_image
from citysegzoo.metrics.folders import read_pair
from citysegzoo.visualize.errors import (
    REACH,
    Errors,
    FrameErrors,
    counted_classes,
    counted_pixels,
)
from citysegzoo.visualize.pictures import label_image

_THUMBNAIL = 360  # pixels along the longer side
_CONFUSIONS = 12
_BANDS = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, None))  # distances in pixels, inclusive
_RIGHT, _WRONG, _IGNORED = (225, 229, 234), (200, 30, 0), (120, 124, 130)

_STYLE = """
:root { color-scheme: light dark; --ink: #202226; --paper: #fafafa; --line: #d0d4d9;
  --faint: #5a5e64; --bar: #1f77b4 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #16181b; --line: #3a3e44;
  --faint: #a4a9b0; --bar: #6cb2eb } }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem }
p { max-width: 44rem } .faint { color: var(--faint) }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid var(--line) }
td { white-space: nowrap } th { font-weight: 600 }
th:first-child, .name { text-align: left; white-space: nowrap }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em;
  border: 1px solid var(--faint) }
meter { width: 8rem }
.heat { font-size: .8rem } .heat td { padding: .2rem; min-width: 2rem; text-align: center }
.heat thead th { vertical-align: bottom; padding: .3rem; text-align: center }
.heat thead span { writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap }
.heat .own { outline: 1px solid var(--faint); outline-offset: -1px }
figure { margin: 0 } figcaption { font-size: .85rem; color: var(--faint) }
.frame { display: grid; gap: .75rem; margin-bottom: 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)) }
.frame img { width: 100%; height: auto; image-rendering: auto }
h3 { overflow-wrap: anywhere }
svg { max-width: 100%; height: auto } svg text { fill: currentColor; font-size: 13px }
"""


def error_report(
    errors: Errors,
    *,
    photos: Mapping[Path, Path] | None = None,
    palette: Palette | None = None,
) -> str:
    """The page: scores, confusions, distances to boundaries, the worst images.

    Pictures are part of it, at most 360 pixels wide or high, so that it refers to no other file.

    Args:
        errors: What :func:`citysegzoo.visualize.errors.find_errors` counted.
        photos: The photograph of each ground truth, shown beside the worst images.
        palette: Other colours, as :meth:`LabelSet.with_palette` has them.

    Returns:
        HTML.

    Raises:
        OSError: If a file of the worst images cannot be read.
        ValueError: If a photograph is damaged or there is no such palette.
    """
    labels = errors.labels if palette is None else errors.labels.with_palette(palette)
    frames = f"{errors.frames:,} {'image' if errors.frames == 1 else 'images'}"
    # The policy forbids what the page does not do anyway: to load anything, or run a script.
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Segmentation errors</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Segmentation errors</h1>
<p>Mean IoU <strong>{_percent(errors.mean_iou)}</strong>, pixel accuracy
<strong>{_percent(errors.pixel_accuracy)}</strong>; {escape(labels.name)}, {frames}.</p>
<h2>Classes</h2>
{_classes(errors, labels)}
<h2>Confusions that cost most</h2>
{_confusions(errors)}
<h2>Confusion of all classes</h2>
<p class="faint">Each row is a true class: how many percent of its pixels were predicted as each
class. A point is less than half a percent.</p>
{_heat_map(errors, labels)}
<h2>Distance to boundaries</h2>
{_boundaries(errors)}
<h2>Worst images</h2>
{_worst(errors, labels, photos or {})}
</main>
</body>
</html>
"""


def _classes(errors: Errors, labels: LabelSet) -> str:
    counted, true = counted_classes(labels), errors.confusion.sum(axis=1)
    rows = []
    for i, (name, iou) in enumerate(errors.class_iou.items()):
        if not counted[i]:
            continue
        name_cell = f'<th scope="row">{_swatch(labels.palette[i])}{escape(name)}</th>'
        bar = f'<meter value="{iou:.4f}">{_percent(iou)}</meter>' if iou == iou else ""
        rows.append([name_cell, _percent(iou), bar, f"{true[i]:,}"])
    rows.append(
        ['<th scope="row">mean</th>', f"<strong>{_percent(errors.mean_iou)}</strong>", "", ""]
    )
    return _table("IoU of each class", ("class", "IoU", "", "true pixels"), rows)


def _confusions(errors: Errors) -> str:
    total, true = int(errors.wrong.sum()), errors.confusion.sum(axis=1)
    rows = [
        [
            f'<th scope="row">{escape(one.true)}</th>',
            f'<td class="name">{escape(one.predicted)}</td>',
            f"{one.pixels:,}",
            _percent(one.pixels / total),
            _percent(one.pixels / int(true[errors.labels.classes.index(one.true)])),
        ]
        for one in errors.confusions(_CONFUSIONS)
    ]
    if not rows:
        return "<p>There are none.</p>"
    heads = ("true class", "predicted as", "pixels", "of all errors", "of the true class")
    return _table("The pairs of classes with most wrong pixels", heads, rows)


def _heat_map(errors: Errors, labels: LabelSet) -> str:
    matrix = errors.confusion
    true, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    rows = np.flatnonzero(true).tolist()
    columns = np.flatnonzero(true + predicted).tolist()
    if not rows:
        return "<p>No pixel of the ground truth is evaluated.</p>"
    names = [escape(name) for name in labels.classes]
    heads = "".join(f'<th scope="col"><span>{names[j]}</span></th>' for j in columns)
    body = []
    for i in rows:
        cells = []
        for j in columns:
            share = int(matrix[i, j]) / int(true[i])
            text = f"{100 * share:.0f}" if share >= 0.005 else "·" if share else ""
            # Blue for what is right and vermilion for what is not; over both themes.
            hue = "0,114,178" if i == j else "213,94,0"
            ink = ";color:#fff" if share > 0.55 else ""
            title = f"{names[i]} as {names[j]}: {matrix[i, j]:,} pixels, {_percent(share)}"
            own = ' class="own"' if i == j else ""
            cells.append(
                f'<td{own} style="background:rgba({hue},{share:.3f}){ink}" title="{title}">'
                f"{text}</td>"
            )
        body.append(f'<tr><th scope="row">{names[i]}</th>{"".join(cells)}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix">'
        f'<table class="heat"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _boundaries(errors: Errors) -> str:
    total = int(errors.wrong.sum())
    rows, accuracies = [], []
    for low, high in _BANDS:
        # The last count is of all distances above REACH.
        pixels, wrong = (int(c[low - 1 : high].sum()) for c in (errors.pixels, errors.wrong))
        accuracy = 1 - wrong / pixels if pixels else float("nan")
        name = f"over {REACH}" if high is None else f"{low}" if low == high else f"{low} to {high}"
        accuracies.append((name, accuracy))
        rows.append(
            [
                f'<th scope="row">{name}</th>',
                f"{pixels:,}",
                _percent(accuracy),
                _percent(wrong / total if total else float("nan")),
                "" if high is None else _percent(errors.near(high)),
            ]
        )
    heads = ("distance in pixels", "pixels", "accuracy", "of all errors", "of all errors, up to it")
    return (
        '<p class="faint">A pixel is at distance d of a boundary if the square of side 2d + 1 '
        "around it, but none smaller, holds another label of the ground truth, ignored ones "
        f"included.</p>{_curve(accuracies)}"
        f"{_table('Accuracy and errors by distance to a boundary', heads, rows)}"
    )


def _curve(points: list[tuple[str, float]]) -> str:
    """Accuracy by distance, as an SVG of 560x220."""
    left, right, top, bottom = 50, 520, 14, 180
    step = (right - left) / (len(points) - 1)
    places = [
        (left + i * step, bottom - value * (bottom - top), name, value)
        for i, (name, value) in enumerate(points)
        if value == value
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, *_ in places)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="var(--bar)">'
        f"<title>{name} px: {_percent(value)}</title></circle>"
        for x, y, name, value in places
    )
    ticks = "".join(
        f'<text x="{left + i * step:.1f}" y="{bottom + 20}" text-anchor="middle">{name}</text>'
        for i, (name, _) in enumerate(points)
    )
    for share in (0, 0.5, 1):
        y = bottom - share * (bottom - top)
        ticks += (
            f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke="var(--line)"/>'
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{100 * share:.0f} %</text>'
        )
    return (
        '<svg viewBox="0 0 560 220" width="560" height="220" role="img" '
        'aria-label="Pixel accuracy by distance to a boundary; the numbers are in the table below">'
        f'{ticks}<polyline points="{line}" fill="none" stroke="var(--bar)" stroke-width="2"/>{dots}'
        f'<text x="{(left + right) / 2}" y="{bottom + 38}" text-anchor="middle">'
        "pixels to the boundary</text></svg>"
    )


def _worst(errors: Errors, labels: LabelSet, photos: Mapping[Path, Path]) -> str:
    if not errors.worst:
        return "<p>None are shown.</p>"
    legend = (
        '<p class="faint">By mean IoU of the image alone. In the maps of errors wrong pixels are '
        f"{_swatch(_WRONG)}red, right ones {_swatch(_RIGHT)}pale and ignored ones "
        f"{_swatch(_IGNORED)}grey.</p>"
    )
    return legend + "".join(
        _worst_image(frame, labels, photos.get(frame.pair.ground_truth)) for frame in errors.worst
    )


def _worst_image(frame: FrameErrors, labels: LabelSet, photo: Path | None) -> str:
    prediction, truth = read_pair(frame.pair, labels)
    counted = counted_pixels(truth, labels)
    marked = np.array((_IGNORED, _RIGHT, _WRONG), np.uint8)[
        np.where(counted, 1 + (prediction != truth), 0)
    ]
    pictures = [
        ("prediction", _data_uri(_label_picture(prediction, labels), Resampling.NEAREST)),
        ("ground truth", _data_uri(_label_picture(truth, labels), Resampling.NEAREST)),
        ("errors", _data_uri(PIL.Image.fromarray(marked), Resampling.BOX)),
    ]
    if photo is not None:
        shown = _data_uri(PIL.Image.fromarray(read_image(photo)), Resampling.BOX)
        pictures.insert(0, ("photograph", shown))
    name = escape(frame.pair.ground_truth.name)
    figures = "".join(
        f'<figure><img src="{uri}" alt="{kind} of {name}"><figcaption>{kind}</figcaption></figure>'
        for kind, uri in pictures
    )
    return f'<h3>{name}: {_percent(frame.mean_iou)}</h3><div class="frame">{figures}</div>'


def _label_picture(ids: np.ndarray[Any, Any], labels: LabelSet) -> PIL.Image.Image:
    """A label map in its colours, values that are no label in black like ignored ones.

    Such values may be predicted where the ground truth is ignored.
    """
    known = (ids >= 0) & (ids < len(labels))
    ignored = labels.ignore_index if labels.ignore_index is not None else 0
    return label_image(np.where(known, ids, ignored), labels)


def _data_uri(picture: PIL.Image.Image, resample: Resampling) -> str:
    """A thumbnail as a data URI: label maps, which have a palette, as PNG, the others as JPEG."""
    scale = min(1, _THUMBNAIL / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    kind = "png" if picture.mode == "P" else "jpeg"
    data = io.BytesIO()
    picture.resize((width, height), resample).save(data, kind, quality=85, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


def _table(caption: str, heads: Iterable[str], rows: Iterable[list[str]]) -> str:
    """Rows of cells; those that are not marked as cells yet are marked here."""
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    body = "".join(
        f"<tr>{''.join(c if c.startswith(('<th', '<td')) else f'<td>{c}</td>' for c in row)}</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _swatch(color: Color) -> str:
    red, green, blue = color
    return f'<span class="swatch" style="background:rgb({red},{green},{blue})"></span>'


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if share == share else "–"  # noqa: RUF001
