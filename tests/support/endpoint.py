"""A local stand-in for an OpenAI-compatible endpoint: a real HTTP server on a free port."""

from __future__ import annotations

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@contextmanager
def endpoint(answer):
    """Serve ``/v1/chat/completions``; ``answer(body)`` says what the model says.

    Gives the address and a list that grows with the requests. A ``PermissionError`` of ``answer``
    becomes a response of status 403.
    """
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append({"path": self.path, "headers": dict(self.headers), "body": body})
            try:
                message = {"role": "assistant", "content": answer(body)}
                status, data = 200, {"choices": [{"index": 0, "message": message}]}
            except PermissionError as error:
                status, data = 403, str(error)
            content = (data if isinstance(data, str) else json.dumps(data)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *given):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
