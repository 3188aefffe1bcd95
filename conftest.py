"""The Python examples of README and docs are tests: each page runs from top to bottom in an empty folder."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser


def _enter(namespace: dict[str, Any]) -> None:
    namespace["_before"], namespace["_folder"] = Path.cwd(), tempfile.TemporaryDirectory()
    os.chdir(namespace["_folder"].name)


def _leave(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_before"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()], patterns=["*.md"], setup=_enter, teardown=_leave
).pytest()


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Run the blocks of a page that stand above this one, where they were not run in this process.

    Several workers divide tests without regard to pages, so a block may come to another one than those before it.
    """
    example = getattr(item, "example", None)
    if example is None:
        return
    run: set[int] = example.document.namespace.setdefault("_run", set())
    for earlier in example.document.examples():
        if earlier.line < example.line and earlier.line not in run:
            run.add(earlier.line)
            with suppress(SkipTest):
                earlier.evaluate()
    run.add(example.line)
