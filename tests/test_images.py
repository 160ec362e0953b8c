"""Reading images: every mode, every way a file can be broken, and finding files."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from citysegzoo.files import replacing, write_image
from citysegzoo.images import find_images, read_ids, read_image

WIDTH, HEIGHT = 48, 40
RAMP = np.linspace(0, 255, HEIGHT * WIDTH).round().astype(np.uint8).reshape(HEIGHT, WIDTH)
RGB = np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 90)], axis=-1)
GREY_RGB = np.stack([RAMP] * 3, axis=-1)


def picture(mode: str = "RGB") -> PIL.Image.Image:
    return PIL.Image.fromarray(RGB).convert(mode)


def save(path: Path, image: PIL.Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


@contextmanager
def raises(kind: type[Exception], *parts: str) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expect an error whose message is one sentence with these parts, as the file's name."""
    with pytest.raises(kind) as caught:
        yield caught
    message = str(caught.value)
    assert re.fullmatch(r"((?!\. ).)+\.", message)
    for part in parts:
        assert part in message


def test_pictures_are_not_written_in_formats_that_are_only_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no suffix of an image"):
        write_image(PIL.Image.new("L", (2, 2)), tmp_path / "a.psd")


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("a.png", 0),
        ("a.bmp", 0),
        ("a.tif", 0),
        ("A.JPG", 6),
        ("a.webp", 20),
        ("no_suffix", 0),
    ],
)
def test_formats(tmp_path: Path, name: str, tolerance: int) -> None:
    kind = {"JPG": "JPEG", "tif": "TIFF", "no_suffix": "PNG"}.get(name.split(".")[-1])
    path = save(tmp_path / name, picture(), format=kind, quality=95)
    pixels = read_image(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(int) - RGB).mean() <= tolerance
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous
    assert (read_image(str(path)) == pixels).all()
    with PIL.Image.open(path) as image:
        assert (read_image(image) == pixels).all()


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("L", "png"),
        ("L", "jpg"),
        ("1", "png"),
        ("1", "tif"),
        ("P", "png"),
        ("P", "bmp"),
        ("CMYK", "tif"),
        ("YCbCr", "jpg"),
        ("HSV", None),
        ("RGBX", None),
    ],
)
def test_opaque_modes_read_as_pillow_converts_them(
    tmp_path: Path, mode: str, suffix: str | None
) -> None:
    image = picture(mode)
    source = save(tmp_path / f"a.{suffix}", image) if suffix else image
    difference = read_image(source).astype(int) - np.asarray(image.convert("RGB"))
    assert np.abs(difference).max() <= (8 if suffix == "jpg" else 0)


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_is_not_inverted(tmp_path: Path, name: str) -> None:
    """Pillow writes CMYK JPEGs inverted with an Adobe marker, as Photoshop does."""
    path = save(tmp_path / name, PIL.Image.new("CMYK", (WIDTH, HEIGHT), (0, 200, 200, 0)))
    if name == "a.jpg":
        assert b"Adobe" in path.read_bytes()
    assert np.abs(read_image(path).mean((0, 1)) - (255, 55, 55)).max() < 4


@pytest.mark.parametrize(
    ("mode", "transparent", "options"),
    [
        ("RGBA", (10, 20, 30, 0), {}),
        ("LA", (10, 0), {}),
        ("P", 0, {"transparency": 0}),
        ("L", 7, {"transparency": 7}),
        ("RGB", (1, 2, 3), {"transparency": (1, 2, 3)}),
    ],
)
def test_transparent_pixels_are_white(
    tmp_path: Path, mode: str, transparent: int | tuple[int, ...], options: dict[str, object]
) -> None:
    image = picture("L").point(lambda value: 200).convert(mode)
    image.paste(transparent, (0, 0, 10, 10))
    pixels = read_image(save(tmp_path / "a.png", image, **options))
    assert (pixels[:10, :10] == 255).all()
    assert (pixels[10:, 10:] == 200).all()


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    pixels = read_image(PIL.Image.new("RGBA", (WIDTH, HEIGHT), (0, 100, 200, 128)))
    assert np.abs(pixels[0, 0].astype(int) - (127, 177, 227)).max() <= 1


@pytest.mark.parametrize("name", ["a.png", "a.tif", "I", "I;16", "I;16B"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    deep = RAMP.astype(np.uint16) * 257
    if name == "I":
        source: object = PIL.Image.fromarray(deep.astype(np.int32))
    elif name.startswith("I;16"):
        raw = deep.astype(">u2" if name.endswith("B") else "<u2").tobytes()
        source = PIL.Image.frombytes(name, (WIDTH, HEIGHT), raw)
    else:
        source = save(tmp_path / name, PIL.Image.fromarray(deep))
    assert (read_image(source) == GREY_RGB).all()  # type: ignore[arg-type]


def test_16_bit_rgb_png(tmp_path: Path) -> None:
    """Pillow cannot write one, so it is put together from its chunks."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + row.tobytes() for row in (RGB.astype(">u2") * 257).astype(">u2"))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert (read_image(path) == RGB).all()


def test_16_bit_grey_is_rounded() -> None:
    deep = np.full((HEIGHT, WIDTH), 65400, np.uint16)  # 254.47
    deep[0] = 200  # 0.78
    assert np.unique(read_image(PIL.Image.fromarray(deep))).tolist() == [1, 254]


def test_float_tiff_is_scaled_from_0_to_1(tmp_path: Path) -> None:
    image = PIL.Image.fromarray(RAMP.astype(np.float32) / 255)
    assert (read_image(save(tmp_path / "a.tif", image)) == GREY_RGB).all()


@pytest.mark.parametrize("value", [-0.5, 1.5, 255, float("nan"), float("inf")])
def test_float_of_unknown_range_is_refused(tmp_path: Path, value: float) -> None:
    values = np.zeros((HEIGHT, WIDTH), np.float32)
    values[3, 3] = value
    path = save(tmp_path / "deep.tif", PIL.Image.fromarray(values))
    with raises(ValueError, "has grey values from", "deep.tif"):
        read_image(path)


@pytest.mark.parametrize("value", [-1, 65536])
def test_32_bit_grey_beyond_16_bits_is_refused(value: int) -> None:
    values = np.full((HEIGHT, WIDTH), value, np.int32)
    with raises(ValueError, f"{value:g}"):
        read_image(PIL.Image.fromarray(values))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(9))
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    """What EXIF says of the stored rows and columns, done with array operations."""
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:24, :32] = 250, 20, 20  # red top left
    upright[:24, 32:] = 20, 250, 20  # green top right
    upright[24:, :32] = 20, 20, 250  # blue bottom left
    stored = {
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),  # shown after a turn by 90 degrees clockwise
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }.get(orientation, upright)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image = PIL.Image.fromarray(np.ascontiguousarray(stored))
    path = save(tmp_path / f"a.{suffix}", image, exif=exif)
    pixels = read_image(path)
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 6
    with PIL.Image.open(path) as opened:
        assert (read_image(opened) == pixels).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(9))
def test_labels_are_turned_as_photographs_are(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3).repeat(20, 0).repeat(20, 1)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    grey = PIL.Image.fromarray(labels)
    file = save(tmp_path / f"labels.{suffix}", grey, exif=exif)
    photo = save(tmp_path / f"photo.{suffix}", grey.convert("RGB"), exif=exif)
    assert np.array_equal(read_ids(file), read_image(photo)[..., 0])


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_exif_does_not_matter(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", picture(), exif=b"Exif\0\0no TIFF header")
    assert read_image(path).shape == RGB.shape


def test_first_picture_of_several(tmp_path: Path) -> None:
    black = PIL.Image.new("RGB", (WIDTH, HEIGHT))
    path = save(tmp_path / "a.tif", picture(), save_all=True, append_images=[black])
    assert (read_image(path) == RGB).all()


def test_arrays() -> None:
    pixels = RGB.copy()
    assert np.array_equal(read_image(pixels), pixels)
    assert not np.shares_memory(
        read_image(pixels), pixels
    )  # which the next frame may be written to
    assert (read_image(RAMP) == GREY_RGB).all()
    bgr = RGB[:, :, ::-1]
    assert (read_image(bgr) == bgr).all()
    assert read_image(bgr).flags.c_contiguous
    pixels.setflags(write=False)
    assert read_image(pixels).flags.writeable


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (RGB.astype(np.float32), TypeError, "float32"),
        (RGB.astype(np.uint16), TypeError, "uint16"),
        (RGB > 9, TypeError, "bool"),
        (RGB[:, :, :2], ValueError, "(40, 48, 2)"),
        (RGB.transpose(2, 0, 1), ValueError, "transpose(1, 2, 0)"),
        (RGB[None], ValueError, "(1, 40, 48, 3)"),
        (RGB[0, 0], ValueError, "(3,)"),
        (RGB[:31], ValueError, "48x31"),
        (RGB[:, :31], ValueError, "31x40"),
        (RGB[:0], ValueError, "48x0"),
        (PIL.Image.new("L", (1, 1)), ValueError, "1x1 pixels; segmentation needs at least 32x32."),
        (b"a.jpg", TypeError, "bytes"),
        (None, TypeError, "NoneType"),
        (3, TypeError, "int"),
        ([1], TypeError, "list"),
        ("a\0.jpg", ValueError, "null"),
        ("x" * 5000, OSError, "cannot be read"),
        ("", FileNotFoundError, "does not exist"),
    ],
)
def test_unfit_sources(source: object, error: type[Exception], message: str) -> None:
    with raises(error, message):
        read_image(source)  # type: ignore[arg-type]


def test_missing_file(tmp_path: Path) -> None:
    with raises(FileNotFoundError, "gone.jpg", "does not exist"):
        read_image(tmp_path / "gone.jpg")
    path = save(tmp_path / "a.png", picture())
    with raises(NotADirectoryError, "b.jpg"):
        read_image(path / "b.jpg")


def test_folder(tmp_path: Path) -> None:
    with raises(IsADirectoryError, str(tmp_path), "is a folder"):
        read_image(tmp_path)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "secret.png", picture())

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)  # root may read whatever the mode says
    with raises(PermissionError, "secret.png", "permissions"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"hello, I am no image\n" * 50, b"%!PS-Adobe-3.0"])
def test_no_image_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    with raises(ValueError, "text.jpg", "is no JPEG" if content else "is empty"):
        read_image(path)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", picture(), format="GIF")
    with raises(ValueError, "a.jpg", "is no JPEG"):
        read_image(path)


def test_too_small_file(tmp_path: Path) -> None:
    path = save(tmp_path / "dot.png", PIL.Image.new("RGB", (100, 31)))
    with raises(ValueError, "dot.png is 100x31 pixels"):
        read_image(path)


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "bomb.png", picture())
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 500)
    with raises(ValueError, "bomb.png", "more pixels"):
        read_image(path)
    assert PIL.Image.MAX_IMAGE_PIXELS == 500


# Pillow warns of broken metadata before it gives up.
broken_file = pytest.mark.filterwarnings("ignore::UserWarning")
FORMATS: list[tuple[str, dict[str, object]]] = [
    ("a.jpg", {}),
    ("progressive.jpg", {"progressive": True}),
    ("a.png", {}),
    ("a.webp", {}),
    ("lossless.webp", {"lossless": True}),
    ("a.bmp", {}),
    ("a.tif", {}),
    ("lzw.tif", {"compression": "tiff_lzw"}),
]


@broken_file
@pytest.mark.parametrize(("name", "options"), FORMATS)
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.5, 0.9])
def test_truncated_files_raise(
    tmp_path: Path, name: str, options: dict[str, object], kept: float
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    path = save(tmp_path / name, PIL.Image.fromarray(noise), **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with raises(ValueError, name) as error:
        read_image(path)
    assert error.value.__cause__ is not None


@broken_file
@pytest.mark.parametrize(("name", "options"), FORMATS)
def test_damaged_files_raise_nothing_unexpected(
    tmp_path: Path, name: str, options: dict[str, object]
) -> None:
    random = np.random.default_rng(1)
    path = save(tmp_path / name, picture(), **options)
    content = path.read_bytes()
    for round_ in range(60):
        damaged = bytearray(content)
        if round_ % 3:
            for place in random.integers(0, min(len(content), 300), 4):
                damaged[place] = random.integers(256)
        else:
            damaged[16:] = random.bytes(int(random.integers(2000)))
        path.write_bytes(damaged)
        with suppress(ValueError, OSError):
            assert read_image(path).dtype == np.uint8


@pytest.mark.parametrize("raised", [SyntaxError, EOFError, MemoryError, OSError, KeyError])
def test_whatever_pillow_raises_becomes_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: type[Exception]
) -> None:
    path = save(tmp_path / "odd.png", picture())

    def fail(*_: object, **__: object) -> None:
        raise raised("oh")

    for place in ("PIL.Image.open", "PIL.PngImagePlugin.PngImageFile.load"):
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            # What memory has no room for is not the file's fault.
            kind = MemoryError if raised is MemoryError else ValueError
            with raises(kind, "odd.png") as error:
                read_image(path)
        assert isinstance(error.value.__cause__, raised)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ["b10.png", "b2.JPG", "b1.webp", "c.TIFF", ".hidden.png", "notes.txt", "x.png.bak"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "z.png").touch()
    return tmp_path


def test_find_images_in_a_folder(folder: Path) -> None:
    expected = [folder / name for name in ("b1.webp", "b2.JPG", "b10.png", "c.TIFF")]
    assert find_images([folder]) == find_images(str(folder)) == expected


def test_find_images_keeps_order_and_drops_duplicates(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = folder / "notes.txt"
    found = find_images([folder / "c.TIFF", notes, folder, notes, f"{folder}/deeper/../b1.webp"])
    assert [path.name for path in found] == ["c.TIFF", "notes.txt", "b1.webp", "b2.JPG", "b10.png"]
    monkeypatch.chdir(folder)
    assert find_images(["b1.webp", folder / "b1.webp"]) == [Path("b1.webp")]
    assert find_images([]) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.png/b.png", "cannot be read .Not a directory."), ("x" * 300, "cannot be read .File name")],
)
def test_find_images_says_why_a_path_cannot_be_read(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(OSError, match=message) as caught:
        find_images([tmp_path / name])
    assert len(str(caught.value)) < 400


def test_pipes_are_read(tmp_path: Path) -> None:
    """Such as /dev/stdin, and what a shell puts for <(...)."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    content = (tmp_path / "a.png").read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe.png").write_bytes, args=(content,))
    writer.start()
    assert np.array_equal(read_image(tmp_path / "pipe.png"), pixels)
    writer.join()


@pytest.mark.parametrize(
    ("name", "message"), [("gone.png", "does not exist"), ("empty", "holds no image")]
)
def test_find_images_missing(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with raises(FileNotFoundError, name, message):
        find_images([tmp_path / name])


def test_replacing_writes_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("old")
    with replacing(path) as partial:
        assert partial.parent == tmp_path
        assert partial.suffix == ".png"
        assert partial != path
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_replacing_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_replacing_follows_links_and_spares_devices(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    with replacing(link) as partial:
        partial.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    with replacing(os.devnull) as device:
        assert str(device) == os.devnull
    assert not Path(os.devnull).is_file()
    read, write = os.pipe()
    with open(read) as reader:
        with replacing(f"/dev/fd/{write}") as pipe:  # as of `--json >(jq .)`
            pipe.write_text("through")
        os.close(write)
        assert reader.read() == "through"


def test_replacing_where_files_have_no_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    with replacing(tmp_path / "a.txt") as partial:
        partial.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize(
    ("name", "error"), [("", IsADirectoryError), ("gone/a.txt", FileNotFoundError)]
)
def test_replacing_impossible_targets(tmp_path: Path, name: str, error: type[OSError]) -> None:
    with raises(error, str(tmp_path)), replacing(tmp_path / name):
        pytest.fail("must not get here")


def test_the_clear_value_of_16_bit_grey_is_white(tmp_path: Path) -> None:
    values = np.full((40, 40), 30_000, np.uint16)
    values[:2] = 0
    PIL.Image.fromarray(values).save(tmp_path / "clear.png", transparency=0)
    pixels = read_image(tmp_path / "clear.png")
    assert (pixels[:2] == 255).all()
    assert (pixels[2:] == 117).all()
