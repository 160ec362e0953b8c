"""How a model was built, to build it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Blueprint:
    """What a model was built from.

    Attributes:
        name: Name in the zoo, or None for a model of ``compose``.
        options: All options of the builder, or the arguments of ``compose``: ``encoder``,
            ``decoder``, ``encoder_options``, ``decoder_options``, ``align_corners``.
        in_channels: Channels of the image.
    """

    name: str | None
    options: Mapping[str, Any]
    in_channels: int
