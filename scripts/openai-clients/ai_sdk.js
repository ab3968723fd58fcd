// What scripts/openai-clients.sh says with Vercel's AI SDK: URL [STEP …]. AI_SDK_PROVIDER is `ai-sdk` (the chat model of
// @ai-sdk/openai, which asks /v1/responses unless it is told otherwise) or `ai-sdk-compatible` (@ai-sdk/openai-compatible).
"use strict";
const { createOpenAI } = require("@ai-sdk/openai");
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
const { convertToModelMessages, generateText, readUIMessageStream, streamText } = require("ai");
const { jsonSchema, stepCountIs, tool: define } = require("ai");
const { EDITED, FIRST, PICTURE, SECOND, TOKEN, TOOL, WEATHER, address, check, run } = require("./steps.js");

const isCompatible = process.env.AI_SDK_PROVIDER === "ai-sdk-compatible";

function model(step, name = "recorded") {
  const settings = { baseURL: address(step), apiKey: TOKEN };
  if (!isCompatible) return createOpenAI(settings).chat(name);
  return createOpenAICompatible({ name: "chatkeep", includeUsage: step === "usage", ...settings })(name);
}

const user = (content) => ({ role: "user", content });
const say = (step, messages, more = {}) => generateText({ model: model(step), messages, ...more });

async function conversation() {
  const system = "Be brief.";
  const messages = [user(FIRST)];
  const first = await say("first", messages, { system });
  check(first.text.includes(FIRST));
  // As its documentation does it: the response's messages go back.
  messages.push(...first.response.messages, user(SECOND));
  check((await say("second", messages, { system })).text.includes(SECOND));
  check((await say("regenerate", messages, { system })).text.includes(SECOND));
  check((await say("edit", [user(EDITED)], { system })).text.includes(EDITED));
}

// A turn as `useChat` makes it: the stream becomes a message of the page, which becomes a message of the next request.
async function turn(step, page, text) {
  page.push({ id: `u${page.length}`, role: "user", parts: [{ type: "text", text }] });
  const result = streamText({ model: model(step), messages: await convertToModelMessages(page) });
  let last;
  for await (const message of readUIMessageStream({ stream: result.toUIMessageStream() })) last = message;
  page.push(last);
  return last.parts.map((part) => part.text ?? "").join("");
}

async function stream() {
  const page = [];
  check((await turn("stream-first", page, FIRST)).includes(FIRST));
  check((await turn("stream-second", page, SECOND)).includes(SECOND));
}

async function usage() {
  const result = streamText({ model: model("usage"), messages: [user(FIRST)] });
  check((await result.text).includes(FIRST) && (await result.usage).totalTokens > 0);
}

async function abort() {
  const controller = new AbortController();
  const told = { abortSignal: controller.signal, onAbort() {}, onError() {} };
  const result = streamText({ model: model("abort", "verbose"), messages: [user(FIRST)], ...told });
  let text = "";
  for await (const piece of result.textStream) {
    text += piece;
    if (text.length > 60) controller.abort();
  }
  const messages = [user(FIRST), { role: "assistant", content: text }, user(SECOND)];
  check((await say("abort-next", messages)).text.includes(SECOND));
}

async function tool() {
  const { name, description, parameters } = TOOL.function;
  const weather = define({ description, inputSchema: jsonSchema(parameters), execute: async () => ({ degrees: 12 }) });
  // Both requests are of one call: the SDK runs the tool between them.
  const result = await say("tool", [user(WEATHER)], { tools: { [name]: weather }, stopWhen: stepCountIs(2) });
  check(result.steps.length === 2 && result.text);
}

async function parts() {
  const content = [{ type: "text", text: FIRST }, { type: "image", image: PICTURE, mediaType: "image/png" }];
  check((await say("parts", [user(content)])).text.includes(FIRST));
}

async function system() {
  const messages = ["Be brief.", "Be kind."].map((content) => ({ role: "system", content }));
  check((await say("system", [...messages, user(FIRST)], { allowSystemInMessages: true })).text.includes(FIRST));
}

async function options() {
  const more = { temperature: 0.5, maxOutputTokens: 50, seed: 1, stopSequences: ["END"] };
  const providerOptions = isCompatible
    ? { chatkeep: { user: "ada", session_id: "b" } }
    : { openai: { user: "ada", store: false, metadata: { session_id: "m" } } };
  check(await say("options", [user(FIRST)], { ...more, providerOptions, headers: { "X-Session-Id": "h" } }));
}

async function reasoning() {
  const first = await generateText({ model: model("reasoning", "reasoner"), messages: [user(FIRST)] });
  check(await say("reasoning-next", [user(FIRST), ...first.response.messages, user(SECOND)]));
}

async function retry() {
  check(await generateText({ model: model("retry", "fail-503-once"), messages: [user(FIRST)] }));
}

run([conversation, stream, usage, abort, tool, parts, system], [options, reasoning, retry]);
