"""Reading photographs of every usual kind as 8-bit RGB arrays, and label images as ids."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL.Image import Transpose

from citysegzoo.arguments import check_number
from citysegzoo.base import MIN_SIZE
from citysegzoo.registry import natural_sorted

Image = str | os.PathLike[str] | PIL.Image.Image | np.ndarray
"""What is accepted as an image: a path, a PIL image or a uint8 array."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
"""What the names of label images end in."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
# Formats that keep every value; a JPEG would make new classes along the edges.
_LABEL_FORMATS = ("PNG", "BMP", "TIFF")
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def read_image(source: Image) -> npt.NDArray[np.uint8]:
    """Read an image as uint8 ``(H, W, 3)`` RGB at its full resolution.

    16-bit grey is scaled from 0..65535 and floating-point grey from 0..1 to 0..255, transparent
    pixels are laid over white (what viewers and web pages show), and the EXIF orientation is
    applied. Of a file with several pictures the first counts.

    Args:
        source: Path of a JPEG, PNG, WebP, BMP or TIFF file, a PIL image, or a uint8 array
            ``(H, W, 3)`` in RGB order or ``(H, W)`` in grey.

    Returns:
        The pixels as a contiguous, writable array, a new one.

    Raises:
        OSError: If the file cannot be opened, as the subclass that says why.
        ValueError: If the file is no readable image, its grey values have no known range, the
            array has another shape, or a side is shorter than 32 pixels.
        TypeError: If ``source`` is of another type, or an array of another dtype.
    """
    if isinstance(source, np.ndarray):
        name, pixels = "the array", _from_array(source)
    elif isinstance(source, PIL.Image.Image):
        name = str(getattr(source, "filename", "") or "the image")
        pixels = _from_pil(source, name, _upright_rgb)
    elif isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
        pixels = _read_file(name, _upright_rgb)
    else:
        raise TypeError(
            f"an image must be a path, a PIL image or a uint8 array (H, W, 3), "
            f"not {type(source).__name__}; convert it to one of them."
        )
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIZE:
        raise ValueError(
            f"{name} is {width}x{height} pixels; segmentation needs at least {MIN_SIZE}x{MIN_SIZE}."
        )
    return pixels


def read_ids(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Read an image whose values are ids, as they are in the file.

    Args:
        path: A PNG, BMP or TIFF file in grey or with a palette, whose indices count.

    Returns:
        ``(H, W)``: uint8, uint16 for 16 bits (instance ids), int32 for 32.

    Raises:
        OSError: If the file cannot be opened, as the subclass that says why.
        ValueError: If it is no readable image of such ids.
    """
    return _read_file(os.fsdecode(path), _ids, _LABEL_FORMATS)


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List image files: files as given, folders as the images directly in them.

    Args:
        paths: Files and folders. A file named here may have any suffix; in a folder those with
            the suffix of an image count, hidden ones excepted, in natural order.

    Returns:
        The files in the order given, each once.

    Raises:
        FileNotFoundError: If a path does not exist or a folder holds no image.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        try:
            files = _images_in(path) if path.is_dir() else [path]
            for file in files:
                file.stat()
        except OSError as error:
            if error.errno is None:  # a sentence already
                raise
            raise _unreadable(error, str(path)) from error
        for file in files:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


@contextmanager
def images_up_to(megapixels: float | None) -> Iterator[None]:
    """For the time of a ``with`` block have Pillow open images of so many million pixels.

    None leaves it at its own limit.

    Its own limit, 89 with a warning and 179 in all, is there because a small file can hold a very
    large image. The limit is that of the whole process.
    """
    if megapixels is None:
        yield
        return
    before = PIL.Image.MAX_IMAGE_PIXELS
    # Pillow refuses what is more than twice this, and warns of the rest.
    PIL.Image.MAX_IMAGE_PIXELS = round(check_number("megapixels", megapixels, above=0) * 5e5)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            yield
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = before


def _images_in(folder: Path) -> list[Path]:
    try:
        names = sorted(
            entry.name
            for entry in folder.iterdir()
            if entry.suffix.lower() in SUFFIXES
            and not entry.name.startswith(".")
            and entry.is_file()
        )
    except OSError as error:
        raise _unreadable(error, str(folder)) from error
    if not names:
        raise FileNotFoundError(
            f"the folder {folder} holds no image; it needs files ending in {', '.join(SUFFIXES)}."
        )
    return [folder / name for name in natural_sorted(names)]


def _read_file(
    name: str,
    convert: Callable[[PIL.Image.Image], npt.NDArray[Any]],
    formats: tuple[str, ...] = _FORMATS,
) -> npt.NDArray[Any]:
    """Open an image file and convert it, saying in one sentence what is wrong with it.

    Args:
        name: Path of the file.
        convert: Gets the decoded image; a :class:`_PixelsError` of it is told with the file's name.
        formats: The formats to recognise, as Pillow calls them.

    Raises:
        OSError: If the file cannot be opened, as the subclass that says why.
        ValueError: If it is no readable image of these formats, or ``convert`` refuses it.
    """
    if "\0" in name:
        raise ValueError(f"{name!r} is no path; remove the null character.")
    try:
        with open(name, "rb") as opened:
            # What Pillow cannot go back in, such as a pipe, is read whole.
            file: BinaryIO = opened if opened.seekable() else io.BytesIO(opened.read())
            if not file.read(1):
                raise ValueError(f"{name} is empty (0 bytes); copy or download it again.")
            file.seek(0)
            return _decoded(file, name, convert, formats)
    except OSError as error:
        raise _unreadable(error, name) from error


def _decoded(
    file: BinaryIO,
    name: str,
    convert: Callable[[PIL.Image.Image], npt.NDArray[Any]],
    formats: tuple[str, ...],
) -> npt.NDArray[Any]:
    try:
        image = PIL.Image.open(file, formats=formats)
    except PIL.UnidentifiedImageError as error:
        *others, last = ("WebP" if kind == "WEBP" else kind for kind in formats)
        raise ValueError(
            f"{name} is no {', '.join(others)} or {last} image, whatever its name says, "
            f"or is damaged at its start; convert it or copy it again."
        ) from error
    except Exception as error:
        raise _undecodable(error, name) from error
    with image:
        return _from_pil(image, name, convert)


def _from_pil(
    image: PIL.Image.Image, name: str, convert: Callable[[PIL.Image.Image], npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    try:
        return convert(image)
    except _PixelsError as error:
        raise ValueError(f"{name} {error}") from None
    except Exception as error:  # Pillow lets SyntaxError, struct.error, EOFError... through
        raise _undecodable(error, name) from error


def _upright_rgb(image: PIL.Image.Image) -> npt.NDArray[np.uint8]:
    image.load()
    rgb = _to_rgb(image)
    method = _ORIENTATIONS.get(_orientation(image))  # TIFF: applied by Pillow on loading
    return np.array(rgb if method is None else rgb.transpose(method))


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        grey = _scaled(values).convert("RGB")
        clear = image.info.get("transparency")  # the one value that is
        if isinstance(clear, int):
            grey.paste("white", mask=PIL.Image.fromarray(values == clear))
        return grey
    if image.has_transparency_data:
        white = PIL.Image.new("RGBA", image.size, "white")
        return PIL.Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _scaled(values: npt.NDArray[Any]) -> PIL.Image.Image:
    """Grey of more than 8 bits as an 8-bit image: integers from 0..65535, floats from 0..1."""
    low, high, top = values.min(), values.max(), 1 if values.dtype.kind == "f" else 65535
    if not 0 <= low <= high <= top:  # also if not a number
        raise _PixelsError(
            f"has grey values from {low:g} to {high:g}; scale them to 0..{top} or to 8 bits."
        )
    return PIL.Image.fromarray((values * (255 / top) + 0.5).astype(np.uint8))


def _orientation(image: PIL.Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata do not make the picture unusable
        return 1


def _ids(image: PIL.Image.Image) -> npt.NDArray[Any]:
    tiles = getattr(image, "tile", [])  # until it is loaded
    coded = str(tiles[0][3]) if tiles else ""
    image.load()
    method = _ORIENTATIONS.get(_orientation(image))  # as the photographs that they label
    if method is not None:
        image = image.transpose(method)
    if image.mode in ("L", "P"):
        # Of grey with fewer bits Pillow makes the whole range of 8: 1 of 2 bits is 85.
        spread = 85 if "L;2" in coded else 17 if "L;4" in coded else 1
        return np.array(image) if spread == 1 else np.array(image) // spread
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode.startswith("I"):
        ids = np.array(image)
        return ids.astype(ids.dtype.newbyteorder("="), copy=False)
    if image.mode == "F":
        raise _PixelsError("has floating-point values; class ids are expected, whole numbers.")
    raise _PixelsError(
        f"is a colour image ({image.mode}); class ids are expected, one number for each pixel, "
        f"so give the label image and not its rendering."
    )


def _from_array(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise TypeError(
            f"an image array must be uint8 with values 0..255, not {array.dtype}; "
            f"scale it to 0..255 and use .astype(numpy.uint8)."
        )
    if array.ndim == 2:
        array = np.stack([array] * 3, axis=-1)
    if array.ndim != 3 or array.shape[2] != 3:
        hint = "use array.transpose(1, 2, 0)" if array.shape[:1] == (3,) else "drop other channels"
        raise ValueError(
            f"an image array must be (H, W, 3) in RGB order or (H, W), not {array.shape}; {hint}."
        )
    return np.array(array, np.uint8, order="C")  # a copy: the caller may write the next frame to it


class _PixelsError(Exception):
    """Pixels that cannot be used as they are; the message continues the name of their image."""


def _unreadable(error: OSError, name: str) -> OSError:
    """The same type of error with a sentence that says what to do."""
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{name} does not exist; check the path.")
    if isinstance(error, IsADirectoryError):
        return IsADirectoryError(f"{name} is a folder, not an image; name the files in it.")
    if isinstance(error, PermissionError):
        return PermissionError(f"{name} may not be read; change its permissions.")
    return type(error)(f"{name:.200} cannot be read ({error.strerror or error}); check the path.")


def _undecodable(error: Exception, name: str) -> ValueError | MemoryError:
    if isinstance(error, PIL.Image.DecompressionBombError):
        return ValueError(
            f"{name} has more pixels than Pillow opens for safety; make it smaller or, if you "
            f"trust it, raise PIL.Image.MAX_IMAGE_PIXELS (--max-megapixels)."
        )
    if isinstance(error, MemoryError):
        return MemoryError(f"{name} does not fit into memory; make it smaller.")
    return ValueError(
        f"{name} cannot be decoded because it is truncated, damaged or of a rare kind; "
        f"copy it again or save it as PNG."
    )
