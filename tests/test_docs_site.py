"""The site: it builds without a warning, links lead somewhere, nothing asks another machine, every name has a text."""

import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import contract
import pytest
import toy_nets
import yaml
from contract import one_thread  # noqa: F401
from torch import nn

import netpress
from netpress import gains, methods
from netpress.candidate import Candidate
from netpress.recipe import parse

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_site"))

import hooks  # noqa: E402
import method_pages  # noqa: E402

NAMES = list(method_pages.own())


class Page(HTMLParser):
    """What a built page links to, asks for, and can be linked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.asked: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.anchors |= {found[key] for key in ("id", "name") if key in found}
        if tag == "a" and "href" in found:
            self.links.add(found["href"])
        elif tag == "link" and found.get("rel") not in ("canonical", "next", "prev"):
            self.asked.add(found.get("href", ""))
        elif "src" in found:
            self.asked.add(found["src"])


def broken(folder: Path) -> list[str]:
    """Links and files of built pages that lead nowhere, or to another machine without a click."""
    pages = {path: Page(path.read_text()) for path in folder.rglob("*.html") if path.name != "404.html"}
    found = []
    for path, page in pages.items():
        name = path.relative_to(folder).as_posix()
        found += [f"{name} asks for {target}" for target in page.asked if urlsplit(target).netloc]
        for target in page.links | page.asked:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or target.startswith("data:"):
                continue
            place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not place.exists():
                found.append(f"{name} leads to {target}")
            elif parts.fragment and place in pages and unquote(parts.fragment) not in pages[place].anchors:
                found.append(f"{name} leads to {target}: no such anchor")
    for path in folder.rglob("*.css"):
        found += [f"{path.name} asks for {one}" for one in re.findall(r"url\([\"']?(https?:[^)]*)\)", path.read_text())]
    return sorted(found)


def test_the_check_of_links_sees_what_is_broken(tmp_path):
    (tmp_path / "b.html").write_text('<h1 id="here">')
    good = '<a href="b.html#here"></a><a href="https://example.org/x"></a>'
    (tmp_path / "a.html").write_text(good)
    assert broken(tmp_path) == []
    (tmp_path / "a.html").write_text(
        good + '<a href="c.html"></a><a href="b.html#gone"></a><script src="https://cdn.example.org/x.js"></script>'
    )
    (tmp_path / "a.css").write_text('@font-face { src: url("https://fonts.example.org/a") }')
    assert len(broken(tmp_path)) == 4


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    told = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_site_builds_strictly_and_leads_nowhere_else(site):
    assert broken(site) == []
    assert len(list(site.rglob("*.html"))) > 40


def test_every_public_name_is_on_a_page(site):
    text = " ".join(path.read_text() for path in (site / "api").glob("*.html"))
    names = {f"netpress.{name}" for name in netpress.__all__}
    assert [
        name for name in sorted(names) if f"{name}<" not in text and f'.{name.partition(".")[2]}"' not in text
    ] == []


def test_mentions_of_pages_are_links(site):
    assert 'href="decisions/0012-rate-in-the-loss.html"' in (site / "smallest.html").read_text()


def _entries(nav: list) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for inside in entry.values():
                yield from _entries(inside) if isinstance(inside, list) else [inside]


def test_the_navigation_names_every_page_once_and_no_other():
    config = type("Config", (), {"nav": yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]})()
    named = sorted(_entries(hooks.on_config(config).nav))
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert named == sorted(written | set(hooks.generated()))


def _texts(path: str) -> Iterator[tuple[str, str]]:
    """Every public name below a module, and its text."""
    module = importlib.import_module(path)
    for name in getattr(module, "__all__", [n for n in vars(module) if hooks._public(n, vars(module)[n], path)]):
        value = getattr(module, name)
        yield f"{path}.{name}", inspect.getdoc(value) or ""
        if inspect.isclass(value):
            for inner, member in vars(value).items():
                if not inner.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    yield f"{path}.{name}.{inner}", member.__doc__ or ""


@pytest.mark.parametrize("path", ["netpress", *(f"netpress.{name}" for name in (*hooks.MODULES, "runtime", "train"))])
def test_every_public_name_has_a_text(path):
    texts = dict(_texts(path))
    assert len(texts) > 2
    assert [name for name, text in texts.items() if len(text.split()) < 2] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_a_method_names_every_setting(name):
    kind = methods.find(name)
    page = method_pages.page(name)
    for setting, accepted, default, meaning in method_pages.settings(kind):
        assert f"| `{setting}` |" in page
        assert accepted
        assert default
        assert len(meaning) > 1, setting
    assert all(f"\n## {section}\n" in page for section in ("Settings", "When it helps speed", "Example"))


def test_a_setting_without_a_text_fails():
    class Silent(methods.WeightShare):
        """Nothing is said."""

    with pytest.raises(ValueError, match="differ in bits, init"):
        method_pages.settings(Silent)


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_method_page_run(name):
    python, toml = (
        re.findall(rf"```{language}\n(.*?)```", method_pages.page(name), re.DOTALL) for language in ("pycon", "toml")
    )
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    for text in python:
        failed, tried = runner.run(parser.get_doctest(text, {}, name, None, 0), clear_globs=False)
        assert (failed, tried > 0) == (0, True)
    for step in tomllib.loads(toml[0])["step"]:
        assert {one.method.name for one in parse({"step": [step]}).steps()} == {name}


class Early(nn.Module):
    """A norm that no layer can take, as more than it reads what comes in; and a 1 x 1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv, self.point = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.first(x)
        x = x + self.point(self.conv(self.norm(x).relu()))
        return self.head(x.mean((2, 3)))


def _kinds_of_edits(example: Any, start: Candidate) -> set[str]:
    try:
        done = contract.applied(example, "", before=start)
    except netpress.errors.NetpressError:
        return set()  # this network has nothing for this method
    return {gains.EDITS[edit[0]] for edit in done.arch.edits}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_buys_is_what_it_does(name):
    start = toy_nets.toy_candidate("residual")
    done = set()
    for example in method_pages.examples(methods.find(name)):
        half = replace(example, norms="half") if hasattr(example, "norms") else example
        done |= _kinds_of_edits(example, start) | _kinds_of_edits(half, start.but(net=Early().eval()))
    told = {gains.EDITS[edit] for edit in method_pages.EDITS.get(name, ())}
    silent = {gains.EDITS["norm"], gains.EDITS["round"]}  # goes along; told by the trait `rounded`
    assert done - silent == told - silent


def test_the_page_and_the_example_have_the_same_method():
    page, example = (
        path.read_text() for path in (DOCS / "howto" / "add-method.md", ROOT / "examples" / "own_method.py")
    )
    body = example.partition("class NOfM:")[2].partition("\n\n\ndef main")[0]
    assert len(body) > 500
    assert body in page
