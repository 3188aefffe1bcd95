"""Completion: the scripts name all that the parser knows, and a real shell completes with them."""

import argparse
import shutil
import subprocess

import pytest

from netpress.cli import _parser, main
from netpress.completion import SHELLS, script, verbs
from netpress.errors import RecipeError


def bash(*words: str) -> list[str]:
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    code = f"{script('bash', _parser())}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _netpress\n"
    code += 'printf "%s\\n" "${COMPREPLY[@]}"\n'
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["netpress", "do"], ["doctor"]),
        (["netpress", "re"], ["report", "reproduce"]),
        (["netpress", "--v"], ["--version"]),
        (["netpress", "run", "demo", "--device", "c"], ["cpu", "cuda"]),
        (["netpress", "run", "demo", "--device", ""], ["cpu", "cuda", "mps", "auto"]),
        (["netpress", "compress", "lenet5", "--max-l"], ["--max-latency"]),
        (["netpress", "list", "m"], ["models", "methods"]),
        (["netpress", "completion", ""], ["bash", "zsh", "fish"]),
        (["netpress", "inspect", "--"], ["--help", "--json"]),
        (["netpress", "inspect", ""], []),  # names of files, by bash itself
        (["netpress", "run", "demo", "--out", "m"], []),
        (["netpress", "nonsense", ""], []),
    ],
    ids=" ".join,
)
def test_bash_completes(words, offered):
    assert bash(*words) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_every_verb_and_flag_is_there(shell, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    known = verbs(_parser())
    assert len(known) > 15
    for verb in known:
        assert verb.name in text
        flags = [flag for option in verb.options for flag in option.flags if flag.startswith("--")]
        assert len(flags) >= 1
        assert all((f"-l {flag[2:]}" if shell == "fish" else flag) in text for flag in flags)
    assert "%%" not in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("shell", SHELLS)
def test_quotes_and_brackets_of_a_help_text_do_no_harm(shell):
    parser = argparse.ArgumentParser(prog="my-tool")
    say = parser.add_subparsers().add_parser("say", help="Say it's [done]: $(touch bad) `x`")
    say.add_argument("--it", help="user's [a:b] \\ 10%%", action="append")
    text = script(shell, parser)
    assert "my-tool" in text
    if shell == "zsh":
        assert "'--it" not in text
        assert "'*--it[user'\\''s \\[a\\:b\\] \\\\ 10%]:value:_files'" in text
    if shell == "fish":
        assert "-l it -r -d 'user\\'s [a:b] \\\\ 10%'" in text
    if shell == "bash":
        assert "touch" not in text


def test_another_shell_is_refused():
    with pytest.raises(RecipeError, match="expected one of bash, zsh, fish"):
        script("tcsh", _parser())
