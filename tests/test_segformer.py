"""SegFormer: the network of transformers, read from its own files."""

import re
from pathlib import Path

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
import transformers

import citysegzoo
from citysegzoo.encoders import create_encoder, pretrained
from citysegzoo.encoders.mit import SIZES, DropPath
from citysegzoo.weights import load_weights
from citysegzoo.weights.readers.segformer import (
    from_transformers_segformer,
    segformer_variant,
)

# Counted on transformers' network with 19 classes.
PARAMETERS = (3_719_027, 13_682_131, 27_361_235, 47_237_075, 64_007_635, 84_607_955)


def transformers_segformer(size: str) -> transformers.SegformerForSemanticSegmentation:
    widths, depths = SIZES[size]
    config = transformers.SegformerConfig(
        hidden_sizes=widths,
        depths=depths,
        decoder_hidden_size=256 if size in ("b0", "b1") else 768,
        num_labels=19,
    )
    return transformers.SegformerForSemanticSegmentation(config).eval()


@torch.no_grad()
def randomised(size: str) -> transformers.SegformerForSemanticSegmentation:
    """With norms and biases that matter, or they could be swapped unnoticed."""
    torch.manual_seed(0)
    model = transformers_segformer(size)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.2)
    model.decode_head.batch_norm.running_mean.normal_(0, 0.2)
    model.decode_head.batch_norm.running_var.uniform_(0.5, 1.5)
    return model


@torch.no_grad()
@pytest.mark.parametrize("size", ["b0", "b2"])
def test_segformer_is_transformers(size: str, tmp_path: Path) -> None:
    """From the file transformers writes, with the names of NVIDIA's, and from its state dict."""
    theirs = randomised(size)
    theirs.save_pretrained(tmp_path)
    file = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in file
    newer = "segformer.stages.0.blocks.0.attention.q_proj.weight"  # of transformers' own modules
    assert (newer in theirs.state_dict()) == (file.keys() != theirs.state_dict().keys())
    assert segformer_variant(file) == segformer_variant(theirs.state_dict()) == f"segformer_{size}"

    ours = citysegzoo.create_model(f"segformer_{size}").eval()
    load_weights(ours, from_transformers_segformer(theirs.state_dict()), source="transformers")
    present = {name: value.clone() for name, value in ours.state_dict().items()}
    load_weights(ours, from_transformers_segformer(file), source="transformers")
    assert all(torch.equal(value, present[name]) for name, value in ours.state_dict().items())

    for height, width in ((64, 128), (97, 131)):
        images = torch.randn(2, 3, height, width)
        coarse = theirs(images).logits
        assert ours.encoder(images)[0].shape[-2:] == coarse.shape[-2:]
        expected = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
        assert expected.std() > 0.02
        assert (ours(images) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("size", "count"), [*zip(SIZES, PARAMETERS, strict=True)])
def test_parameter_counts_are_transformers(size: str, count: int) -> None:
    with torch.device("meta"):
        theirs = transformers_segformer(size)
        ours = citysegzoo.create_model(f"segformer_{size}")
    weights = from_transformers_segformer(theirs.state_dict())
    assert {k: v.shape for k, v in weights.items()} == {
        k: v.shape for k, v in ours.state_dict().items()
    }
    assert segformer_variant(theirs.state_dict()) == f"segformer_{size}"
    assert sum(p.numel() for p in theirs.parameters()) == count
    assert sum(p.numel() for p in ours.parameters()) == count


@pytest.mark.parametrize(
    "key",
    [
        "segformer.encoder.block.0.0.attention.self.relative_position",
        "segformer.encoder.block.0.0.mlp.dense3.weight",
        "segformer.encoder.block.0.blocks.0.mlp.dense1.weight",
        "segformer.stages.0.0.mlp.fc1.weight",
        "decode_head.linear_c.0.proj.scale",
        "decode_head.classifier2.weight",
        "classifier.weight",  # of the network that classifies images
        "",
    ],
)
def test_reader_refuses_other_keys(key: str) -> None:
    for read in (from_transformers_segformer, segformer_variant):
        with pytest.raises(ValueError, match=f"'{key}' is no weight of transformers' Segformer"):
            read({key: torch.zeros(1)})


def test_reader_refuses_both_names_of_one_weight() -> None:
    key = "decode_head.{}.0.proj.bias"
    both = {key.format(name): torch.zeros(1) for name in ("linear_c", "linear_projections")}
    with pytest.raises(ValueError, match=r"are both the weight 'decoder.linears.0.bias'"):
        from_transformers_segformer(both)


def test_other_stages_are_no_variant() -> None:
    with torch.device("meta"):
        weights = transformers_segformer("b2").state_dict()
    shallower = {
        k: v for k, v in weights.items() if not re.search(r"(stages\.2\.blocks|block\.2)\.5\.", k)
    }
    with pytest.raises(ValueError, match=r"no SegFormer B0 to B5 has .* depths \[3, 4, 5, 3\]"):
        segformer_variant(shallower)
    with pytest.raises(ValueError, match=r"widths \[0, 0, 0, 0\]"):
        segformer_variant({})


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 101)])
def test_odd_sizes_learn(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = citysegzoo.create_model("segformer_b0", drop_path_rate=0, dropout=0)
    images = torch.randn(1, 3, *size)
    features = model.encoder(images)
    for feature, channels, stride in zip(
        features, model.encoder.channels, model.encoder.strides, strict=True
    ):
        height, width = (-(-side // stride) for side in size)
        assert feature.shape == (1, channels, height, width)
    logits = model(images)
    assert logits.shape == (1, 19, *size)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_drop_path_drops_whole_images() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 1, 2, 3)
    dropped = drop(x)
    kept = dropped[:, 0, 0, 0] > 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(dropped[kept], x[kept] / 0.75)
    assert not dropped[~kept].any()
    assert torch.equal(drop.eval()(x), x)
    assert not DropPath(1.0)(x).any()


def test_drop_path_rises_linearly_and_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("mit_b0", drop_path_rate=0.7)
    rates = [block.drop_path.rate for stage in encoder.stages for block in stage.blocks]
    assert rates == pytest.approx([0.1 * i for i in range(8)])
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        first, second = encoder.train()(images)[-1], encoder(images)[-1]
        assert not torch.equal(first, second)
        first, second = encoder.eval()(images)[-1], encoder(images)[-1]
        assert torch.equal(first, second)


def test_weights_are_drawn_as_in_the_papers_code() -> None:
    torch.manual_seed(0)
    model = citysegzoo.create_model("segformer_b1")
    state = model.state_dict()
    for name, spread in {
        "encoder.stages.3.blocks.0.ffn.expand.weight": 0.02,
        "encoder.stages.3.embed.weight": (2 / (9 * 512)) ** 0.5,
        "encoder.stages.3.blocks.0.ffn.depthwise.weight": (2 / 9) ** 0.5,
        "decoder.fuse.conv.weight": (2 / 256) ** 0.5,
    }.items():
        assert state[name].std().item() == pytest.approx(spread, rel=0.05), name
    biases = [v for k, v in state.items() if k.startswith("encoder.") and k.endswith(".bias")]
    assert not any(bias.any() for bias in biases)


def test_options_reach_the_parts() -> None:
    with torch.device("meta"):
        model = citysegzoo.create_model(
            "segformer_b1", decoder_width=32, encoder_dropout=0.3, dropout=0.2, in_channels=4
        )
        default = citysegzoo.create_model("segformer_b3")
    assert model.decoder.channels == 32
    assert not model.align_corners
    assert model.decoder.fuse.drop.p == 0.2
    assert {block.ffn.drop.p for stage in model.encoder.stages for block in stage.blocks} == {0.3}
    assert model.encoder.stages[0].embed.in_channels == 4
    assert (default.decoder.channels, default.decoder.stride) == (768, 4)


@torch.no_grad()
def test_aligned_corners_are_of_the_logits_alone() -> None:
    torch.manual_seed(0)
    model = citysegzoo.create_model("segformer_b0", align_corners=True).eval()
    images = torch.randn(1, 3, 64, 96)
    features = model.encoder(images)
    coarse = model.classifier(model.decoder(features))
    expected = F.interpolate(coarse, (64, 96), mode="bilinear", align_corners=True)
    torch.testing.assert_close(model(images), expected, rtol=0, atol=0)
    plain = citysegzoo.create_model("segformer_b0").eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.decoder(features), model.decoder(features))
    assert not torch.allclose(plain(images), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["drop_path_rate", "encoder_dropout", "dropout"])
def test_unusable_rates(name: str) -> None:
    with pytest.raises(ValueError, match="must be from 0 to 1, not 2"):
        citysegzoo.create_model("segformer_b0", **{name: 2})


@torch.no_grad()
def smp_encoder(size: str) -> torch.nn.Module:
    """smp's Mix Transformer, with norms and biases that matter."""
    torch.manual_seed(0)
    encoder = smp.encoders.get_encoder(f"mit_{size}").eval()
    for name, parameter in encoder.named_parameters():
        if parameter.ndim == 1:
            parameter.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.2)
    return encoder


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file that is fetched."""
    file = tmp_path / "model.safetensors"
    monkeypatch.setattr(pretrained, "fetch", lambda *_, **__: file)
    return file


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*not for commercial use")
@pytest.mark.parametrize("size", ["b0", pytest.param("b3", marks=pytest.mark.slow)])
def test_imagenet_weights_give_smps_features(size: str, published: Path) -> None:
    theirs = smp_encoder(size)
    head = {"head.weight": torch.ones(1000, SIZES[size][0][-1]), "head.bias": torch.ones(1000)}
    safetensors.torch.save_file({**theirs.state_dict(), **head}, published)
    model = citysegzoo.create_model(f"segformer_{size}", encoder_weights=True).eval()
    images = torch.randn(2, 3, 64, 96)
    for mine, expected in zip(model.encoder(images), theirs(images)[2:], strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*not for commercial use")
@pytest.mark.parametrize("channels", [1, 4, 7])
def test_imagenet_weights_for_other_channels_are_timms_way(channels: int, published: Path) -> None:
    theirs = smp_encoder("b0")
    safetensors.torch.save_file(theirs.state_dict(), published)
    model = citysegzoo.create_model("segformer_b0", in_channels=channels, encoder_weights=True)
    color = theirs.patch_embed1.proj.weight
    adapted = model.encoder.stages[0].embed.weight
    if channels == 1:
        assert torch.equal(adapted, color.sum(1, keepdim=True))
    else:
        assert torch.equal(adapted, color[:, [i % 3 for i in range(channels)]] * (3 / channels))


def test_imagenet_weights_are_where_smp_has_them() -> None:
    """Repositories and commits; smp knows them, and the zoo says its own."""
    for size in SIZES:
        settings = smp.encoders.encoders[f"mit_{size}"]["pretrained_settings"]["imagenet"]
        tag = create_encoder(f"mit_{size}").pretrained_tag
        assert settings["repo_id"] == f"smp-hub/{tag}"
        assert settings["revision"] == pretrained._SMP_COMMITS[tag]


def test_other_imagenet_weights(published: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="no ImageNet weights 'mit_b0.imagenet22k' .* but mit_b0.imag"
    ):
        citysegzoo.create_model("segformer_b0", encoder_weights="mit_b0.imagenet22k")
    state = smp_encoder("b0").state_dict()
    first = state["patch_embed1.proj.weight"].clone()
    left = {name: value for name, value in state.items() if "block4" not in name}
    safetensors.torch.save_file({**state, "more.weight": first}, published)
    with pytest.raises(ValueError, match="'encoder.more.weight' is no weight of smp's Mix Tran"):
        citysegzoo.create_model("segformer_b0", encoder_weights=True)
    for wrong in (left, {"norm1.weight": first}):
        safetensors.torch.save_file(wrong, published)
        with pytest.raises(ValueError, match="are of another network than MiTEncoder .*; take 'm"):
            citysegzoo.create_model("segformer_b0", encoder_weights=True)
    safetensors.torch.save_file(state, published)
    with pytest.raises(ValueError, match=r"'mit_b0.imagenet' are of .* takes 'mit_b1.imagenet'"):
        citysegzoo.create_model("segformer_b1", encoder_weights="mit_b0.imagenet")
    with pytest.warns(UserWarning, match="terms of their own .NVIDIA .*, not for commercial use"):
        model = citysegzoo.create_model("segformer_b0", encoder_weights=True)
    assert model.card["source"].startswith("ImageNet weights of the encoder: mit_b0.imagenet of sm")
    assert model.card["licence"].endswith(
        "not for commercial use: the terms of the encoder's weights"
    )
    readme = (model.save_pretrained(tmp_path / "saved") / "README.md").read_text()
    assert "license_name: nvidia-source-code-license-for-segformer" in readme
