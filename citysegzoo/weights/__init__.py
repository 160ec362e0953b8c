"""Trained weights: what exists, reading and writing them."""

from citysegzoo.weights.checkpoint import load_checkpoint, load_weights, save_checkpoint
from citysegzoo.weights.readers import from_torchvision_deeplabv3
from citysegzoo.weights.records import RECORDS, WeightsRecord, find_record, list_records

__all__ = [
    "RECORDS",
    "WeightsRecord",
    "find_record",
    "from_torchvision_deeplabv3",
    "list_records",
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
]
