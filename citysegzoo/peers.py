"""Other libraries' networks, to be measured beside. Imported when asked for; none is needed."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from citysegzoo.data import IMAGENET
from citysegzoo.encoders.mit import SIZES
from citysegzoo.factory import create_model, list_models
from citysegzoo.model import SegmentationModel
from citysegzoo.models.segformer import published_decoder_width
from citysegzoo.weights import detect_layout, load_weights

Pixels = npt.NDArray[np.uint8]
CLASSES = 19


@dataclass(frozen=True)
class Peer:
    """A library to measure beside. It is imported when asked for; the zoo needs none of them.

    Attributes:
        package: What pip calls it.
        module: Where its networks are.
        networks: Its kind of network, by a pattern of the zoo's names with the backbone as group.
        build: Builds one, drawn at random, of the module, the kind and the backbone.
        unit: What H and W must be a multiple of.
    """

    package: str
    module: str
    networks: Mapping[str, str]
    build: Callable[[Any, str, str], nn.Module]
    unit: int = 1

    def load(self) -> Any:
        """The module.

        Raises:
            ValueError: If it is not installed.
        """
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise ValueError(
                f"to measure beside {self.package}, install it: pip install {self.package}."
            ) from error

    def find(self, name: str) -> tuple[str, str] | None:
        """Kind and backbone of its network that is the zoo's of that name, if it has one."""
        matches = ((kind, re.fullmatch(names, name)) for names, kind in self.networks.items())
        return next(((kind, match[1]) for kind, match in matches if match), None)

    def network(self, name: str) -> nn.Module:
        """Its network that is the zoo's of that name, drawn at random, in evaluation mode.

        Raises:
            ValueError: If it has none; those that it has are named.
        """
        found = self.find(name)
        if found is None:
            has = ", ".join(filter(self.find, list_models()))
            raise ValueError(f"{self.package} has no network that is {name!r}; it has {has}.")
        return self.build(self.load(), *found).eval()


def _build_smp(smp: Any, kind: str, backbone: str) -> nn.Module:
    encoder = f"mit_{backbone}" if kind == "Segformer" else backbone
    return getattr(smp, kind)(encoder, encoder_weights=None, classes=CLASSES)


def _build_torchvision(segmentation: Any, kind: str, backbone: str) -> nn.Module:
    build = getattr(segmentation, f"{kind}_{backbone}")
    return build(weights=None, weights_backbone=None, num_classes=CLASSES)


def _build_transformers(transformers: Any, kind: str, backbone: str) -> nn.Module:
    widths, depths = SIZES[backbone]
    config = transformers.SegformerConfig(
        hidden_sizes=widths,
        depths=depths,
        decoder_hidden_size=published_decoder_width(backbone),
        num_labels=CLASSES,
    )
    return getattr(transformers, kind)(config)


_RESNET = r"(resnet\d+)"
PEERS: Mapping[str, Peer] = {
    "smp": Peer(
        "segmentation-models-pytorch",
        "segmentation_models_pytorch",
        {
            f"unet_{_RESNET}": "Unet",
            f"deeplabv3_{_RESNET}": "DeepLabV3",
            f"deeplabv3plus_{_RESNET}": "DeepLabV3Plus",
            f"fpn_{_RESNET}": "FPN",
            r"segformer_(b\d)": "Segformer",
        },
        _build_smp,
        unit=32,
    ),
    "torchvision": Peer(
        "torchvision",
        "torchvision.models.segmentation",
        {
            "deeplabv3_(resnet50|resnet101|mobilenet_v3_large)": "deeplabv3",
            "lraspp_(mobilenet_v3_large)": "lraspp",
            "fcn_dilated_(resnet50|resnet101)": "fcn",  # the zoo's fcn_resnet50 is another one
        },
        _build_torchvision,
    ),
    "transformers": Peer(
        "transformers",
        "transformers",
        {r"segformer_(b\d)": "SegformerForSemanticSegmentation"},
        _build_transformers,
    ),
}
"""What can be measured beside, by name."""


def twin(
    theirs: nn.Module, peer: str, unseen: Mapping[str, Any] | None = None
) -> tuple[SegmentationModel, Mapping[str, Any]]:
    """The zoo's network with the layers and weights of a peer's, and the options it takes.

    Args:
        theirs: The peer's network.
        peer: What to call it in messages.
        unseen: Options that its weights do not show, such as ``output_stride``.
    """
    state = theirs.state_dict()
    layout = detect_layout(state)
    name, options, classes = layout.model(state)
    options = {**options, **(unseen or {})}
    model = create_model(name, num_classes=classes, **options)
    load_weights(model, layout.convert(state), source=peer)
    return model.eval(), options


def usual(network: nn.Module, pixels: Pixels) -> Callable[[], Pixels]:
    """What a user of a peer writes: from a photograph to its label map."""
    device = next(network.parameters()).device

    @torch.no_grad()
    def run() -> Pixels:
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device).contiguous()
        output = network(IMAGENET(image))
        logits = output if isinstance(output, Tensor) else next(iter(output.values()))
        if logits.shape[2:] != image.shape[2:]:
            logits = F.interpolate(logits, image.shape[2:], mode="bilinear")
        return logits.argmax(1)[0].to(torch.uint8).cpu().numpy()

    return run
