"""Label sets: names, colours and the ignored value of the classes a model can tell apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from citysegzoo.arguments import check_choice, check_ignore_index, check_positive
from citysegzoo.registry import suggestion

Color = tuple[int, int, int]
Palette = Literal["standard", "safe"]
"""Which colours: those published with a dataset, or those that the colour-blind tell apart."""


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

    Raises:
        TypeError: If a name is no text, or a number no whole one.
        ValueError: If there are not as many colours as classes, a colour is none, or a class is
            there twice.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    ignore_index: int | None = 255
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for given in self.palette:
            if not isinstance(given, Iterable):
                raise TypeError(f"a colour is (R, G, B) in 0..255, not {given!r:.50}.")
        # Lists and numpy's numbers are taken too, and are what the others are from here on.
        colors = tuple(tuple(check_positive("each number of a colour", v, least=0) for v in color)
                       for color in self.palette)  # fmt: skip
        plain = {
            "classes": tuple(self.classes),
            "palette": colors,
            "ignore_index": check_ignore_index(self.ignore_index),
            "categories": tuple(self.categories),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        for text in (self.name, *self.classes, *self.categories):
            if not isinstance(text, str):
                raise TypeError(f"the names of a label set are texts, not {text!r:.50}.")
        for color in colors:
            if len(color) != 3 or max(color) > 255:
                raise ValueError(
                    f"a colour of label set {self.name!r} is (R, G, B) in 0..255, not {color}."
                )
        if len(self.classes) != len(self.palette):
            raise ValueError(
                f"label set {self.name!r} has {len(self.classes)} classes but "
                f"{len(self.palette)} colours."
            )
        if len(set(self.classes)) != len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise ValueError(f"label set {self.name!r} has two classes named {twice!r}.")
        if self.categories and len(self.categories) != len(self.classes):
            raise ValueError(
                f"label set {self.name!r} has {len(self.classes)} classes but categories of "
                f"{len(self.categories)}."
            )

    def __len__(self) -> int:
        return len(self.classes)

    def with_palette(self, palette: Palette) -> LabelSet:
        """The same classes in other colours; pixel values stay what they are.

        Args:
            palette: ``"standard"``, the published colours, which are its own where nobody
                published any; or ``"safe"``, of :data:`SAFE_PALETTES`.

        Raises:
            ValueError: If there is no such palette, or none for these classes.
        """
        check_choice("the palette", palette, ("standard", "safe"))
        named = LABEL_SETS.get(self.name)
        if named is None or named.classes != self.classes:
            if palette == "standard":
                return self
            raise ValueError(
                f"there is no safe palette for the classes of {self.name!r}, only for "
                f"{', '.join(SAFE_PALETTES)}; use the standard one."
            )
        return replace(
            self, palette=named.palette if palette == "standard" else SAFE_PALETTES[self.name]
        )


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


def known_name(labels: LabelSet) -> str | None:
    """The name of a label set of ``LABEL_SETS``, in whatever colours; None for one's own."""
    known = LABEL_SETS.get(labels.name)
    if known is None:
        return None
    mine, theirs = ((one.classes, one.ignore_index, one.categories) for one in (labels, known))
    return labels.name if mine == theirs else None


SAFE_PALETTES: dict[str, tuple[Color, ...]] = {
    "camvid11": (
        (191, 159, 128),
        (128, 32, 0),
        (223, 255, 223),
        (159, 128, 255),
        (64, 0, 255),
        (0, 255, 0),
        (255, 223, 255),
        (96, 96, 96),
        (64, 0, 96),
        (191, 96, 0),
        (64, 159, 159),
    ),
    "cityscapes19": (
        (128, 96, 128),
        (128, 128, 191),
        (64, 64, 64),
        (159, 191, 255),
        (159, 159, 128),
        (96, 255, 255),
        (159, 128, 0),
        (191, 255, 96),
        (159, 191, 96),
        (255, 255, 223),
        (96, 159, 159),
        (223, 191, 191),
        (159, 64, 0),
        (32, 0, 191),
        (0, 0, 96),
        (32, 64, 96),
        (32, 128, 96),
        (128, 64, 223),
        (64, 32, 0),
    ),
    "cityscapes_categories": (
        (255, 96, 255),
        (159, 159, 96),
        (96, 255, 223),
        (223, 255, 32),
        (32, 128, 128),
        (128, 64, 0),
        (32, 0, 191),
    ),
    "cityscapes34": (
        (32, 0, 32),
        (32, 96, 64),
        (96, 96, 96),
        (32, 64, 64),
        (64, 32, 32),
        (96, 128, 96),
        (128, 96, 128),
        (128, 128, 191),
        (159, 128, 255),
        (255, 255, 223),
        (191, 159, 191),
        (128, 128, 128),
        (159, 159, 223),
        (159, 159, 159),
        (191, 191, 191),
        (159, 128, 159),
        (255, 128, 32),
        (223, 255, 255),
        (159, 191, 159),
        (255, 223, 159),
        (223, 255, 96),
        (128, 159, 128),
        (0, 191, 96),
        (96, 223, 255),
        (191, 0, 0),
        (223, 64, 0),
        (64, 64, 159),
        (64, 64, 96),
        (96, 96, 159),
        (64, 0, 96),
        (0, 0, 159),
        (128, 96, 223),
        (128, 0, 255),
        (128, 32, 32),
    ),
}
"""Colours that the colour-blind tell apart, for each named label set.

Found by :func:`citysegzoo.visualize.color_vision.safe_palette`. Simulated protanopia, deuteranopia
and tritanopia included, the two most alike of 19 differ by 12.7 (CIEDE2000) instead of 2.6, those
of CamVid's 11 by 18.1 instead of 3.1. Of 34, by 8.7: too many for colour alone.
"""


def find_label_set(labels: LabelSet | str) -> LabelSet:
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
        raise ValueError(
            f"there is no label set {labels!r}{suggestion(labels, LABEL_SETS)}; there are "
            f"{', '.join(LABEL_SETS)}."
        )
    return LABEL_SETS[labels]
