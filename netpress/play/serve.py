"""`netpress play`: the playground on localhost, or as a folder that any web server takes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from netpress import atomic
from netpress.errors import FileError, NetpressError
from netpress.play.site import Content, Site, site

HOST = "127.0.0.1"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; object-src 'none'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Playground:
    """A playground that is being served, in a thread of its own.

        with Playground(Path("runs/demo"), port=0) as playground:
            print(playground.address)

    Args:
        run: the folder of a run.
        port: on localhost; 0 takes a free one.

    Attributes:
        site: what is shown.

    Raises:
        FileError: nothing in the folder can be shown.
        NetpressError: the port cannot be had.
    """

    site: Site

    def __init__(self, run: Path, port: int) -> None:
        self.site = site(run)
        if not 0 <= port < 1 << 16:
            raise NetpressError(f"--port {port}: expected 0 to 65535")
        try:
            self._server = ThreadingHTTPServer((HOST, port), _handler(self.site))
        except OSError as error:
            reason = error.strerror or "cannot be had"
            raise NetpressError(
                f"port {port}: {reason}; choose another with --port, or --port 0 for a free one"
            ) from None
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self._server.server_port}/"

    def serve(self) -> None:
        """Serve until the process is stopped."""
        self._server.serve_forever()

    def __enter__(self) -> Playground:
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def export(run: Path, out: Path) -> tuple[Site, list[str]]:
    """Write the playground as a static site.

    Args:
        run: the folder of a run.
        out: made if need be; files of the same names are replaced.

    Returns:
        What is shown, and the names of the files.

    Raises:
        FileError: nothing can be shown, or the folder cannot be written.
    """
    shown = site(run)
    if out.resolve() == run.resolve():
        raise FileError(f"{out}: the run itself; choose another folder for --export")
    try:
        for name, content in shown.files.items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(path, _bytes(content))
    except OSError as error:
        raise FileError(f"{out}: cannot be written: {error.strerror}") from error
    return shown, list(shown.files)


def play(run: str, *, port: int, export_to: str | None, say: Callable[[str], None]) -> None:
    """What the verb does: write the site, or serve it until the process is stopped.

    Args:
        run: the folder of a run.
        port: on localhost; 0 takes a free one.
        export_to: write the site into this folder and serve nothing.
        say: takes a line.

    Raises:
        FileError: nothing in the folder can be shown.
        NetpressError: the port cannot be had.
    """
    if export_to is not None:
        shown, names = export(Path(run), Path(export_to))
        for problem in shown.problems:
            say(problem)
        say(f"{export_to}: {len(names)} files, {shown.size_bytes:,} bytes; any web server shows them")
        return
    playground = Playground(Path(run), port)
    for problem in playground.site.problems:
        say(problem)
    say(f"{playground.address}  (Ctrl-C stops)")
    playground.serve()


def _handler(shown: Site) -> type[BaseHTTPRequestHandler]:
    """Answers for the site's files and nothing else; no path of a request reaches the disk."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Send a file."""
            self._answer(self.wfile.write)

        def do_HEAD(self) -> None:
            """Send what stands before a file."""
            self._answer(lambda _: 0)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name is the base's)
            """Say nothing: the terminal is the user's."""

        def _answer(self, send: Callable[[bytes], int]) -> None:
            name = unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"
            content = shown.files.get(name)
            try:
                body = b"" if content is None else _bytes(content)
            except OSError:
                content, body = None, b""
            self.send_response(HTTPStatus.NOT_FOUND if content is None else HTTPStatus.OK)
            self.send_header("Content-Type", _TYPES.get(PurePosixPath(name).suffix, "application/octet-stream"))
            self.send_header("Content-Length", str(len(body)))
            for header, value in _HEADERS.items():
                self.send_header(header, value)
            self.end_headers()
            send(body)

    return Handler


def _bytes(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()
