"""An OpenAI-compatible server that says what must not be repeated: in its tokens, its errors and its headers."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS = 12
SECRET_HEADER = "X-Told"


class TellingUpstream:
    """Every token is `token`; a prompt that names a status is answered with it and with itself. In a `with` block."""

    def __init__(self, token: str, secret: str) -> None:
        self.token = token
        self.secret = secret
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._whole(200, {"object": "list", "data": [{"id": "told", "max_model_len": 4096}]})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                prompt = json.dumps(json.loads(body)["messages"])
                for status in (400, 429, 500):
                    if f"status {status}" in prompt:
                        self._whole(
                            status, {"error": {"message": f"{prompt} is not for me: {upstream.secret}"}}
                        )
                        return
                self._stream(breaks="break off" in prompt)

            def _whole(self, status: int, told: Any) -> None:
                data = json.dumps(told).encode()
                self.send_response(status)
                self.send_header(SECRET_HEADER, upstream.secret)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _stream(self, *, breaks: bool) -> None:
                self.send_response(200)
                self.send_header(SECRET_HEADER, upstream.secret)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for number in range(TOKENS):
                    choice = {
                        "index": 0,
                        "delta": {"content": f"{upstream.token}{number} "},
                        "finish_reason": None,
                    }
                    self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
                if breaks:
                    self.wfile.write(f"data: {{ {upstream.secret}\n\n".encode())
                    return
                end = {"index": 0, "delta": {}, "finish_reason": "stop"}
                self.wfile.write(f"data: {json.dumps({'choices': [end]})}\n\ndata: [DONE]\n\n".encode())

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as its base names it
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> TellingUpstream:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
