"""A server of OpenAI's protocol that answers everything by rule and writes down what it is asked.

    recorder.py FILE [PORT]    appends a line for each request to FILE; prints its address, http://127.0.0.1:PORT

A path may begin with a name, `/NAME/v1/chat/completions`: the line then carries it as its step. A line holds
`step`, `path`, `headers` (lower case, without those that tell of the machine or the connection) and `body`.

What it answers depends on the request alone: a tool call when there are tools and no result yet, else what the last user
message said, in white space that a client might trim. A model `reasoner` thinks first, `verbose` goes on for as long as
somebody listens (500 pieces at most), `broken` fails in the middle of its stream, `fail-STATUS` is refused with that
status, `fail-STATUS-once` the first time only.
"""

import http.server
import json
import sys
import threading
import time

# Of the machine, of the connection, or random.
OMITTED = {
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "x-stainless-arch",
    "x-stainless-os",
    "x-stainless-runtime-version",
}
FIXED = {"id": "chatcmpl-recorded", "created": 1700000000, "system_fingerprint": "fp_recorded"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
# A client that parses and prints arguments again changes these.
ARGUMENTS = '{ "city":"Köln",  "days": 1.0 }'
PIECE_SECONDS = 0.02


def text_of(content):
    if isinstance(content, list):
        return " ".join(part.get("text", f"[{part['type']}]") for part in content)
    return content or ""


def answer(body):
    """The message that a request is answered with."""
    messages = body["messages"]
    if body.get("tools") and messages[-1]["role"] not in ("tool", "function"):
        function = {"name": body["tools"][0]["function"]["name"], "arguments": ARGUMENTS}
        call = {"id": "call_recorded_1", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    said = next((text_of(m["content"]) for m in reversed(messages) if m["role"] == "user"), "nothing")
    message = {"role": "assistant", "content": f"\nYou said:\r\n\r\n  {said} \n", "refusal": None}
    if body["model"] == "reasoner":
        message["reasoning_content"] = "The user said something."
    return message


def deltas(body, message):
    """The pieces of a streamed message, without its finish."""
    yield {"role": "assistant", "content": None if message.get("tool_calls") else ""}
    if message.get("reasoning_content"):
        yield {"reasoning_content": message["reasoning_content"]}
    for index, call in enumerate(message.get("tool_calls", [])):
        arguments = call["function"]["arguments"]
        yield {"tool_calls": [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]}
        for at in range(0, len(arguments), 10):
            yield {"tool_calls": [{"index": index, "function": {"arguments": arguments[at : at + 10]}}]}
    content = message["content"] or ""
    for at in range(0, len(content), 8):
        yield {"content": content[at : at + 8]}
    for number in range(500 if body["model"] == "verbose" else 0):
        time.sleep(PIECE_SECONDS)
        yield {"content": f"{number} "}


class Recorder(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    refused = set()

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            # The client went away.
            self.close_connection = True

    def record(self, body):
        before, _, after = self.path.partition("/v1/")
        headers = {name.lower(): value for name, value in self.headers.items()}
        kept = {name: headers[name] for name in sorted(headers) if name not in OMITTED}
        line = {"step": before.strip("/"), "path": f"/v1/{after}" if after else self.path, "headers": kept, "body": body}
        with self.lock, open(sys.argv[1], "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def reply(self, status, value, **headers):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.record(None)
        if not self.path.endswith("/models"):
            return self.reply(404, {"error": {"message": f"no {self.path}", "type": "not_found", "code": None}})
        names = ["recorded", "reasoner", "verbose"]
        models = [{"id": name, "object": "model", "created": 1700000000, "owned_by": "recorder"} for name in names]
        return self.reply(200, {"object": "list", "data": models})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.record(body)
        if not self.path.endswith("/chat/completions"):
            return self.reply(404, {"error": {"message": f"no {self.path}", "type": "not_found", "code": None}})
        status = self.refusal(body["model"])
        if status:
            error = {"message": "refused by rule", "type": "refused", "param": None, "code": "by_rule"}
            return self.reply(status, {"error": error}, Retry_After="0.1")
        message = answer(body)
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        if body.get("stream"):
            return self.stream(body, message, finish)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        whole = {**FIXED, "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": USAGE}
        return self.reply(200, whole)

    def refusal(self, model):
        """The status that the model's name asks for, if it does."""
        if not model.startswith("fail-") or self.path in self.refused:
            return None
        if model.endswith("-once"):
            self.refused.add(self.path)
        return int(model.split("-")[1])

    def stream(self, body, message, finish):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        wants_usage = (body.get("stream_options") or {}).get("include_usage")
        common = {**FIXED, "object": "chat.completion.chunk", "model": body["model"]}
        if wants_usage:
            common["usage"] = None
        try:
            for delta in deltas(body, message):
                self.event({**common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            if body["model"] == "broken":
                self.event({"error": {"message": "broken by rule", "type": "server_error", "code": "by_rule"}})
                return self.wfile.write(b"0\r\n\r\n")
            self.event({**common, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
            if wants_usage:
                self.event({**common, "choices": [], "usage": USAGE})
            self.event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            # The client went away.
            self.close_connection = True

    def event(self, value):
        data = value if isinstance(value, str) else json.dumps(value)
        text = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))


def main():
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Recorder)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
