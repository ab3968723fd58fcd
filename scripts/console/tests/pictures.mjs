// The pictures of README.md and docs/operations.md. They are made only when `scripts/console/test pictures` asks for them; those
// of every state come from the other tests.
import { test } from "../harness.mjs";

const QUESTION = "How do I record messages from a script?";
const ANSWER = `Send them over HTTP; each is **on disk** before the reply comes:

\`\`\`sh
curl -s http://127.0.0.1:8000/api/chat/messages --json '[
  {"session_id": "notes", "role": "user", "text": "What is 2 + 2?"},
  {"session_id": "notes", "role": "assistant", "text": "4"}]'
\`\`\`

| to | call |
|---|---|
| record a message | \`POST /api/chat/messages\` |
| have it answered | \`POST /api/chat\` |
| read a page | \`GET /api/chat/history\` |

A retry with the same *key* records nothing twice:

1. choose a key of your own, and send it as \`message_id\`;
2. on a timeout send the same again;
3. the reply says \`"duplicate": true\` if the first one had arrived.`;

const OTHERS = [
  ["review", "Review of the parser", "Is this loop linear?", "Yes: each line is looked at once for each container."],
  ["names", "Names for a boat", "Something with the sea, but not too much.", "Then perhaps Tidewater, or simply Anna."],
  ["soup", "Soup for eight", "With what is in season.", "Leeks and potatoes; for eight take two kilos of each."],
  ["grant", "Letter about the grant", "Shorter, please.", "Dear Ms Okafor, thank you for the questions."],
  ["sql", "A slow query", "Why does it not use the index?", "It compares a text with a number, so it cannot."],
  ["trip", "Lisbon in May", "Which quarter is quiet at night?", "Campo de Ourique, and a tram goes there."],
];

async function conversations(server) {
  for (const [session, title, ...texts] of OTHERS) {
    await server.record(session, texts);
    await server.api("PATCH", `/api/chat/sessions/${session}`, { title });
  }
  await server.api("PATCH", "/api/chat/sessions/trip", { pinned: true });
  await server.say("howto", QUESTION);
  await server.api("PATCH", "/api/chat/sessions/howto", { title: "Messages from a script" });
}

test("the chat in light and dark, on a desk and on a phone", async ({ chatkeep, openAiModel, open, axe, picture }) => {
  const server = await chatkeep({ model: await openAiModel({ [QUESTION]: ANSWER }, "llama3.2") });
  await conversations(server);
  for (const [name, how] of Object.entries({
    "chat-light": {}, "chat-dark": { colors: "dark" }, "chat-phone": { width: 360, height: 740 }, "chat-phone-dark": { width: 360, height: 740, colors: "dark" },
  })) {
    const page = await open(server, { at: "#/chat/howto", motion: "reduce", ...how });
    await page.getByText("if the first one had arrived").waitFor();
    if (!how.width) await page.getByText("Soup for eight").waitFor();
    await axe(page, name);
    await picture(page, name, { forReadme: name !== "chat-phone-dark" });
  }
});

test("the storage tab after an outage of MongoDB", async ({ chatkeep, mongod, open, picture, until }) => {
  const mongo = await mongod();
  const server = await chatkeep({ mongo });
  const page = await open(server, { at: "#/storage", height: 812 });
  const waiting = async () => (await server.status()).queue.pending;
  const samples = (count) => until(`${count} readings are drawn`, async () => (
    (await page.locator(".plot-line").first().getAttribute("d"))?.split(/[ML]/).length > count
  ), 60);
  const record = (n) => server.record(`session-${n % 7}`, Array.from({ length: 20 + (n * 13) % 40 }, (_, of) => `Message ${n}.${of}`));
  // A reading a second, with something recorded before each.
  for (let n = 1; n <= 24; n += 1) {
    if (n === 9) await mongo.kill9();
    if (n === 17) await mongo.start();
    await record(n);
    await samples(n);
  }
  await until("all is delivered", async () => (await waiting()) === 0);
  await page.getByText(/none lost/).waitFor();
  // The banner is made of a status that is read every five seconds.
  await page.getByText(/^MongoDB cannot be reached/).waitFor({ state: "detached" });
  await picture(page, "storage", { forReadme: true });
});
