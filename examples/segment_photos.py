"""Segment every photograph of a folder.

    python examples/segment_photos.py photos --output segmented

Each NAME.jpg gets NAME_labels.png, whose pixel values are classes, and NAME_overlay.jpg with a
legend. Any format and size from 32x32 will do.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import citysegzoo
from citysegzoo.hardware import find_device
from citysegzoo.inference import find_images
from citysegzoo.inference.segmentation import check_outputs


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("photos", type=Path, help="a folder, or one photograph")
    p.add_argument("--output", type=Path, default=Path("segmented"), help="folder to write to")
    p.add_argument("--model", default=citysegzoo.DEFAULT_MODEL, help="of `citysegzoo models`")
    p.add_argument("--saved", help="instead: a saved model's folder or file, or owner/name")
    p.add_argument("--device", default="cpu", help="such as cuda")
    args = p.parse_args(argv)

    # A model with weights. The default comes with the package and needs no network.
    if args.saved:
        model = citysegzoo.load(args.saved)
    else:
        model = citysegzoo.create_model(args.model, pretrained=True)
    model.to(find_device(args.device))

    photos = find_images([args.photos])
    check_outputs(photos, args.output)  # two of one name would be written as one
    for photo in photos:
        result = model.segment(photo)  # also takes a PIL image or a uint8 array (H, W, 3)
        labels, overlay = result.save(args.output)

        # result.labels is the map itself: uint8 (H, W), the class of each pixel.
        # result.shares says how much of the picture each class has, largest first.
        largest = [f"{name} {share:.0%}" for name, share in list(result.shares.items())[:3]]
        print(f"{photo.name}: {', '.join(largest)} -> {labels.name}, {overlay.name}")

    print(f"written: {args.output}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"segment_photos.py: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        sys.exit(2)
