"""Checkpoints of the SegFormers of Hugging Face's transformers, NVIDIA's published ones among them.

Transformers 5 renamed the layers of the encoder, but still writes files with the older names; both
are read.
"""

from __future__ import annotations

import re

from torch import Tensor

from citysegzoo.encoders.mit import SIZES
from citysegzoo.weights.readers._common import (
    StateDict,
    Suggestion,
    layer_rules,
    rename,
    suggest,
)

# Stage (group 1 in the older names, 2 in the present ones) and block (3).
_EMBED = r"segformer\.(?:encoder\.patch_embeddings\.(\d+)|stages\.(\d+)\.patch_embeddings)\."
_BLOCK = r"segformer\.(?:encoder\.block\.(\d+)|stages\.(\d+)\.blocks)\.(\d+)\."
_NORM = r"segformer\.(?:encoder\.layer_norm\.(\d+)|stages\.(\d+)\.layer_norm)"
_OUR_STAGE = r"encoder.stages.\1\2."
_OUR_BLOCK = r"encoder.stages.\1\2.blocks.\3."

# From transformers' names of whole layers, older|present, to ours.
_LAYERS = (
    (_EMBED + r"proj", _OUR_STAGE + "embed"),
    (_EMBED + r"layer_norm", _OUR_STAGE + "embed_norm"),
    (_BLOCK + r"(?:layer_norm_1|layernorm_before)", _OUR_BLOCK + "norm1"),
    (_BLOCK + r"attention\.(?:self\.query|q_proj)", _OUR_BLOCK + "attention.query"),
    (_BLOCK + r"attention\.(?:self\.key|k_proj)", _OUR_BLOCK + "attention.key"),
    (_BLOCK + r"attention\.(?:self\.value|v_proj)", _OUR_BLOCK + "attention.value"),
    (
        _BLOCK + r"attention\.(?:self\.sr|sequence_reduction\.sequence_reduction)",
        _OUR_BLOCK + "attention.reduce",
    ),
    (
        _BLOCK + r"attention\.(?:self|sequence_reduction)\.layer_norm",
        _OUR_BLOCK + "attention.reduce_norm",
    ),
    (_BLOCK + r"attention\.(?:output\.dense|o_proj)", _OUR_BLOCK + "attention.project"),
    (_BLOCK + r"(?:layer_norm_2|layernorm_after)", _OUR_BLOCK + "norm2"),
    (_BLOCK + r"mlp\.(?:dense1|fc1)", _OUR_BLOCK + "ffn.expand"),
    (_BLOCK + r"mlp\.dwconv\.dwconv", _OUR_BLOCK + "ffn.depthwise"),
    (_BLOCK + r"mlp\.(?:dense2|fc2)", _OUR_BLOCK + "ffn.contract"),
    (_NORM, _OUR_STAGE + "norm"),
    (r"decode_head\.(?:linear_c|linear_projections)\.(\d+)\.proj", r"decoder.linears.\1"),
    (r"decode_head\.linear_fuse", "decoder.fuse.conv"),
    (r"decode_head\.batch_norm", "decoder.fuse.norm"),
    (r"decode_head\.classifier", "classifier.conv"),
)
_RULES = layer_rules(_LAYERS)
_LINEAR = r"decoder\.linears\.\d+\.weight"


def from_transformers_segformer(state_dict: StateDict) -> dict[str, Tensor]:
    """Weights of transformers' ``SegformerForSemanticSegmentation`` under our names.

    Args:
        state_dict: ``state_dict()`` of that model, or what its file holds.

    Returns:
        A state dict for ``create_model("segformer_b0")`` or another size, see
        :func:`segformer_variant`.

    Raises:
        ValueError: If a key is not one of that network's, or two are the same weight.
    """
    result = rename(state_dict, _RULES, source="transformers' SegformerForSemanticSegmentation")
    return convolve_linears(result)


def segformer_variant(state_dict: StateDict) -> str:
    """Which SegFormer a state dict of transformers is of, told by its widths and depths.

    Args:
        state_dict: ``state_dict()`` of a ``SegformerForSemanticSegmentation``, or what its file
            holds.

    Returns:
        ``"segformer_b0"`` to ``"segformer_b5"``.

    Raises:
        ValueError: If a key is not one of that network's, or no SegFormer has those stages.
    """
    return variant_of(from_transformers_segformer(state_dict))


def matches_segformer(state_dict: StateDict) -> bool:
    """Whether the keys are of transformers' SegFormer with its decoder."""
    return all(
        any(key.startswith(part) for key in state_dict) for part in ("segformer.", "decode_head.")
    )


def suggest_segformer(state_dict: StateDict) -> Suggestion:
    """The zoo's network for transformers' SegFormer.

    Raises:
        ValueError: As :func:`from_transformers_segformer` does, or if no SegFormer has those
            stages.
    """
    ours = from_transformers_segformer(state_dict)
    return suggest(
        variant_of(ours),
        {},
        ours,
        first="encoder.stages.0.embed.weight",
        classifier="classifier.conv.weight",
    )


def variant_of(weights: StateDict) -> str:
    """Which SegFormer weights are of that have our names already.

    Raises:
        ValueError: If no SegFormer has stages of those widths and depths.
    """
    widths, depths = [], []
    for stage in range(4):
        embed = weights.get(f"encoder.stages.{stage}.embed.weight")
        widths.append(embed.shape[0] if embed is not None and embed.ndim else 0)
        blocks = (re.match(rf"encoder\.stages\.{stage}\.blocks\.(\d+)\.", key) for key in weights)
        depths.append(len({block[1] for block in blocks if block}))
    for size, stages in SIZES.items():
        if stages == (tuple(widths), tuple(depths)):
            return f"segformer_{size}"
    raise ValueError(f"no SegFormer B0 to B5 has stages of widths {widths} and depths {depths}.")


def convolve_linears(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's layers as convolutions: linear ones in other libraries, 1x1 ones here."""
    return {
        name: value[..., None, None] if re.fullmatch(_LINEAR, name) else value
        for name, value in weights.items()
    }
