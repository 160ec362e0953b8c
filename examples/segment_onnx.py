"""Segment a photograph with an exported model: numpy, Pillow and onnxruntime, no PyTorch.

    citysegzoo export unet.small --output unet.onnx
    python examples/segment_onnx.py unet.onnx street.jpg --output street_labels.png

All that is known of the classes and of the preprocessing is read from the file's metadata. The
pixel values of the PNG are classes, its palette shows them in their colours.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read(path: Path) -> Image.Image:
    """A photograph in RGB: turned as EXIF says, 16 bits scaled to 8, transparency over white."""
    with Image.open(path) as opened:
        photo = ImageOps.exif_transpose(opened)
    if photo.mode == "F" or photo.mode.startswith("I"):
        values = np.asarray(photo)
        top = 1 if values.dtype.kind == "f" else 65535
        if not 0 <= values.min() <= values.max() <= top:
            raise ValueError(
                f"{path} has grey values from {values.min():g} to {values.max():g}; scale them to "
                f"0 to {top}."
            )
        photo = Image.fromarray((values * (255 / top) + 0.5).astype(np.uint8))
    elif photo.has_transparency_data:
        white = Image.new("RGBA", photo.size, "white")
        photo = Image.alpha_composite(white, photo.convert("RGBA"))
    return photo.convert("RGB")


def prepared(pixels: np.ndarray, about: dict[str, Any]) -> np.ndarray:
    """The photograph ``(H, W, 3)`` as the model takes it, a batch of one ``(1, 3, H, W)``."""
    if about["input"] == "pixels":  # 8-bit RGB: the preprocessing is part of the model
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
    preprocessing = about["preprocessing"]
    if preprocessing["channel_order"] == "BGR":
        pixels = pixels[..., ::-1]
    mean, std = (np.array(preprocessing[name], np.float32) for name in ("mean", "std"))
    images = (pixels.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(images.transpose(2, 0, 1)[None])


def segment(
    session: onnxruntime.InferenceSession, about: dict[str, Any], photo: Image.Image
) -> np.ndarray:
    """The class of each pixel of a photograph, uint8 ``(H, W)``."""
    height, width = about["size"] or (photo.height, photo.width)
    if min(height, width) < about["min_size"]:
        raise ValueError(f"the photograph is {width}x{height}; sides need {about['min_size']}.")
    fitted = photo.resize((width, height), Image.Resampling.BILINEAR)
    images = prepared(np.asarray(fitted), about)
    (result,) = session.run(None, {session.get_inputs()[0].name: images})
    labels = result[0] if about["output"] == "labels" else result[0].argmax(0)
    image = Image.fromarray(labels.astype(np.uint8))
    return np.asarray(image.resize(photo.size, Image.Resampling.NEAREST))


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("model", type=Path, help="what `citysegzoo export` wrote")
    p.add_argument("photo", type=Path)
    p.add_argument("--output", type=Path, help="PNG to write [PHOTO_labels.png]")
    args = p.parse_args(argv)

    session = onnxruntime.InferenceSession(str(args.model), providers=["CPUExecutionProvider"])
    entries = session.get_modelmeta().custom_metadata_map
    if "classes" not in entries:
        raise ValueError(f"{args.model} was not written by `citysegzoo export`.")
    about = {key: json.loads(value) for key, value in entries.items()}

    if len(about["classes"]) > 256:
        raise ValueError(f"label maps are 8-bit; the model has {len(about['classes'])} classes.")
    output = args.output or Path(f"{args.photo.stem}_labels.png")
    if output.exists() and output.samefile(args.photo):
        raise ValueError(f"{output} is to be read and written; name another --output.")

    labels = segment(session, about, read(args.photo))

    picture = Image.fromarray(labels)
    picture.putpalette([value for color in about["palette"] for value in color])
    picture.save(output)

    counts = np.bincount(labels.flatten(), minlength=len(about["classes"]))
    for index in counts.argsort()[::-1]:
        if counts[index]:
            print(f"{about['classes'][index]}: {100 * counts[index] / labels.size:.1f} %")
    print(f"written: {output}")


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # onnxruntime's errors are of its own kinds
        said = str(error).strip() or type(error).__name__
        print(f"segment_onnx.py: {said.splitlines()[-1]}", file=sys.stderr)
        sys.exit(2)
