"""Fetching over a real local server: whole, resumed, damaged, missing, unreachable."""

import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import netpress.data as data_sets
from netpress.data import download
from netpress.data.download import Remote, data_root, fetch, find, read
from netpress.errors import DataError

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """What the next requests do, and what they asked for."""

    def __init__(self):
        self.content = CONTENT
        self.cuts = []  # send only so many bytes, then break the connection; one per request
        self.ranges = True
        self.requests = []

    def answer(self, handler):
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        if not handler.path.endswith("/file.bin"):
            handler.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        body = self.content[start:]
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)


@pytest.fixture
def server(monkeypatch):
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.answer(self)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.delenv("NETPRESS_MIRROR", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    state.url = f"http://127.0.0.1:{http.server_port}"
    yield state
    http.shutdown()
    http.server_close()


def remote(*mirrors, sha256=SHA256):
    return Remote("set/file.bin", len(CONTENT), sha256, mirrors)


def refused(wanted, root):
    with pytest.raises(DataError) as caught:
        fetch(wanted, root)
    said = str(caught.value)
    assert "\n" not in said
    assert str(root / wanted.path) in said
    assert "put the file there" in said
    assert not (root / wanted.path).exists()
    return said


def test_a_file_is_fetched_whole_and_only_then_gets_its_name(server, tmp_path):
    path = fetch(remote(server.url), tmp_path)
    assert path == tmp_path / "set" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert [each.name for each in path.parent.iterdir()] == ["file.bin"]


def test_a_cut_connection_is_resumed_where_it_broke(server, tmp_path):
    server.cuts = [100_000, 50_000]
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_call_goes_on_with_the_part(server, tmp_path):
    server.cuts = [1000] * 4
    assert "broke off after 4,000 of 512,000 bytes" in refused(remote(server.url), tmp_path)
    assert (tmp_path / "set" / "file.bin.part").read_bytes() == CONTENT[:4000]
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT
    assert server.requests[-1] == ("/file.bin", "bytes=4000-")


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.cuts, server.ranges = [100_000], False
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"more"])
def test_wrong_bytes_are_refused_and_deleted(server, tmp_path, content):
    server.content = content
    assert f"wrong checksum: expected SHA-256 {SHA256[:16]}" in refused(remote(server.url), tmp_path)
    assert not list((tmp_path / "set").iterdir())


def test_a_damaged_part_is_replaced_by_the_next_mirror(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin.part").write_bytes(b"x" * 1000)
    assert fetch(remote(server.url, f"{server.url}/second"), tmp_path).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/file.bin", "/second/file.bin"]


def test_a_complete_part_is_only_checked(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin.part").write_bytes(CONTENT)
    assert fetch(remote(server.url), tmp_path).read_bytes() == CONTENT
    assert not server.requests


def test_not_found_and_no_server_say_what_to_do(server, tmp_path):
    missing = Remote("set/other.bin", 10, SHA256, (server.url,))
    assert "other.bin: HTTP Error 404" in refused(missing, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    said = refused(remote(nobody), tmp_path)
    assert nobody in said
    assert "NETPRESS_DATA" in said


def test_the_environment_replaces_the_mirrors(server, tmp_path, monkeypatch):
    monkeypatch.setenv("NETPRESS_MIRROR", f"{server.url}/mine/")
    fetch(remote("http://127.0.0.1:1"), tmp_path)
    assert server.requests == [("/mine/file.bin", None)]
    monkeypatch.setenv("NETPRESS_MIRROR", f"file://{tmp_path}")
    other = Remote("other/file.bin", len(CONTENT), SHA256, ())
    assert "starts with http:// or https://" in refused(other, tmp_path)


def test_a_root_that_cannot_be_written_is_said(server, tmp_path):
    (tmp_path / "set").write_text("a file where the folder should be")
    assert "File exists" in refused(remote(server.url), tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "mnist/train-images-idx3-ubyte.gz"),
        ("fashion_mnist", "fashion_mnist/train-images-idx3-ubyte.gz"),
        ("cifar10", "cifar-10/cifar-10-binary.tar.gz"),
    ],
)
def test_a_known_set_that_is_nowhere_names_the_file_to_put(server, tmp_path, monkeypatch, name, file):
    monkeypatch.setenv("NETPRESS_MIRROR", f"{server.url}/{name}")
    with pytest.raises(DataError, match="404") as caught:
        data_sets.open(name, root=tmp_path)
    assert str(tmp_path / file) in str(caught.value)
    assert server.requests == [(f"/{name}/{file.split('/')[1]}", None)]


def test_the_data_root_is_argument_then_environment_then_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("NETPRESS_DATA", str(tmp_path / "env"))
    assert data_root(tmp_path / "argument") == tmp_path / "argument"
    assert data_root() == tmp_path / "env"
    monkeypatch.delenv("NETPRESS_DATA")
    monkeypatch.setattr(download.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_root() == tmp_path / "cache" / "netpress" / "data"
    monkeypatch.setattr(download.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert data_root() == tmp_path / "local" / "netpress" / "data"


def test_find_looks_into_folders_first_and_takes_any_packing(tmp_path):
    assert find(tmp_path, "a", ("sub",)) is None
    (tmp_path / "a").write_bytes(b"root")
    assert find(tmp_path, "a", ("sub",)) == tmp_path / "a"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.xz").write_bytes(b"sub")
    assert find(tmp_path, "a", ("sub",)) == tmp_path / "sub" / "a.xz"


def test_an_unreadable_file_is_said(tmp_path):
    with pytest.raises(DataError, match=r"gone: cannot be read \(No such file"):
        read(tmp_path / "gone")
