"""config.json: all that is needed to build a model anew, as data and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from citysegzoo.data.labels import LABEL_SETS, LabelSet
from citysegzoo.data.preprocessing import Preprocessing
from citysegzoo.weights.card import check_card

FORMAT = 1
"""Version of the file's layout; a file of a later one asks for a later citysegzoo."""

_LARGEST = 1 << 16  # no option of a network is larger; more is no network but an attack
_LONGEST = 256  # entries of a list


@dataclass(frozen=True)
class ModelConfig:
    """What a saved model is, beside its weights.

    Attributes:
        model: Name in the zoo, or None for a model of ``compose``.
        options: All options of its builder, or the arguments of ``compose``.
        in_channels: Channels of the image.
        labels: The classes.
        preprocessing: What images must have gone through.
        card: What is known of the weights: data, score, licence, source, command. Shown, and
            used for nothing.
        sha256: Of the weights file, or None; checked after a download.
        checksums: CRC-32 of each 16 MiB of it, or nothing; checked on loading.
        version: The citysegzoo that wrote it.
        encoder_frozen: Whether its encoder is; None leaves it as the options have it.
    """

    model: str | None
    options: Mapping[str, Any]
    in_channels: int
    labels: LabelSet
    preprocessing: Preprocessing
    card: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None
    checksums: tuple[int, ...] = ()
    version: str = ""
    encoder_frozen: bool | None = None

    def to_json(self) -> str:
        """The text of config.json."""
        architecture, _, variant = (self.model or "").partition(".")
        content = {
            "library_name": "citysegzoo",
            "citysegzoo_version": self.version,
            "format": FORMAT,
            "model": self.model,
            "architecture": architecture or None,
            "variant": variant or None,
            "options": dict(self.options),
            "in_channels": self.in_channels,
            "encoder_frozen": self.encoder_frozen,
            "num_classes": len(self.labels),
            "labels": asdict(self.labels),
            "preprocessing": asdict(self.preprocessing),
            "card": dict(self.card),
            "sha256": self.sha256,
            "crc32_of_16_mib_blocks": list(self.checksums),
        }
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> ModelConfig:
        """Read the text of a config.json.

        Args:
            text: The text.
            source: Where it comes from, for messages.

        Raises:
            ValueError: If it is no such file, or says something impossible; the message begins
                with the source.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source} is no JSON ({error}); save the model again.") from error
        if not isinstance(content, dict) or content.get("library_name") != "citysegzoo":
            raise ValueError(
                f"{source} is no configuration of citysegzoo; `citysegzoo convert` reads the "
                "checkpoints of some other libraries."
            )
        try:
            version = _whole("format", content.get("format"))
            if version > FORMAT:
                raise ValueError(
                    f"format is {version}, of a later citysegzoo; update citysegzoo to read it"
                )
            labels = _labels(_mapping("labels", content.get("labels")))
            if _whole("num_classes", content.get("num_classes")) != len(labels):
                raise ValueError(
                    f"num_classes is {content['num_classes']} but there are {len(labels)} labels"
                )
            model, digest = content.get("model"), content.get("sha256")
            if not isinstance(model, str | None) or not isinstance(digest, str | None):
                raise ValueError("model and sha256 are texts or null")
            frozen = content.get("encoder_frozen")
            if not isinstance(frozen, bool | None):
                raise ValueError("encoder_frozen is true, false or null")
            checksums = _list("crc32_of_16_mib_blocks", content.get("crc32_of_16_mib_blocks", []))
            return cls(
                model=model,
                options=_values("options", _mapping("options", content.get("options")), depth=4),
                in_channels=_whole("in_channels", content.get("in_channels")),
                labels=labels,
                preprocessing=_preprocessing(
                    _mapping("preprocessing", content.get("preprocessing"))
                ),
                card=check_card(_mapping("card", content.get("card", {}))),
                sha256=digest,
                checksums=tuple(checksums),
                version=str(content.get("citysegzoo_version", "")),
                encoder_frozen=frozen,
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"{source} cannot be used: {str(error).rstrip('.')}.") from error


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is missing or no object of names and values")
    return value


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LARGEST:
        raise ValueError(f"{name} must be a whole number of 1 to {_LARGEST}, not {value!r:.50}")
    return value


def _values(name: str, value: Any, *, depth: int) -> Any:
    """Options as a network takes them: numbers, texts, tuples and, down to a depth, mappings."""
    if isinstance(value, dict) and depth:
        return {key: _values(f"{name}.{key}", v, depth=depth - 1) for key, v in value.items()}
    if isinstance(value, list) and depth and len(value) <= _LONGEST:
        return tuple(_values(name, v, depth=depth - 1) for v in value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)) and abs(value) <= _LARGEST:  # which NaN and inf are not
        return value
    raise ValueError(f"{name} has a value that no option has, {value!r:.50}")


def _labels(content: dict[str, Any]) -> LabelSet:
    labels = LabelSet(
        name=content.get("name", ""),
        classes=tuple(_list("labels.classes", content.get("classes"))),
        palette=tuple(_list("labels.palette", content.get("palette"))),
        ignore_index=content.get("ignore_index"),
        categories=tuple(_list("labels.categories", content.get("categories", []))),
    )
    return LABEL_SETS[labels.name] if labels == LABEL_SETS.get(labels.name) else labels


def _preprocessing(content: dict[str, Any]) -> Preprocessing:
    numbers = []
    for name in ("mean", "std"):
        values = _list(f"preprocessing.{name}", content.get(name))
        if len(values) != 3 or not all(
            isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= _LARGEST
            for v in values
        ):
            raise ValueError(f"preprocessing.{name} has three numbers")
        numbers.append(tuple(map(float, values)))
    order = content.get("channel_order")
    if order not in ("RGB", "BGR"):
        raise ValueError(f"preprocessing.channel_order is 'RGB' or 'BGR', not {order!r:.50}")
    (m0, m1, m2), (s0, s1, s2) = numbers
    return Preprocessing(mean=(m0, m1, m2), std=(s0, s1, s2), channel_order=order)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > _LARGEST:
        raise ValueError(f"{name} is missing or no list")
    return value
