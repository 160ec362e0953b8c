"""SegFormer: a Mix Transformer and a decoder of linear layers."""

from __future__ import annotations

from functools import partial

from citysegzoo.classifier import Classifier
from citysegzoo.decoders.all_mlp import AllMLPDecoder
from citysegzoo.encoders.mit import SIZES, MiTEncoder
from citysegzoo.model import SegmentationModel
from citysegzoo.registry import register_model


def segformer(
    size: str,
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    drop_path_rate: float = 0.1,
    encoder_dropout: float = 0.0,
    decoder_width: int | None = None,
    dropout: float = 0.1,
    align_corners: bool = False,
) -> SegmentationModel:
    """SegFormer (Xie et al., NeurIPS 2021): a Mix Transformer and an all-MLP decoder.

    Args:
        size: Size of the Mix Transformer, ``"b0"`` to ``"b5"``.
        num_classes: Number of classes.
        in_channels: Channels of the image.
        drop_path_rate: Stochastic depth of the encoder's deepest block in training.
        encoder_dropout: Dropout inside the encoder's blocks.
        decoder_width: Channels each feature is brought to; None takes 256 for B0 and B1, 768
            for the larger ones.
        dropout: Channel dropout before the classifier.
        align_corners: Of the bilinear resize of the logits to the image's size
            (segmentation-models-pytorch); the features are enlarged without.
    """
    if decoder_width is None:
        decoder_width = published_decoder_width(size)
    encoder = MiTEncoder(size, in_channels, drop_path_rate=drop_path_rate, dropout=encoder_dropout)
    decoder = AllMLPDecoder(encoder.channels, encoder.strides, width=decoder_width, dropout=dropout)
    classifier = Classifier(decoder.channels, num_classes)
    return SegmentationModel(
        encoder, decoder, classifier, num_classes=num_classes, align_corners=align_corners
    )


def published_decoder_width(size: str) -> int:
    """Channels of the decoder that was published with an encoder (Xie et al. 2021)."""
    return 256 if size in ("b0", "b1") else 768


for _size in SIZES:
    register_model(f"segformer_{_size}")(partial(segformer, _size))
