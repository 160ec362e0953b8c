"""``import citysegzoo`` is cheap, and everything public is there."""

import subprocess
import sys

import pytest

import citysegzoo

HEAVY = ("timm", "torchvision", "huggingface_hub")


def loaded_after(code: str) -> set[str]:
    program = f"{code}\nimport sys; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    return set(output.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import citysegzoo",
        "import citysegzoo; citysegzoo.create_model('unet.small', pretrained=True)",
        "import citysegzoo; citysegzoo.list_models(); citysegzoo.model_info('unet')",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert not loaded_after(code) & set(HEAVY)


def test_every_public_name_is_there() -> None:
    for name in citysegzoo.__all__:
        assert getattr(citysegzoo, name) is not None
        assert name in dir(citysegzoo)


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'creat_model'"):
        citysegzoo.creat_model  # noqa: B018
