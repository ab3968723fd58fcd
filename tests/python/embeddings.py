"""A server of OpenAI's /v1/embeddings: a vector counts the letters of its text. Takes the key `k` only; prints its port."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_allowed = self.headers["Authorization"] == "Bearer k" and self.path == "/v1/embeddings"
        is_allowed = is_allowed and asked["model"] == "letters"
        letters = [[1 + text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for text in asked["input"]]
        # In another order than asked, as the protocol allows.
        data = [{"index": n, "object": "embedding", "embedding": vector} for n, vector in enumerate(letters)][::-1]
        body = json.dumps({"object": "list", "data": data, "model": "letters"} if is_allowed else {"error": {}}).encode()
        self.send_response(200 if is_allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
