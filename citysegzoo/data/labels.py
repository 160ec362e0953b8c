"""Label sets: names, colours and the ignored value of the classes a model can tell apart."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import NamedTuple

Color = tuple[int, int, int]


@dataclass(frozen=True)
class LabelSet:
    """The classes of a dataset, in the order of a model's output channels.

    Attributes:
        name: Short name, such as ``"cityscapes19"``.
        classes: Class names; class i is output channel i and pixel value i in a label map.
        palette: One (R, G, B) colour in 0..255 for each class.
        ignore_index: Pixel value that is no class and counts neither in training nor in
            evaluation, or None where every pixel has a class.
        categories: The category of each class, or nothing where classes have none.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    ignore_index: int | None = 255
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.palette):
            raise ValueError(
                f"label set {self.name!r} has {len(self.classes)} classes but "
                f"{len(self.palette)} colours."
            )
        if self.categories and len(self.categories) != len(self.classes):
            raise ValueError(
                f"label set {self.name!r} has {len(self.classes)} classes but categories of "
                f"{len(self.categories)}."
            )

    def __len__(self) -> int:
        return len(self.classes)


def numbered_labels(num_classes: int) -> LabelSet:
    """A label set for classes nobody has named: ``class_0`` ..., in well-spread colours.

    The colours are those of the PASCAL VOC colour map (the bits of the index, interleaved).
    """

    def color(index: int) -> Color:
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        return rgb[0], rgb[1], rgb[2]

    return LabelSet(
        name=f"numbered{num_classes}",
        classes=tuple(f"class_{i}" for i in range(num_classes)),
        palette=tuple(color(i + 1) for i in range(num_classes)),
        ignore_index=255 if num_classes <= 255 else None,
    )


class CityscapesClass(NamedTuple):
    """What is published of one Cityscapes label.

    Attributes:
        name: Its name.
        train_id: Its place among the 19 evaluated classes, 255 where it is ignored in evaluation.
        category: The category it belongs to; ``"void"`` is none of the seven evaluated ones.
        color: (R, G, B) in 0..255.
    """

    name: str
    train_id: int
    category: str
    color: Color

    @property
    def ignored(self) -> bool:
        """Whether ground truth of this label is left out of the evaluation."""
        return self.train_id == 255


CITYSCAPES_CLASSES = tuple(
    CityscapesClass(*row)
    for row in (
        ("unlabeled", 255, "void", (0, 0, 0)),
        ("ego vehicle", 255, "void", (0, 0, 0)),
        ("rectification border", 255, "void", (0, 0, 0)),
        ("out of roi", 255, "void", (0, 0, 0)),
        ("static", 255, "void", (0, 0, 0)),
        ("dynamic", 255, "void", (111, 74, 0)),
        ("ground", 255, "void", (81, 0, 81)),
        ("road", 0, "flat", (128, 64, 128)),
        ("sidewalk", 1, "flat", (244, 35, 232)),
        ("parking", 255, "flat", (250, 170, 160)),
        ("rail track", 255, "flat", (230, 150, 140)),
        ("building", 2, "construction", (70, 70, 70)),
        ("wall", 3, "construction", (102, 102, 156)),
        ("fence", 4, "construction", (190, 153, 153)),
        ("guard rail", 255, "construction", (180, 165, 180)),
        ("bridge", 255, "construction", (150, 100, 100)),
        ("tunnel", 255, "construction", (150, 120, 90)),
        ("pole", 5, "object", (153, 153, 153)),
        ("polegroup", 255, "object", (153, 153, 153)),
        ("traffic light", 6, "object", (250, 170, 30)),
        ("traffic sign", 7, "object", (220, 220, 0)),
        ("vegetation", 8, "nature", (107, 142, 35)),
        ("terrain", 9, "nature", (152, 251, 152)),
        ("sky", 10, "sky", (70, 130, 180)),
        ("person", 11, "human", (220, 20, 60)),
        ("rider", 12, "human", (255, 0, 0)),
        ("car", 13, "vehicle", (0, 0, 142)),
        ("truck", 14, "vehicle", (0, 0, 70)),
        ("bus", 15, "vehicle", (0, 60, 100)),
        ("caravan", 255, "vehicle", (0, 0, 90)),
        ("trailer", 255, "vehicle", (0, 0, 110)),
        ("train", 16, "vehicle", (0, 80, 100)),
        ("motorcycle", 17, "vehicle", (0, 0, 230)),
        ("bicycle", 18, "vehicle", (119, 11, 32)),
    )
)
"""Every Cityscapes label, by label id, as published with the dataset.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016. The
licence plate, id -1, is part of "car" here as in the labels.
"""

CITYSCAPES_34 = LabelSet(
    name="cityscapes34",
    classes=tuple(label.name for label in CITYSCAPES_CLASSES),
    palette=tuple(label.color for label in CITYSCAPES_CLASSES),
    ignore_index=None,
    categories=tuple(label.category for label in CITYSCAPES_CLASSES),
)
"""All 34 label ids, void ones included: what the reports of 34 classes were trained on."""

CITYSCAPES_19 = LabelSet(
    name="cityscapes19",
    classes=tuple(label.name for label in CITYSCAPES_CLASSES if not label.ignored),
    palette=tuple(label.color for label in CITYSCAPES_CLASSES if not label.ignored),
    categories=tuple(label.category for label in CITYSCAPES_CLASSES if not label.ignored),
)
"""The 19 evaluated classes in train-id order."""

CITYSCAPES_CATEGORIES = LabelSet(
    name="cityscapes_categories",
    classes=("flat", "construction", "object", "nature", "sky", "human", "vehicle"),
    palette=(
        (128, 64, 128),
        (70, 70, 70),
        (153, 153, 153),
        (107, 142, 35),
        (70, 130, 180),
        (220, 20, 60),
        (0, 0, 142),
    ),
)
"""The seven evaluated categories, each in the colour of its first or commonest class."""

CAMVID_11 = LabelSet(
    name="camvid11",
    classes=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    ignore_index=11,
)
"""The 11 classes of CamVid as the SegNet tutorial distributes them."""


def default_labels(num_classes: int) -> LabelSet:
    """Cityscapes' own label set of that size (19 train ids, 34 ids), else numbered classes."""
    for labels in (CITYSCAPES_19, CITYSCAPES_34):
        if len(labels) == num_classes:
            return labels
    return numbered_labels(num_classes)


LABEL_SETS = {
    labels.name: labels
    for labels in (CITYSCAPES_19, CITYSCAPES_34, CITYSCAPES_CATEGORIES, CAMVID_11)
}
"""Every named label set, by name."""


def find_labels(labels: LabelSet | str) -> LabelSet:
    """A label set, by itself or by name.

    Raises:
        ValueError: If there is none of that name; the nearest is named.
        TypeError: If it is neither.
    """
    if isinstance(labels, LabelSet):
        return labels
    if not isinstance(labels, str):
        raise TypeError(f"labels are a LabelSet or the name of one, not {labels!r}.")
    if labels not in LABEL_SETS:
        near = difflib.get_close_matches(labels.lower(), LABEL_SETS, n=2)
        hint = f"; did you mean {' or '.join(map(repr, near))}" if near else ""
        raise ValueError(
            f"there is no label set {labels!r}{hint}; there are {', '.join(LABEL_SETS)}."
        )
    return LABEL_SETS[labels]
