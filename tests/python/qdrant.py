"""The part of Qdrant's REST interface that scripts/vector/ uses, for the key `q`; prints its port.

Requests are read as the server's documentation has them, and answered by Qdrant's own local mode, in memory.
"""

import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from qdrant_client import QdrantClient, models

client = QdrantClient(":memory:")
indexes = set()


def plain(value):
    return json.loads(value.model_dump_json())


def answer(method, name, path, body):
    """The result; `None` for what is not known here."""
    wanted = models.Filter(**body["filter"]) if body.get("filter") else None
    match (method, path):
        case ("GET", "/exists"):
            return {"exists": client.collection_exists(name)}
        case ("PUT", ""):
            return client.create_collection(name, models.VectorParams(**body["vectors"]))
        case ("GET", ""):
            return plain(client.get_collection(name))
        case ("PUT", "/index"):
            indexes.add((body["field_name"], body["field_schema"]))
        case ("POST", "/points"):
            return [plain(point) for point in client.retrieve(name, body["ids"], with_payload=body["with_payload"])]
        case ("PUT", "/points"):
            client.upsert(name, [models.PointStruct(**point) for point in body["points"]])
        case ("POST", "/points/scroll"):
            points, offset = client.scroll(name, wanted, limit=body["limit"], offset=body.get("offset"))
            return {"points": [plain(point) for point in points], "next_page_offset": offset}
        case ("POST", "/points/delete"):
            client.delete(name, body.get("points") or wanted)
        case ("POST", "/points/query/groups"):
            # A server in strict mode refuses to filter or group by what has no index.
            assert indexes >= {("session_id", "keyword"), ("message_id", "keyword"), ("at", "float"), ("linked", "bool")}
            arguments = {key: body[key] for key in ("group_by", "limit", "group_size")}
            return plain(client.query_points_groups(name, query=body["query"]["nearest"], query_filter=wanted, **arguments))
        case _:
            return None
    return {"operation_id": 0, "status": "completed"}


class Handler(BaseHTTPRequestHandler):
    def handle_request(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        place = re.fullmatch(r"/collections/([\w-]+)(/[^?]*)?(\?.*)?", self.path)
        if self.headers["api-key"] != "q":
            status, reply = 401, {"status": {"error": "the key is wrong"}}
        elif self.path == "/":
            status, reply = 200, {"title": "qdrant", "version": "1.20.0"}
        else:
            result = place and answer(self.command, place[1], place[2] or "", body)
            status, reply = (404, {}) if result is None else (200, {"result": result, "status": "ok", "time": 0.0})
        reply = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    do_GET = do_PUT = do_POST = handle_request


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
