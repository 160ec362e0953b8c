"""ImageNet weights for encoders, as timm and segmentation-models-pytorch (smp) publish them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from citysegzoo.base import Encoder
from citysegzoo.data.preprocessing import IMAGENET, Preprocessing
from citysegzoo.encoders.mit import LICENCE
from citysegzoo.encoders.timm import check_timm_name, create_timm_model
from citysegzoo.weights.hub import ask_once, explained, fetch, room_for
from citysegzoo.weights.readers import read_state_dict
from citysegzoo.weights.readers.smp_segformer import from_smp_mix_transformer

# Licences that let anybody use weights for anything; most of timm's have one of these.
_FREE = ("", "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0")
_USUAL_FILES = ("model.safetensors", "pytorch_model.bin")
# The weights of the SegFormer paper, at the commits that smp itself takes.
_SMP_COMMITS = {
    "mit_b0.imagenet": "9ce53d104d92d75aabb00aae70677aaab67e7c84",
    "mit_b1.imagenet": "a04bf4f13a549bce677cf79b04852e7510782817",
    "mit_b2.imagenet": "868ab6f13871dcf8c3d9f90ee4519403475b65ef",
    "mit_b3.imagenet": "32558d12a65f1daa0ebcf4f4053c4285e2c1cbda",
    "mit_b4.imagenet": "3a3454e900a4b4f11dd60eeb59101a9a1a36b017",
    "mit_b5.imagenet": "ced04d96c586b6297fd59a7a1e244fc78fdb6531",
}


@dataclass(frozen=True)
class EncoderWeights:
    """ImageNet weights that were loaded.

    Attributes:
        tag: Their name.
        publisher: Who publishes them: ``"timm"`` or ``"smp"``.
        licence: What the publisher says of their terms, "" where it says nothing.
        preprocessing: How images were preprocessed when they were trained.
    """

    tag: str
    publisher: str
    licence: str
    preprocessing: Preprocessing

    @property
    def card(self) -> dict[str, str]:
        """What the card of a model says that starts from them."""
        terms = f", {self.licence}" if self.licence else ""
        source = {
            "source": f"ImageNet weights of the encoder: {self.tag} of {self.publisher}{terms}"
        }
        if not self.has_terms:
            return source
        return {**source, "licence": f"{self.licence}: the terms of the encoder's weights"}

    @property
    def has_terms(self) -> bool:
        """Whether their terms are others than to name the source, or not known."""
        return self.licence.lower() not in _FREE


def load_encoder_weights(encoder: Encoder, tag: str | None = None) -> EncoderWeights:
    """Load published ImageNet weights into an encoder, strictly.

    One of two places where building a model may use the network, and only when asked to: the other
    is ``pretrained=True``.

    Args:
        encoder: An encoder whose layers timm publishes weights for (ResNet, VGG,
            MobileNetV3, Swin, ``timm/...``), or smp (Mix Transformers).
        tag: The publisher's name of the network and of its weights, such as
            ``"resnet101.tv_in1k"``; None takes the encoder's own default.

    Returns:
        What they are. Terms that may forbid a use are said in a warning too.

    Raises:
        ValueError: If there are no published weights for this encoder, or not of that name, or they
            are of another network.
        ConnectionError: If they are not in the cache and the Hub cannot be reached.
        OSError: If they cannot be fetched otherwise, or there is no space for them.
    """
    if encoder.pretrained_tag is None:
        raise ValueError(
            f"citysegzoo reads no published ImageNet weights for {type(encoder).__name__} as built "
            "here; leave encoder_weights out, or options that change its layers (width, "
            "reduced_tail)."
        )
    tag = tag or encoder.pretrained_tag
    network = encoder.pretrained_tag.partition(".")[0]
    # Keys and shapes do not tell: those of resnetblur50 are those of resnet50. A VGG with batch
    # norm takes the convolutions of the one without.
    if str(tag).partition(".")[0] not in (network, network.removesuffix("_bn")):
        raise ValueError(
            f"the weights {tag!r} are of another network than this {network}; encoder_weights=True "
            f"takes {encoder.pretrained_tag!r}, and others begin with '{network}.' too."
        )
    published = {"timm": _fetch_from_timm, "smp": _fetch_from_smp}[encoder.publisher]
    weights, state_dict = published(tag, encoder)
    try:
        encoder.load_published_weights(state_dict)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the weights {tag!r} are of another network than {type(encoder).__name__} with these "
            f"options; take {encoder.pretrained_tag!r}."
        ) from error
    if weights.has_terms:
        warnings.warn(
            f"the weights {tag!r} have terms of their own ({weights.licence}), which may forbid "
            "commercial use; read them on the Hub.",
            stacklevel=3,
        )
    return weights


def _fetch_from_timm(tag: str, encoder: Encoder) -> tuple[EncoderWeights, Mapping[str, Tensor]]:
    """What timm publishes under a name, under timm's names."""
    check_timm_name(tag)
    repository, file = _published_at(tag)
    with room_for(repository, file):
        try:
            _check_reachable(repository, file)
            published = create_timm_model(tag, {**encoder.timm_options, "pretrained": True})
        except Exception as error:
            known = explained(error, repository, file)
            if known is None:
                raise
            if isinstance(known, ConnectionError):
                raise _out_of_reach(tag, f"{repository} {file}") from error
            raise known from error
    (m0, m1, m2), (s0, s1, s2) = (published.pretrained_cfg[name] for name in ("mean", "std"))
    licence = published.pretrained_cfg.get("license") or ""
    preprocessing = Preprocessing(mean=(m0, m1, m2), std=(s0, s1, s2))
    return EncoderWeights(tag, "timm", licence, preprocessing), published.state_dict()


def _fetch_from_smp(tag: str, encoder: Encoder) -> tuple[EncoderWeights, Mapping[str, Tensor]]:
    """What smp publishes of a Mix Transformer, under our names.

    For images of other than three channels the first convolution's weights are summed or repeated,
    as timm does it.
    """
    from timm.models import adapt_input_conv  # which takes a second

    commit = _SMP_COMMITS.get(tag)
    if commit is None:
        raise ValueError(
            f"smp has no ImageNet weights {tag!r} of a Mix Transformer, but "
            f"{', '.join(_SMP_COMMITS)}."
        )
    repository, file = f"smp-hub/{tag}", _USUAL_FILES[0]
    try:
        path = fetch(repository, file, revision=commit)
    except ConnectionError as error:
        raise _out_of_reach(tag, f"{repository} {file} --revision {commit}") from error
    state = from_smp_mix_transformer(read_state_dict(path))
    first = state.pop("stages.0.embed.weight", None)
    if first is not None:
        state["stages.0.embed.weight"] = adapt_input_conv(encoder.in_channels, first)
    return EncoderWeights(tag, "smp", LICENCE, IMAGENET), state


def _out_of_reach(tag: str, file: str) -> ConnectionError:
    return ConnectionError(
        f"the weights {tag!r} are not in the cache and could not be fetched from the Hugging Face "
        f"Hub; run `hf download {file}` once where there is a network, or build without "
        "encoder_weights."
    )


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

    if "/" not in repository:
        return  # timm has these weights from elsewhere
    for name in (file, *_USUAL_FILES):
        if isinstance(try_to_load_from_cache(repository, name), str):
            return
    ask_once(repository)
