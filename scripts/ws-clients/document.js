// What the browser's client of docs/websocket.md must do. `run` works in a page too; by itself this program runs it in Node,
// with the package ws as the browser's WebSocket: HOST:PORT TOKEN.
"use strict";

async function run(openChat, host, token) {
  const sockets = [], shown = [], refusals = [], connections = [];
  const Plain = globalThis.WebSocket;
  globalThis.WebSocket = class extends Plain {
    constructor(...given) {
      super(...given);
      sockets.push(this);
    }
  };
  const same = (one, other) => {
    const [a, b] = [JSON.stringify(one), JSON.stringify(other)];
    if (a !== b) throw new Error(`${a} is not ${b}`);
  };
  async function until(what, holds) {
    for (const end = Date.now() + 20000; !holds(); await new Promise((resolve) => setTimeout(resolve, 10))) {
      if (Date.now() > end) throw new Error(`${what}; shown: ${JSON.stringify(shown)}, connected: ${connections}`);
    }
  }
  async function record(session_id, ...texts) {
    const reply = await fetch(`http://${host}/api/chat/messages`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` },
      body: JSON.stringify(texts.map((text) => ({ session_id, role: "user", text }))),
    });
    same(reply.status, 201);
  }
  // A session of its own for each run.
  const session = `document-${Date.now()}`;
  const options = {
    host, session, token, show: (message) => shown.push(message.text), status: () => {},
    connected: (yes) => connections.push(yes), refused: (code) => refusals.push(code),
  };

  await record(session, "before");
  const chat = openChat(options);
  await until("what was there is shown, and that it is connected", () => shown.length === 1 && connections.length === 1);
  chat.send("grüße 😀");
  await until("an answer comes", () => shown.length === 3);
  sockets.at(-1).close();
  await until("it tells that the connection is lost", () => connections.length === 2);
  await record(session, "meanwhile");
  chat.send("said without a connection");
  await until("it goes on", () => shown.length === 6 && connections.length === 3);
  chat.close();
  same(shown.slice(0, 3), ["before", "grüße 😀", "grüße 😀"]);
  same(shown.slice(3).sort(), ["meanwhile", "said without a connection", "said without a connection"]);
  same(connections, [true, false, true]);

  // More than a page of the history comes while it is away from a session that was empty when it joined.
  const late = [], states = [];
  const first = openChat({
    ...options, session: `${session}-empty`, show: (message) => late.push(message.text), connected: (yes) => states.push(yes),
  });
  await until("it has joined", () => states.includes(true));
  sockets.at(-1).close();
  const texts = Array.from({ length: 450 }, (_, n) => `m${n}`);
  await record(`${session}-empty`, ...texts);
  await until("all of it is shown", () => late.length === texts.length);
  first.close();
  same(late, texts);

  // A token that no header can carry is not sent at all; any other is tried once.
  const opened = sockets.length;
  connections.length = 0;
  openChat({ ...options, token: "wröng 😀" });
  openChat({ ...options, token: "wrong" });
  await until("both end", () => refusals.length === 2);
  same([refusals, sockets.length, connections], [[401, 401], opened + 1, [false]]);
}

if (typeof require === "function") {
  const fs = require("fs");
  const path = require("path");
  const [host, token] = process.argv.slice(2);
  globalThis.crypto ??= require("crypto").webcrypto;
  globalThis.WebSocket = class extends require("ws") {
    constructor(...given) {
      super(...given);
      this.on("error", () => {}); // a browser tells nothing of it either
    }
  };
  const text = fs.readFileSync(path.join(__dirname, "../../docs/websocket.md"), "utf8");
  const openChat = new Function(`${text.split("```js\n")[1].split("```")[0]}; return openChat;`)();
  run(openChat, host, token).then(() => console.log("ok")).catch((error) => { console.error(error); process.exit(1); });
}
