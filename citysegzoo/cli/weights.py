"""``citysegzoo weights``, ``convert`` and ``publish``: checkpoints in and out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from citysegzoo.cli.common import (
    Commands,
    add_options,
    check_file_writable,
    check_not_read,
    make_folder,
    option,
)

if TYPE_CHECKING:
    from torch import Tensor

    from citysegzoo.weights.readers import Layout, Suggestion


def add_parsers(commands: Commands) -> None:
    """Add what this module runs to the commands."""
    weights = commands.add_parser("weights", help="pin the weights of the Hub to commits")
    weights.add_argument("action", choices=["lock"], help="fetch all and write down what they are")
    weights.set_defaults(run=_weights)

    convert = commands.add_parser(
        "convert",
        help="turn a checkpoint of another library into a saved model",
        description="Reads .safetensors, .bin, .pt and .pth (these with weights_only=True alone), "
        "tells the layout by the keys, and writes model.safetensors, config.json and README.md. "
        "Layouts: torchvision's DeepLabv3, FCN and LR-ASPP; DeepLabV3, DeepLabV3Plus, Unet, FPN "
        "and Segformer of segmentation-models-pytorch; transformers' SegFormer; pytorch-unet; "
        "chenxi116's DeepLabv3.",
    )
    convert.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    convert.add_argument("--model", metavar="NAME", help="the zoo's model [what the layout says]")
    add_options(convert)
    convert.add_argument("--output", type=Path, metavar="FOLDER", required=True)
    convert.add_argument("--labels", metavar="SET", help="its classes, such as cityscapes19")
    convert.add_argument("--licence", help="licence of the weights, for the card")
    convert.add_argument("--source", help="where the weights come from, for the card")
    convert.set_defaults(run=_convert)

    publish = commands.add_parser(
        "publish",
        help="publish a saved model on the Hugging Face Hub",
        description="Upload weights, config.json and a model card in one commit. The token is that "
        "of `hf auth login`, or HF_TOKEN. A README.md that was edited in the folder is published "
        "as it is; else one that a person edited there stays.",
    )
    publish.add_argument("model", type=Path, metavar="FOLDER", help="a saved model, or its file")
    publish.add_argument("repository", metavar="OWNER/NAME")
    publish.add_argument("--private", action="store_true", help="make a new repository private")
    publish.add_argument("--tag", help="tag the commit, such as v1.0")
    publish.add_argument("--endpoint", metavar="URL", help="another Hub")
    publish.set_defaults(run=_publish)


def _weights(args: argparse.Namespace) -> int:
    from citysegzoo.weights import lock
    from citysegzoo.weights.records import PINS

    check_file_writable(PINS)
    print("\n".join(lock()))
    return 0


def _convert(args: argparse.Namespace) -> int:
    from citysegzoo.data.labels import find_label_set
    from citysegzoo.factory import build_model
    from citysegzoo.model import require_label_for_each_class
    from citysegzoo.weights import detect_layout, load_weights, read_state_dict
    from citysegzoo.weights.checkpoint import read_header

    _check_nothing_lost(args.checkpoint, args.output)
    if args.checkpoint.suffix == ".safetensors" and "citysegzoo_config" in read_header(
        args.checkpoint
    ):
        raise ValueError(
            f"{args.checkpoint} is a saved model already, which citysegzoo.load takes as it is."
        )
    state = read_state_dict(args.checkpoint)
    layout = detect_layout(state)
    converted = layout.convert(state)
    if args.model is None:
        name, options, classes = layout.model(state)
    else:
        name, options, classes = _named(args, layout, state, converted)
    settings = {"in_channels": 3, **options, **dict(map(option, args.option))}
    model = build_model(
        name, num_classes=classes, in_channels=settings.pop("in_channels"), options=settings
    )
    load_weights(model, converted, source=str(args.checkpoint))
    model.preprocessing = layout.preprocessing or model.preprocessing
    if args.labels is not None:
        model.labels = find_label_set(args.labels)
    require_label_for_each_class(model)
    if args.output.suffix == ".safetensors":
        check_file_writable(args.output)
    else:
        make_folder(args.output)
    left = sum(name.startswith(layout.ignored) for name in state)
    print(f"layout: {layout.name}, {layout.description}")
    print(f"model: {model.name}, {model.num_classes} classes ({model.labels.name})")
    print(f"matched: all {len(converted)} tensors{f', {left} left out' if left else ''}")
    card = {"licence": args.licence, "source": args.source or args.checkpoint.name}
    folder = model.eval().save_pretrained(
        args.output, card={name: value for name, value in card.items() if value}
    )
    print(f"written: {folder}\n  citysegzoo.load({str(folder)!r})")
    return 0


def _named(
    args: argparse.Namespace,
    layout: Layout,
    state: Mapping[str, Tensor],
    converted: Mapping[str, Tensor],
) -> Suggestion:
    """The model that was asked for, with the options that the layout knows for it."""
    import torch

    from citysegzoo.factory import build_model
    from citysegzoo.weights.readers import Suggestion

    last = converted.get("classifier.conv.weight")
    if last is None or last.ndim != 4:
        raise ValueError(
            f"{args.checkpoint} has no classifier.conv.weight of four dimensions, so it is "
            f"not of {args.model}; take the whole checkpoint."
        )
    with suppress(ValueError):  # our own names say nothing, and parts of a network too little
        suggestion = layout.model(state)
        if suggestion.name == args.model:
            return suggestion
    with torch.device("meta"):
        options = dict(map(option, args.option))
        options.pop("in_channels", None)
        model = build_model(args.model, num_classes=len(last), in_channels=3, options=options)
    first = next(name for name, weight in model.named_parameters() if weight.ndim == 4)
    channels = converted[first].shape[1:2] if first in converted else ()
    return Suggestion(args.model, {"in_channels": channels[0]} if channels else {}, len(last))


def _check_nothing_lost(checkpoint: Path, output: Path) -> None:
    """Refuse to replace the checkpoint, or what came with it, by what is written."""
    from citysegzoo.pretrained import CARD, CONFIG, WEIGHTS

    if output.suffix == ".safetensors":
        check_not_read([checkpoint], [output])
        return
    written = [output / name for name in (WEIGHTS, CONFIG, CARD)]
    check_not_read([checkpoint], written)
    for file in written:
        if file.exists() and checkpoint.resolve().parent == output.resolve():
            raise ValueError(
                f"{file} came with {checkpoint.name} and would be replaced; name another --output."
            )


def _publish(args: argparse.Namespace) -> int:
    from citysegzoo.pretrained import CARD, WEIGHTS, load, push_to_hub
    from citysegzoo.weights.card import was_edited
    from citysegzoo.weights.checkpoint import stored_dtype

    if not args.model.exists():
        raise FileNotFoundError(f"{args.model} does not exist; name a saved model's folder.")
    model = load(args.model)
    weights, page = args.model, None
    if args.model.is_dir():
        weights = args.model / WEIGHTS
        with suppress(FileNotFoundError):
            page = (args.model / CARD).read_text(encoding="utf-8")
    where = push_to_hub(
        model,
        args.repository,
        card=model.card,
        dtype=stored_dtype(weights),
        readme=page if page is not None and was_edited(page) else None,
        private=args.private,
        tag=args.tag,
        endpoint=args.endpoint,
    )
    print(f"published: {where}\n  citysegzoo.load({where!r})")
    return 0
