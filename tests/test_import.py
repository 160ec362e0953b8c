"""``import citysegzoo`` is cheap, and everything public is there."""

import subprocess
import sys
from pathlib import Path

import pytest
from versions import not_on_torch_2_6

import citysegzoo

HEAVY = ("timm", "torchvision", "huggingface_hub")


def loaded_after(code: str) -> set[str]:
    program = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_nothing_heavy_is_imported() -> None:
    """Not by the import, nor by what needs none of it; one process, since each costs seconds."""
    steps = (
        "import citysegzoo",
        "citysegzoo.list_models(); citysegzoo.model_info('unet')",
        "citysegzoo.create_model('unet.small', pretrained=True)",
    )
    assert not loaded_after("\n".join(steps)) & set(HEAVY)


@pytest.mark.parametrize(
    "name",
    [
        "segformer_b0",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("deeplabv3_resnet18", "segnet_vgg16")),
    ],
)
@not_on_torch_2_6("imports its compiler by itself")
def test_segmenting_imports_no_compiler(name: str, tmp_path: Path) -> None:
    """``torch._dynamo`` takes longer and more memory than all that is needed; so does sympy."""
    citysegzoo.create_model(name).save_pretrained(tmp_path)
    code = (
        "import citysegzoo, citysegzoo.inference as i, torch\n"
        f"model = citysegzoo.load({str(tmp_path)!r})\n"
        "image = torch.zeros(96, 128, 3, dtype=torch.uint8).numpy()\n"
        "model.segment(image)\n"
        "for precision in ('fp32', 'bf16'):\n"
        "    i.Segmenter(model, device='cpu', precision=precision)(image)\n"
        "    i.Segmenter(model, device='cpu', precision=precision, tile=64, flip=True)(image)\n"
    )
    # PyTorch's own max_unpool2d, which a SegNet calls, imports sympy.
    unwanted = {"torch._dynamo"} if "segnet" in name else {"torch._dynamo", "sympy"}
    assert not loaded_after(code) & unwanted


def test_data_is_imported_when_used() -> None:
    loaded = loaded_after(
        "import citysegzoo.data; citysegzoo.data.CITYSCAPES_19\n"
        "import sys; late = {'PIL', 'citysegzoo.data.samples', 'citysegzoo.data.streets'}\n"
        "assert not late & set(sys.modules)\n"
        "from citysegzoo.data import draw_streets"
    )
    assert "citysegzoo.data.streets" in loaded
    for name in citysegzoo.data.__all__:
        assert getattr(citysegzoo.data, name) is not None
        assert name in dir(citysegzoo.data)
    assert citysegzoo.data.camvid.CamVid is citysegzoo.data.CamVid
    with pytest.raises(AttributeError, match="no attribute 'CamVit'"):
        citysegzoo.data.CamVit  # noqa: B018


def test_every_public_name_is_there() -> None:
    for name in citysegzoo.__all__:
        assert getattr(citysegzoo, name) is not None
        assert name in dir(citysegzoo)


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'creat_model'"):
        citysegzoo.creat_model  # noqa: B018


def test_what_needs_no_model_imports_none() -> None:
    """As docs/architecture.md has it."""
    parts = "data.samples images losses metrics recipe reports training.muon weights"
    program = "import sys\n" + "\n".join(f"import citysegzoo.{part}" for part in parts.split())
    program += "\nprint('citysegzoo.model' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
