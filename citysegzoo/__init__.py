"""citysegzoo: a model zoo for semantic segmentation of city streets.

Every public name is imported when it is first used, so that ``import citysegzoo`` costs next to
nothing and timm, torchvision and huggingface_hub load only where they are needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from citysegzoo import (
        data,
        decoders,
        encoders,
        inference,
        losses,
        metrics,
        reports,
        visualize,
        weights,
    )
    from citysegzoo.decoders import create_decoder, list_decoders, register_decoder
    from citysegzoo.encoders import create_encoder, list_encoders, register_encoder
    from citysegzoo.factory import (
        DEFAULT_MODEL,
        ModelInfo,
        compose,
        create_model,
        list_models,
        model_info,
    )
    from citysegzoo.inference import Segmentation
    from citysegzoo.model import SegmentationModel
    from citysegzoo.models import register_model
    from citysegzoo.pretrained import load, push_to_hub, save_pretrained

    __version__: str

# Public name -> module it lives in. A submodule is its own value.
_HOMES = {
    "DEFAULT_MODEL": "factory",
    "ModelInfo": "factory",
    "Segmentation": "inference",
    "SegmentationModel": "model",
    "compose": "factory",
    "create_decoder": "decoders",
    "create_encoder": "encoders",
    "create_model": "factory",
    "data": "data",
    "decoders": "decoders",
    "encoders": "encoders",
    "inference": "inference",
    "list_decoders": "decoders",
    "list_encoders": "encoders",
    "list_models": "factory",
    "load": "pretrained",
    "losses": "losses",
    "metrics": "metrics",
    "model_info": "factory",
    "push_to_hub": "pretrained",
    "register_decoder": "decoders",
    "register_encoder": "encoders",
    "register_model": "models",
    "reports": "reports",
    "save_pretrained": "pretrained",
    "visualize": "visualize",
    "weights": "weights",
}

__all__ = [
    "DEFAULT_MODEL",
    "ModelInfo",
    "Segmentation",
    "SegmentationModel",
    "__version__",
    "compose",
    "create_decoder",
    "create_encoder",
    "create_model",
    "data",
    "decoders",
    "encoders",
    "inference",
    "list_decoders",
    "list_encoders",
    "list_models",
    "load",
    "losses",
    "metrics",
    "model_info",
    "push_to_hub",
    "register_decoder",
    "register_encoder",
    "register_model",
    "reports",
    "save_pretrained",
    "visualize",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("citysegzoo")
    if name not in _HOMES:
        raise AttributeError(f"module 'citysegzoo' has no attribute {name!r}")
    home = importlib.import_module(f"citysegzoo.{_HOMES[name]}")
    value = home if name == _HOMES[name] else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})
