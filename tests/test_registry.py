"""Names and options: registering, looking up, and what a wrong one says."""

from functools import partial

import pytest
from torch import nn

import citysegzoo
from citysegzoo.registry import Registry, check_options, natural_sorted


def build_something(*, width: int = 8, rates: tuple[int, ...] = (1, 2)) -> nn.Module:
    return nn.Conv2d(3, width, len(rates))


@pytest.fixture
def registry() -> Registry:
    registry: Registry = Registry("thing")
    registry.register("first_thing")(build_something)
    return registry


def test_looks_up_what_was_registered(registry: Registry) -> None:
    assert registry["first_thing"] is build_something
    assert registry.names() == ["first_thing"]


def test_unknown_name_names_the_nearest(registry: Registry) -> None:
    with pytest.raises(ValueError, match="no thing 'frist_thing'; did you mean 'first_thing'"):
        registry["frist_thing"]


def test_unknown_name_lists_all_where_none_is_near(registry: Registry) -> None:
    with pytest.raises(ValueError, match="no thing 'xyz'; there are first_thing\\."):
        registry["xyz"]
    with pytest.raises(ValueError, match="no encoder 'tu-convnext_tiny'.*; timm's backbones are"):
        citysegzoo.compose("tu-convnext_tiny", "unet")


def test_duplicated_registration_raises(registry: Registry) -> None:
    def build_other(*, width: int = 8) -> nn.Module:
        return nn.Conv2d(3, width, 1)

    with pytest.raises(ValueError, match="another thing is registered as 'first_thing' already"):
        registry.register("first_thing")(build_other)
    with pytest.raises(ValueError, match="another thing is registered"):
        registry.register("first_thing")(partial(build_something, width=4))


def test_what_is_defined_anew_replaces_itself(registry: Registry) -> None:
    """As when a cell of a notebook is run again."""

    def build() -> None:
        @registry.register("thing")
        def mine(*, width: int = 8) -> nn.Module:
            return nn.Conv2d(3, width, 1)

    build()
    first = registry["thing"]
    build()
    assert registry["thing"] is not first


@pytest.mark.parametrize("name", ["", "Upper", "with.dot", "with space", "../up"])
def test_unusable_names_raise(registry: Registry, name: str) -> None:
    with pytest.raises(ValueError, match="is no name for a thing"):
        registry.register(name)


def test_unknown_option_names_the_nearest(registry: Registry) -> None:
    with pytest.raises(TypeError, match="no option 'rate'; did you mean 'rates'"):
        check_options("thing 'x'", build_something, {"rate": 1})
    with pytest.raises(TypeError, match="no option 'rate'"):
        registry.checked("first_thing", {"rate": 1})


def test_natural_order() -> None:
    assert natural_sorted(["resnet101", "resnet18", "b"]) == ["b", "resnet18", "resnet101"]
    assert natural_sorted(["1²2", "1"]) == ["1", "1²2"]


@pytest.mark.parametrize(
    ("register", "name"),
    [
        (citysegzoo.register_model, "unet"),
        (citysegzoo.register_encoder, "resnet50"),
        (citysegzoo.register_decoder, "aspp"),
    ],
)
def test_names_of_the_zoo_are_taken(register, name: str) -> None:
    with pytest.raises(ValueError, match="is registered as"):
        register(name)(build_something)


def test_model_builders_take_classes_and_channels() -> None:
    with pytest.raises(TypeError, match="'mine' needs a keyword-only parameter 'num_classes' with"):
        citysegzoo.register_model("mine")(build_something)
    assert "mine" not in citysegzoo.list_models()


def test_preprocessing_that_a_builder_sets_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from citysegzoo.registry import MODELS

    monkeypatch.setattr(MODELS, "_builders", dict(MODELS._builders))

    @citysegzoo.register_model("my_net")
    def my_net(*, num_classes: int = 6, in_channels: int = 3):
        """A network of my own."""
        model = citysegzoo.compose("strided_conv", "transposed", num_classes=num_classes)
        model.preprocessing = citysegzoo.data.UNIT_RANGE
        return model

    assert citysegzoo.create_model("my_net").preprocessing == citysegzoo.data.UNIT_RANGE


def test_a_model_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registering makes a model available by name, options checked like any other's."""
    from citysegzoo.registry import MODELS

    monkeypatch.setattr(MODELS, "_builders", dict(MODELS._builders))

    @citysegzoo.register_model("my_net")
    def my_net(*, num_classes: int = 6, in_channels: int = 3, width: int = 8):
        """A network of my own."""
        return citysegzoo.compose(
            "strided_conv",
            "transposed",
            num_classes=num_classes,
            in_channels=in_channels,
            encoder_options={"widths": (width, width)},
        )

    assert citysegzoo.create_model("my_net").preprocessing == citysegzoo.data.IMAGENET
    assert "my_net" in citysegzoo.list_models()
    assert citysegzoo.model_info("my_net").summary == "A network of my own."
    model = citysegzoo.create_model("my_net", width=4, num_classes=5)
    assert model.encoder.channels == (4, 4)
    assert model.num_classes == 5
    assert citysegzoo.create_model("my_net").num_classes == 6
    with pytest.raises(TypeError, match="'widht'; did you mean 'width'"):
        citysegzoo.create_model("my_net", widht=4)


def test_a_model_of_ones_own_that_forgets_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    from citysegzoo.registry import MODELS

    monkeypatch.setattr(MODELS, "_builders", dict(MODELS._builders))

    @citysegzoo.register_model("my_net")
    def my_net(*, num_classes: int = 6, in_channels: int = 3):
        """A network of my own."""
        return citysegzoo.compose("strided_conv", "transposed", num_classes=6)

    citysegzoo.create_model("my_net")
    with pytest.raises(ValueError, match="asked for 4 classes and built 6"):
        citysegzoo.create_model("my_net", num_classes=4)


def test_what_begins_a_family_brings_its_members_to_mind() -> None:
    near = "did you mean 'lraspp_mobilenet_v3_large' or 'lraspp_mobilenet_v3_small'"
    with pytest.raises(ValueError, match=f"no model 'lraspp'; {near}"):
        citysegzoo.create_model("lraspp")
    with pytest.raises(ValueError, match="'fpn'; did you mean 'fpn_resnet18' or 'fpn_resnet34'"):
        citysegzoo.create_model("fpn")
