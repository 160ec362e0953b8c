"""Publish a trained model on the Hugging Face Hub, and see that what arrives is what was sent.

    python examples/publish_to_hub.py runs/unet/best.safetensors you/street-unet --dry-run checked
    python examples/publish_to_hub.py runs/unet/best.safetensors you/street-unet --tag v1

Others need to know what they may do with weights, what they were trained on and how good they are:
a model whose card lacks one of these is not published. The token is that of `hf auth login`, or
HF_TOKEN. --dry-run writes what would be published to a folder, and sends nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

import citysegzoo


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("model", type=Path, help="best.safetensors of train.py, or a saved folder")
    p.add_argument("repository", metavar="OWNER/NAME")
    p.add_argument("--dry-run", type=Path, metavar="FOLDER", help="write there, and send nothing")
    p.add_argument("--licence", help="of the weights, where the card does not say")
    p.add_argument("--data", help="what they were trained on, where the card does not say")
    p.add_argument("--tag", help="of the commit, such as v1")
    p.add_argument("--private", action="store_true", help="make a new repository private")
    p.add_argument("--endpoint", metavar="URL", help="another Hub")
    return p.parse_args(argv)


def complete(model: citysegzoo.SegmentationModel, args: argparse.Namespace) -> None:
    """Put what is given on the card, and refuse one that leaves the needed unsaid."""
    missing = []
    # What train.py writes of one's own images, of which it knows neither.
    for name, said, unsaid in (
        ("licence", args.licence, "not stated"),
        ("data", args.data, "own images"),
    ):
        known = model.card.get(name) or unsaid
        if said and unsaid in known:
            known = known.replace(unsaid, said)
            model.card = {**model.card, name: known}
        elif said and said != known:
            raise ValueError(f"the card has another {name}, {known!r}; leave --{name} out.")
        if unsaid in known:
            missing.append(name)
    if model.card.get("score", {}).get("mean_iou") is None:
        missing.append("score")
    if missing:
        raise ValueError(
            f"the card of {args.model} does not say: {', '.join(missing)}. Give --licence and "
            "--data; a score is written by train.py, or by save_pretrained(..., card=...)."
        )


def logits(model: citysegzoo.SegmentationModel) -> torch.Tensor:
    """Of the same noise for every model."""
    noise = torch.randint(0, 256, (1, 3, 96, 128), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model.eval()(model.preprocessing(noise.byte()))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if not args.model.exists():
        raise FileNotFoundError(f"{args.model} does not exist; name what train.py wrote.")
    model = citysegzoo.load(args.model)
    complete(model, args)
    score = f"{100 * model.card['score']['mean_iou']:.2f} % mean IoU"
    print(f"{model.name or 'composed model'}, {score}, licence: {model.card['licence']}")

    with tempfile.TemporaryDirectory() as cache:
        if args.dry_run:
            where = str(model.save_pretrained(args.dry_run, card=model.card))
            again = citysegzoo.load(where)
        else:
            where = model.push_to_hub(
                args.repository,
                card=model.card,
                private=args.private,
                tag=args.tag,
                endpoint=args.endpoint,
            )
            # With a cache of its own, so that the weights do come from the Hub.
            again = citysegzoo.load(where, cache_dir=cache, endpoint=args.endpoint)
        same = torch.equal(logits(model), logits(again))
    if not same:
        raise ValueError(f"{where} gives other logits than {args.model}: do not use it.")
    done = "written, nothing sent" if args.dry_run else "published"
    print(f"{done}: {where}\nloaded back: its logits are the same to the last bit")


if __name__ == "__main__":
    try:
        main()
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"publish_to_hub.py: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        sys.exit(2)
