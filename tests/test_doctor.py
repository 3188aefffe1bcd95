"""`netpress doctor` and `netpress` alone: what is said of a whole, a bare, a half and a broken installation."""

import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from netpress import data, doctor, welcome
from netpress.cli import main
from netpress.data.present import present

ROOT = Path(__file__).parent.parent


def without(*packages: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the command line where some packages cannot be imported."""
    script = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name.split('.')[0] in {packages!r}:\n"
        "            raise ModuleNotFoundError('no', name=name.split('.')[0])\n"
        "sys.meta_path.insert(0, Block())\n"
        "from netpress.cli import main\n"
        f"sys.exit(main({words!r}))\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


NOT_BARE = tuple(p.imported for p in doctor.PACKAGES if p.extra != "")


def test_every_package_of_the_extras_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"": project["dependencies"], **project["optional-dependencies"]}
    named = {
        (re.split(r"[\[>=]", line)[0], line.rpartition(">=")[2], extra)
        for extra, lines in wanted.items()
        for line in lines
        if extra not in ("dev", "docs")
    }
    assert len(named) > 20
    assert {(p.name, p.minimum, p.extra) for p in doctor.PACKAGES if p.extra is not None} == named
    assert all(p.what for p in doctor.PACKAGES)


def test_a_whole_installation(capsys):
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    import onnxruntime
    import torch

    assert facts["torch"]["version"] == torch.__version__
    assert facts["torch"]["threads"] == torch.get_num_threads()
    assert facts["runtime"]["version"] == onnxruntime.__version__
    assert "CPU" in facts["runtime"]["providers"]
    assert facts["processor"]["cores"] >= 1
    assert facts["processor"]["weight_bits"] == (8 if facts["processor"]["integers"] else 7)
    assert facts["problems"] == []
    assert [row["version"] for row in facts["packages"] if row["name"] == "torch"] == [
        importlib.metadata.version("torch")
    ]


def test_without_pytorch_it_says_what_works_and_what_to_install(capsys):
    done = without(*NOT_BARE, words=["doctor", "--json"])
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert (facts["torch"], facts["numba"], facts["data"], facts["problems"]) == (None, None, None, [])
    assert facts["runtime"]["version"]
    assert {row["name"] for row in facts["packages"] if row["installed"]} == {"numpy", "onnxruntime"}
    words = doctor.text(facts)
    assert "to compress, too: pip install 'netpress[compress]'" in " ".join(words.split())
    assert "not installed: pip install 'netpress[wandb]'\n  wandb             --tracker wandb" in words
    assert words.count("not installed: pip install 'netpress[compress]'") == 1


def test_half_an_installation_is_broken():
    done = without("pydantic", "numba", words=["doctor"])
    assert (done.returncode, done.stderr) == (1, "")
    assert "BROKEN  pydantic is missing (recipes): pip install 'netpress[compress]'" in done.stdout
    assert "numba is missing" not in done.stdout  # all works without it
    assert "all that is needed works" not in done.stdout


def test_a_package_that_is_too_old_is_broken(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "version", lambda name: "0.59.1" if name == "numba" else "99")
    assert main(["doctor"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "BROKEN numba 0.59.1 is older than 0.61: pip install -U 'netpress[compress]'" in out


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_a_package_that_breaks_when_imported_is_one_line(monkeypatch, capsys, name):
    real = importlib.import_module

    def broken(module):
        if module == name:
            raise OSError("libgomp.so.1: cannot open\nshared object file")
        return real(module)

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    assert main(["doctor", "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["problems"] == [
        f"{name} is installed but broken: OSError: libgomp.so.1: cannot open shared object file; install it again"
    ]
    assert facts["torch" if name == "torch" else "runtime"] is None
    assert f"BROKEN  {name}" in doctor.text(facts)


def test_a_processor_without_exact_products(monkeypatch):
    monkeypatch.setattr(doctor, "integer_instructions", lambda: ())
    facts = doctor.examine()
    assert facts["processor"]["weight_bits"] == 7
    assert "so weights get 7 bits" in " ".join(doctor.text(facts).split())


def test_it_reads_well_in_80_columns(monkeypatch):
    monkeypatch.setenv("NETPRESS_DATA", "sets")
    assert max(map(len, doctor.text(doctor.examine()).splitlines())) <= 80
    assert max(map(len, welcome.WELCOME.splitlines())) <= 80


def test_memory_is_what_the_system_says():
    found = doctor.memory()
    assert found["total_bytes"] is None or found["total_bytes"] > 1 << 28
    assert found["free_bytes"] is None or 0 < found["free_bytes"] <= found["total_bytes"]


# --- data sets ---


def test_sets_are_whole_or_not_there(tmp_path, monkeypatch):
    assert tuple(present(tmp_path)) == data.names()
    assert {name for name, whole in present(tmp_path).items() if whole} == {"digits"}
    parts = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    (tmp_path / "mnist").mkdir()
    for name in parts[:3]:
        (tmp_path / "mnist" / name).touch()
    (tmp_path / "mnist" / f"{parts[3]}.part").touch()  # a download that broke off
    assert not present(tmp_path)["mnist"]
    (tmp_path / "mnist" / parts[3]).touch()
    assert present(tmp_path)["mnist"]
    assert not present(tmp_path)["fashion_mnist"]
    (tmp_path / "cifar-10").mkdir()
    (tmp_path / "cifar-10" / "cifar-10-binary.tar.gz").write_bytes(b"cut")
    assert not present(tmp_path)["cifar10"]
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        (tmp_path / "cifar-10" / name).touch()
    assert present(tmp_path)["cifar10"]
    (tmp_path / "tiny-imagenet-200" / "train").mkdir(parents=True)
    assert present(tmp_path)["tiny_imagenet"]
    monkeypatch.setenv("NETPRESS_DATA", str(tmp_path))
    facts = doctor.examine()
    assert facts["data"]["root"] == str(tmp_path)
    assert "not there   fashion_mnist" in doctor.text(facts)


def test_a_set_that_it_calls_whole_opens(data_root):
    if not present(data_root)["mnist"]:
        pytest.skip("no MNIST in the data root")
    assert len(data.open("mnist", data_root).test) == 10_000


# --- netpress alone ---


def test_alone_it_greets_and_names_commands_that_exist(capsys):
    assert main([]) == 0
    streams = capsys.readouterr()
    assert streams.err == ""
    named = re.findall(r"^  netpress (\w+)", streams.out, re.MULTILINE)
    assert named[:3] == ["doctor", "demo", "compress"]
    for verb in named[:3]:
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--help"])
        assert stopped.value.code == 0
    for page in re.findall(r"docs/[\w-]+\.md", streams.out):
        assert (ROOT / page).is_file()


def test_alone_it_needs_nothing_but_itself():
    done = without(*NOT_BARE, words=[])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == welcome.WELCOME


@pytest.mark.parametrize("verb", ["", "compress", "diff", "doctor", "bench"])
def test_help_fits_80_columns(monkeypatch, capsys, verb):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*verb.split(), "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    alone = [line for line in lines if re.fullmatch(r"    [a-z]+", line)]
    assert alone == []  # every verb's words begin beside it
