// The browser's client of docs/websocket.md, as it stands there, with Node's ws in the place of a browser's: HOST:PORT TOKEN.
"use strict";
const WebSocket = require("ws");
const assert = require("assert");
const fs = require("fs");
const path = require("path");

const [host, token] = process.argv.slice(2);
const sockets = [];
globalThis.crypto ??= require("crypto").webcrypto;
globalThis.WebSocket = class extends WebSocket {
  constructor(...given) {
    super(...given);
    this.on("error", () => {}); // a browser tells nothing of it either
    sockets.push(this);
  }
};
const document = fs.readFileSync(path.join(__dirname, "../../docs/websocket.md"), "utf8");
const openChat = new Function(`${document.split("```js\n")[1].split("```")[0]}; return openChat;`)();

const record = (...texts) => recordIn("document", texts);
const recordIn = (session_id, texts) => fetch(`http://${host}/api/chat/messages`, {
  method: "POST",
  headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` },
  body: JSON.stringify(texts.map((text) => ({ session_id, role: "user", text }))),
}).then((reply) => assert.strictEqual(reply.status, 201));

const shown = [];
async function until(what, holds) {
  for (const end = Date.now() + 20000; !holds(); await new Promise((resolve) => setTimeout(resolve, 10))) {
    if (Date.now() > end) throw new Error(`${what}; shown: ${JSON.stringify(shown)}`);
  }
}

(async () => {
  await record("before");
  const refusal = [];
  const options = { host, session: "document", show: (message) => shown.push(message.text), status: () => {} };
  const chat = openChat({ ...options, token, refused: (code) => refusal.push(code) });
  await until("what was there is shown", () => shown.length === 1);
  chat.send("grüße 😀");
  await until("an answer comes", () => shown.length === 3);
  sockets.at(-1).terminate();
  await record("meanwhile");
  chat.send("said without a connection");
  await until("it goes on", () => shown.length === 6);
  chat.close();
  assert.deepStrictEqual(shown.slice(0, 3), ["before", "grüße 😀", "grüße 😀"]);
  assert.deepStrictEqual(shown.slice(3).sort(), ["meanwhile", "said without a connection", "said without a connection"]);

  // More than a page of the history comes while it is away from a session that was empty when it joined.
  const [late, states] = [[], []];
  const first = openChat({
    host, session: "empty", token, show: (message) => late.push(message.text), status: (frame) => states.push(frame.status),
    refused: (code) => refusal.push(code),
  });
  await until("it has joined", () => states.includes("idle"));
  sockets.at(-1).terminate();
  const texts = Array.from({ length: 450 }, (_, n) => `m${n}`);
  await recordIn("empty", texts);
  await until("all of it is shown", () => late.length === texts.length);
  first.close();
  assert.deepStrictEqual(late, texts);

  const opened = sockets.length;
  openChat({ ...options, token: "wröng 😀", refused: (code) => refusal.push(code) });
  openChat({ ...options, token: "wrong", refused: (code) => refusal.push(code) });
  await until("both end", () => refusal.length === 2);
  assert.deepStrictEqual([refusal, sockets.length], [[401, 401], opened + 1]);
  console.log("ok");
})().catch((error) => { console.error(error); process.exit(1); });
