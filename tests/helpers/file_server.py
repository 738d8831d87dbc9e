"""A server of files on this machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Quiet(SimpleHTTPRequestHandler):
    """Serve files, and keep what was asked for instead of printing it."""

    asked: list[str] = []

    def log_message(self, _: str, *args: object) -> None:
        self.asked.append(str(args[0]))


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder; gives the address and the requests so far."""
    Quiet.asked = []
    handler = partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f'http://127.0.0.1:{server.server_port}', Quiet.asked
    finally:
        server.shutdown()
        server.server_close()
