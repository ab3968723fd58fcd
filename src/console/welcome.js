// What an empty conversation says: what chatkeep is, what answers here, and how to do the same from a terminal.

import { copyButton } from "./clipboard.js";
import { element } from "./dom.js";

const RESPONDERS = {
  echo: () => ["Nothing is set to answer yet: what you write comes back (", code("ping"), " gives ", code("pong!"), "). For a model write this into ",
    code("config.yaml"), " and start again; docs/responders.md tells more:"],
  none: () => ["Messages are recorded here and not answered: ", code("responder.kind"), " is ", code("none"), "."],
  command: () => ["A program on the server's machine answers."],
  openai: () => ["A model server answers."],
};
const MARKDOWN = "**Bold**, `code` and a table:\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```js\nconsole.log(\"hello\");\n```";
const MODEL = "responder:\n  kind: openai\n  openai: {model: \"llama3.2\"}   # Ollama on this machine";

// status: of GET /api/storage/status; write(text) puts a text into the composer.
export function welcome({ session, status, token, writable, write }) {
  const { kind } = status.responder;
  const tries = writable && kind !== "none" && element("p", {}, tryButton("ping", "ping", write),
    kind === "echo" && tryButton("some Markdown", MARKDOWN, write));
  const curl = [`curl -s ${location.origin}/api/chat ${token ? "-H \"Authorization: Bearer $TOKEN\" " : ""}\\`,
    `  --json '{"message": "ping", "session_id": "${session}"}'`].join("\n");
  return element("section", { class: "welcome", "aria-label": "About chatkeep" },
    element("h2", { text: "A conversation that is kept" }),
    element("p", { class: "lead" }, "chatkeep stores chat conversations, for this page and for programs. Each message is on disk before it counts as sent",
      status.mongo.enabled ? ", and goes to MongoDB behind it" : "",
      ". Close this page or stop the server in the middle of an answer: the conversation goes on where it was."),
    element("div", { class: "cards" },
      card("What answers", element("p", {}, RESPONDERS[kind]()), kind === "echo" && sample(MODEL), tries),
      writable && card("The same from a terminal", element("p", {}, "This page follows the conversation: run this and see it arrive here. The tab ",
        element("a", { href: "#/storage", text: "Storage" }), " shows what is on disk, and what waits for MongoDB."), sample(curl))));
}

function card(title, ...content) {
  return element("section", { class: "card" }, element("h3", { text: title }), content);
}

function sample(text) {
  return element("div", { class: "sample" }, element("pre", { tabindex: 0, "aria-label": "Example" }, element("code", { text })),
    copyButton("Copy this example", () => text));
}

function tryButton(name, text, write) {
  return element("button", { class: "quiet small", type: "button", onclick: () => write(text) }, `Write ${name}`);
}

function code(text) {
  return element("code", { text });
}
