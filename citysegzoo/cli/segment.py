"""``citysegzoo segment``: label maps and overlays of photographs."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from citysegzoo.cli.common import (
    Commands,
    add_hardware,
    add_max_megapixels,
    add_palette,
    add_tile,
    make_folder,
    say,
    tell,
    trained,
)


def add_parsers(commands: Commands) -> None:
    """Add what this module runs to the commands."""
    segment = commands.add_parser(
        "segment",
        help="segment photographs of streets",
        description="Write NAME_labels.png (classes as pixel values, palette attached) and "
        "NAME_overlay.jpg for every photograph, and print the share of each class.",
    )
    segment.add_argument("photos", nargs="*", metavar="PHOTO", help="image files or folders")
    segment.add_argument("--demo", action="store_true", help="segment the street drawn for this")
    segment.add_argument(
        "--model",
        metavar="NAME",
        help="a model with weights, a saved model's folder, or owner/name on the Hub "
        "[unet_resnet18.street]",
    )
    segment.add_argument("--weights", metavar="TAG", help="which of its weights [its default]")
    segment.add_argument("--output", type=Path, default=Path("segmented"), metavar="FOLDER")
    add_hardware(segment)
    add_tile(segment)
    add_max_megapixels(segment)
    segment.add_argument("--overlap", type=int, metavar="N", help="of tiles [a quarter of them]")
    segment.add_argument(
        "--scales",
        type=_numbers,
        default=(1.0,),
        metavar="S,S,...",
        help="average over the image at these scales, such as 0.75,1,1.25",
    )
    segment.add_argument("--flip", action="store_true", help="average over its mirror image too")
    segment.add_argument("--compile", action="store_true", help="compile the network first")
    segment.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="images of one size at a time [1]"
    )
    segment.add_argument(
        "--keep-memory",
        action="store_true",
        help="on a CPU: keep freed memory until the end, which is faster and takes more of it",
    )
    add_palette(segment)
    segment.set_defaults(run=_segment)


def _segment(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from citysegzoo.data import DEMO_IMAGE
    from citysegzoo.factory import DEFAULT_MODEL
    from citysegzoo.images import images_up_to
    from citysegzoo.inference import Failure, Segmentation, Segmenter, find_images
    from citysegzoo.inference.segmentation import check_outputs
    from citysegzoo.memory import freed_memory_kept, memory_limited
    from citysegzoo.visualize.pictures import percent

    if not args.photos and not args.demo:
        raise ValueError("name photographs or folders to segment, or use --demo.")
    photos = find_images([*args.photos, *([DEMO_IMAGE] if args.demo else [])])
    check_outputs(photos, args.output)
    model = trained(args.model or DEFAULT_MODEL, args.weights)
    if resized := model.card.get("resized_to"):
        say(
            f"the model was trained on images resized to {resized[0]}x{resized[1]}; --scales, such "
            "as 0.5, brings larger photographs near that size."
        )
    if args.palette:
        model.labels = model.labels.with_palette(args.palette)
    segmenter = Segmenter(
        model,
        device=args.device,
        precision=args.precision,
        compile=args.compile,
        tile=args.tile,
        overlap=args.overlap,
        scales=args.scales,
        flip=args.flip,
    )
    make_folder(args.output)
    by_name = {photo.stem: photo for photo in photos}

    def saved(result: Segmentation, files: tuple[Path, Path]) -> None:
        shares = ", ".join(f"{name} {percent(share)}" for name, share in result.shares.items())
        tell(f"{by_name[result.name]}: {shares}\n  -> {files[0]}, {files[1]}")

    def failed(failure: Failure) -> None:
        if args.debug:
            raise failure.error
        tqdm.write(f"citysegzoo: error: {failure}", file=sys.stderr)

    with ExitStack() as held:
        if args.keep_memory:
            held.enter_context(freed_memory_kept())
        held.enter_context(images_up_to(args.max_megapixels))
        if segmenter.device.type == "cpu":  # too large a photograph is named, and the rest done
            held.enter_context(memory_limited())
        failures = segmenter.folder(
            photos, args.output, batch_size=args.batch_size, on_saved=saved, on_error=failed
        )
    if failures and len(photos) > 1:
        done = len(photos) - len(failures)
        say(f"{len(failures)} of {len(photos)} photographs failed, {done} are done.")
    return 2 if failures else 0


def _numbers(text: str) -> tuple[float, ...]:
    """``0.75,1,1.25`` of the command line."""
    return tuple(map(float, text.split(",")))


_numbers.__name__ = "list of numbers"
