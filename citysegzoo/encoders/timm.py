"""Any timm backbone as an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from citysegzoo.base import Encoder
from citysegzoo.registry import check_mapping, check_name, suggestion


class TimmEncoder(Encoder):
    """The feature pyramid of a timm backbone, for images of any size.

    Images are zero-padded at the bottom and right to a multiple of the deepest stride and the
    features cropped back to ``ceil(size / stride)``. (The few backbones that timm builds for one
    image size only, and without a ``dynamic_img_size``, take images of that size alone.)

    Args:
        name: A timm model, with or without the tag of its weights.
        in_channels: Channels of the image.
        output_stride: Stride of the deepest feature, for backbones that can dilate; None
            leaves the backbone's own.
        timm_options: Further arguments of ``timm.create_model``, such as
            ``{"drop_path_rate": 0.2}``.

    Raises:
        ValueError: If timm has no such model, or the model gives no features.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        *,
        output_stride: int | None = None,
        timm_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_mapping("timm_options", timm_options)
        self.pretrained_tag = name
        for option in timm_options or {}:
            # What is set elsewhere, and what would read files or fetch something.
            if option in ("features_only", "in_chans", "cache_dir", "checkpoint_path") or (
                option.startswith("pretrained")
            ):
                raise ValueError(
                    f"timm_options cannot set {option!r}: use in_channels and encoder_weights."
                )
        self.timm_options = {"in_chans": in_channels, "features_only": True, **(timm_options or {})}
        if output_stride is not None:
            if "output_stride" in self.timm_options:
                raise ValueError("output_stride is given twice: leave it out of timm_options.")
            if output_stride not in (8, 16, 32):
                raise ValueError(f"output_stride is 8, 16 or 32, not {output_stride!r}.")
            self.timm_options["output_stride"] = output_stride
        self.in_channels = in_channels
        self.backbone: Any = self._build(name)
        info = self.backbone.feature_info
        self.channels = tuple(info.channels())
        self.strides = tuple(info.reduction())
        if list(self.strides) != sorted(self.strides):
            raise ValueError(
                f"the features of {name!r} have strides {self.strides}, but an encoder gives the "
                "finest first: name out_indices in rising order."
            )
        self.channels_last = str(getattr(self.backbone, "output_fmt", "NCHW")).endswith("NHWC")

    def _build(self, name: str) -> Any:
        if fixed_input_size(name) and "dynamic_img_size" not in self.timm_options:
            any_size = {**self.timm_options, "dynamic_img_size": True}
            try:
                backbone = create_timm_model(name, any_size)
            except ValueError as error:
                if not isinstance(error.__cause__, TypeError):
                    raise  # otherwise this family has no such option
            else:
                self.timm_options = any_size
                return backbone
        return create_timm_model(name, self.timm_options)

    def forward(self, x: Tensor) -> list[Tensor]:
        # Rounded up without a negative division, which ONNX truncates where Python floors.
        height, width = x.shape[-2:]
        deepest = self.strides[-1]
        bottom = _ceil_div(height, deepest) * deepest - height
        right = _ceil_div(width, deepest) * deepest - width
        x = F.pad(x, (0, right, 0, bottom))
        features = self.backbone(x)
        if self.channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return [
            feature[..., : _ceil_div(height, stride), : _ceil_div(width, stride)]
            for feature, stride in zip(features, self.strides, strict=True)
        ]

    def load_published_weights(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load the weights of the same timm backbone, built with the same options."""
        self.backbone.load_state_dict(state_dict)


def _ceil_div(size: int, stride: int) -> int:
    return (size + stride - 1) // stride


def check_timm_name(name: str) -> None:
    """Raise ``ValueError`` for a model that timm does not have, naming the nearest."""
    import timm

    check_name("timm model", name)
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}{suggestion(name, timm.list_models())}.")


def fixed_input_size(name: str) -> bool:
    """Whether timm builds this model for one image size unless told otherwise."""
    import timm

    check_timm_name(name)
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ValueError(f"timm has no weights {name!r}: {error}") from error
    return bool(config and config.fixed_input_size)


def create_timm_model(name: str, options: Mapping[str, Any]) -> Any:
    """``timm.create_model``, with one sentence where the model cannot be built so."""
    import timm

    try:
        return timm.create_model(name, **options)
    except (TypeError, RuntimeError, AssertionError, AttributeError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"timm cannot build {name!r} with {dict(options)}: {reason}.") from error
