// What scripts/ws-clients.sh says with Node's ws: HOST:PORT [TOKEN].
"use strict";
const WebSocket = require("ws");
const assert = require("assert");

const [host, token] = process.argv.slice(2);
const headers = token ? { Authorization: `Bearer ${token}` } : {};

// A socket whose events can be waited for by type.
function connect(more = "") {
  const socket = new WebSocket(`ws://${host}/ws/chat?session_id=node${more}`, { headers });
  const came = [];
  let wake = () => {};
  socket.on("message", (text) => { came.push(JSON.parse(text)); wake(); });
  socket.on("error", (error) => { throw error; });
  const late = () => { throw new Error(`nothing came; had ${JSON.stringify(came)}`); };
  return {
    socket,
    say: (event) => socket.send(JSON.stringify(event)),
    async event(type) {
      for (;;) {
        while (came.length) { const one = came.shift(); if (one.type === type) return one; }
        const timer = setTimeout(late, 60000);
        await new Promise((resolve) => { wake = resolve; });
        clearTimeout(timer);
      }
    },
    close: () => new Promise((resolve) => { socket.on("close", resolve); socket.close(1000); }),
  };
}

(async () => {
  const [one, other] = [connect(), connect()];
  assert.strictEqual((await one.event("system")).session_id, "node");
  await other.event("system");
  one.say({ message: "grüße 😀", client_id: "c" });
  const [ack, response] = [await one.event("ack"), await one.event("response")];
  assert.deepStrictEqual([ack.client_id, response.message], ["c", "grüße 😀"]);
  assert.strictEqual((await other.event("message")).id, ack.id);
  const last = (await other.event("response")).id;
  await new Promise((resolve) => { one.socket.on("pong", resolve); one.socket.ping("are you there"); });
  assert.strictEqual(await other.close(), 1000);
  for (let n = 0; n < 3; n++) { one.say({ message: `missed ${n}` }); await one.event("response"); }
  const resumed = connect(`&after=${last}`);
  for (let n = 0; n < 6; n++) {
    const message = await resumed.event("message");
    assert.deepStrictEqual([message.text, message.replayed], [`missed ${n >> 1}`, true]);
  }
  await resumed.close();
  await one.close();
  console.log("ok");
})();
