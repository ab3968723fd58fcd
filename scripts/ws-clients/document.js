// What the browser's client of docs/websocket.md must do. `run` works in a page too; by itself this program runs it in Node,
// with the package ws as the browser's WebSocket: HOST:PORT TOKEN. The server echoes, but in a session whose name begins
// with `slow` it says `so far` and no more. What the client did is looked up by requests that are not the client's.
"use strict";

async function run(chatkeep, host, token) {
  const sockets = [], refusals = [];
  const Plain = globalThis.WebSocket;
  let isAway = false;  // whether no connection comes about
  globalThis.WebSocket = class extends Plain {
    constructor(address, ...more) {
      super(isAway ? `ws://${host}/nowhere` : address, ...more);
      sockets.push(this);
    }
  };
  const same = (one, other) => {
    const [a, b] = [JSON.stringify(one), JSON.stringify(other)];
    if (a !== b) throw new Error(`${a} is not ${b}`);
  };
  async function until(what, holds) {
    for (const end = Date.now() + 60000; !holds(); await new Promise((resolve) => setTimeout(resolve, 10))) {
      if (Date.now() > end) throw new Error(`in vain: ${what}; shown: ${opened.map((chat) => JSON.stringify(chat))}`);
    }
  }
  async function ask(method, path, body) {
    const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}` };
    const reply = await fetch(`http://${host}/api/chat/${path}`, { method, headers, body: body && JSON.stringify(body) });
    if (!reply.ok) throw new Error(`${method} ${path}: ${reply.status}`);
    return reply.json();
  }
  const record = (session_id, ...texts) => ask("POST", "messages", texts.map((text) => ({ session_id, role: "user", text })));
  const stored = async (session, view = "&view=current") =>
    (await ask("GET", `history?session_id=${session}&limit=500${view}`)).messages;
  const texts = (chat) => chat.messages.map(({ text }) => text);
  // What is shown is what the server has, message by message.
  const sameAsStored = async (chat) => same(chat.messages.map(({ id, role, text }) => [id, role, text]),
    (await stored(chat.session)).map(({ id, role, text }) => [id, role, text]));

  const stamp = Date.now();  // sessions of its own for each run
  const server = chatkeep({ host, token });
  const opened = [];
  async function open(session, more = {}) {
    const chat = server.open(session, { render: () => {}, refused: (status) => refusals.push(status), ...more });
    opened.push(chat);
    await until(`${session} is there`, () => chat.connected);
    return chat;
  }
  async function say(chat, text) {
    const before = chat.messages.length;
    chat.send(text);
    await until(`${text} is answered`, () => chat.messages.length === before + 2);
    same(texts(chat).slice(-2), [text, text]);
  }

  // First history, send, and resume: nothing is missing, nothing comes twice, what was sent without a connection is recorded once.
  const main = `front-${stamp}`;
  await record(main, "before");
  const one = await open(main);
  same(texts(one), ["before"]);
  await say(one, "grüße 😀");
  const lost = sockets.at(-1);
  lost.close();
  await until("it tells that the connection is lost", () => !one.connected);
  await record(main, "meanwhile");
  one.send("first without a connection");
  one.send("second without a connection");
  same(one.waiting, ["first without a connection", "second without a connection"]);
  await until("it goes on", () => one.connected && one.messages.length === 8 && one.waiting.length === 0);
  same(texts(one).slice(0, 3), ["before", "grüße 😀", "grüße 😀"]);
  same(texts(one).filter((text) => text === "meanwhile").length, 1);
  same(texts(one).filter((text) => text.endsWith("a connection")),
    ["first", "first", "second", "second"].map((text) => `${text} without a connection`));
  await sameAsStored(one);

  // What is not recorded is answered too, and is not sent for ever.
  const notices = [];
  const asking = await open(`ask-${stamp}`, { notice: (frame) => notices.push(frame.type) });
  ["help", "/stop", "/clear"].forEach((text) => asking.send(text));
  await until("nothing waits", () => asking.waiting.length === 0 && asking.messages[0]?.metadata?.type === "clear");
  same([notices, asking.messages.length], [["system"], 1]);
  await say(asking, "after it");

  // More than a page comes while it is away from a session that was empty when it joined; then it scrolls up.
  const many = await open(`many-${stamp}`);
  isAway = true;
  sockets.at(-1).close();
  await until("it is away", () => !many.connected);
  const numbers = Array.from({ length: 450 }, (_, n) => `m${n}`);
  await record(`many-${stamp}`, ...numbers);
  isAway = false;
  await until("the newest are shown", () => many.connected && many.messages.length >= 50);
  same([texts(many), many.more], [numbers.slice(-50), true]);
  while (many.more) await many.older();
  same(texts(many), numbers);

  // Two clients at once: one edits, the other sees the new branch.
  const talk = `talk-${stamp}`;
  const [editor, reader] = [await open(talk), await open(talk)];
  for (const text of ["a", "b", "c"]) await say(editor, text);
  await until("the other one sees it", () => reader.messages.length === 6);
  const before = texts(editor);
  await editor.edit(editor.messages[2], "B");
  for (const chat of [editor, reader]) {
    await until("the new branch is shown", () => texts(chat).join() === "a,a,B,B");
    await sameAsStored(chat);
  }
  same((await stored(talk, "")).map(({ text }) => text).filter((text) => before.includes(text)), before);

  // Regenerate, by the other one: the same question, another answer.
  const answers = reader.messages.slice(2).map(({ id }) => id);
  await reader.regenerate(reader.messages[3]);
  for (const chat of [editor, reader]) {
    await until("it is answered anew", () => texts(chat).join() === "a,a,B,B" && chat.messages.every(({ id }) => !answers.includes(id)));
    await sameAsStored(chat);
  }

  // Back to the other branch, and on from there; the first message of all can be edited.
  const left = await editor.branches();
  same(left.map(({ text }) => text), ["B", "c"]);
  await editor.goTo(left[1]);
  for (const chat of [editor, reader]) await until("the old branch is there again", () => texts(chat).join() === before.join());
  await sameAsStored(reader);
  await say(reader, "d");
  await until("both go on there", () => texts(editor).join() === [...before, "d", "d"].join());
  await editor.goTo(editor.messages[3]);
  for (const chat of [editor, reader]) await until("what follows is taken back", () => texts(chat).join() === "a,a,b,b");
  await reader.edit(reader.messages[0], "A");
  for (const chat of [editor, reader]) await until("it begins anew", () => texts(chat).join() === "A,A");
  await sameAsStored(editor);

  // A branch that is edited while this client is away, and an edit whose connection breaks at once.
  sockets.at(-1).close();
  await until("the reader is away", () => !reader.connected);
  await editor.edit(editor.messages[0], "Ä");
  await until("the editor sees it", () => texts(editor).join() === "Ä,Ä");
  await until("the reader sees it when it is back", () => reader.connected && texts(reader).join() === "Ä,Ä");
  const rewinds = (all) => all.filter(({ metadata }) => metadata.type === "rewind").length;
  const counted = rewinds(await stored(talk, "&role=system"));
  const change = reader.edit(reader.messages[0], "O");
  sockets.at(-1).close();
  await change;
  for (const chat of [editor, reader]) {
    await until("it is edited, and acknowledged", () => chat.connected && texts(chat).join() === "O,O" && !chat.waiting.length);
  }
  same([rewinds(await stored(talk, "&role=system")), reader.waiting], [counted + 1, []]);

  // The first message of a page is edited: what precedes it is above.
  const paged = await open(`many-${stamp}`);
  same([paged.messages.length, paged.more], [50, true]);
  await paged.edit(paged.messages[0], "M400");
  await until("the edit is there", () => texts(paged).slice(-2).join() === "M400,M400");
  same((await stored(`many-${stamp}`)).slice(-4).map(({ text }) => text), ["m398", "m399", "M400", "M400"]);

  // Stop; what is sent meanwhile waits; an edit stops the answer.
  const slow = await open(`slow-${stamp}`);
  slow.send("go on");
  await until("it speaks", () => slow.answer === "so far" && slow.state === "processing");
  const joined = await open(`slow-${stamp}`);
  await until("who joins is shown the text so far", () => joined.answer === "so far" && joined.state === "processing");
  slow.send("and then");
  joined.stop();
  await until("it is stopped, and the next one speaks", () => slow.messages.length === 3 && slow.answer === "so far");
  same(texts(slow), ["go on", "so far", "and then"]);
  same((await stored(`slow-${stamp}`))[1].metadata.status, "cancelled");
  await slow.edit(slow.messages[2], "instead");
  await until("the edit is answered", () => slow.waiting.length === 0 && slow.answer === "so far" && texts(slow)[2] === "instead");
  await joined.goTo(joined.messages[1]);
  for (const chat of [slow, joined]) {
    await until("it is taken back", () => texts(chat).join() === "go on,so far" && chat.state === "idle" && chat.answer === "");
  }

  // The list: found by a title, page by page; rename, pin, archive, erase.
  const other = `talk-${stamp}`;
  const listed = async (session, query = {}) => {
    for (let after; ;) {
      const page = await server.list({ ...query, limit: 3, ...(after && { after }) });
      const found = page.sessions.find(({ session_id }) => session_id === session);
      if (found || !page.next) return found;
      after = page.next;
    }
  };
  same((await listed(main)).title, "before");
  const told = [];
  const titled = await open(other, { notice: (frame) => told.push(frame.metadata.title) });
  await server.change(other, { title: "Letters & more" });
  await server.change(other, { pinned: true });
  await until("an open page is told", () => told.length === 2);
  same([told, texts(titled)], [["Letters & more", "Letters & more"], ["O", "O"]]);
  let { title, pinned, archived } = await ask("GET", `sessions/${other}`);
  same([title, pinned, archived], ["Letters & more", true, false]);
  same((await listed(other, { q: "letters" })).pinned, true);
  await server.change(other, { archived: true });
  ({ title, archived } = await ask("GET", `sessions/${other}`));
  same([title, archived, Boolean(await listed(other, { archived: false }))], ["Letters & more", true, false]);
  same((await listed(other, { archived: true })).session_id, other);
  same((await server.erase(other)).erased, true);
  for (const chat of [editor, reader, titled]) await until("what is erased is not shown", () => chat.messages.length === 0);
  same([await stored(other, ""), await listed(other)], [[], undefined]);
  await say(reader, "again");
  await until("all go on", () => [editor, titled].every((chat) => texts(chat).join() === "again,again"));

  // What is refused throws, and says why.
  const refused = await server.change("nobody", { title: "x" }).then(() => ({}), (error) => error);
  same([refused.status, refused.code], [404, "unknown_session"]);
  opened.forEach((chat) => chat.close());

  // A token that no header can carry is not sent at all; any other is tried once, and so is a name that is refused.
  const tried = sockets.length;
  const options = { render: () => {}, refused: (status) => refusals.push(status) };
  chatkeep({ host, token: "wröng 😀" }).open(main, options);
  chatkeep({ host, token: "wrong" }).open(main, options);
  chatkeep({ host, token }).open("no name", options);
  await until("all end", () => refusals.length === 3);
  same([refusals.sort(), sockets.length], [[401, 401, 422], tried + 2]);
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
  const client = text.split("```js\n").map((block) => block.split("```")[0]).find((block) => block.includes("function chatkeep"));
  const chatkeep = new Function(`${client}; return chatkeep;`)();
  run(chatkeep, host, token).then(() => { console.log("ok"); process.exit(0); })
    .catch((error) => { console.error(error); process.exit(1); });
}
