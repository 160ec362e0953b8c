"""``citysegzoo compare``: what several models make of the same photographs."""

from __future__ import annotations

import argparse
import mimetypes
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from citysegzoo.cli.common import (
    Commands,
    add_hardware,
    add_max_megapixels,
    add_palette,
    add_tile,
    check_file_writable,
    check_not_read,
    counted,
    make_folder,
    say,
    tell,
    trained,
)

_SUFFIXES = (".png", ".jpg", ".jpeg")


def add_parsers(commands: Commands) -> None:
    """Add what this module runs to the commands."""
    compare = commands.add_parser(
        "compare",
        help="show what several models make of photographs, side by side",
        description="Write a contact sheet for every photograph: the photograph, the overlay of "
        "every model and, of two models or more, how many of them differ from the majority in "
        "each pixel. Models of different classes are compared in those whose names they share.",
    )
    compare.add_argument("photos", nargs="+", metavar="IMAGE", help="image files or folders")
    compare.add_argument(
        "--models",
        nargs="+",
        required=True,
        metavar="NAME",
        help="models with weights, folders or files of saved models, or owner/name on the Hub",
    )
    compare.add_argument(
        "--weights",
        nargs="+",
        metavar="TAG",
        help="which weights each of --models has, in their order; - for its default, and for a "
        "saved model [the defaults]",
    )
    compare.add_argument(
        "--output",
        type=Path,
        default=Path("compared"),
        metavar="FILE|FOLDER",
        help="a .png or .jpg file for one image, or a folder for NAME_compared.jpg [compared]",
    )
    add_hardware(compare)
    add_tile(compare)
    add_max_megapixels(compare)
    add_palette(compare)
    compare.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from citysegzoo.files import write_image
    from citysegzoo.images import images_up_to, read_image
    from citysegzoo.inference import Failure, Segmenter, find_images
    from citysegzoo.inference.stream import FAILURES
    from citysegzoo.memory import memory_limited
    from citysegzoo.visualize import common_labels, contact_sheet, disagreement

    photos = find_images(args.photos)
    sheets = _sheets(photos, args.output)
    tags = _tags(args.models, args.weights)
    names = _names(args.models, tags)
    models = [trained(name, tag) for name, tag in zip(args.models, tags, strict=True)]
    if args.palette:  # a sheet has the colours of its first model
        models[0].labels = models[0].labels.with_palette(args.palette)
    label_set, tables = common_labels([model.labels for model in models])
    segmenters = [
        Segmenter(model, device=args.device, precision=args.precision, tile=args.tile)
        for model in models
    ]
    if label_set.name == "common":
        shared = ", ".join(label_set.classes[:-1])
        say(f"the models have different classes; compared are {shared}, the rest is other.")
    if args.output.suffix.lower() in _SUFFIXES:
        check_file_writable(args.output)
    else:
        make_folder(args.output)

    on_cpu = segmenters[0].device.type == "cpu"
    failures = 0
    for photo, sheet in tqdm(
        zip(photos, sheets, strict=True),
        total=len(photos),
        unit="photo",
        disable=None if len(photos) > 1 else True,
    ):
        try:
            with memory_limited() if on_cpu else nullcontext():
                with images_up_to(args.max_megapixels):
                    pixels = read_image(photo)
                predictions = {
                    name: table[segmenter(pixels).labels]
                    for name, table, segmenter in zip(names, tables, segmenters, strict=True)
                }
                write_image(contact_sheet(pixels, predictions, label_set), sheet)
        except FAILURES as error:
            told = isinstance(error, (RuntimeError, MemoryError))  # with the photograph and advice
            if args.debug or (len(photos) == 1 and not told):
                raise
            tqdm.write(f"citysegzoo: error: {Failure(str(photo), error)}", file=sys.stderr)
            failures += 1
            continue
        agreed = (disagreement(list(predictions.values())) == 0).mean()
        share = f"all {len(names)} agree on {100 * agreed:.1f} %" if len(names) > 1 else names[0]
        tell(f"{photo}: {share}\n  -> {sheet}")
    if failures and len(photos) > 1:
        say(f"{failures} of {len(photos)} photographs failed, {len(photos) - failures} are done.")
    return 2 if failures else 0


def _sheets(photos: Sequence[Path], output: Path) -> list[Path]:
    """The file of each photograph's sheet, none of which may be one that is read, or another's."""
    suffix = output.suffix.lower()
    if suffix not in _SUFFIXES:
        picture = (mimetypes.guess_type(output.name)[0] or "").startswith("image/")
        if picture and not output.is_dir():
            raise ValueError(
                f"{output} is neither a folder nor a picture that a sheet is written as; name one "
                "ending in .png or .jpg."
            )
        sheets = [output / f"{photo.stem}_compared.jpg" for photo in photos]
    elif len(photos) > 1:
        raise ValueError(f"{output} holds the sheet of one image; name a folder for {len(photos)}.")
    else:
        sheets = [output]
    check_not_read(photos, sheets)
    for i, sheet in enumerate(sheets):
        if sheet in sheets[:i]:
            other = photos[sheets.index(sheet)]
            raise ValueError(
                f"{other} and {photos[i]} would both be written as {sheet.name}; compare them "
                f"into different folders."
            )
    return sheets


def _tags(models: Sequence[str], weights: Sequence[str] | None) -> list[str | None]:
    """The tag of each model's weights, None for its default ones."""
    if weights is None:
        return [None] * len(models)
    if len(weights) != len(models):
        raise ValueError(
            f"--weights has {counted(len(weights), 'tag')} for {counted(len(models), 'model')}; "
            f"give one for each, - for its default weights."
        )
    return [None if tag == "-" else tag for tag in weights]


def _names(models: Sequence[str], tags: Sequence[str | None]) -> list[str]:
    """What each model is called in the sheet: the end of its path, where that tells them apart."""
    chosen = list(zip(models, tags, strict=True))
    for model, tag in chosen:
        if chosen.count((model, tag)) > 1:
            raise ValueError(
                f"{_called(model, tag)} is named twice in --models; name every model once, or with "
                f"different --weights."
            )
    short = [_called(Path(model).name or model, tag) for model, tag in chosen]
    return short if len(set(short)) == len(short) else [_called(*one) for one in chosen]


def _called(model: str, tag: str | None) -> str:
    return f"{model} ({tag})" if tag else model
