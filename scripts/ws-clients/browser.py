"""Gives a headless Chromium a page that talks to the server, and says how that went: HOST:PORT TOKEN.

The page comes from another origin, PAGE_PORT of this machine, which the server must allow; the token goes as a subprotocol, as a
browser can send nothing else. It then runs the client that docs/websocket.md shows through document.js.
"""

import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

HOST, TOKEN = sys.argv[1], sys.argv[2]
PAGE_PORT = int(os.environ.get("PAGE_PORT", "8765"))
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()

HERE = pathlib.Path(__file__).parent
SNIPPET = (HERE / "../../docs/websocket.md").read_text("utf-8").split("```js\n")[1].split("```")[0]

PAGE = """<!doctype html><meta charset="utf-8"><script>
"use strict";
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
function same(one, other) { if (one !== other) throw new Error(`${one} is not ${other}`); }
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
talk().then(() => run(openChat, "HOST", TOKEN)).then(() => "ok", (error) => `failed: ${error}`)
  .then((body) => fetch("/result", { method: "POST", body }));
</script>"""
for name, text in [
    ("HOST", HOST),
    ("TOKEN", json.dumps(TOKEN)),
    ("SNIPPET", SNIPPET),
    ("SCENARIO", (HERE / "document.js").read_text("utf-8")),
]:
    PAGE = PAGE.replace(name, text)

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
        result.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()
        told.set()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", PAGE_PORT), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()
# A process of the browser that ends last may still write there while the folder is removed.
with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    command = ["chromium", *FLAGS, f"--user-data-dir={profile}", f"http://127.0.0.1:{PAGE_PORT}/page"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        told.wait(90)
    finally:
        browser.terminate()
        browser.wait(20)
print(result[0] if result else "failed: the page said nothing")
sys.exit(0 if result == ["ok"] else 1)
