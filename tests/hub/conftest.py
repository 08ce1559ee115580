"""A hub without anything in it, and a server of this host that may behave badly."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dtrain.hub import cache, download


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's folder, empty; PyTorch's is below the same folder, and not there."""
    for name in ("DTRAIN_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_chosen", [])
    monkeypatch.setattr(download, "_SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(download, "_SECONDS", 5)
    return tmp_path / "cache" / "dtrain" / "hub"


@dataclass
class Server:
    """What it serves by path, how, and what it was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True  # whether it knows the header Range
    torn: list[int] = field(default_factory=list)  # bytes after which the next connections end
    codes: list[int] = field(default_factory=list)  # what the next answers are
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # (path, Range)


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    """A server on the loopback interface."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            if state.codes:
                self.send_error(state.codes.pop(0))
                return
            data = state.files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and state.ranges else 0  # type: ignore[index]
            if start and start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if wanted and state.ranges else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            stop = start + state.torn.pop(0) if state.torn else len(data)
            self.wfile.write(data[start:stop])

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield state
        http.shutdown()
        thread.join()
