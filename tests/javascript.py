"""Runs the playground's decoder: in Node where it is installed, else in headless Chromium."""

import base64
import functools
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import browser
import pytest

from netpress.play import dictionaries

ROOT = Path(__file__).resolve().parents[1]
PLAY = ROOT / "netpress" / "play"
HERE = ROOT / "tests"


def needed():
    """Skip where nothing runs JavaScript."""
    if not (shutil.which("node") or browser.program()):
        pytest.skip("neither Node nor Chromium on this machine")


def folder(path):
    """The decoder as a folder of its own, with the dictionaries."""
    for source in PLAY.glob("*.js"):
        shutil.copy(source, path)
    shutil.copytree(PLAY / "vendor", path / "vendor", ignore=shutil.ignore_patterns("*.wasm"))
    shutil.copy(HERE / "play_decoder.js", path)
    (path / "dictionaries.js").write_text(dictionaries.module())
    (path / "package.json").write_text('{"type": "module"}')
    return path


def file_case(data, limit=None):
    return {"data": base64.b64encode(data).decode(), **({"limit": limit} if limit else {})}


def tensor_case(data, *, shape, form, dtype, chain):
    return {
        "data": base64.b64encode(data).decode(),
        "shape": list(shape),
        "form": form,
        "dtype": dtype,
        "chain": chain,
    }


def graph_case(data):
    return {"data": base64.b64encode(data).decode(), "graph": True}


def decode(where, cases):
    """One answer per case; `where` is what `folder` made."""
    return _by_node(where, cases) if shutil.which("node") else by_browser(where, cases)


def _by_node(where, cases):
    asked, told = where / "cases.json", where / "answers.json"
    asked.write_text(json.dumps(cases))
    words = ["node", str(HERE / "play_decoder_node.mjs"), str(where), str(asked), str(told)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(told.read_text())


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def by_browser(where, cases):
    (where / "cases.json").write_text(json.dumps(cases))
    (where / "empty.html").write_text("<!doctype html><title>empty</title>")
    handler = functools.partial(_Quiet, directory=str(where))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        try:
            with browser.browsing(where / "profile") as page:
                page.open(address + "empty.html")
                page.wait_for("document.title === 'empty'")
                text = page.run(
                    f"(async () => {{ const {{ decodeAll }} = await import('{address}play_decoder.js');"
                    f"const cases = await (await fetch('{address}cases.json')).json();"
                    f"return JSON.stringify(await decodeAll('{address}', cases),"
                    "(_, value) => typeof value === 'bigint' ? String(value) : value); })()"
                )
        finally:
            server.shutdown()
    return json.loads(text)
