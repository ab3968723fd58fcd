"""Gives a headless Chromium a page, and prints what it tells; the last line is `ok` or says what failed.

chromium HOST:PORT TOKEN     it talks to the server by WebSocket, with the token as a subprotocol, as a browser can send nothing
                             else; then it runs the client that docs/websocket.md shows through document.js
eventsource HOST:PORT        it follows the session `api` as docs/http-api.md shows, with an EventSource. When it says `joined`
                             and `resumed`, the server is to be restarted and to record something before it is there again; the
                             session ends with a message `end`

The page comes from another origin, PAGE_PORT of this machine, which the server must allow.
"""

import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

KIND, HOST, TOKEN = [*sys.argv[1:], ""][:3]
PAGE_PORT = int(os.environ.get("PAGE_PORT", "8765"))
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()

HERE = pathlib.Path(__file__).parent


def snippet(document):
    return (HERE / "../../docs" / document).read_text("utf-8").split("```js\n")[1].split("```")[0]


START = """<!doctype html><meta charset="utf-8"><script>
"use strict";
const tell = (body) => fetch("/told", { method: "POST", body });
const end = (run) => run.then(() => "ok", (error) => `failed: ${error}`).then(tell);
function same(one, other) {
  if (JSON.stringify(one) !== JSON.stringify(other)) throw new Error(`${JSON.stringify(one)} is not ${JSON.stringify(other)}`);
}
</script>"""

TALK = START + """<script>
const base64url = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)))
  .replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
function connect(more = "") {
  const url = `ws://HOST/ws/chat?session_id=browser${more}`;
  const socket = new WebSocket(url, ["chatkeep", "chatkeep.token." + base64url(TOKEN)]);
  const came = [];
  let wake = () => {};
  socket.onmessage = (message) => { came.push(JSON.parse(message.data)); wake(); };
  socket.onclose = (event) => { came.push({ type: "closed", code: event.code }); wake(); };
  return {
    socket,
    say: (event) => socket.send(JSON.stringify(event)),
    async event(type) {
      for (;;) {
        while (came.length) {
          const one = came.shift();
          if (one.type === type) return one;
          if (one.type === "closed" || one.type === "error") throw new Error(JSON.stringify(one));
        }
        await new Promise((resolve) => { wake = resolve; });
      }
    },
  };
}
async function talk() {
  const [one, other] = [connect(), connect()];
  same((await one.event("system")).session_id, "browser");
  same(one.socket.protocol, "chatkeep");
  await other.event("system");
  one.say({ message: "grüße 😀", client_id: "c" });
  const [ack, response] = [await one.event("ack"), await one.event("response")];
  same(ack.client_id, "c");
  same(response.message, "grüße 😀");
  same((await other.event("message")).id, ack.id);
  const last = (await other.event("response")).id;
  other.socket.close(1000);
  same((await other.event("closed")).code, 1000);
  for (let n = 0; n < 3; n++) { one.say({ message: `missed ${n}` }); await one.event("response"); }
  const resumed = connect(`&after=${last}`);
  for (let n = 0; n < 6; n++) same((await resumed.event("message")).text, `missed ${n >> 1}`);
}
</script><script>SNIPPET</script><script>SCENARIO</script><script>
end(talk().then(() => run(chatkeep, "HOST", TOKEN)));
</script>"""

FOLLOW = START + """<script>
const frames = [];
const show = (frame) => frames.push(frame);
async function until(what, holds) {
  for (const end = Date.now() + 60000; !holds(); await new Promise((resolve) => setTimeout(resolve, 20))) {
    if (Date.now() > end) throw new Error(`in vain: ${what}; had ${JSON.stringify(frames)}`);
  }
}
</script><script>SNIPPET</script><script>
async function follow() {
  const recorded = () => frames.filter(({ type }) => ["message", "response", "clear"].includes(type));
  const has = (text) => recorded().some((frame) => frame.text === text);
  await until("it is connected", () => frames.some(({ status }) => status === "idle"));
  await tell("joined");
  await until("what it missed before its first message comes", () => has("missed first"));
  await tell("resumed");
  await until("what it missed then comes, too", () => has("end"));
  same(frames.filter(({ type }) => ["refused", "gap"].includes(type)), []);
  const { messages } = await (await fetch("http://HOST/api/chat/history?session_id=api&limit=500")).json();
  same(recorded().map(({ id }) => id), messages.map(({ id }) => id));
}
end(follow());
</script>"""

if KIND == "eventsource":
    PAGE = FOLLOW.replace("SNIPPET", snippet("http-api.md").replace("127.0.0.1:8000", HOST))
else:
    PAGE = TALK.replace("SNIPPET", snippet("websocket.md")).replace("SCENARIO", (HERE / "document.js").read_text("utf-8"))
PAGE = PAGE.replace("HOST", HOST).replace("TOKEN", json.dumps(TOKEN))

result = []
told = threading.Event()


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = PAGE.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        said = self.rfile.read(int(self.headers["Content-Length"])).decode()
        print(said, flush=True)
        self.send_response(204)
        self.end_headers()
        if said == "ok" or said.startswith("failed"):
            result.append(said)
            told.set()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", PAGE_PORT), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()
# A process of the browser that ends last may still write there while the folder is removed.
with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    command = ["chromium-headless-shell", *FLAGS, f"--user-data-dir={profile}", f"http://127.0.0.1:{PAGE_PORT}/page"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        told.wait(400)
    finally:
        browser.terminate()
        try:
            browser.wait(20)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()
if not result:
    print("failed: the page did not come to its end")
sys.exit(0 if result == ["ok"] else 1)
