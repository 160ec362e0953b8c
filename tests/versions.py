"""What the oldest PyTorch that the package allows does otherwise."""

import pytest
import torch

TORCH_2_6 = torch.__version__.startswith("2.6.")


def not_on_torch_2_6(reason: str) -> pytest.MarkDecorator:
    """Leave a test out there, for a reason that is PyTorch's."""
    return pytest.mark.skipif(TORCH_2_6, reason=f"PyTorch 2.6 {reason}")
