// What the Node clients of scripts/openai-clients.sh say, and how each of them is run.
"use strict";

const FIRST = "Hello, I am Ada – grüß dich! 😀";
const EDITED = "Hello, I am Grace.";
const SECOND = "What is my name?";
const WEATHER = "How is the weather in Köln?";
const PICTURE = "iVBORw0KGgo=";
const TOOL = {
  type: "function",
  function: {
    name: "weather",
    description: "The weather of a city.",
    parameters: {
      type: "object",
      properties: { city: { type: "string" }, days: { type: "number" } },
      required: ["city"],
    },
  },
};
const TOKEN = process.env.OPENAI_CLIENT_TOKEN ?? "none";

const [url, ...names] = process.argv.slice(2);

// The base URL; the recorder's has a place for the step's name.
const address = (step) => url.replace("{step}", step);

function check(condition) {
  if (!condition) throw new Error("not what was expected");
}

// Those that are named, else all; those that only the recorder can answer when it is asked.
async function run(steps, recordedOnly) {
  const all = url.includes("{step}") ? [...steps, ...recordedOnly] : steps;
  check(names.every((name) => all.some((step) => step.name === name)));
  for (const step of all.filter(({ name }) => names.length === 0 || names.includes(name))) {
    try {
      await step();
    } catch (error) {
      console.error(`failed: ${step.name}`);
      throw error;
    }
    console.log(`${step.name}: ok`);
  }
  console.log("ok");
}

module.exports = { EDITED, FIRST, PICTURE, SECOND, TOKEN, TOOL, WEATHER, address, check, run };
