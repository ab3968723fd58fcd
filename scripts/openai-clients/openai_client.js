// What scripts/openai-clients.sh says with OpenAI's own client for Node: URL [STEP …].
"use strict";
const OpenAI = require("openai");
const { EDITED, FIRST, PICTURE, SECOND, TOKEN, TOOL, WEATHER, address, check, run } = require("./steps.js");

const client = (step) => new OpenAI({ baseURL: address(step), apiKey: TOKEN });
const user = (content) => ({ role: "user", content });
const assistant = (content) => ({ role: "assistant", content });
const say = (step, messages, more = {}, options = {}) =>
  client(step).chat.completions.create({ model: "recorded", messages, ...more }, options);
const message = async (reply) => (await reply).choices[0].message;

async function models() {
  const names = [];
  for await (const model of client("models").models.list()) names.push(model.id);
  check(names.length > 0);
}

async function conversation() {
  const system = { role: "system", content: "Be brief." };
  const messages = [system, user(FIRST)];
  const first = await message(say("first", messages));
  check(first.content.includes(FIRST));
  // As the client's documentation does it: its own object goes back.
  messages.push(first, user(SECOND));
  check((await message(say("second", messages))).content.includes(SECOND));
  check((await message(say("regenerate", messages))).content.includes(SECOND));
  check((await message(say("edit", [system, user(EDITED)]))).content.includes(EDITED));
}

async function streamed(step, messages, more = {}) {
  let [text, usage] = ["", null];
  for await (const chunk of await say(step, messages, { stream: true, ...more })) {
    usage = chunk.usage ?? usage;
    for (const choice of chunk.choices) text += choice.delta.content ?? "";
  }
  return { text, usage };
}

async function stream() {
  const { text } = await streamed("stream-first", [user(FIRST)]);
  check(text.includes(FIRST));
  const second = await streamed("stream-second", [user(FIRST), assistant(text), user(SECOND)]);
  check(second.text.includes(SECOND));
  // The helper that puts a message together; it is what goes back in the next request.
  const helper = client("helper").chat.completions.stream({ model: "recorded", messages: [user(FIRST)] });
  const whole = await helper.finalMessage();
  check((await message(say("helper-next", [user(FIRST), whole, user(SECOND)]))).content.includes(SECOND));
}

async function usage() {
  const said = await streamed("usage", [user(FIRST)], { stream_options: { include_usage: true } });
  check(said.text.includes(FIRST) && said.usage.total_tokens > 0);
}

async function abort() {
  let text = "";
  const pieces = await say("abort", [user(FIRST)], { model: "verbose", stream: true });
  for await (const chunk of pieces) {
    text += chunk.choices[0]?.delta.content ?? "";
    if (text.length > 60) pieces.controller.abort();
  }
  const next = await message(say("abort-next", [user(FIRST), assistant(text), user(SECOND)]));
  check(next.content.includes(SECOND));
}

async function tool() {
  const messages = [user(WEATHER)];
  const asked = await message(say("tool", messages, { tools: [TOOL] }));
  const [call] = asked.tool_calls;
  check(call.function.name === "weather");
  messages.push(asked, { role: "tool", tool_call_id: call.id, content: "12 °C" });
  check((await message(say("tool-result", messages, { tools: [TOOL] }))).content);
}

async function parts() {
  const image_url = { url: `data:image/png;base64,${PICTURE}` };
  const content = [{ type: "text", text: FIRST }, { type: "image_url", image_url }];
  check((await message(say("parts", [user(content)]))).content.includes(FIRST));
}

async function system() {
  const roles = [["system", "Be brief."], ["developer", "Be kind."], ["system", "It is Monday."]];
  const messages = roles.map(([role, content]) => ({ role, content }));
  check((await message(say("system", [...messages, user(FIRST)]))).content.includes(FIRST));
}

async function options() {
  const more = { temperature: 0.5, max_completion_tokens: 50, seed: 1, stop: ["END"], user: "ada", store: false };
  const metadata = { session_id: "m" };
  const named = { headers: { "X-Session-Id": "h" }, idempotencyKey: "key-1" };
  check(await say("options", [user(FIRST)], { ...more, metadata }, named));
}

async function reasoning() {
  const first = await message(say("reasoning", [user(FIRST)], { model: "reasoner" }));
  check(await say("reasoning-next", [user(FIRST), first, user(SECOND)]));
}

async function retry() {
  check(await say("retry", [user(FIRST)], { model: "fail-503-once" }));
}

run([models, conversation, stream, usage, abort, tool, parts, system], [options, reasoning, retry]);
