// Models to put behind the server.
import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import readline from "node:readline";

import { endGroup, lineOf, root, start } from "./processes.mjs";

let made = 0;

// A model of which the test says every word, when it likes. `responder` is what the configuration needs.
//   const asked = await model.asked();   the next question, in order: { text, session_id, messages, … }
//   asked.say("Hel"); asked.say("lo");   pieces of its answer
//   asked.end();                         the answer is whole
//   asked.fail("no memory");             it fails for this reason
//   model.answer = (asked) => "text";    from now on questions are answered by this, at once
export async function slowModel(folder) {
  const socket = path.join(folder, `model-${(made += 1)}`);
  const questions = [];
  const waiting = [];
  const model = {
    responder: { kind: "command", command: [process.execPath, path.join(import.meta.dirname, "answer.mjs"), socket] },
    answer: undefined,
    asked: () => new Promise((resolve) => (questions.length ? resolve(questions.shift()) : waiting.push(resolve))),
    end: () => new Promise((resolve) => {
      for (const connection of connections) connection.destroy();
      listener.close(resolve);
    }),
  };
  const connections = new Set();
  const listener = net.createServer((connection) => {
    connections.add(connection);
    // The server ends a program whose answer is stopped.
    connection.on("error", () => {});
    connection.on("close", () => connections.delete(connection));
    const write = (kind, text) => connection.write(`${JSON.stringify([kind, text])}\n`);
    readline.createInterface({ input: connection }).once("line", (line) => {
      const asked = { ...JSON.parse(line), say: (text) => write("say", text), end: () => write("end"), fail: (why) => write("fail", why) };
      if (model.answer) {
        asked.say(model.answer(asked));
        asked.end();
      } else if (waiting.length) waiting.shift()(asked);
      else questions.push(asked);
    });
  });
  await new Promise((resolve) => listener.listen(socket, resolve));
  return model;
}

// A server of OpenAI's protocol that others wrote, whose answers name a model. answers: { "part of a message": "its answer" };
// anything else is answered with "I have rules only." end() ends it as an outage does.
export async function openAiModel(folder, answers = {}, name = "small-1") {
  const rules = Object.entries(answers).map(([contained, content], n) => (
    { name: `rule-${n}`, when: { messages_contain: contained }, respond: { content } }
  ));
  rules.push({ name: "rest", when: {}, respond: { content: "I have rules only." } });
  const file = path.join(folder, `rules-${(made += 1)}.json`);
  fs.writeFileSync(file, JSON.stringify({ version: 1, rules }));
  // It tells its port in its log, which is stderr.
  const command = ["-c", 'exec "$@" 2>&1', "sh", path.join(root, "scripts/fakellm.sh"), "serve", "--config", file, "--port", "0"];
  const child = start("sh", command, `${file}.log`);
  const [, url] = await lineOf(child, /running on (http:\/\/[\d.:]+)/);
  return {
    responder: { kind: "openai", openai: { base_url: `${url}/v1`, model: name } },
    end: () => endGroup(child, "SIGKILL"),
  };
}
