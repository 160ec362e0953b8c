"""Trained weights: what exists, reading and writing them."""

from citysegzoo.weights.checkpoint import load_checkpoint, load_weights, save_checkpoint
from citysegzoo.weights.readers import (
    LAYOUTS,
    Layout,
    convert_state_dict,
    detect_layout,
    from_torchvision_deeplabv3,
    read_state_dict,
)
from citysegzoo.weights.records import RECORDS, WeightsRecord, find_record, list_records, lock

__all__ = [
    "LAYOUTS",
    "RECORDS",
    "Layout",
    "WeightsRecord",
    "convert_state_dict",
    "detect_layout",
    "find_record",
    "from_torchvision_deeplabv3",
    "list_records",
    "load_checkpoint",
    "load_weights",
    "lock",
    "read_state_dict",
    "save_checkpoint",
]
