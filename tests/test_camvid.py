"""The CamVid dataset."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from citysegzoo.data import CAMVID_11, CamVid, SampleError, check


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in CamVid's layout: bright sky over dark road, a void row between."""
    root = tmp_path_factory.mktemp("camvid")
    noise = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir()
        for i in range(count):
            labels = np.full((48, 64), CAMVID_11.classes.index("road"), np.uint8)
            labels[: 20 + i] = CAMVID_11.classes.index("sky")
            labels[20 + i] = CAMVID_11.ignore_index
            pixels = np.where(labels[..., None] == 0, 220, 60) + noise.integers(0, 20, (48, 64, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / split / f"{i}.png")
            Image.fromarray(labels).save(root / f"{split}annot" / f"{i}.png")
    return root


def test_samples(root: Path) -> None:
    dataset = CamVid(root, "train")
    assert len(dataset) == 4
    image, labels = dataset[1]
    assert (image.shape, image.dtype) == ((3, 48, 64), torch.uint8)
    assert (labels.shape, labels.dtype) == ((48, 64), torch.uint8)
    assert labels.unique().tolist() == [0, 3, 11]
    assert dataset.labels is CAMVID_11


def test_transform_gets_image_and_labels(root: Path) -> None:
    from torchvision.transforms import v2

    image, labels = CamVid(root, "val", transform=v2.Resize((24, 32)))[0]
    assert image.shape == (3, 24, 32)
    assert labels.shape == (24, 32)
    assert set(labels.unique().tolist()) <= {0, 3, 11}, "labels are not interpolated"


def test_missing_parts(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="needs the folder .*test, which does not exist"):
        CamVid(root, "test")
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=f"trainannot, which .*{tmp_path} holds train; get"):
        CamVid(tmp_path)
    (tmp_path / "trainannot").mkdir()
    with pytest.raises(FileNotFoundError, match="no images in .*train; get the folder CamVid of"):
        CamVid(tmp_path)
    Image.new("RGB", (40, 40)).save(tmp_path / "train" / "a.png")
    with pytest.raises(FileNotFoundError, match="1 of 1 images .* no labels .*, such as a.png"):
        CamVid(tmp_path)


def test_values_above_the_ignored_one(tmp_path: Path) -> None:
    for folder, mode, value in (("train", "RGB", 0), ("trainannot", "L", 12)):
        (tmp_path / folder).mkdir()
        Image.new(mode, (40, 40), value).save(tmp_path / folder / "a.png")
    with pytest.raises(SampleError, match="a.png has the value 12, no label .* which has 0..11."):
        CamVid(tmp_path)[0]


def test_check(root: Path) -> None:
    report = check(root, read=True)
    assert (report.data, report.usable) == ("camvid", True)
    counts = {split.name: (split.images, split.labels, split.official) for split in report.splits}
    assert counts == {"train": (4, 4, 367), "val": (2, 2, 101), "test": (0, 0, 233)}
