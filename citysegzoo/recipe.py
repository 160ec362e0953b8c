"""How a model was trained, as data that a training script can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from citysegzoo.data.augmentation import Augmentation
from citysegzoo.training.schedules import Schedule


@dataclass(frozen=True)
class Recipe:
    """How a model was trained. None means that neither report nor code says.

    Attributes:
        loss: Name of the loss, one of :func:`citysegzoo.losses.list_losses`.
        loss_options: Options of that loss.
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        learning_rate: Initial learning rate.
        momentum: Of SGD.
        weight_decay: Added to the gradient in SGD and Adam, apart from it in AdamW.
        schedule: How the learning rate changes.
        epochs: Passes over the training images.
        steps: Steps of the optimiser, where those are counted and not epochs.
        batch_size: Images in a step.
        augmentation: What the training images go through.
        dataset: Short name of the dataset.
        annotations: Which annotations of it.
        labels: What the label maps hold: train ids, label ids or categories.
        encoder_weights: Published weights the encoder started from, by timm name.
        frozen: Parts of the network that were not trained, such as ``("encoder",)``.
        kept: Which checkpoint was kept, by its score on the validation images.
        notes: Contradictions, guesses and how each was resolved.
    """

    loss: str | None = None
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Literal["sgd", "adam", "adamw"] | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: Schedule | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    dataset: str = "cityscapes"
    annotations: Literal["fine", "coarse"] = "fine"
    labels: Literal["train_id", "label_id", "category"] = "train_id"
    encoder_weights: str | None = None
    frozen: tuple[str, ...] = ()
    kept: Literal["last", "best_mean_iou", "lowest_loss"] | None = None
    notes: tuple[str, ...] = ()

    def described(self) -> dict[str, str]:
        """What is known, in words by field, the notes apart.

        What no training can do without, but nobody says, is ``"not said"``.
        """
        needed = {"optimizer", "learning_rate", "batch_size"}
        if self.steps is None:
            needed.add("epochs")
        texts = {}
        for name in (f.name for f in fields(self) if f.name != "notes"):
            text = _text(getattr(self, name))
            if text or name in needed:
                texts[name] = text or "not said"
        return texts


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={given!r}" for name, given in value.items())
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
