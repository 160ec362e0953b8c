"""Fuzzing that is guided by coverage: atheris keeps the inputs that reach new code.

    pip install atheris
    python tests/fuzz_with_atheris.py images -runs=20000
    python tests/fuzz_with_atheris.py configurations -max_total_time=600

Each input is either read or refused with one sentence; anything else ends the run, and atheris
writes the input to a file. Other options are libFuzzer's. ``tests/test_fuzz.py`` runs a little of
it where atheris is installed, and its own cases everywhere.
"""

import io
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["citysegzoo", "PIL"]):
    import PIL.Image

    import citysegzoo.images
    from citysegzoo.data.labels import numbered_labels
    from citysegzoo.pretrained import WEIGHTS
    from citysegzoo.weights.checkpoint import read_header
    from citysegzoo.weights.config import ModelConfig

PLACE = Path(tempfile.mkdtemp()) / "input"


def from_file(read: Callable[[str], object]) -> Callable[[bytes], object]:
    def target(data: bytes) -> object:
        PLACE.write_bytes(data)
        return read(str(PLACE))

    return target


TARGETS: dict[str, Callable[[bytes], object]] = {
    "images": from_file(citysegzoo.images.read_image),
    "labels": from_file(citysegzoo.images.read_ids),
    "headers": from_file(lambda path: read_header(Path(path))),
    "configurations": lambda data: ModelConfig.from_json(
        data.decode(errors="replace"), source="the input"
    ),
}


def seeds(name: str) -> Iterator[bytes]:
    """Whole files of each kind, to begin with."""
    if name in ("headers", "configurations"):
        model = citysegzoo.create_model("unet", widths=(4, 4), num_classes=3)
        model.labels = numbered_labels(3)
        folder = model.save_pretrained(PLACE.parent / "model")
        yield (folder / ("config.json" if name == "configurations" else WEIGHTS)).read_bytes()
        return
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    picture = PIL.Image.fromarray(noise)
    for kind in ("PNG", "BMP", "TIFF", *(("JPEG", "WEBP") if name == "images" else ())):
        for mode in ("L", "RGB") if name == "images" else ("L", "P"):
            buffer = io.BytesIO()
            picture.convert(mode).save(buffer, kind)
            yield buffer.getvalue()


def main() -> None:
    name, *options = sys.argv[1:]
    read = TARGETS[name]
    corpus = PLACE.parent / "corpus"
    corpus.mkdir()
    for number, content in enumerate(seeds(name)):
        (corpus / str(number)).write_bytes(content)

    def target(data: bytes) -> None:
        try:
            read(data)
        except (ValueError, TypeError, OSError) as error:
            assert str(error), "an error without a sentence"  # noqa: PT017

    warnings.simplefilter("ignore")
    atheris.Setup([sys.argv[0], str(corpus), *options], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
