"""Segment every photograph of a folder.

    python examples/segment_photos.py photos --output segmented

Each NAME.jpg gets NAME_labels.png, whose pixel values are classes, and NAME_overlay.jpg with a
legend. JPEG, PNG, WebP, BMP and TIFF of any size from 32x32 will do. A photograph that is broken
is named, and the others are segmented.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import citysegzoo
from citysegzoo.inference import Failure, Segmentation, Segmenter


def show(result: Segmentation, files: tuple[Path, Path]) -> None:
    """Say what is in a photograph.

    ``result.labels`` is the map itself: uint8 (H, W), the class of each pixel. ``result.shares``
    says how much of the picture each class has, largest first.
    """
    largest = [f"{name} {share:.0%}" for name, share in list(result.shares.items())[:3]]
    print(f"{result.name}: {', '.join(largest)} -> {files[0].name}, {files[1].name}")


def complain(failure: Failure) -> None:
    print(f"segment_photos.py: {failure}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("photos", type=Path, help="a folder, or one photograph")
    p.add_argument("--output", type=Path, default=Path("segmented"), help="folder to write to")
    p.add_argument("--model", default=citysegzoo.DEFAULT_MODEL, help="of `citysegzoo models`")
    p.add_argument("--saved", help="instead: a saved model's folder or file, or owner/name")
    p.add_argument("--device", default="auto", help="such as cuda [a GPU if there is one]")
    args = p.parse_args(argv)

    # A model with weights. The default comes with the package and needs no network.
    if args.saved:
        model = citysegzoo.load(args.saved)
    else:
        model = citysegzoo.create_model(args.model, pretrained=True)

    # Reads, computes and writes at the same time. Of a single photograph (a path, a PIL image or a
    # uint8 array of shape (H, W, 3)) segmenter(photo) gives the result.
    segmenter = Segmenter(model, device=args.device)
    failures = segmenter.folder(args.photos, args.output, on_saved=show, on_error=complain)
    print(f"written: {args.output}")
    return 2 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"segment_photos.py: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        sys.exit(2)
