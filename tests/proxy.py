"""A proxy before a real server, which can be told to fail, to refuse, to hang, or to be gone."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[[str, str], "int | str | None"]
"""Of a request's method and path: a status to answer, "hang", "lose" the answer, or None to let it pass."""


def none(method: str, path: str) -> None:
    """Lets everything pass."""


class Proxy:
    """Passes requests on to the server on `port` of this machine, but for those that `fault` keeps."""

    def __init__(self, port: int) -> None:
        self.fault: Fault = none
        self.asked: list[tuple[str, str]] = []
        self.closed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, port))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"

    def mend(self) -> None:
        self.fault = none

    def close(self) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: Proxy, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy.asked.append((self.command, self.path))
            while (found := proxy.fault(self.command, self.path)) == "hang":
                if proxy.closed.wait(0.05):
                    return
            if isinstance(found, int):
                self.reply(found, b"as the test wants it", "text/plain")
                return
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.request(self.command, self.path, body, {**self.headers, "Host": f"127.0.0.1:{port}"})
                reply = connection.getresponse()
                if found == "lose":
                    reply.read()
                    self.close_connection = True
                    return
                self.reply(reply.status, reply.read(), reply.headers.get("Content-Type", "application/json"))
            except OSError:
                self.close_connection = True
            finally:
                connection.close()

        def reply(self, status: int, content: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Says nothing."""

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"):
        setattr(Handler, f"do_{method}", Handler.answer)
    return Handler
