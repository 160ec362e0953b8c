"""The model card: README.md of a saved or published model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from citysegzoo.arguments import check_size
from citysegzoo.registry import suggestion

if TYPE_CHECKING:
    from citysegzoo.weights.config import ModelConfig

FIELDS = (
    "model",
    "labels",
    "data",
    "epoch",
    "score",
    "licence",
    "source",
    "citation",
    "command",
    "revision",
    "resized_to",
)
"""What is said of trained weights; ``score`` has ``metric``, ``split``, ``mean_iou``, ...

``resized_to`` is the (H, W) that whole images were resized to, where they were.
"""

_TEXTS = tuple(name for name in FIELDS if name not in ("epoch", "score", "resized_to"))
_SCORE = ("metric", "split", "mean_iou", "class_iou", "pixel_accuracy", "command")
_MARK = re.compile(r"<!-- written by citysegzoo ([0-9a-f]{16}) -->\s*\Z")

# Licences by the names that the Hub has for them.
_LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "mpl-2.0"),
    *("gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "openrail", "cc0-1.0"),
    *("cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nd-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
    *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    *("apple-amlr", "apple-ascl", "fair-noncommercial-research-license"),
)


def check_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card, if every field is one that cards have.

    Raises:
        TypeError: If it is no mapping, a score is no number, what is said no text, or a field has
            another name; the nearest is named.
        ValueError: If a score is no share of 0 to 1.
    """
    if not isinstance(card, Mapping):
        raise TypeError(f"a card is a dict of {', '.join(FIELDS)}, not {card!r:.50}.")
    score = card.get("score", {})
    if not isinstance(score, Mapping):
        raise TypeError(f"score of a card is a dict of {', '.join(_SCORE)}, not {score!r:.50}.")
    for what, given, known in (("a card", card, FIELDS), ("score of a card", score, _SCORE)):
        for name in given:
            if name not in known:
                hint = suggestion(str(name), known)
                raise TypeError(f"{what} has no field {name!r}{hint}; it has {', '.join(known)}.")
    for given, texts in ((card, _TEXTS), (score, ("metric", "split", "command"))):
        for name in texts:
            if not isinstance(given.get(name), str | None):
                raise TypeError(f"{name} of a card is a text, not {given[name]!r:.50}.")
    epoch = card.get("epoch")
    if isinstance(epoch, bool) or not isinstance(epoch, int | None):
        raise TypeError(f"epoch of a card is a whole number, not {epoch!r:.50}.")
    if card.get("resized_to") is not None:
        check_size("resized_to of a card", card["resized_to"], least=1)
    class_iou = score.get("class_iou", {})
    if not isinstance(class_iou, Mapping):
        raise TypeError(f"class_iou of a card is a dict of classes, not {class_iou!r:.50}.")
    shares = {name: score[name] for name in ("mean_iou", "pixel_accuracy") if name in score}
    for name, value in {**shares, **class_iou}.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"the score of {name} is a number, not {value!r:.50}.")
        if not 0 <= value <= 1:
            raise ValueError(f"the score of {name} is a share of 0 to 1, not {value!r}.")
    plain: dict[str, Any] = json.loads(json.dumps(dict(card)))
    return plain


def without_score(card: Mapping[str, Any]) -> dict[str, Any]:
    """A card without score and epoch: what holds for all that is made from the weights, too."""
    return {name: value for name, value in card.items() if name not in ("score", "epoch")}


def write_card(config: ModelConfig, *, source: str) -> str:
    """The text of README.md.

    Args:
        config: The model.
        source: What ``citysegzoo.load`` takes to load it: a folder or ``"owner/name"``.
    """
    import yaml

    name = config.model or "composed model"
    score = config.card.get("score", {})
    front: dict[str, Any] = {
        "library_name": "citysegzoo",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "city-streets", config.labels.name],
        **_licence(config.card.get("licence")),
    }
    if score.get("mean_iou") is not None:
        front["model-index"] = [_model_index(name, config)]
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    lines = [f"---\n{head}---", f"# {name}", ""]
    lines += [
        "A network for semantic segmentation of city streets, saved by citysegzoo "
        f"{config.version}. It tells {len(config.labels)} classes apart "
        f"({config.labels.name}): {', '.join(config.labels.classes)}.",
        "",
        "```python",
        "import citysegzoo",
        "",
        f"model = citysegzoo.load({source!r})",
        "result = model.segment(citysegzoo.data.DEMO_IMAGE)  # or your own photograph",
        'result.save("segmented")',
        "```",
        "",
    ]
    if score:
        lines += ["## Score", ""]
        if score.get("mean_iou") is not None:
            lines += [f"**{100 * score['mean_iou']:.2f} %** {score.get('metric') or 'mean IoU'}."]
        lines += [f"Measured on: {score['split']}."] if score.get("split") else []
        lines += [f"Command: `{score['command']}`."] if score.get("command") else []
        if score.get("class_iou"):
            lines += ["", "| class | IoU, % |", "|---|---|"]
            lines += [f"| {c} | {_percent(iou)} |" for c, iou in score["class_iou"].items()]
        lines.append("")
    facts = {
        "Training data": config.card.get("data"),
        "Images resized to": "x".join(map(str, config.card.get("resized_to") or ())),
        "Licence": config.card.get("licence"),
        "Source": config.card.get("source"),
        "Citation": config.card.get("citation"),
        "Command": f"`{config.card['command']}`" if config.card.get("command") else None,
    }
    if any(facts.values()):
        lines += ["## The weights", ""]
        lines += [f"- {name}: {value}" for name, value in facts.items() if value] + [""]
    text = "\n".join(lines) + "\n"
    return f"{text}<!-- written by citysegzoo {_digest(text)} -->\n"


def was_edited(text: str) -> bool:
    """Whether a person changed a card, or wrote it: whether it is not as it was generated."""
    mark = _MARK.search(text)
    return mark is None or _digest(text[: mark.start()]) != mark[1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _licence(licence: str | None) -> dict[str, str]:
    """The Hub's own fields; terms that it has no name for are in the text alone.

    A licence is given by its name, or by that and what follows a colon. Weights that were started
    from others have the terms of both.
    """
    if not licence:
        return {}
    name, _, remark = licence.partition(":")
    known = name.strip().lower().replace(" ", "-")
    if known in _LICENCES and "started from" not in remark:
        return {"license": known}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", known).strip("-")[:60]}


def _model_index(name: str, config: ModelConfig) -> dict[str, Any]:
    score = config.card["score"]
    metrics = [{"type": "mean_iou", "name": score.get("metric") or "mean IoU"}]
    metrics[0]["value"] = score["mean_iou"]
    if score.get("pixel_accuracy") is not None:
        accuracy = {"type": "accuracy", "name": "pixel accuracy", "value": score["pixel_accuracy"]}
        metrics.append(accuracy)
    data = score.get("split") or config.labels.name
    return {
        "name": name,
        "results": [
            {
                "task": {"type": "image-segmentation", "name": "semantic segmentation"},
                "dataset": {"type": config.labels.name, "name": data},
                "metrics": metrics,
            }
        ],
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
