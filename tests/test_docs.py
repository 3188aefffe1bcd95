"""The pages say what the code has and what the benchmarks printed."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import netpress
from netpress import methods
from netpress.budget import Budget
from netpress.search.plan import Plan
from netpress.search.samplers import names
from netpress.train.settings import Training

ROOT = Path(__file__).parent.parent


def test_the_pages_hold_what_the_benchmarks_printed():
    words = [sys.executable, str(ROOT / "benchmarks" / "publish.py"), "--check"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_key_of_a_recipe_is_explained():
    page = (ROOT / "docs" / "recipes.md").read_text()
    keys = {*Training.model_fields, *Budget.model_fields, *methods.available()}
    keys |= {f.name for kind in methods.available().values() for f in dataclasses.fields(kind)}
    assert len(keys) > 25
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def test_every_key_of_a_plan_and_every_sampler_is_explained():
    page = (ROOT / "docs" / "search.md").read_text()
    assert [key for key in (*Plan.model_fields, *names()) if f"`{key}`" not in page] == []


def test_the_recipe_of_the_page_is_right(tmp_path):
    from netpress.recipe import read

    text = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text(), re.DOTALL)[1]
    (tmp_path / "mine.toml").write_text(text)
    assert [s.name for s in read(tmp_path / "mine.toml").steps()] == [
        "01-weight_prune",
        "02-weight_prune",
        "03-weight_share",
    ]


def test_every_public_name_has_a_text():
    assert len(netpress.__all__) <= 15
    assert [name for name in netpress.__all__ if not getattr(netpress, name).__doc__] == []


def test_pages_name_files_that_exist():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"`((?:docs|benchmarks|tests|netpress)/[\w/.-]+\.\w+)`", page.read_text()):
            assert "NNNN" in name or (ROOT / name).exists(), f"{page.name} names {name}"


def test_the_example_runs(tmp_path):
    words = [sys.executable, str(ROOT / "examples" / "own_network.py"), "--out", str(tmp_path / "own"), "--epochs", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the runtime names the same classes: True" in done.stdout
