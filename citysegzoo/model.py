"""The one model class: encoder -> decoder -> classifier, and what it knows of its labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from citysegzoo.arguments import check_positive, check_size
from citysegzoo.base import MIN_SIZE, Decoder, Encoder, PoolingEncoder
from citysegzoo.blueprint import Blueprint
from citysegzoo.data.labels import LabelSet, default_labels
from citysegzoo.data.preprocessing import IMAGENET, Preprocessing
from citysegzoo.layers import resize, resize_smoothly
from citysegzoo.registry import ENCODERS, function_of, options_of

if TYPE_CHECKING:
    from citysegzoo.inference import Image, Segmentation


class SegmentationModel(nn.Module):
    """A network that gives every pixel of a street scene a class.

    Args:
        encoder: ``forward(x) -> list[Tensor]``, finest first, with ``channels`` and ``strides``.
        decoder: ``forward(features) -> Tensor`` with ``channels`` and ``stride``.
        classifier: From the decoder's map to ``num_classes`` channels.
        num_classes: Number of output channels.
        align_corners: Of the bilinear resize of the logits to the input's size.
        working_size: If given, images are resized (bilinear, antialiased) to this (H, W) first
            and the logits back to the input's size the same way, as fixman2024's Swin2-JNet does.

    Attributes:
        name: Its name in the zoo, None for a composed model.
        blueprint: How it was built, None where the zoo did not build it.
        card: What is known of its weights: ``data``, ``score``, ``licence``, ``source``,
            ``command``. Of untrained ones it names ImageNet weights of the encoder, or nothing.
        labels: The classes of the output channels.
        preprocessing: What the images must have gone through.

    Raises:
        TypeError: If encoder or decoder is not derived from its base class.
        ValueError: If the decoder needs pooling indices and the encoder has none.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        classifier: nn.Module,
        *,
        num_classes: int,
        align_corners: bool = False,
        working_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = check_positive("num_classes", num_classes)
        self.encoder = encoder
        self.decoder = decoder
        self.classifier = classifier
        self.align_corners = align_corners
        self.working_size: tuple[int, ...] | None = None
        if working_size is not None:
            self.working_size = check_size("working_size", working_size, least=MIN_SIZE)
        self.name: str | None = None
        self.blueprint: Blueprint | None = None
        self.card: Mapping[str, Any] = {}
        self.labels: LabelSet = default_labels(num_classes)
        self.preprocessing: Preprocessing = IMAGENET
        self.encoder_frozen = False
        # Poolings round down: below its stride nothing would be left of an image.
        pools = isinstance(encoder, PoolingEncoder)
        self.min_size = max(MIN_SIZE, encoder.strides[-1]) if pools else MIN_SIZE
        for part, kind in ((encoder, Encoder), (decoder, Decoder)):
            if not isinstance(part, kind):
                raise TypeError(
                    f"{type(part).__name__} is no citysegzoo.base.{kind.__name__}; "
                    "derive it from that."
                )
        if decoder.unpools and not (
            isinstance(encoder, PoolingEncoder) and encoder.pools_with_indices
        ):
            raise ValueError(
                f"{type(decoder).__name__} needs an encoder that pools with indices, which "
                f"{type(encoder).__name__} as built here does not; encoders that work: "
                f"{', '.join(encoders_with_indices())}."
            )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of preprocessed images.

        Args:
            images: ``(N, C, H, W)`` floating point, preprocessed; H and W at least 32 (the deepest
                stride, for an encoder that pools further down than that).

        Returns:
            ``(N, num_classes, H, W)`` logits.

        Raises:
            TypeError: If the images are not floating point, or of another type than the weights
                outside of autocast.
            ValueError: If their shape is not ``(N, C, H, W)`` with H and W of at least 32, or
                they have another number of channels than the encoder takes.
        """
        return self.enlarge(self.coarse_logits(images), images.shape[-2:])

    def coarse_logits(self, images: Tensor) -> Tensor:
        """Logits at the decoder's stride, before they are enlarged to the image's size.

        Args:
            images: As in :meth:`forward`.

        Returns:
            ``(N, num_classes, h, w)``; :meth:`enlarge` makes the logits of :meth:`forward` of it.

        Raises:
            TypeError: As in :meth:`forward`.
            ValueError: As in :meth:`forward`.
        """
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = images.dtype if isinstance(images, Tensor) else f"a {type(images).__name__}"
            raise TypeError(
                f"the model takes preprocessed floating-point images, not {kind}; "
                "pass 8-bit images to model.preprocessing first, or use model.segment."
            )
        weight = next(self.encoder.parameters(), images)
        if images.dtype != weight.dtype and not torch.is_autocast_enabled(images.device.type):
            raise TypeError(
                f"the weights of the model are {weight.dtype} and the images {images.dtype}; "
                "convert the images with images.to(...), or the model with model.to(...)."
            )
        if images.ndim != 4 or min(images.shape[-2:]) < self.min_size or images.shape[0] == 0:
            raise ValueError(
                f"the model takes images of shape (N, C, H, W) with N at least 1 and H and W at "
                f"least {self.min_size}, not {tuple(images.shape)}."
            )
        if images.shape[1] != self.encoder.in_channels:
            raise ValueError(
                f"the model takes images of {self.encoder.in_channels} channels, not "
                f"{images.shape[1]}: {tuple(images.shape)}."
            )
        x = images if self.working_size is None else resize_smoothly(images, self.working_size)
        if isinstance(self.encoder, PoolingEncoder) and self.decoder.unpools:
            return self.classifier(self.decoder(self.encoder.forward_pooled(x)))
        return self.classifier(self.decoder(self.encoder(x)))

    def enlarge(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Logits of :meth:`coarse_logits` at the image's ``size`` (H, W)."""
        if self.working_size is None:
            return resize(logits, size, align_corners=self.align_corners)
        return resize_smoothly(resize(logits, self.working_size), size)

    def freeze_encoder(self) -> SegmentationModel:
        """Stop training the encoder: no gradients, and batch-norm statistics that stay still.

        Unlike ``requires_grad_(False)`` alone, the encoder stays in evaluation mode when
        :meth:`train` is called.
        """
        self.encoder.requires_grad_(False)
        self.encoder_frozen = True
        return self.train(self.training)

    def unfreeze_encoder(self) -> SegmentationModel:
        """Train the encoder again; an optimiser made before has none of its weights."""
        self.encoder.requires_grad_(True)
        self.encoder_frozen = False
        return self.train(self.training)

    def train(self, mode: bool = True) -> SegmentationModel:
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
        return self

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        card: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
    ) -> Path:
        """Write the model to a folder; see :func:`citysegzoo.pretrained.save_pretrained`."""
        from citysegzoo.pretrained import save_pretrained

        return save_pretrained(self, folder, card=card, dtype=dtype)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        readme: str | None = None,
        private: bool = False,
        tag: str | None = None,
        message: str | None = None,
        token: str | None = None,
        endpoint: str | None = None,
    ) -> str:
        """Publish the model; see :func:`citysegzoo.pretrained.push_to_hub`."""
        from citysegzoo.pretrained import push_to_hub

        return push_to_hub(
            self,
            repo_id,
            card=card,
            dtype=dtype,
            readme=readme,
            private=private,
            tag=tag,
            message=message,
            token=token,
            endpoint=endpoint,
        )

    @overload
    def segment(self, image: Image) -> Segmentation: ...
    @overload
    def segment(self, image: list[Image]) -> list[Segmentation]: ...
    def segment(self, image: Any) -> Any:
        """Segment photographs at full resolution.

        Args:
            image: A path, a PIL image, a uint8 array ``(H, W, 3)``, or a list of them.

        Returns:
            A :class:`~citysegzoo.inference.Segmentation` (or a list of them).
        """
        from citysegzoo.inference import segment

        return segment(self, image)


def require_weights(model: SegmentationModel) -> None:
    """Raise a ValueError for a model that was built without memory and still has none."""
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError("the model is on the meta device and has no weights; load some first.")


def require_labels_that_fit(model: SegmentationModel, *, remedy: str = "") -> None:
    """Raise a ValueError for more classes than the uint8 of a label map can tell apart."""
    if model.num_classes > 256:
        raise ValueError(
            f"label maps are 8-bit; the model has {model.num_classes} classes{remedy}."
        )


def require_label_for_each_class(model: SegmentationModel) -> None:
    """Raise a ValueError for a label set of another number of classes than the model has."""
    if len(model.labels) != model.num_classes:
        raise ValueError(
            f"the model has {model.num_classes} classes and its labels {model.labels.name!r} have "
            f"{len(model.labels)}; set model.labels."
        )


def encoders_with_indices() -> list[str]:
    """Names of the registered encoders that can pool with indices."""
    names = []
    for name in ENCODERS.names():
        builder = ENCODERS[name]
        kind = function_of(builder)
        if isinstance(kind, type) and issubclass(kind, PoolingEncoder):
            needs = " with pool_last=True" if "pool_last" in options_of(builder) else ""
            names.append(f"{name}{needs}")
    return names
