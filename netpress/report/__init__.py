"""HTML reports from run folders only; nothing is computed again."""

from pathlib import Path


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder."""
    return folder / "report.html"
