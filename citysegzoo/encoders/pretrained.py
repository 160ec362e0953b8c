"""ImageNet weights for encoders, as timm publishes them."""

from __future__ import annotations

from citysegzoo.base import Encoder


def load_encoder_weights(encoder: Encoder, tag: str | None = None) -> None:
    """Load published ImageNet weights into an encoder, strictly.

    The only place where building a model may use the network, and only when asked to.

    Args:
        encoder: An encoder whose layers timm publishes weights for (ResNet, VGG, Swin,
            ``timm/...``).
        tag: A timm name with the tag of its weights, such as ``"resnet101.tv_in1k"``; None
            takes the encoder's own default.

    Raises:
        ValueError: If there are no published weights for this encoder, or not of that name.
        OSError: If they can be neither found in the cache nor fetched.
    """
    from citysegzoo.encoders.timm import check_timm_name, create_timm_model

    if encoder.pretrained_tag is None:
        raise ValueError(
            f"{type(encoder).__name__} has no published ImageNet weights; "
            "leave encoder_weights out."
        )
    tag = tag or encoder.pretrained_tag
    check_timm_name(tag)
    options = {**encoder.timm_options, "pretrained": True}
    try:
        published = create_timm_model(tag, options)
    except (OSError, ConnectionError) as error:
        raise OSError(
            f"the weights {tag!r} are not in the cache and could not be fetched from the Hugging "
            f"Face Hub. Run once with a network, or build without encoder_weights."
        ) from error
    encoder.load_timm_weights(published.state_dict())
