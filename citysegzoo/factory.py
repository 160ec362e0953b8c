"""Models by name: listing them, describing them, building them."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import Any

from torch import Tensor, nn

from citysegzoo.arguments import check_flag, check_positive
from citysegzoo.blueprint import Blueprint
from citysegzoo.classifier import Classifier
from citysegzoo.data.labels import LabelSet, default_labels
from citysegzoo.data.preprocessing import Preprocessing
from citysegzoo.decoders import create_decoder
from citysegzoo.encoders import create_encoder
from citysegzoo.encoders.pretrained import load_encoder_weights
from citysegzoo.model import SegmentationModel
from citysegzoo.models import OWN_VARIANTS
from citysegzoo.recipe import Recipe
from citysegzoo.registry import (
    MODEL_ARGUMENTS,
    MODELS,
    check_mapping,
    check_name,
    check_options,
    function_of,
    natural_sorted,
    options_of,
    suggestion,
)
from citysegzoo.reports import REPORTS, get_report
from citysegzoo.structure import difference
from citysegzoo.variant import Result, Variant
from citysegzoo.weights.card import without_score
from citysegzoo.weights.checkpoint import build_undrawn, build_with, load_weights
from citysegzoo.weights.records import WeightsRecord, find_record, list_records

VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (*OWN_VARIANTS, *(v for r in REPORTS.values() for v in r.variants))
}
"""Every named variant: the zoo's own and those of the reports."""

ARGUMENTS = (*MODEL_ARGUMENTS, "pretrained", "encoder_weights")
"""What :func:`create_model` takes beside the options of a model."""

DEFAULT_MODEL = "unet_resnet18.street"
"""The model whose bundled weights ``citysegzoo segment`` uses unless told otherwise."""


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model of the zoo.

    Attributes:
        name: Its name.
        architecture: The builder's name, before the dot.
        variant: The preset's name, after the dot, or None.
        summary: One sentence.
        options: Every option of the builder with the value this name gives it.
        preset: The options the variant sets.
        num_classes: Classes unless another number is asked for.
        labels: Their names and colours.
        preprocessing: What images must have gone through.
        report: Key of the report it comes from, or None.
        recipe: How it was trained, or None.
        results: Figures printed about it.
        weights: Trained weights there are for it, default first.
    """

    name: str
    architecture: str
    variant: str | None
    summary: str
    options: Mapping[str, Any]
    preset: Mapping[str, Any]
    num_classes: int
    labels: LabelSet
    preprocessing: Preprocessing
    report: str | None
    recipe: Recipe | None
    results: tuple[Result, ...]
    weights: tuple[WeightsRecord, ...]

    @cached_property
    def num_parameters(self) -> int:
        """Number of parameters, counted on a model that holds no memory."""
        model = build_undrawn(lambda: create_model(self.name))
        return sum(parameter.numel() for parameter in model.parameters())


def list_models(
    pattern: str | None = None, *, report: str | None = None, pretrained: bool = False
) -> list[str]:
    """Names of the models of the zoo, in natural order.

    Args:
        pattern: Shell-style pattern the names must match, such as ``"*resnet50*"``.
        report: Key of a report, to list its models only.
        pretrained: Whether to list only models with trained weights.

    Raises:
        ValueError: If there is no such report.
    """
    names = {*MODELS.names(), *VARIANTS}
    if report is not None:
        names &= {variant.name for variant in get_report(report).variants}
    if pretrained:
        names &= {record.model for record in list_records()}
    return natural_sorted(n for n in names if pattern is None or fnmatchcase(n, pattern))


def model_info(name: str) -> ModelInfo:
    """Everything known of the model of that name.

    Raises:
        ValueError: If there is none, with the nearest names.
    """
    builder, variant = _find(name)
    defaults = options_of(builder)
    if variant is None:
        summary, _, _ = (inspect.getdoc(function_of(builder)) or "").partition("\n")
        variant = Variant(name, "", summary, num_classes=defaults["num_classes"])
    preset = _plain(variant.options)
    return ModelInfo(
        name=name,
        architecture=variant.architecture,
        variant=variant.variant or None,
        summary=variant.summary,
        options={k: v for k, v in {**defaults, **preset}.items() if k not in MODEL_ARGUMENTS},
        preset=preset,
        num_classes=variant.num_classes,
        labels=default_labels(variant.num_classes),
        preprocessing=variant.preprocessing,
        report=variant.report,
        recipe=variant.recipe,
        results=variant.results,
        weights=tuple(list_records(name)),
    )


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    pretrained: bool | str = False,
    encoder_weights: bool | str | None = None,
    **options: Any,
) -> SegmentationModel:
    """Build a model of the zoo.

    Args:
        name: ``architecture`` or ``architecture.variant``, see :func:`list_models`.
        num_classes: Number of classes; None takes the variant's, the weights' or else 19.
        in_channels: Channels of the image.
        pretrained: True for the default trained weights of exactly this name, or the tag of a
            set. With another ``num_classes`` all but the classifier is loaded, with a warning.
        encoder_weights: True for published ImageNet weights of the encoder (the ones the report
            used, where a variant names them), or the name of others, as timm has it.
        **options: Options of the architecture; they override the variant's, in mappings such as
            ``encoder_options`` entry by entry. With ``pretrained`` those that matter in training
            alone, such as dropout.

    Returns:
        The model, in training mode when built afresh, in evaluation mode when pretrained.

    Raises:
        TypeError: If the architecture has no such option; the nearest is named.
        ValueError: If there is no such model or there are no such weights, or a value is out of
            range.
    """
    builder, variant = _find(name)
    check_options(f"model {name!r}", builder, options, beside=ARGUMENTS)
    options = _plain(options)
    in_channels = check_positive("in_channels", in_channels)
    if num_classes is not None:
        num_classes = check_positive("num_classes", num_classes)
    if pretrained and encoder_weights:
        raise ValueError("pretrained weights include the encoder's; leave encoder_weights out.")

    def build(classes: int) -> SegmentationModel:
        return build_model(name, num_classes=classes, in_channels=in_channels, options=options)

    if pretrained:
        record = find_record(name, None if pretrained is True else pretrained)
        trained = model_info(name).options
        if in_channels != 3:
            raise ValueError(
                f"the weights of {name!r} take images of 3 channels; leave in_channels out, or "
                "pretrained."
            )
        for option, value in _over({k: trained[k] for k in options}, options).items():
            if value != _plain(trained[option]) and _matters(name, option, value):
                raise ValueError(
                    f"the weights of {name!r} were trained with {option}={trained[option]!r}; "
                    f"leave {option} out, or pretrained."
                )
        state, card = record.load()
        return with_weights(
            build,
            state,
            labels=record.labels,
            card=card,
            num_classes=num_classes,
            source=f"{record.model!r} ({record.tag})",
        )
    default: int = variant.num_classes if variant else options_of(builder)["num_classes"]
    model = build(num_classes or default)
    if encoder_weights:
        used = variant.recipe.encoder_weights if variant and variant.recipe else None
        tag = used if encoder_weights is True else encoder_weights
        start = load_encoder_weights(model.encoder, tag)
        model.card = start.card
        if variant is None:
            model.preprocessing = start.preprocessing
    elif model.encoder_frozen and not next(model.encoder.parameters()).is_meta:
        warnings.warn(
            f"the encoder of {name!r} is frozen as it was drawn at random; "
            "encoder_weights=True starts it from ImageNet.",
            stacklevel=2,
        )
    return model


def build_model(
    name: str, *, num_classes: int, in_channels: int, options: Mapping[str, Any]
) -> SegmentationModel:
    """A registered model as :func:`create_model` builds it, for weights that are yet to come.

    So it is silent on a frozen encoder that was drawn at random.
    """
    builder, variant = _find(name)
    check_options(f"model {name!r}", builder, options, hidden=MODEL_ARGUMENTS)
    in_channels = check_positive("in_channels", in_channels)
    settings = _plain(_over(variant.options if variant else {}, options))
    model = builder(num_classes=num_classes, in_channels=in_channels, **settings)
    if not isinstance(model, SegmentationModel):
        raise TypeError(
            f"the builder of {name!r} must return a SegmentationModel, not {type(model).__name__}."
        )
    if model.num_classes != num_classes:
        raise ValueError(
            f"the builder of {name!r} was asked for {num_classes} classes and built "
            f"{model.num_classes}; have it pass num_classes on."
        )
    model.name = name
    resolved = {**options_of(builder), **settings}
    resolved = {k: v for k, v in resolved.items() if k not in MODEL_ARGUMENTS}
    model.blueprint = Blueprint(name, resolved, in_channels)
    if variant:
        model.preprocessing = variant.preprocessing
    return model


def compose(
    encoder: str,
    decoder: str,
    *,
    num_classes: int = 19,
    in_channels: int = 3,
    encoder_weights: bool | str | None = None,
    encoder_options: Mapping[str, Any] | None = None,
    decoder_options: Mapping[str, Any] | None = None,
    align_corners: bool = False,
) -> SegmentationModel:
    """Build a model from any encoder and any decoder that fits it.

    Args:
        encoder: A name of ``list_encoders()``, or ``timm/`` and the name of a timm backbone.
        decoder: A name of ``list_decoders()``.
        num_classes: Number of classes.
        in_channels: Channels of the image.
        encoder_weights: True for published ImageNet weights of the encoder, or the name of
            others, as timm has it.
        encoder_options: Options of the encoder.
        decoder_options: Options of the decoder.
        align_corners: Of the bilinear resize of the logits to the image's size. Decoders that
            resize have an option of that name of their own.

    Raises:
        TypeError: If one of them has no such option; the nearest is named.
        ValueError: If there is no such encoder or decoder, or the two don't fit.
    """
    num_classes = check_positive("num_classes", num_classes)
    in_channels = check_positive("in_channels", in_channels)
    check_mapping("encoder_options", encoder_options)
    check_mapping("decoder_options", decoder_options)
    of_encoder, of_decoder = _plain(encoder_options or {}), _plain(decoder_options or {})
    features = create_encoder(encoder, in_channels=in_channels, **of_encoder)
    head = create_decoder(decoder, features.channels, features.strides, **of_decoder)
    classifier = Classifier(head.channels, num_classes)
    model = SegmentationModel(
        features, head, classifier, num_classes=num_classes, align_corners=align_corners
    )
    parts = {
        "encoder": encoder,
        "decoder": decoder,
        "encoder_options": of_encoder,
        "decoder_options": of_decoder,
        "align_corners": check_flag("align_corners", align_corners),
    }
    model.blueprint = Blueprint(None, parts, in_channels)
    if encoder_weights:
        tag = None if encoder_weights is True else encoder_weights
        start = load_encoder_weights(features, tag)
        model.preprocessing, model.card = start.preprocessing, start.card
    return model


def _matters(name: str, option: str, value: Any) -> bool:
    """Whether an option changes what the network computes, and not its training alone."""
    build = partial(build_model, name, num_classes=2, in_channels=3)
    trained = build_undrawn(lambda: build(options={}))
    try:
        asked = build_undrawn(lambda: build(options={option: value}))
    except (TypeError, ValueError):  # it may go with another option only
        return True
    return bool(difference(trained, asked))


def _find(name: str) -> tuple[Callable[..., Any], Variant | None]:
    """The builder of a name, and its variant if it names one."""
    check_name("model", name)
    architecture, dot, _ = name.partition(".")
    if name in VARIANTS or (not dot and architecture in MODELS):
        return MODELS[architecture], VARIANTS.get(name)
    known = [*MODELS.names(), *VARIANTS]
    near = [known_name for known_name in known if known_name.startswith(f"{architecture}.")]
    hint = suggestion(name, known) or (f"; there is {', '.join(near)}" if near else "")
    hint = hint or "; list_models() names them all"
    if "/" in name or os.path.exists(name):
        hint = "; citysegzoo.load loads folders, files and repositories"
    raise ValueError(f"there is no model {name!r}{hint}.")


def _over(preset: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options over a variant's; of those that are mappings, such as encoder_options, each entry."""
    merged = {**preset, **options}
    for name in preset.keys() & options.keys():
        if isinstance(preset[name], Mapping) and isinstance(options[name], Mapping):
            merged[name] = {**preset[name], **options[name]}
    return merged


def _plain(value: Any) -> Any:
    """Options as they are saved: sequences as tuples, in mappings too, and Python's numbers."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, nn.Module)):
        return tuple(_plain(item) for item in value)
    return value


def with_weights(
    build: Callable[[int], SegmentationModel],
    state: Mapping[str, Tensor],
    *,
    labels: LabelSet,
    card: Mapping[str, Any],
    num_classes: int | None,
    source: str,
) -> SegmentationModel:
    """Build a model and load trained weights into it.

    Args:
        build: Builds it for a number of classes.
        state: The weights, of which every key must fit.
        labels: The classes they tell apart.
        card: What is known of them. With another number of classes the model keeps where they come
            from, but no score, as it has another classifier.
        num_classes: Classes to build it for; None takes those of the weights. With another number
            all but the classifier is loaded, with a warning.
        source: Where the weights come from, for messages.
    """
    if num_classes is None or num_classes == len(labels):
        model = build_with(lambda: build(len(labels)), state, source=source)
        model.labels = labels
        model.card = dict(card)
    else:
        model = build(num_classes)
        undrawn = build_undrawn(lambda: build(len(labels)))
        theirs = {k: v.shape for k, v in undrawn.state_dict().items()}
        fresh = {
            name: value
            for name, value in model.state_dict().items()
            if name.startswith("classifier.") or value.shape != theirs.get(name)
        }
        more = sum(not name.startswith("classifier.") for name in fresh)
        also = f" and {more} more that depend on their number" * (more > 0)
        warnings.warn(
            f"the weights of {source} tell {len(labels)} classes apart, not {num_classes}: "
            f"all is loaded but the classifier{also}, which starts untrained.",
            stacklevel=3,
        )
        trained = {k: v for k, v in state.items() if not k.startswith("classifier.")}
        load_weights(model, {**trained, **fresh}, source=source)
        model.card = {k: v for k, v in without_score(card).items() if k != "labels"}
    return model.eval()
