"""What several commands share: options, sentences, tables, models by name, outputs tried."""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from citysegzoo.data.labels import LabelSet
    from citysegzoo.model import SegmentationModel

    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = Any


def add_hardware(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where, and in which numbers, a network is run."""
    parser.add_argument("--device", default="auto", help="such as cuda [a GPU if there is one]")
    parser.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16", "fp16"],
        default="auto",
        help="[bf16 where the hardware computes it, else fp32]",
    )


def add_tile(parser: argparse.ArgumentParser) -> None:
    """Add the option that cuts large images into tiles."""
    parser.add_argument(
        "--tile",
        type=_tile,
        metavar="SIDE|HxW",
        help="cut larger images into tiles that overlap and blend, such as 1024 or 512x1024",
    )


def add_max_megapixels(parser: argparse.ArgumentParser) -> None:
    """Add the option that opens images which Pillow takes for an attack."""
    parser.add_argument(
        "--max-megapixels",
        type=float,
        metavar="N",
        help="open larger images than Pillow does for safety, if you trust them",
    )


def _tile(text: str) -> tuple[int, ...]:
    """``1024`` or ``512x1024`` of the command line."""
    sides = tuple(map(int, text.lower().split("x")))
    return sides * 2 if len(sides) == 1 else sides


_tile.__name__ = "tile"  # argparse says "invalid tile value"


def add_palette(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses the colours of classes."""
    parser.add_argument(
        "--palette",
        choices=["standard", "safe"],
        help="the dataset's colours, or some that the colour-blind tell apart [the model's own]",
    )


def say(message: str) -> None:
    """Print to stderr, in the name of the command."""
    print(f"citysegzoo: {message}", file=sys.stderr)


def tell(result: str) -> None:
    """Print a result above the progress bar. If nobody reads it any more, the work goes on."""
    from tqdm import tqdm

    try:
        tqdm.write(result, file=sys.stdout)
    except BrokenPipeError:
        silence_stdout()


def silence_stdout() -> None:
    """Have what is printed from here on go nowhere, as its reader went away."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def sentence(error: BaseException) -> str:
    """An error's message on one line; its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def counted(count: int, what: str) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows in columns as wide as their widest entry; on a terminal the last one wraps."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    room = shutil.get_terminal_size().columns - indent if sys.stdout.isatty() else 0
    for row in rows:
        start = "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
        last = textwrap.wrap(row[-1], room) if room >= 20 else [row[-1]]
        print((start + ("\n" + " " * indent).join(last)).rstrip())


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that sets options of a model, each of which :func:`option` reads."""
    parser.add_argument(
        "-o",
        "--option",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="build it with this option, such as aspp_rates=3,6,9; may be repeated",
    )


def labels_named(name: str | None) -> LabelSet | str | None:
    """What ``--labels`` names: a label set, or a saved model, whose own it is."""
    from citysegzoo.pretrained import CONFIG, load

    if name is None:
        return None
    saved = "/" in name or os.path.isfile(name) or os.path.isfile(os.path.join(name, CONFIG))
    return load(name).labels if saved else name


def is_saved(name: str) -> bool:
    """Whether a name is that of a folder, a file or a repository, and not of a model of the zoo."""
    from citysegzoo.factory import list_models

    there = os.sep in name or "/" in name or os.path.exists(name)
    return there and name not in list_models()


def option(text: str, flag: str = "an option") -> tuple[str, Any]:
    """``name=value`` of the command line, the value read as a Python literal where it is one.

    Args:
        text: What was given.
        flag: By which flag, for the message.

    Raises:
        ValueError: If it has no name or no value.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"{flag} is given as NAME=VALUE, such as aspp_rates=3,6,9, not {text!r}.")
    literal = {"true": "True", "false": "False"}.get(value.lower(), value)
    try:
        return name, ast.literal_eval(literal)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return name, value


def trained(name: str, tag: str | None, *, num_classes: int | None = None) -> SegmentationModel:
    """A model with weights: of the zoo by name, or saved in a folder, a file or a repository."""
    from citysegzoo.factory import create_model
    from citysegzoo.pretrained import load

    if not is_saved(name):
        return create_model(name, pretrained=tag or True, num_classes=num_classes)
    if tag is not None:
        raise ValueError(f"--weights names weights of a model of the zoo; {name} has one set only.")
    return load(name, num_classes=num_classes)


def make_folder(folder: Path) -> None:
    """Make the folder and find out now, not after the work, whether it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _try_writing(folder / ".citysegzoo-probe")
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"the output folder {folder} cannot be written to: {reason}.") from error


def check_file_writable(file: Path) -> None:
    """Find out now, not after the work, whether a file can be written; it stays as it is."""
    try:
        _try_writing(file)
    except OSError as error:
        if error.errno is None:  # a sentence of `replacing`
            raise
        raise OSError(f"{file} cannot be written: {error.strerror}.") from error


def check_not_read(
    read: Iterable[Path], written: Iterable[Path], *, flag: str = "--output"
) -> None:
    """Refuse to replace a file that is read, also by way of a link."""
    sources = set(map(os.path.realpath, read))
    for file in written:
        if os.path.realpath(file) in sources:
            raise ValueError(f"{file} is to be read and replaced; name another {flag}.")


class _WritableError(Exception):
    """What ends a trial of writing."""


def _try_writing(file: Path) -> None:
    """Write a temporary file beside it, of a name that no other process has."""
    from citysegzoo.files import replacing

    with contextlib.suppress(_WritableError), replacing(file) as partial:
        partial.touch()
        raise _WritableError
