"""Scripts that complete `netpress` in bash, zsh and fish, made from the tree of its parser; no package is needed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass

from netpress.errors import RecipeError

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a verb.

    Attributes:
        flags: all its spellings.
        what: it does, in one line.
        takes: whether a value follows.
        choices: the values; empty where any is right.
        again: whether it may stand twice.
    """

    flags: tuple[str, ...]
    what: str
    takes: bool
    choices: tuple[str, ...] = ()
    again: bool = False


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb: its options, and the values that its positional words may have where they are a choice."""

    name: str
    what: str
    options: tuple[Option, ...]
    words: tuple[str, ...]


def verbs(parser: argparse.ArgumentParser) -> list[Verb]:
    """The verbs of a parser with subcommands.

    >>> parser = argparse.ArgumentParser()
    >>> say = parser.add_subparsers().add_parser("say", help="Say a word.")
    >>> _ = say.add_argument("word", choices=["yes", "no"])
    >>> [(verb.name, verb.what, verb.words) for verb in verbs(parser)]
    [('say', 'Say a word.', ('yes', 'no'))]
    """
    found = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in found._choices_actions}
    return [_verb(name, helps.get(name, ""), sub) for name, sub in found.choices.items()]


def _verb(name: str, what: str, parser: argparse.ArgumentParser) -> Verb:
    actions = parser._actions
    words = (str(choice) for a in actions if not a.option_strings for choice in a.choices or ())
    return Verb(name, what, tuple(_option(a) for a in actions if a.option_strings), tuple(words))


def _option(action: argparse.Action) -> Option:
    return Option(
        flags=tuple(action.option_strings),
        what=" ".join((action.help or "").replace("%%", "%").split()),
        takes=action.nargs != 0,
        choices=tuple(map(str, action.choices or ())),
        again=isinstance(action, argparse._AppendAction),
    )


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """What a shell reads to complete the parser's program.

    Args:
        shell: one of `SHELLS`.
        parser: with subcommands.

    Raises:
        RecipeError: another shell.
    """
    known, prog = verbs(parser), parser.prog
    match shell:
        case "bash":
            return "\n".join(_bash(prog, known)) + "\n"
        case "zsh":
            return "\n".join(_zsh(prog, known)) + "\n"
        case "fish":
            return "\n".join(_fish(prog, known)) + "\n"
        case _:
            raise RecipeError(f"completion for {shell!r}: expected one of {', '.join(SHELLS)}")


def _bash(prog: str, known: list[Verb]) -> Iterator[str]:
    name = f"_{_plain(prog)}"
    yield f'# {prog}: completion for bash; in ~/.bashrc:  eval "$({prog} completion bash)"'
    yield f"{name}() {{"
    yield '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" values="" flags=""'
    yield "    COMPREPLY=()"
    yield '    if [ "$COMP_CWORD" -eq 1 ]; then'
    yield f'        COMPREPLY=($(compgen -W "{" ".join(v.name for v in known)} --help --version" -- "$word"))'
    yield "        return"
    yield "    fi"
    yield '    case "${COMP_WORDS[1]}" in'
    for verb in known:
        flags = " ".join(flag for option in verb.options for flag in option.flags if flag.startswith("--"))
        yield f"    {verb.name})"
        yield f'        flags="{flags}" values="{" ".join(verb.words)}"'
        if cases := [option for option in verb.options if option.takes]:
            yield '        case "$before" in'
            for option in cases:
                # without choices: names of files, by the last line of the script
                reply = f'COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$word"))'
                yield f"        {'|'.join(option.flags)}) {f'{reply}; ' if option.choices else ''}return ;;"
            yield "        esac"
        yield "        ;;"
    yield "    esac"
    yield '    case "$word" in -*) values="$flags" ;; esac'
    yield '    COMPREPLY=($(compgen -W "$values" -- "$word"))'
    yield "}"
    yield f"complete -o bashdefault -o default -F {name} {prog}"


def _zsh(prog: str, known: list[Verb]) -> Iterator[str]:
    name = f"_{_plain(prog)}"
    yield f"#compdef {prog}"
    yield f'# {prog}: completion for zsh; in ~/.zshrc, behind compinit:  eval "$({prog} completion zsh)"'
    yield f"{name}() {{"
    yield "    local -a verbs"
    yield "    verbs=("
    yield from (f"        {_quoted(f'{verb.name}:{verb.what}')}" for verb in known)
    yield "    )"
    yield "    if (( CURRENT == 2 )); then"
    yield "        _describe verb verbs"
    yield "        return"
    yield "    fi"
    yield '    local verb="$words[2]"'
    yield "    shift words"
    yield "    (( CURRENT-- ))"
    yield '    case "$verb" in'
    for verb in known:
        rest = f"*:word:({' '.join(verb.words)})" if verb.words else "*:file:_files"
        specs = [spec for option in verb.options for spec in _zsh_specs(option)]
        yield f"    {verb.name})"
        yield "        _arguments \\"
        yield from (f"            {_quoted(spec)} \\" for spec in specs)
        yield f"            {_quoted(rest)}"
        yield "        ;;"
    yield "    esac"
    yield "}"
    yield f"compdef {name} {prog}"


def _zsh_specs(option: Option) -> Iterator[str]:
    """What `_arguments` takes: the other spellings exclude each other; brackets and colons are escaped."""
    others = "" if option.again else f"({' '.join(option.flags)})"
    what = re.sub(r"([\[\]:\\])", r"\\\1", option.what)
    value = f":value:({' '.join(option.choices)})" if option.choices else ":value:_files"
    for flag in option.flags:
        yield f"{'*' if option.again else others}{flag}[{what}]{value if option.takes else ''}"


def _fish(prog: str, known: list[Verb]) -> Iterator[str]:
    yield f"# {prog}: completion for fish:  {prog} completion fish > ~/.config/fish/completions/{prog}.fish"
    yield f"complete -c {prog} -e"
    for verb in known:
        yield f"complete -c {prog} -n __fish_use_subcommand -f -a {verb.name} -d {_fish_quoted(verb.what)}"
    for verb in known:
        inside = f"complete -c {prog} -n '__fish_seen_subcommand_from {verb.name}'"
        if verb.words:
            yield f"{inside} -f -a {_fish_quoted(' '.join(verb.words))}"
        for option in verb.options:
            flags = " ".join(f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in option.flags)
            value = f" -x -a {_fish_quoted(' '.join(option.choices))}" if option.choices else " -r"
            what = f" -d {_fish_quoted(option.what)}" if option.what else ""
            yield f"{inside} {flags}{value if option.takes else ''}{what}"


def _plain(prog: str) -> str:
    return re.sub(r"\W", "_", prog)


def _quoted(text: str) -> str:
    """Between single quotes of bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    """Between single quotes of fish, which knows escapes inside."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
