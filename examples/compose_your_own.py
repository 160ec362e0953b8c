"""Put a network together: any encoder, any decoder, and a decoder of your own.

    python examples/compose_your_own.py --encoder resnet18 --output runs/composed

Registers the decoder below, trains it for a few steps on drawn streets, saves it and loads it
back. `--list` names all encoders and decoders there are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

import citysegzoo
from citysegzoo.base import Decoder
from citysegzoo.data import Cityscapes, draw_streets
from citysegzoo.layers import resize
from citysegzoo.losses import CrossEntropyLoss


@citysegzoo.register_decoder("pyramid_sum")
class PyramidSum(Decoder):
    """Every feature mixed to one width, added from the deepest to the finest, as an FPN does it.

    What a decoder needs: it is built from the encoder's channels and strides, its keyword-only
    parameters are its options, and it says what channels and stride it gives.
    """

    def __init__(self, channels: list[int], strides: list[int], *, width: int = 64) -> None:
        super().__init__()
        self.mix = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.channels, self.stride = width, strides[0]

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.mix[-1](features[-1])
        for mix, feature in zip(reversed(self.mix[:-1]), reversed(features[:-1]), strict=True):
            x = mix(feature) + resize(x, feature.shape[-2:])
        return self.smooth(x)


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--encoder", default="resnet18", help="or timm/NAME: any timm backbone")
    p.add_argument("--decoder", default="pyramid_sum")
    p.add_argument("--output", type=Path, default=Path("runs/composed"), help="folder to write to")
    p.add_argument("--steps", type=int, default=5, help="of training [5]")
    p.add_argument("--list", action="store_true", help="name all encoders and decoders")
    args = p.parse_args(argv)
    if args.list:
        print("encoders:", ", ".join(citysegzoo.list_encoders()))
        print("decoders:", ", ".join(citysegzoo.list_decoders()))
        return

    torch.manual_seed(0)
    model = citysegzoo.compose(args.encoder, args.decoder, num_classes=19)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{args.encoder} + {args.decoder}: {count:,} parameters")

    with tempfile.TemporaryDirectory() as folder:
        streets = Cityscapes(draw_streets(Path(folder) / "streets", images=2))
        images, targets = default_collate([streets[0], streets[1]])
    images = model.preprocessing(images)  # 8-bit images as the network takes them
    criterion = CrossEntropyLoss(ignore_index=model.labels.ignore_index)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model.train()
    for step in range(args.steps):
        loss = criterion(model(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step + 1}: loss {loss:.4f}")

    model.eval()
    model.save_pretrained(args.output, card={"data": f"{args.steps} steps on two drawn streets"})
    # A saved model names its parts: whoever loads it must have registered the decoder, too.
    again = citysegzoo.load(args.output)
    with torch.inference_mode():
        same = torch.equal(model(images), again(images))
    if not same:
        raise ValueError(f"{args.output} gives other logits than the model that was saved.")
    print(f"saved: {args.output}; loaded back, its logits are the same to the last bit")


if __name__ == "__main__":
    try:
        main()
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"compose_your_own.py: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        sys.exit(2)
