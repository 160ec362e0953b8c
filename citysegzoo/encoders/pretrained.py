"""ImageNet weights for encoders, as timm publishes them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from citysegzoo.base import Encoder
from citysegzoo.data.preprocessing import Preprocessing

# Licences that let anybody use weights for anything; most of timm's have one of these.
_FREE = ("", "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0")
_USUAL_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class EncoderWeights:
    """ImageNet weights that were loaded.

    Attributes:
        tag: Their timm name.
        licence: What timm says of their terms, "" where it says nothing.
        preprocessing: How images were preprocessed when they were trained.
    """

    tag: str
    licence: str
    preprocessing: Preprocessing

    @property
    def card(self) -> dict[str, str]:
        """What the card of a model says that starts from them."""
        terms = f", {self.licence}" if self.licence else ""
        source = {"source": f"ImageNet weights of the encoder: {self.tag} of timm{terms}"}
        if not self.has_terms:
            return source
        return {**source, "licence": f"{self.licence}: the terms of the encoder's weights"}

    @property
    def has_terms(self) -> bool:
        """Whether their terms are others than to name the source, or not known."""
        return self.licence.lower() not in _FREE


def load_encoder_weights(encoder: Encoder, tag: str | None = None) -> EncoderWeights:
    """Load published ImageNet weights into an encoder, strictly.

    The only place where building a model may use the network, and only when asked to.

    Args:
        encoder: An encoder whose layers timm publishes weights for (ResNet, VGG, Swin,
            ``timm/...``).
        tag: A timm name with the tag of its weights, such as ``"resnet101.tv_in1k"``; None
            takes the encoder's own default.

    Returns:
        What they are. Terms that may forbid a use are said in a warning too.

    Raises:
        ValueError: If there are no published weights for this encoder, or not of that name, or they
            are of another network.
        ConnectionError: If they are not in the cache and the Hub cannot be reached.
        OSError: If they cannot be fetched otherwise, or there is no space for them.
    """
    from citysegzoo.encoders.timm import check_timm_name, create_timm_model
    from citysegzoo.weights.hub import explained, room_for

    if encoder.pretrained_tag is None:
        raise ValueError(
            f"citysegzoo reads no published ImageNet weights for {type(encoder).__name__} as built "
            "here; leave encoder_weights out."
        )
    tag = tag or encoder.pretrained_tag
    check_timm_name(tag)
    options = {**encoder.timm_options, "pretrained": True}
    repository, file = _published_at(tag)
    with room_for(repository, file):
        try:
            _check_reachable(repository, file)
            published = create_timm_model(tag, options)
        except Exception as error:
            known = explained(error, repository, file)
            if known is None:
                raise
            if isinstance(known, ConnectionError):
                raise ConnectionError(
                    f"the weights {tag!r} are not in the cache and could not be fetched from the "
                    f"Hugging Face Hub; run `hf download {repository} {file}` once where there is "
                    "a network, or build without encoder_weights."
                ) from error
            raise known from error
    try:
        encoder.load_timm_weights(published.state_dict())
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the weights {tag!r} are of another network than {type(encoder).__name__} with these "
            f"options; take {encoder.pretrained_tag!r}."
        ) from error
    (m0, m1, m2), (s0, s1, s2) = (published.pretrained_cfg[name] for name in ("mean", "std"))
    licence = published.pretrained_cfg.get("license") or ""
    weights = EncoderWeights(tag, licence, Preprocessing(mean=(m0, m1, m2), std=(s0, s1, s2)))
    if weights.has_terms:
        warnings.warn(
            f"the weights {tag!r} have terms of their own ({licence}), which may forbid commercial "
            "use; read them on the Hub.",
            stacklevel=3,
        )
    return weights


def _published_at(tag: str) -> tuple[str, str]:
    """The repository and file that timm takes weights from, as far as its registry says so."""
    import timm

    try:
        config = timm.get_pretrained_cfg(tag)
    except RuntimeError:  # there is no such tag, which building it says
        config = None
    repository = (config and config.hf_hub_id) or tag
    return repository, (config and config.hf_hub_filename) or _USUAL_FILES[0]


def _check_reachable(repository: str, file: str) -> None:
    """Raise at once where nothing is cached and there is no Hub to fetch it from."""
    from huggingface_hub import try_to_load_from_cache

    from citysegzoo.weights.hub import ask_once

    if "/" not in repository:
        return  # timm has these weights from elsewhere
    for name in (file, *_USUAL_FILES):
        if isinstance(try_to_load_from_cache(repository, name), str):
            return
    ask_once(repository)
