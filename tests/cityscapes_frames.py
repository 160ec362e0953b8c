"""Drawn frames in the layout of Cityscapes, and what cityscapesscripts makes of them."""

import contextlib
import copy
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

ROAD, SIDEWALK, BUILDING, FENCE, POLE, SIGN, VEGETATION, SKY = 7, 8, 11, 13, 17, 20, 21, 23
PERSON, RIDER, CAR, TRUCK, BUS, CARAVAN, TRAILER, TRAIN, MOTORCYCLE, BICYCLE = range(24, 34)


def draw_frame(
    random: np.random.Generator, size: tuple[int, int], *, instances: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """Label ids (uint8) and instance ids (uint16) of a street, ``(H, W)`` each.

    Sizes of instances spread over two orders of magnitude, down to single pixels.
    """
    height, width = size
    labels, ids = Image.new("L", (width, height), BUILDING), Image.new("I", (width, height))
    pens = ImageDraw.Draw(labels), ImageDraw.Draw(ids)

    def outline(x: float, y: float, rx: float, ry: float) -> list[tuple[float, float]]:
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        reach = 1 + 0.15 * np.convolve(random.standard_normal(42), np.ones(3), "valid")
        return list(zip(x + rx * reach * np.cos(angles), y + ry * reach * np.sin(angles)))  # noqa: B905

    def blob(label: int, x: float, y: float, rx: float, ry: float) -> None:
        points = outline(x * width, y * height, rx * width, ry * height)
        pens[0].polygon(points, fill=label)
        pens[1].polygon(points, fill=0)

    pens[0].rectangle((0, 0.55 * height, width, height), fill=ROAD)
    blob(SKY, 0.5, 0.0, 0.3, 0.3)
    blob(SIDEWALK, 0.0, 0.8, 0.2, 0.2)
    for label in (*random.choice([VEGETATION, FENCE, 12, 22], 6).tolist(), 5, 6, 9, 14):
        blob(label, random.random(), 0.3 + 0.4 * random.random(), *random.uniform(0.02, 0.1, 2))
    for _ in range(12):
        x, top = random.random(), random.uniform(0.1, 0.4)
        blob(POLE, x, (top + 0.6) / 2, 0.002, (0.6 - top) / 2)
        blob(int(random.choice([SIGN, 19])), x, top, 0.008, 0.012)
    numbers = dict.fromkeys(range(PERSON, BICYCLE + 1), 0)
    often = [PERSON, CAR, CAR, PERSON, BICYCLE, RIDER, MOTORCYCLE, TRUCK, BUS, CARAVAN, TRAILER]
    for _ in range(instances):
        label = int(random.choice(often))
        x, y, radius = random.random(), random.uniform(0.45, 0.7), 0.004 * 25 ** random.random()
        points = outline(x * width, y * height, radius * height, radius * height)
        if random.random() < 0.1:
            points = [(round(x * (width - 1)), round(y * (height - 1)))] * 2  # a single pixel
        # A group whose members cannot be told apart has the label id for its instance id.
        group = random.random() < 0.1
        pens[0].polygon(points, fill=label)
        pens[1].polygon(points, fill=label if group else 1000 * label + numbers[label])
        numbers[label] += not group
    blob(1, 0.5, 1.0, 0.4, 0.08)
    for pen in pens:
        pen.rectangle((0, 0, width, 0.01 * height), fill=3)
        pen.rectangle((0, 0, 0.004 * width, height), fill=2)
    drawn, whole = np.array(labels), np.array(ids)
    return drawn, np.where(whole == 0, drawn, whole).astype(np.uint16)


def predict(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """A prediction with frayed edges, mistaken classes and patches of any of the 34 ids."""
    height, width = labels.shape
    grid = random.standard_normal((2, height // 8 + 1, width // 8 + 1)) * 2.5
    shifts = np.kron(grid, np.ones((1, 8, 8)))[:, :height, :width].astype(np.intp)
    rows, columns = np.indices(labels.shape, sparse=True)
    frayed = labels[
        np.clip(rows + shifts[0], 0, height - 1), np.clip(columns + shifts[1], 0, width - 1)
    ]
    mistaken = np.arange(34, dtype=np.uint8)
    pair = random.integers(0, 34, 2)
    mistaken[pair] = pair[::-1]
    frayed = mistaken[frayed]
    for _ in range(15):
        y, x = random.integers(0, height), random.integers(0, width)
        frayed[y : y + height // 20, x : x + width // 20] = random.integers(0, 34)
    return frayed


def write_frames(
    folder: Path, count: int, size: tuple[int, int], *, seed: int = 0, instances: int = 20
) -> tuple[Path, Path]:
    """Write ``count`` frames of two cities; returns the folders of predictions and ground truth."""
    random = np.random.default_rng(seed)
    predictions, truths = folder / "results", folder / "gtFine" / "val"
    for i in range(count):
        city = ("lindau", "munster")[i % 2]
        for parent in (predictions, truths / city):
            parent.mkdir(parents=True, exist_ok=True)
        labels, ids = draw_frame(random, size, instances=instances)
        frame = f"{city}_000000_{i:06}"
        Image.fromarray(labels).save(truths / city / f"{frame}_gtFine_labelIds.png")
        Image.fromarray(ids).save(truths / city / f"{frame}_gtFine_instanceIds.png")
        Image.fromarray(predict(random, labels)).save(predictions / f"{frame}_leftImg8bit.png")
    return predictions, truths


def official(
    predictions: list[Path], truths: list[Path], *, instances: bool = True, file: Path | None = None
) -> dict[str, Any]:
    """The result of cityscapesscripts, which also writes it to ``file``."""
    np.in1d = np.isin  # which NumPy 2.4 no longer has, and cityscapesscripts 2.3.0 still calls
    with contextlib.redirect_stdout(io.StringIO()):
        from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script  # noqa: N813

        args = copy.copy(script.args)
        args.quiet, args.evalInstLevelScore = True, instances
        args.JSONOutput, args.exportFile = file is not None, str(file)
        try:
            return script.evaluateImgLists([*map(str, predictions)], [*map(str, truths)], args)
        except SystemExit as stopped:
            raise RuntimeError(sys.stdout.getvalue()) from stopped  # its message is printed


def largest_difference(ours: Any, theirs: Any, where: str = "") -> tuple[float, str]:
    """The largest difference of two nested results and where it is; nan equals nan alone."""
    if isinstance(theirs, dict):
        if not isinstance(ours, dict) or list(ours) != list(theirs):
            return float("inf"), where
        return max(largest_difference(ours[k], theirs[k], f"{where}/{k}") for k in theirs)
    theirs, ours = np.asarray(theirs, float), np.asarray(ours, float)
    if theirs.shape != ours.shape or (np.isnan(theirs) != np.isnan(ours)).any():
        return float("inf"), where
    return float(np.nan_to_num(np.abs(theirs - ours)).max(initial=0)), where
