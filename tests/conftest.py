"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets: NETPRESS_DATA, else ../shared/data beside the checkout; without one, skip."""
    named = os.environ.get("NETPRESS_DATA")
    root = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"no data folder at {root}; set NETPRESS_DATA")
    return root
