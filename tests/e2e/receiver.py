"""A server on loopback that keeps what is posted to it: webhooks, traces."""
import http.server
import json
import threading


class Receiver:
    """A context manager. posts: [(path, JSON)], in the order in which they came."""

    def __init__(self):
        self.posts = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json"
                receiver.posts.append((self.path, json.loads(body)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def bodies(self, path):
        return [body for at, body in list(self.posts) if at == path]

    def spans(self):
        """All spans of the traces that came."""
        return [span for body in self.bodies("/v1/traces") for resource in body["resourceSpans"]
                for scope in resource["scopeSpans"] for span in scope["spans"]]
