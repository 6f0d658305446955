"""A proxy that loses, delays and refuses requests to a server, as a plan says."""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Plan = Callable[[str], str]
"""Path of a request -> what becomes of it.

`forward`; `refuse`: closed unread; `lose`: carried out, the reply is not passed on; `400`: MLflow refuses it; `500`,
`503`: not carried out; `delay`: carried out after a moment; `hang`: neither carried out nor answered while its client
waits; `late`: carried out when its client has given up.
"""

INVALID = b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "too long"}'
DELAY = 0.02
"""Seconds of a delay."""
GIVEN_UP = 1.5
"""Seconds after which no client of these tests waits any more."""


def forward(path: str) -> str:
    """A plan without faults."""
    return "forward"


def faults(seed: int, **shares: float) -> Plan:
    """Faults drawn independently for each request; what is left is forwarded."""
    drawn = random.Random(seed)
    names, weights = [*shares, "forward"], [*shares.values(), 1 - sum(shares.values())]
    return lambda path: drawn.choices(names, weights)[0]


def first(fate: str, path: str, times: int = 1) -> Plan:
    """So many requests of a path have a fate; the others are forwarded."""
    left = [fate] * times
    return lambda asked: left.pop() if path in asked and left else "forward"


class Proxy:
    """In front of a server on this machine.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self.plan: Plan = forward
        self.fates: Counter[str] = Counter()
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *given: object) -> None: ...

            def _pass(self) -> None:
                with proxy._lock:
                    fate = proxy.plan(self.path)
                    proxy.fates[fate] += 1
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if fate == "400":
                    self.send_response(400)
                    self.send_header("Content-Length", str(len(INVALID)))
                    self.end_headers()
                    self.wfile.write(INVALID)
                    return
                if fate in ("500", "503"):
                    self.send_error(int(fate))
                    return
                if fate != "forward":
                    time.sleep({"delay": DELAY, "late": GIVEN_UP, "hang": GIVEN_UP}.get(fate, 0))
                if fate in ("refuse", "hang"):
                    return
                status, headers, content = self._ask(body)
                if fate in ("lose", "late"):
                    return
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
                server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                dropped = ("host", "content-length", "connection", "transfer-encoding", "date", "server")
                headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
                server.request(self.command, self.path, body, headers)
                reply = server.getresponse()
                content = reply.read()
                server.close()
                return reply.status, [(n, v) for n, v in reply.getheaders() if n.lower() not in dropped], content

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815

        class Listener(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *given: object) -> None: ...

        self._listener = Listener(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._listener.server_address[1]}"
        threading.Thread(target=self._listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()


@contextmanager
def proxying(uri: str) -> Iterator[Proxy]:
    """A proxy in front of the server with this address."""
    proxy = Proxy(int(uri.rpartition(":")[2]))
    try:
        yield proxy
    finally:
        proxy.close()
