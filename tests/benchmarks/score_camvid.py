"""Score trained weights on CamVid again, from the file as it ships, in float32.

    python tests/benchmarks/score_camvid.py --root camvid

Prints the scores of each class and their means, from one confusion matrix over the split, single
scale, unlabelled pixels left out. ``--record`` writes the score into the card of the file.
``--scales 0.75 1 1.25 --flip`` averages over sizes and mirror images instead, as ``citysegzoo
segment`` does.
"""

import argparse

import torch
from tqdm import tqdm

import citysegzoo
from citysegzoo.data import CAMVID_11, CamVid
from citysegzoo.inference import Segmenter
from citysegzoo.metrics import ConfusionMatrix
from citysegzoo.weights import find_record, load_checkpoint, save_checkpoint


@torch.inference_mode()
def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", required=True, help="folder of CamVid")
    parser.add_argument("--model", default="unet.small")
    parser.add_argument("--split", default="val")
    parser.add_argument("--enlarge", type=int, default=1, help="enlarge the images this often")
    parser.add_argument("--record", action="store_true", help="write the score into the card")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0], help="average over sizes")
    parser.add_argument("--flip", action="store_true", help="average with the mirror image")
    args = parser.parse_args()
    averaging = args.flip or args.scales != [1.0]
    if averaging and (args.record or args.enlarge > 1):
        parser.error("--scales and --flip go neither with --record nor with --enlarge")

    if args.record and (args.split != "val" or args.enlarge > 1):
        parser.error("--record is for what the card says: the validation images as they are")

    model = citysegzoo.create_model(args.model, pretrained="camvid")
    if averaging:
        segmenter = Segmenter(model, precision="fp32", scales=args.scales, flip=args.flip)
    confusion = ConfusionMatrix(len(CAMVID_11), CAMVID_11.ignore_index)
    for image, labels in tqdm(CamVid(args.root, args.split), disable=None):
        if averaging:
            pixels = image.as_subclass(torch.Tensor).permute(1, 2, 0).contiguous().numpy()
            found = torch.from_numpy(segmenter(pixels).labels)
            confusion.update(found, labels.as_subclass(torch.Tensor))
            continue
        images = model.preprocessing(image.as_subclass(torch.Tensor)[None])
        if args.enlarge > 1:
            images = torch.nn.functional.interpolate(
                images, scale_factor=args.enlarge, mode="bicubic", antialias=True
            )
        logits = model(images)[..., :: args.enlarge, :: args.enlarge]
        confusion.update(logits, labels.as_subclass(torch.Tensor)[None])
    scores = confusion.scores(CAMVID_11)
    print(scores)
    if args.record:
        record = find_record(args.model, "camvid")
        card = record.card
        card["score"]["mean_iou"] = round(scores.mean_iou, 5)
        card["score"]["pixel_accuracy"] = round(scores.pixel_accuracy, 5)
        card["score"]["class_iou"] = {name: round(v, 5) for name, v in scores.class_iou.items()}
        given = "" if args.model == parser.get_default("model") else f" --model {args.model}"
        card["score"]["command"] = f"python tests/benchmarks/score_camvid.py --root camvid{given}"
        save_checkpoint(record.file, load_checkpoint(record.file), card, dtype=torch.float16)


if __name__ == "__main__":
    main()
