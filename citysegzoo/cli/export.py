"""``citysegzoo export``: models as ONNX or torch.export files."""

from __future__ import annotations

import argparse
from pathlib import Path

from citysegzoo.cli.common import Commands, check_file_writable, check_not_read, trained

_NAMES = {"onnx": "ONNX", "torch": "torch.export"}
# Also those that other files of PyTorch have.
_SUFFIXES = {"onnx": (".onnx",), "torch": (".pt2", ".pt", ".pth")}


def add_parsers(commands: Commands) -> None:
    """Add what this module runs to the commands."""
    export = commands.add_parser(
        "export",
        help="write a model with weights as ONNX or torch.export's .pt2",
        description="The file takes 8-bit RGB images of any number and size and gives the class "
        "of each pixel; classes, colours and preprocessing are in its metadata. It is compared "
        "with the model before it is written.",
    )
    export.add_argument(
        "model",
        metavar="NAME",
        help="a model with weights, a saved model's folder or file, or owner/name on the Hub",
    )
    export.add_argument("--weights", metavar="TAG", help="which of its weights [its default]")
    export.add_argument(
        "--output", type=Path, metavar="FILE", help="[the model's name and .onnx or .pt2]"
    )
    export.add_argument(
        "--format", choices=["onnx", "torch"], help="[torch for a .pt2, onnx for any other file]"
    )
    export.add_argument("--logits", action="store_true", help="give logits, not the classes")
    export.add_argument(
        "--images", action="store_true", help="take preprocessed float images, not 8-bit ones"
    )
    export.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="take this size only [any size]"
    )
    export.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    from citysegzoo.export import export_onnx, export_torch
    from citysegzoo.export.torch import min_size_of

    form = args.format or ("torch" if args.output and args.output.suffix == ".pt2" else "onnx")
    other = _SUFFIXES["onnx" if form == "torch" else "torch"]
    if args.output and args.output.suffix in other:
        raise ValueError(
            f"{args.output} is to be written as {_NAMES[form]}, whose files end in "
            f"{_SUFFIXES[form][0]}; name it so, or give --format."
        )
    if args.output is None:
        suffix = "pt2" if form == "torch" else "onnx"
        args.output = Path(f"{Path(args.model).resolve().name}.{suffix}")
    saved = Path(args.model)
    check_not_read([saved, *(saved.glob("*") if saved.is_dir() else ())], [args.output])
    check_file_writable(args.output)
    model = trained(args.model, args.weights)
    write = export_torch if form == "torch" else export_onnx
    try:
        written = write(
            model,
            args.output,
            input="images" if args.images else "pixels",
            output="logits" if args.logits else "labels",
            size=args.size,
        )
    except ImportError as error:  # of what the extra installs
        raise ValueError(str(error)) from error
    least = model.min_size if form == "onnx" else min_size_of(written)
    sizes = "{} x {}".format(*args.size) if args.size else f"any size from {least} x {least}"
    print(
        f"input: {'float32, preprocessed' if args.images else 'uint8, RGB'}, {sizes}\n"
        f"output: {'logits' if args.logits else 'class of each pixel'}, {model.num_classes} "
        f"classes ({model.labels.name})\n"
        f"written: {written}, {_NAMES[form]}, {written.stat().st_size / 1e6:.1f} MB, compared with "
        "the model"
    )
    return 0
