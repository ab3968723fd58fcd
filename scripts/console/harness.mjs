// What the tests of the console stand on: the real server with a folder of its own, MongoDB, a model that answers as the test
// says, and pages in a headless Chromium. A test fails on what its pages complain of: a violation of the policy, an error in
// the console, an exception that nobody caught. All that a test started ends with it.
//
//   import { test, assert } from "../harness.mjs";
//   test("an answer is shown", async ({ chatkeep, open }) => {
//     const server = await chatkeep();
//     const page = await open(server, { at: "#/chat/one", colors: "dark", width: 360 });
//   });
import assert from "node:assert/strict";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { after, test as nodeTest } from "node:test";

import { WINDOWS, axe, closeBrowser, frames, looks, openPage, picture } from "./browser.mjs";
import { openAiModel, slowModel } from "./models.mjs";
import { ended, endGroup, lineOf, root, start } from "./processes.mjs";

export { WINDOWS, assert };

const theme = path.basename(process.argv[1], ".mjs");

// test(name, [options,] body): body gets a context:
//   chatkeep({ config, model, mongo })   starts a server, see Chatkeep
//   mongod()                             starts a MongoDB, see Mongod
//   slowModel()                          a model whose every word the test says, see models.mjs
//   openAiModel(answers, name)           one that speaks OpenAI's protocol and has a name
//   open(server, options)                opens the console in a new browser window, see browser.mjs
//   axe(page, state)                     fails if axe-core finds anything; `state` names it in the message
//   looks(page, name)                    both of these in light, dark and with large text; WINDOWS are the sizes to open it in
//   picture(page, name)                  keeps a picture of the page as .cache/console/pictures/NAME.png; see browser.mjs
//   until(what, condition)               waits until condition() gives something true, and returns that
//   diagnostic(text)                     a line for who reads the run
export function test(name, options, body = options) {
  nodeTest(`${theme}: ${name}`, { timeout: 600_000, ...(body !== options && options) }, async (t) => {
    const scope = { folder: fs.mkdtempSync(path.join(os.tmpdir(), "console-")), ends: [], complaints: [] };
    const owned = async (making) => {
      const one = await making;
      scope.ends.push(() => one.end());
      return one;
    };
    try {
      await body({
        chatkeep: (how) => owned(Chatkeep.start(scope.folder, how)),
        mongod: () => owned(Mongod.start(scope.folder)),
        slowModel: () => owned(slowModel(scope.folder)),
        openAiModel: (...what) => owned(openAiModel(scope.folder, ...what)),
        open: (server, how) => openPage(scope, server, how),
        axe,
        looks,
        picture,
        until,
        diagnostic: (text) => t.diagnostic(text),
      });
      assert.deepEqual(scope.complaints, [], "what the pages complained of");
    } catch (error) {
      for (const complaint of scope.complaints) t.diagnostic(`a page complained: ${complaint}`);
      for (const log of logs(scope.folder)) t.diagnostic(log);
      throw error;
    } finally {
      for (const end of scope.ends.reverse()) await end();
      fs.rmSync(scope.folder, { recursive: true, force: true, maxRetries: 5 });
    }
  });
}

after(closeBrowser);

// The end of each server's log, for who looks for what went wrong.
function logs(folder) {
  return fs.readdirSync(folder).filter((name) => name.endsWith(".log"))
    .map((name) => [name, fs.readFileSync(path.join(folder, name), "utf8")])
    .filter(([, text]) => text !== "")
    .map(([name, text]) => `${name}:\n${text.split("\n").slice(-25).join("\n")}`);
}

// Looks again and again until condition() gives something true, for half a minute.
export async function until(what, condition, seconds = 30) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const found = await condition();
    if (found) return found;
    assert.ok(Date.now() < deadline, `after ${seconds} s still not: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

// Waits until read() gives the same before and after two frames of the page, and returns that.
export function still(page, read) {
  return until("it stands still", async () => {
    const before = await read();
    await frames(page, 2);
    return JSON.stringify(await read()) === JSON.stringify(before) && before;
  });
}

let started = 0;

// The server under test.
//   url, port, data          its address, the folder of its data
//   kill9(), stop()          ends it at once, or in order
//   restart()                starts it again with the same port and data; restart({ config }) with other keys
//   api(method, path, json)  calls it, with the token of `tokens.admin` if there is one; throws unless the reply is ok
//   say(session, text)       takes a turn and returns the reply
//   record(session, texts)   records these messages, of a user and an assistant by turns; any number
//   log()                    what it has written to stderr so far
export class Chatkeep {
  // config: keys over those of the tests, as in config.yaml; model: a model of models.mjs; mongo: a Mongod.
  static async start(folder, { config = {}, model, mongo } = {}) {
    const server = new Chatkeep();
    const name = `chatkeep-${(started += 1)}`;
    Object.assign(server, { folder, name, data: path.join(folder, name) });
    server.config = {
      ...config,
      server: { local_socket: "", ...config.server },
      ...(model && { responder: { ...model.responder, ...config.responder } }),
      ...(mongo && { mongo: { enabled: true, uri: mongo.uri, ...config.mongo } }),
    };
    const begin = async () => server.restart({ port: await freePort() });
    // Others may take a port between the look and the start.
    await begin().catch((fault) => (/in use/.test(fault.message) ? begin() : Promise.reject(fault)));
    return server;
  }

  async restart({ config, port = this.port } = {}) {
    if (config) this.config = { ...this.config, ...config };
    this.port = port;
    const file = path.join(this.folder, `${this.name}.yaml`);
    fs.writeFileSync(file, JSON.stringify(this.config));  // JSON is YAML
    const options = ["--config", file, "--data", this.data, "--listen", `127.0.0.1:${this.port}`];
    this.process = start(process.env.CHATKEEP, options, path.join(this.folder, `${this.name}.log`));
    [, this.url] = await lineOf(this.process, /^listening on (http:\/\/.*:\d+)$/);
  }

  async kill9() {
    this.wasDown = true;
    await endGroup(this.process, "SIGKILL");
  }

  async stop() {
    this.wasDown = true;
    this.process.kill("SIGTERM");
    await ended(this.process);
  }

  end() {
    return endGroup(this.process, "SIGKILL");
  }

  log() {
    return fs.readFileSync(path.join(this.folder, `${this.name}.log`), "utf8");
  }

  get token() {
    return this.config.server.auth_token;
  }

  async api(method, path, json) {
    const headers = { ...(json !== undefined && { "Content-Type": "application/json" }) };
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    const reply = await fetch(this.url + path, { method, headers, body: json === undefined ? undefined : JSON.stringify(json) });
    const text = await reply.text();
    assert.ok(reply.ok, `${method} ${path}: ${reply.status} ${text}`);
    return /^application\/json/.test(reply.headers.get("Content-Type")) ? JSON.parse(text) : text;
  }

  say(session, message) {
    return this.api("POST", "/api/chat", { session_id: session, message });
  }

  async record(session, texts) {
    const messages = texts.map((text, n) => ({ session_id: session, role: n % 2 ? "assistant" : "user", text }));
    for (let from = 0; from < messages.length; from += 1000) {
      await this.api("POST", "/api/chat/messages", messages.slice(from, from + 1000));
    }
  }

  status() {
    return this.api("GET", "/api/storage/status");
  }
}

// A real MongoDB on a port of its own: uri; stop(), kill9(), freeze(), thaw(); start() again on the same data and port.
export class Mongod {
  static async start(folder) {
    const mongo = new Mongod();
    mongo.folder = fs.mkdtempSync(path.join(folder, "mongod-"));
    const found = start(path.join(root, "scripts/mongod.sh"), ["find"], path.join(folder, "mongod-find.log"));
    [mongo.program] = await lineOf(found, /^\/.*$/);
    mongo.port = await freePort();
    mongo.uri = `mongodb://127.0.0.1:${mongo.port}`;
    await mongo.start();
    return mongo;
  }

  async start() {
    const options = ["--dbpath", this.folder, "--port", String(this.port), "--bind_ip", "127.0.0.1"];
    options.push("--unixSocketPrefix", this.folder, "--wiredTigerCacheSizeGB", "0.25");
    this.process = start(this.program, options, `${this.folder}.log`);
    await lineOf(this.process, /"msg":"Waiting for connections"/);
  }

  async stop() {
    this.process.kill("SIGTERM");
    await ended(this.process);
  }

  kill9() {
    return endGroup(this.process, "SIGKILL");
  }

  freeze() {
    this.process.kill("SIGSTOP");
  }

  thaw() {
    this.process.kill("SIGCONT");
  }

  end() {
    return this.kill9();
  }
}

// Below the ports that the system gives to connections: one of these could be taken while its server is down.
async function freePort() {
  for (;;) {
    const port = 15_000 + Math.floor(Math.random() * 17_000);
    const listener = net.createServer();
    const free = await new Promise((resolve) => {
      listener.on("error", () => resolve(false));
      listener.listen(port, "127.0.0.1", () => listener.close(() => resolve(true)));
    });
    if (free) return port;
  }
}
