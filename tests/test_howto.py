"""From a folder of images and a model.py to a compressed network, by the commands of the page and nothing else."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAGE = Path(__file__).parent.parent / "docs" / "howto" / "own-network.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def photos(folder: Path) -> None:
    """Three classes of noisy pictures of 40 x 48 pixels that differ in their colour."""
    drawn = np.random.default_rng(0)
    for channel, name in enumerate(("bird", "cat", "dog")):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            pixels = drawn.integers(0, 120, (40, 48, 3)).astype(np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def shell(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words = ["bash", "-euo", "pipefail", "-c", command]
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_commands_of_the_page_compress_a_network_of_ones_own(tmp_path):
    photos(tmp_path / "photos")
    python, commands = blocks("python"), blocks("bash")
    (tmp_path / "model.py").write_text(python[0])
    said = [shell(command, tmp_path) for command in commands]
    assert len(said) == 4
    assert "features.0" in said[0]
    found = json.loads((tmp_path / "runs" / "mine" / "search.json").read_text())
    assert found["verdict"] == "met"
    assert [row["error"] for row in found["rows"] if row.get("error")] == []
    assert (tmp_path / "runs" / "mine" / "model.press").stat().st_size < 15_000  # 5,235 float32 parameters before
    assert "removed filters" in said[2]
    assert "batch 1" in said[3]
    shell(f"{sys.executable} -c '{python[1]}assert small.features[0].out_channels < 16'", tmp_path)


def test_the_page_names_what_the_test_runs():
    text = "\n".join(blocks("bash"))
    assert all(f"netpress {verb} " in text for verb in ("measure", "show", "compress", "inspect", "bench"))
    assert "model.py" in blocks("python")[0]
