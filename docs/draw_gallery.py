"""Make the pictures of the gallery and the first page anew, in docs/images.

    python docs/draw_gallery.py [--runs runs/street]

The commands are those that the pages print. The page of errors is photographed by Chromium and left
as it is where there is none; the learning curves are those of the folders of runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import citysegzoo
import citysegzoo.visualize
from citysegzoo.cli import main
from citysegzoo.data import CAMVID_11
from citysegzoo.files import write_image

IMAGES = Path(__file__).parent.resolve() / "images"
DEMO = Path(citysegzoo.__file__).parent / "data" / "demo_street.jpg"
EXAMPLES = IMAGES.parents[1] / "examples"
GAP = 10


def run(*words: str) -> None:
    """The command line, as the pages print it."""
    if main(words):
        sys.exit(f"citysegzoo {' '.join(words)} failed")


def save(picture: Image.Image, name: str, size: tuple[int, int] | None = None) -> None:
    """One picture of the pages."""
    picture = picture.convert("RGB")
    options = {"quality": 85} if name.endswith(".jpg") else {}
    resized = picture.resize(size, Image.Resampling.LANCZOS) if size else picture
    write_image(resized, IMAGES / name, **options)
    print(f"docs/images/{name}")


def joined(pictures: list[Image.Image], *, across: bool) -> Image.Image:
    """Side by side, or one below the other, on white."""
    widths, heights = zip(*(picture.size for picture in pictures), strict=True)
    gaps = GAP * (len(pictures) - 1)
    size = (sum(widths) + gaps, max(heights)) if across else (max(widths), sum(heights) + gaps)
    whole, at = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        whole.paste(picture, (at, 0) if across else (0, at))
        at += picture.size[0 if across else 1] + GAP
    return whole


def overlay_and_palettes() -> None:
    """The demo street segmented, in the standard and in the safe colours."""
    for palette in ("standard", "safe"):
        run("segment", "--demo", "--output", palette, "--palette", palette)
    shutil.copy("standard/demo_street_overlay.jpg", IMAGES / "demo_street_overlay.jpg")
    print("docs/images/demo_street_overlay.jpg")
    with Image.open("standard/demo_street_labels.png") as file:
        ids = np.asarray(file)
    overlays = [
        citysegzoo.visualize.overlay(DEMO, ids, CAMVID_11, palette=palette).resize((480, 430))
        for palette in ("standard", "safe")
    ]
    save(joined(overlays, across=True), "gallery_palettes.jpg")


def contact_sheet() -> None:
    """The bundled small network beside two of which weights are set to 0."""
    for share in (0.3, 0.5):
        model = citysegzoo.create_model("unet.small", pretrained=True)
        for weight in model.parameters():
            if weight.ndim == 4:
                count = max(1, int(share * weight.numel()))
                least = weight.abs().flatten().kthvalue(count).values
                weight.data[weight.abs() <= least] = 0
        model.save_pretrained(f"pruned_{100 * share:.0f}", card={})
    names = ["unet.small", "pruned_30", "pruned_50"]
    run("compare", str(DEMO), "--models", *names, "--output", "sheet.png")
    with Image.open("sheet.png") as sheet:
        save(sheet, "gallery_compare.jpg", (980, round(980 * sheet.height / sheet.width)))


def errors(browser: str) -> None:
    """The first page of a report of errors."""
    truth = Path("truth/demo_street.png")
    truth.parent.mkdir()
    script = [str(EXAMPLES / "draw_demo_scene.py"), "--output", "street.jpg"]
    subprocess.run([sys.executable, *script, "--labels", str(truth)], check=True)
    words = ["safe/demo_street_labels.png", str(truth), "--labels", "camvid11", "--images"]
    run("errors", *words, str(DEMO.parent), "--palette", "safe", "--output", "report.html")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    options += ["--hide-scrollbars", "--window-size=1180,1500", "--screenshot=report.png"]
    profile = f"--user-data-dir={Path('profile').resolve()}"
    page = Path("report.html").resolve().as_uri()
    subprocess.run([browser, *options, profile, page], check=True, stderr=subprocess.DEVNULL)
    with Image.open("report.png") as shot:
        save(shot, "gallery_errors.jpg", (787, 1000))


def curves(runs: list[Path]) -> None:
    """Learning curves, one run below the other."""
    pictures = [Image.open(run / "curves.png").convert("RGB") for run in runs]
    save(joined(pictures, across=False), "gallery_curves.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="folders of train.py")
    args = parser.parse_args()
    if args.runs:
        curves(args.runs)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        overlay_and_palettes()
        contact_sheet()
        if browser := shutil.which("chromium") or shutil.which("google-chrome"):
            errors(browser)
        os.chdir(IMAGES)
