"""A chat service on the loopback with the answers of a test."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[["Request"], Any]
"""The service's reaction to a request: a result goes to `Request.send`, unless it is None."""


class Request:
    """One request as the service sees it."""

    def __init__(self, handler: BaseHTTPRequestHandler, number: int) -> None:
        self._handler, self.number, self.at = handler, number, time.monotonic()
        self.path, self.headers = handler.path, dict(handler.headers)
        self.port = handler.client_address[1]
        length = int(handler.headers.get("Content-Length", 0))
        self.body = json.loads(handler.rfile.read(length))

    @property
    def text(self) -> str:
        return str(self.body["messages"][0]["content"])

    def send(self, body: bytes | str, status: int = 200, **headers: str) -> None:
        """Answer with these bytes, or with a chat completion of this text."""
        sent = body if isinstance(body, bytes) else completion(body)
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.send_header("Content-Length", str(len(sent)))
        self._handler.end_headers()
        self._handler.wfile.write(sent)

    def write(self, chunk: bytes) -> None:
        """Send a part of an answer."""
        self._handler.wfile.write(chunk)
        self._handler.wfile.flush()


def completion(text: str | None) -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps({"object": "chat.completion", "choices": [{"message": message}]}).encode()


class Service:
    """The requests so far, and how to answer them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Request] = []
        self.reply: Reply = lambda request: "No."
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            request = Request(handler, len(self.requests) + 1)
            self.requests.append(request)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            reply = self.reply(request)
        finally:
            # This comes before the reply: the client's next request may follow at once.
            with self._lock:
                self._now -= 1
        if reply is not None:
            request.send(reply)


@contextmanager
def chat_service() -> Iterator[Service]:
    """Run a service until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            try:
                service.serve(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client hung up, as in a few tests

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service = Service(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
