"""What mkdocs runs while it builds the site: pages that are made from the code, and links between pages."""

from __future__ import annotations

import importlib
import posixpath
import re
from pathlib import Path
from typing import Any

import method_pages

import netpress

DOCS = Path(__file__).parent.parent
MODULES = [name for name in netpress.__all__ if getattr(netpress, name).__class__.__name__ == "module"]
"""Public names that are modules: each has a page of its own."""

_MENTION = re.compile(r"(?<!\[)`docs/([\w./-]+\.md)`")
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def generated() -> dict[str, str]:
    """Pages that no file holds, by place: one per method, and the reference.

    >>> {"methods/weight_prune.md", "api/index.md", "api/zoo.md", "decisions/index.md"} <= set(generated())
    True
    """
    pages = {f"methods/{name}.md": method_pages.page(name) for name in method_pages.own()}
    pages |= {"methods/index.md": method_pages.overview(), "api/index.md": _names(), "decisions/index.md": _decisions()}
    return pages | {f"api/{name}.md": _module(f"netpress.{name}") for name in (*MODULES, "runtime", "train")}


def _object(path: str) -> str:
    return f"::: {path}"


def _names() -> str:
    plain = [name for name in netpress.__all__ if name not in MODULES]
    found = [_object(f"{getattr(netpress, name).__module__}.{name}") for name in plain]
    return "\n\n".join(
        ["# netpress", "What `import netpress as nxp` offers, beside the modules of this section.", *found]
    )


def _module(path: str) -> str:
    module = importlib.import_module(path)
    names = getattr(module, "__all__", [n for n, v in vars(module).items() if _public(n, v, path)])
    summary = (module.__doc__ or "").splitlines()[0]
    found = []
    for name in names:
        home = getattr(getattr(module, name), "__module__", path)
        if not home.startswith("netpress.methods.") or path != "netpress.methods":
            found.append(_object(f"{home if home.startswith('netpress') else path}.{name}"))
    return "\n\n".join([f"# {path}", summary, *found])


def _public(name: str, value: Any, path: str) -> bool:
    return not name.startswith("_") and getattr(value, "__module__", "") == path


def decisions() -> dict[str, str]:
    """Title of each decision, by place."""
    files = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    return {f"decisions/{file.name}": file.read_text().splitlines()[0].lstrip("# ").replace("`", "") for file in files}


def _decisions() -> str:
    rows = [f"- [{title}]({posixpath.basename(place)})" for place, title in decisions().items()]
    text = "Questions that were settled, with what was rejected and what would change our mind."
    return "\n\n".join(["# Decisions", text, "\n".join(rows)])


def linked(text: str, place: str) -> str:
    """The same page with its mentions of other pages made links.

    Args:
        text: Markdown.
        place: of the page, below the folder of pages.

    >>> linked("see `docs/format.md`", "decisions/0001-argparse.md")
    'see [format](../format.md)'
    """
    folder = posixpath.dirname(place) or "."

    def link(found: re.Match[str]) -> str:
        target = found[1]
        if not (DOCS / target).is_file():
            return found[0]
        return f"[{posixpath.basename(target)[:-3]}]({posixpath.relpath(target, folder)})"

    halves = _FENCE.split(text)
    return "".join(half if half.startswith("```") else _MENTION.sub(link, half) for half in halves)


def on_config(config: Any) -> Any:
    """Fill in the sections of the navigation that are made from the code."""
    made: dict[str, list[Any]] = {
        "Methods": [{name: f"methods/{name}.md"} for name in method_pages.own()],
        "API": [{f"netpress.{name}": f"api/{name}.md"} for name in (*MODULES, "runtime", "train")],
        "Decisions": [{title: place} for place, title in decisions().items()],
    }
    _fill(config.nav, made)
    return config


def _fill(entries: list[Any], made: dict[str, list[Any]]) -> None:
    for section in [entry for entry in entries if isinstance(entry, dict)]:
        for title, inside in section.items():
            if isinstance(inside, list):
                _fill(inside, made)
                inside.extend(entry for entry in made.get(title, []) if entry not in inside)


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages that are made from the code."""
    from mkdocs.structure.files import File

    for place, text in generated().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Make mentions of pages links."""
    return linked(markdown, page.file.src_uri)
