"""The ``citysegzoo`` command: list models, show one, segment photographs, evaluate label maps."""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import math
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from citysegzoo.factory import ModelInfo
    from citysegzoo.model import SegmentationModel
    from citysegzoo.weights import WeightsRecord

# What bad input raises: said in one sentence, without a traceback.
_EXPECTED = (ValueError, TypeError, OSError, MemoryError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for bad input, 130 when interrupted."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by the caller: say nothing there
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(getattr(sys, stream), io.TextIOWrapper):
            # A name that the terminal's encoding cannot show stops nothing.
            getattr(sys, stream).reconfigure(errors="backslashreplace")
    args = _parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_: _say(f"warning: {message}")
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of our output went away (`citysegzoo models | head`): nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _say("interrupted.")
        return 130
    except _EXPECTED as error:
        if args.debug:
            raise
        _say(f"error: {_sentence(error)}")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="citysegzoo", description="A model zoo for semantic segmentation of city streets."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    models = commands.add_parser("models", help="list the models of the zoo")
    models.add_argument("pattern", nargs="?", help="such as '*resnet50*'")
    models.add_argument("--report", help="only models of this report, such as mei2019")
    models.add_argument("--pretrained", action="store_true", help="only models with weights")
    models.set_defaults(run=_models)

    show = commands.add_parser("show", help="show all that is known of a model")
    show.add_argument("name", metavar="NAME", help="a name from `citysegzoo models`")
    show.add_argument(
        "-o",
        "--option",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="build it with this option, such as aspp_rates=3,6,9; may be repeated",
    )
    show.add_argument("--num-classes", type=int, help="build it with this number of classes")
    show.add_argument("--all-results", action="store_true", help="print every reported figure")
    show.set_defaults(run=_show)

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
        help="a model with weights, a saved model's folder, or owner/name on the Hub [unet.small]",
    )
    segment.add_argument("--weights", metavar="TAG", help="which of its weights [its default]")
    segment.add_argument("--output", type=Path, default=Path("segmented"), metavar="FOLDER")
    segment.add_argument("--device", default="auto", help="such as cuda [a GPU if there is one]")
    segment.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16", "fp16"],
        default="auto",
        help="[bf16 where the hardware computes it, else fp32]",
    )
    segment.add_argument(
        "--tile",
        type=_tile,
        metavar="SIDE|HxW",
        help="cut larger images into tiles that overlap and blend, such as 1024 or 512x1024",
    )
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
    segment.set_defaults(run=_segment)

    evaluate = commands.add_parser(
        "evaluate",
        help="score label images against ground truth",
        description="Print the IoU of each class. Label ids of Cityscapes are scored by its "
        "official protocol, with iIoU and categories. Every ground-truth file needs one "
        "prediction: <city>_<sequence>_<frame>*.png where it is named as in Cityscapes, its own "
        "name, or that and _labels as `citysegzoo segment` writes it, elsewhere.",
    )
    evaluate.add_argument("predictions", metavar="PREDICTIONS", help="a folder, or one file")
    evaluate.add_argument("ground_truth", metavar="GROUNDTRUTH", help="a folder, or one file")
    evaluate.add_argument(
        "--labels",
        metavar="NAME",
        help="what the values are: cityscapes34 (label ids), cityscapes19 (train ids), "
        "camvid11 or cityscapes_categories [what the names of the ground truth say: "
        "cityscapes34 for *_gtFine_labelIds.png, cityscapes19 for *_gtFine_labelTrainIds.png]",
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    evaluate.add_argument("--workers", type=int, metavar="N", help="threads [one for each core]")
    evaluate.add_argument(
        "--instances",
        action=argparse.BooleanOptionalAction,
        help="score iIoU with the *_gtFine_instanceIds.png beside the ground truth "
        "[if they are there]",
    )
    evaluate.set_defaults(run=_evaluate)

    data = commands.add_parser("data", help="check a dataset, or draw one")
    data_actions = data.add_subparsers(required=True, metavar="ACTION")
    check = data_actions.add_parser(
        "check",
        help="say what of a dataset is there, what is missing and where to get it",
        description="Exit status 0 if the (fine) train and val splits can be used, 2 if not.",
    )
    check.add_argument("root", type=Path, metavar="ROOT", help="folder of the dataset")
    check.add_argument(
        "--data", choices=["cityscapes", "camvid"], help="which one [what its folders' names say]"
    )
    check.add_argument("--read", action="store_true", help="read every file, to find broken ones")
    check.set_defaults(run=_data_check)
    draw = data_actions.add_parser(
        "draw",
        help="draw streets in the layout of Cityscapes, to run everything without a download",
    )
    draw.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder")
    draw.add_argument("--images", type=int, default=8, metavar="N", help="of each split [8]")
    draw.add_argument(
        "--size", type=int, nargs=2, default=(128, 256), metavar=("H", "W"), help="[128 256]"
    )
    draw.add_argument("--seed", type=int, default=0, metavar="S", help="others, other streets [0]")
    draw.set_defaults(run=_data_draw)

    weights = commands.add_parser("weights", help="pin the weights of the Hub to commits")
    weights.add_argument("action", choices=["lock"], help="fetch all and write down what they are")
    weights.set_defaults(run=_weights)

    convert = commands.add_parser(
        "convert",
        help="turn a checkpoint of another library into a saved model",
        description="Reads .safetensors, .bin, .pt and .pth (these with weights_only=True alone), "
        "tells the layout by the keys, and writes model.safetensors, config.json and README.md. "
        "Layouts: torchvision's DeepLabv3 and FCN; DeepLabV3, DeepLabV3Plus, Unet and Segformer "
        "of segmentation-models-pytorch; transformers' SegFormer; pytorch-unet; chenxi116's "
        "DeepLabv3.",
    )
    convert.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    convert.add_argument("--model", metavar="NAME", help="the zoo's model [what the layout says]")
    convert.add_argument("--output", type=Path, metavar="FOLDER", required=True)
    convert.add_argument("--labels", metavar="SET", help="its classes, such as cityscapes19")
    convert.add_argument("--licence", help="licence of the weights, for the card")
    convert.add_argument("--source", help="where the weights come from, for the card")
    convert.set_defaults(run=_convert)

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
    export.add_argument("--output", type=Path, required=True, metavar="FILE")
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

    publish = commands.add_parser(
        "publish",
        help="publish a saved model on the Hugging Face Hub",
        description="Upload weights, config.json and a model card in one commit. The token is that "
        "of `hf auth login`, or HF_TOKEN. A card that a person edited there stays.",
    )
    publish.add_argument("model", type=Path, metavar="FOLDER", help="a saved model, or its file")
    publish.add_argument("repository", metavar="OWNER/NAME")
    publish.add_argument("--private", action="store_true", help="make a new repository private")
    publish.add_argument("--tag", help="tag the commit, such as v1.0")
    publish.add_argument("--endpoint", metavar="URL", help="another Hub")
    publish.set_defaults(run=_publish)
    return parser


class _Version(argparse.Action):
    """Prints the version when asked to, and looks it up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import citysegzoo

        print(f"citysegzoo {citysegzoo.__version__}")
        parser.exit()


def _models(args: argparse.Namespace) -> int:
    from citysegzoo.factory import list_models, model_info

    names = list_models(args.pattern, report=args.report, pretrained=args.pretrained)
    if not names:
        hint = f"; try '*{args.pattern}*'" if args.pattern and "*" not in args.pattern else ""
        raise ValueError(f"no model matches{hint}; `citysegzoo models` lists them all.")
    rows = [("MODEL", "CLASSES", "WEIGHTS", "WHAT IT IS")]
    for name in names:
        info = model_info(name)
        tags = ", ".join(record.tag for record in info.weights) or "-"
        rows.append((name, str(info.num_classes), tags, info.summary))
    _print_table(rows)
    return 0


def _show(args: argparse.Namespace) -> int:
    import torch

    from citysegzoo.factory import create_model, model_info
    from citysegzoo.registry import suggestion

    info = model_info(args.name)
    options = dict(_option(text) for text in args.option)
    for name in options:
        if name not in info.options:
            hint = suggestion(name, info.options)
            raise TypeError(f"model {info.name!r} has no option {name!r}{hint}; --help says more.")
    with torch.device("meta"):
        model = create_model(info.name, num_classes=args.num_classes, **options)
    print(f"{info.name}\n{info.summary}\n")
    rows = [*_composition(model), *_settings(info, options)]
    if info.report:
        rows.extend(_report_rows(info))
    _print_table(rows)
    if info.results:
        _print_results(info, everything=args.all_results)
    for record in info.weights:
        _print_weights(record)
    if not info.weights:
        print("\nno trained weights; `citysegzoo models --pretrained` lists the models with some")
    return 0


def _composition(model: SegmentationModel) -> list[tuple[str, str]]:
    def count(*modules: Any) -> str:
        return f"{sum(p.numel() for m in modules for p in m.parameters()):,}"

    encoder, decoder = model.encoder, model.decoder
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return [
        ("parameters", f"{count(model)}, {trainable:,} of them trained"),
        ("encoder", f"{type(encoder).__name__}, {count(encoder)} parameters"),
        ("  channels", ", ".join(map(str, encoder.channels))),
        ("  strides", ", ".join(map(str, encoder.strides))),
        ("decoder", f"{type(decoder).__name__}, {count(decoder)} parameters"),
        ("  gives", f"{decoder.channels} channels at stride {decoder.stride}"),
        ("classifier", f"{model.num_classes} classes, {count(model.classifier)} parameters"),
        ("classes", ", ".join(model.labels.classes)),
    ]


def _settings(info: ModelInfo, changed: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in {**info.options, **changed}.items():
        origin = "given" if name in changed else "set by the variant" if name in info.preset else ""
        rows.append((f"  {name}", f"{value}{f'  ({origin})' if origin else ''}"))
    preprocessing = info.preprocessing
    return [
        ("options", "" if rows else "none"),
        *rows,
        (
            "input",
            f"{preprocessing.channel_order} in 0..1, minus "
            f"({', '.join(f'{m:.3f}' for m in preprocessing.mean)}), over "
            f"({', '.join(f'{s:.3f}' for s in preprocessing.std)}); any size from 32x32",
        ),
    ]


def _report_rows(info: ModelInfo) -> list[tuple[str, str]]:
    from citysegzoo.reports import get_report

    report = get_report(info.report or "")
    rows = [("report", f"{report.key}: {report.title}, {', '.join(report.authors)}, {report.year}")]
    if info.recipe:
        rows.append(("recipe", ""))
        for name, text in info.recipe.described().items():
            rows.append((f"  {name.replace('_', ' ')}", text))
        for i, note in enumerate(info.recipe.notes):
            rows.append(("  notes" if i == 0 else "", note))
    return rows


def _print_results(info: ModelInfo, *, everything: bool) -> None:
    shown = [r for r in info.results if everything or r.label is None]
    hidden = len(info.results) - len(shown)
    print("\nprinted results, as the report has them")
    rows = [("METRIC", "OF", "VALUE", "SPLIT", "SOURCE", "REMARK")]
    for r in shown:
        remark = "; ".join(filter(None, (_correction(r.corrected), r.note)))
        rows.append((r.metric, r.label or "all", f"{r.value:g}", r.split, r.source, remark))
    _print_table(rows)
    if hidden:
        print(f"and {hidden} figures of single classes: --all-results prints them")


def _correction(corrected: float | None) -> str:
    if corrected is None:
        return ""
    return "wrong" if math.isnan(corrected) else f"should be {corrected:g}"


def _print_weights(record: WeightsRecord) -> None:
    card = record.card
    score = card["score"]
    print(f"\nweights {record.tag!r}")
    _print_table(
        [
            ("  trained on", card["data"]),
            ("  score", f"{100 * score['mean_iou']:.1f} % {score['metric']}; {score['split']}"),
            *(
                (f"    {name}", f"{100 * iou:.1f} %")
                for name, iou in score.get("class_iou", {}).items()
            ),
            ("  licence", card["licence"]),
            ("  source", card["source"]),
            *([("  command", card["command"])] if "command" in card else []),
            ("  where", _where(record)),
        ]
    )


def _where(record: WeightsRecord) -> str:
    if record.repository is None:
        return "in the package"
    pin = record.pin
    at = pin["revision"] if pin else "main, not pinned (`citysegzoo weights lock` pins it)"
    return f"{record.repository} on the Hugging Face Hub, {at}"


def _segment(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from citysegzoo.data import DEMO_IMAGE
    from citysegzoo.factory import DEFAULT_MODEL
    from citysegzoo.inference import Failure, Segmentation, Segmenter, find_images
    from citysegzoo.inference.segmentation import check_outputs

    if not args.photos and not args.demo:
        raise ValueError("name photographs or folders to segment, or use --demo.")
    photos = find_images([*args.photos, *([DEMO_IMAGE] if args.demo else [])])
    check_outputs(photos, args.output)
    segmenter = Segmenter(
        _trained(args.model or DEFAULT_MODEL, args.weights),
        device=args.device,
        precision=args.precision,
        compile=args.compile,
        tile=args.tile,
        overlap=args.overlap,
        scales=args.scales,
        flip=args.flip,
    )
    _make_writable(args.output)
    by_name = {photo.stem: photo for photo in photos}

    def saved(result: Segmentation, files: tuple[Path, Path]) -> None:
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in result.shares.items())
        text = f"{by_name[result.name]}: {shares}\n  -> {files[0]}, {files[1]}"
        tqdm.write(text, file=sys.stdout)

    def failed(failure: Failure) -> None:
        if args.debug:
            raise failure.error
        tqdm.write(f"citysegzoo: error: {failure}", file=sys.stderr)

    failures = segmenter.folder(
        photos, args.output, batch_size=args.batch_size, on_saved=saved, on_error=failed
    )
    if failures and len(photos) > 1:
        done = len(photos) - len(failures)
        _say(f"{len(failures)} of {len(photos)} photographs failed, {done} are done.")
    return 2 if failures else 0


def _tile(text: str) -> tuple[int, ...]:
    """``1024`` or ``512x1024`` of the command line."""
    sides = tuple(map(int, text.lower().split("x")))
    return sides * 2 if len(sides) == 1 else sides


_tile.__name__ = "tile"  # argparse says "invalid tile value"


def _numbers(text: str) -> tuple[float, ...]:
    """``0.75,1,1.25`` of the command line."""
    return tuple(map(float, text.split(",")))


_numbers.__name__ = "list of numbers"


def _evaluate(args: argparse.Namespace) -> int:
    from citysegzoo.data.labels import CITYSCAPES_34, LABEL_SETS, find_labels
    from citysegzoo.files import replacing
    from citysegzoo.metrics.cityscapes import CityscapesScores
    from citysegzoo.metrics.folders import (
        evaluate_pairs,
        find_instances,
        labels_of,
        pair_files,
    )

    labels = labels_of(args.ground_truth) if args.labels is None else find_labels(args.labels)
    if labels is None:
        raise ValueError(
            f"the names in {args.ground_truth} do not say what its values are; give --labels, one "
            f"of {', '.join(LABEL_SETS)}."
        )
    pairing = pair_files(args.predictions, args.ground_truth, labels)
    if args.json:
        inputs = {file.resolve() for pair in pairing.pairs for file in pair}
        if args.json.resolve() in inputs:
            raise ValueError(f"{args.json} is to be evaluated and written; name another --json.")
        _make_file_writable(args.json)

    instances = find_instances(pairing, labels, args.instances)
    scores = evaluate_pairs(
        pairing, labels=labels, progress=True, workers=args.workers, instances=instances
    )
    if pairing.unused:
        _say(f"predictions without a ground truth, which are left out: {len(pairing.unused)}.")
    if labels is CITYSCAPES_34 and not instances and args.instances is None:
        _say("no *_gtFine_instanceIds.png are beside the ground truth: iIoU is left out.")
    frames = len(pairing.pairs)
    print(f"{labels.name}, {frames} {'frame' if frames == 1 else 'frames'}\n\n{scores.table()}")
    if args.json:
        try:
            if isinstance(scores, CityscapesScores):
                scores.save(args.json)
            else:
                with replacing(args.json) as partial:
                    partial.write_text(json.dumps(scores.to_dict(), indent=4))
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"{args.json} cannot be written: {reason}.") from error
    return 0


class _WritableError(Exception):
    """What ends a trial of writing."""


def _make_file_writable(file: Path) -> None:
    """Find out now, not after the work, whether a file can be written; it stays as it is."""
    from citysegzoo.files import replacing

    try:
        with contextlib.suppress(_WritableError), replacing(file) as partial:
            partial.touch()
            raise _WritableError
    except OSError as error:
        if error.errno is None:  # a sentence of `replacing`
            raise
        raise OSError(f"{file} cannot be written: {error.strerror}.") from error


def _trained(name: str, tag: str | None) -> SegmentationModel:
    """A model with weights: of the zoo by name, or saved in a folder, a file or a repository."""
    from citysegzoo.factory import create_model
    from citysegzoo.pretrained import load

    if os.sep not in name and "/" not in name and not os.path.exists(name):
        return create_model(name, pretrained=tag or True)
    if tag is not None:
        raise ValueError(f"--weights names weights of a model of the zoo; {name} has one set only.")
    return load(name)


def _data_check(args: argparse.Namespace) -> int:
    from citysegzoo.data import check

    report = check(args.root, data=args.data, read=args.read, progress=True)
    print(report)
    if not report.usable:
        unusable = [split.name for split in report.splits if split.required and not split.usable]
        raise ValueError(
            f"{args.root} cannot be used as it is: see {' and '.join(unusable)} above."
        )
    return 0


def _data_draw(args: argparse.Namespace) -> int:
    from citysegzoo.data import draw_streets

    root = draw_streets(
        args.folder, images=args.images, size=tuple(args.size), seed=args.seed, progress=True
    )
    print(f"drawn: {root}\n  citysegzoo.data.Cityscapes({str(root)!r})")
    return 0


def _weights(args: argparse.Namespace) -> int:
    from citysegzoo.weights import lock

    print("\n".join(lock()))
    return 0


def _convert(args: argparse.Namespace) -> int:
    from citysegzoo.data.labels import find_labels
    from citysegzoo.factory import create_model
    from citysegzoo.weights import detect_layout, load_weights, read_state_dict

    state = read_state_dict(args.checkpoint)
    layout = detect_layout(state)
    converted = layout.convert(state)
    if args.model is None:
        suggestion = layout.model(state)
        model = create_model(
            suggestion.name, num_classes=suggestion.num_classes, **suggestion.options
        )
    else:
        classes = len(converted["classifier.conv.weight"])
        model = create_model(args.model, num_classes=classes)
    load_weights(model, converted, source=str(args.checkpoint))
    if args.labels is not None:
        model.labels = find_labels(args.labels)
    left = len(state) - len(converted)
    print(f"layout: {layout.name}, {layout.description}")
    print(f"model: {model.name}, {model.num_classes} classes ({model.labels.name})")
    print(f"matched: all {len(converted)} tensors{f', {left} left out' if left > 0 else ''}")
    card = {"licence": args.licence, "source": args.source or args.checkpoint.name}
    folder = model.eval().save_pretrained(
        args.output, card={name: value for name, value in card.items() if value}
    )
    print(f"written: {folder}\n  citysegzoo.load({str(folder)!r})")
    return 0


def _export(args: argparse.Namespace) -> int:
    from citysegzoo.export import export_onnx, export_torch

    form = args.format or ("torch" if args.output.suffix == ".pt2" else "onnx")
    _make_file_writable(args.output)
    model = _trained(args.model, args.weights)
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
    sizes = "{} x {}".format(*args.size) if args.size else "any size"
    print(
        f"input: {'float32, preprocessed' if args.images else 'uint8, RGB'}, {sizes}\n"
        f"output: {'logits' if args.logits else 'class of each pixel'}, {model.num_classes} "
        f"classes ({model.labels.name})\n"
        f"written: {written}, {written.stat().st_size / 1e6:.1f} MB, compared with the model"
    )
    return 0


def _publish(args: argparse.Namespace) -> int:
    from citysegzoo.pretrained import load, push_to_hub

    if not args.model.exists():
        raise FileNotFoundError(f"{args.model} does not exist; name a saved model's folder.")
    model = load(args.model)
    where = push_to_hub(
        model, args.repository, private=args.private, tag=args.tag, endpoint=args.endpoint
    )
    print(f"published: {where}\n  citysegzoo.load({where!r})")
    return 0


def _make_writable(folder: Path) -> None:
    """Make the folder and find out now, not after the work, whether it can be written to."""
    from citysegzoo.files import replacing

    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".citysegzoo-probe"
        with replacing(probe) as partial:
            partial.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"the output folder {folder} cannot be written to: {reason}.") from error


def _option(text: str) -> tuple[str, Any]:
    """``name=value`` of the command line, the value read as a Python literal where it is one."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(
            f"an option is given as NAME=VALUE, such as aspp_rates=3,6,9, not {text!r}."
        )
    literal = {"true": "True", "false": "False", "none": "None"}.get(value.lower(), value)
    try:
        return name, ast.literal_eval(literal)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return name, value


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows in columns as wide as their widest entry; on a terminal the last one wraps."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    room = shutil.get_terminal_size().columns - indent if sys.stdout.isatty() else 0
    for row in rows:
        start = "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
        last = textwrap.wrap(row[-1], room) if room >= 20 else [row[-1]]
        print((start + ("\n" + " " * indent).join(last)).rstrip())


def _sentence(error: BaseException) -> str:
    """An error's message on one line; its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _say(message: str) -> None:
    print(f"citysegzoo: {message}", file=sys.stderr)
