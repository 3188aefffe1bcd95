"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
import torch

# torchvision's wheel has compiled operators that do not load beside a CPU-only PyTorch; its models need none of them,
# but its import asks for the schemas of these two.
OPERATORS = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets: NETPRESS_DATA, else ../shared/data beside the checkout; without one, skip."""
    named = os.environ.get("NETPRESS_DATA")
    root = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"no data folder at {root}; set NETPRESS_DATA")
    return root
