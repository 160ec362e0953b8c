"""Score trained weights on CamVid again, from the file as it ships, in float32.

    python tests/benchmarks/score_camvid.py --root camvid

Prints the scores of each class and their means, from one confusion matrix over the split, single
scale, unlabelled pixels left out. ``--record`` writes the score into the card of the file.
"""

import argparse

import torch
from tqdm import tqdm

import citysegzoo
from citysegzoo.data import CAMVID_11, CamVid
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
    args = parser.parse_args()

    model = citysegzoo.create_model(args.model, pretrained="camvid")
    confusion = ConfusionMatrix(len(CAMVID_11), CAMVID_11.ignore_index)
    for image, labels in tqdm(CamVid(args.root, args.split), disable=None):
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
        card["score"]["mean_iou"] = round(scores.mean_iou, 4)
        card["score"]["class_iou"] = {name: round(v, 4) for name, v in scores.class_iou.items()}
        given = "" if args.model == parser.get_default("model") else f" --model {args.model}"
        card["score"]["command"] = f"python tests/benchmarks/score_camvid.py --root camvid{given}"
        save_checkpoint(record.file, load_checkpoint(record.file), card, dtype=torch.float16)


if __name__ == "__main__":
    main()
