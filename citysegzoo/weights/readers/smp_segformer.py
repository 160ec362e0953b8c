"""Checkpoints of segmentation-models-pytorch's (smp's) Segformer on a Mix Transformer.

smp numbers the stages from 1, keeps queries apart but keys and values in one layer, and names the
decoder's layers from the deepest feature. It enlarges the logits with aligned corners where the
paper's code does not, has no dropout in the decoder and is as narrow for B5 as for B0: options of
the zoo's network, which the suggestion names.

An ``upsampling`` other than smp's default of 4 and an activation after the logits leave no trace in
the weights; the zoo's logits have the image's size and no activation.
"""

from __future__ import annotations

import re

from torch import Tensor

from citysegzoo.weights.readers._common import (
    StateDict,
    Suggestion,
    layer_rules,
    rename,
    require,
    suggest,
)
from citysegzoo.weights.readers.segformer import convolve_linears, variant_of
from citysegzoo.weights.readers.smp import IGNORED


def _stage(number: int) -> tuple[tuple[str, str], ...]:
    """From smp's names of a stage's layers, the first of which is 1, to ours."""
    block, ours = rf"encoder\.block{number}\.(\d+)\.", f"encoder.stages.{number - 1}."
    our_block = rf"{ours}blocks.\1."
    return (
        (rf"encoder\.patch_embed{number}\.proj", f"{ours}embed"),
        (rf"encoder\.patch_embed{number}\.norm", f"{ours}embed_norm"),
        (rf"encoder\.norm{number}", f"{ours}norm"),
        (rf"{block}norm1", f"{our_block}norm1"),
        (rf"{block}attn\.q", f"{our_block}attention.query"),
        (rf"{block}attn\.kv", f"{our_block}attention.key_value"),
        (rf"{block}attn\.sr", f"{our_block}attention.reduce"),
        (rf"{block}attn\.norm", f"{our_block}attention.reduce_norm"),
        (rf"{block}attn\.proj", f"{our_block}attention.project"),
        (rf"{block}norm2", f"{our_block}norm2"),
        (rf"{block}mlp\.fc1", f"{our_block}ffn.expand"),
        (rf"{block}mlp\.dwconv\.dwconv", f"{our_block}ffn.depthwise"),
        (rf"{block}mlp\.fc2", f"{our_block}ffn.contract"),
        (rf"decoder\.mlp_stage\.{4 - number}\.linear", f"decoder.linears.{number - 1}"),
    )


_RULES = layer_rules(
    (
        *(layer for number in (1, 2, 3, 4) for layer in _stage(number)),
        (r"decoder\.fuse_stage\.0", "decoder.fuse.conv"),
        (r"decoder\.fuse_stage\.1", "decoder.fuse.norm"),
        (r"segmentation_head\.0", "classifier.conv"),
    )
)


def from_smp_segformer(state_dict: StateDict) -> dict[str, Tensor]:
    """Weights of smp's ``Segformer`` on ``mit_b0`` to ``mit_b5`` under our names.

    The logits are smp's on images whose sides are multiples of 32; it takes no others.

    Args:
        state_dict: ``state_dict()`` of smp's model; a classification head is left out.

    Returns:
        A state dict for ``create_model("segformer_b0", ...)`` or another size with the options of
        :func:`suggest_segformer`.

    Raises:
        ValueError: If a key is not one of that network's, or its encoder is another or cut short.
    """
    if not any(key.startswith("encoder.patch_embed1.") for key in state_dict):
        raise ValueError(
            "these weights are of smp's Segformer on another encoder than mit_b0 to mit_b5; "
            "citysegzoo has SegFormer on Mix Transformers alone."
        )
    matches = (re.match(r"decoder\.mlp_stage\.(\d+)\.", key) for key in state_dict)
    features = len({match[1] for match in matches if match})
    if features < 4:
        raise ValueError(
            f"these weights are of smp's Segformer with encoder_depth={features + 1}; citysegzoo "
            "has one with 5 alone."
        )
    weights = rename(state_dict, _RULES, source="smp's Segformer", ignored=IGNORED)
    return _split_keys_and_values(convolve_linears(weights))


def from_smp_mix_transformer(state_dict: StateDict) -> dict[str, Tensor]:
    """Weights of smp's encoders ``mit_b0`` to ``mit_b5`` under the names of ours.

    Args:
        state_dict: ``state_dict()`` of smp's encoder, or the ImageNet weights smp publishes for
            it, whose head is left out.

    Returns:
        A state dict for ``create_encoder("mit_b0")`` or another size.

    Raises:
        ValueError: If a key is not one of that encoder's.
    """
    inside = {f"encoder.{name}": value for name, value in state_dict.items()}
    ours = rename(inside, _RULES, source="smp's Mix Transformer", ignored=("encoder.head.",))
    weights = _split_keys_and_values(ours)
    return {name.removeprefix("encoder."): value for name, value in weights.items()}


def _split_keys_and_values(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    result = {}
    for name, value in weights.items():
        if ".key_value." in name:
            # Two parts of any weight at all: where they are of odd shapes, loading says so.
            keys, values = (value if value.ndim else value[None]).tensor_split(2)
            result[name.replace(".key_value.", ".key.")] = keys
            result[name.replace(".key_value.", ".value.")] = values
        else:
            result[name] = value
    return result


def matches_segformer(state_dict: StateDict) -> bool:
    """Whether the keys are of smp's Segformer, on whatever encoder."""
    return all(
        any(key.startswith(part) for key in state_dict)
        for part in ("encoder.", "decoder.mlp_stage.", "segmentation_head.")
    )


def suggest_segformer(state_dict: StateDict) -> Suggestion:
    """The zoo's network for smp's Segformer.

    Raises:
        ValueError: As :func:`from_smp_segformer` does, if no SegFormer has those stages, or if
            weights that tell the network are missing.
    """
    weights = from_smp_segformer(state_dict)
    embeds = {f"encoder.patch_embed{stage}.proj.weight": 4 for stage in (1, 2, 3, 4)}
    require(state_dict, {**embeds, "decoder.fuse_stage.0.weight": 4})
    options = {
        "decoder_width": state_dict["decoder.fuse_stage.0.weight"].shape[0],
        "dropout": 0.0,
        "align_corners": True,
    }
    return suggest(
        variant_of(weights),
        options,
        state_dict,
        first="encoder.patch_embed1.proj.weight",
        classifier="segmentation_head.0.weight",
    )
