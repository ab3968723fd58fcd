// The chat in the states that its messages bring, before axe-core; states.mjs has the rest of the page.
import { WINDOWS, assert, test } from "../harness.mjs";

const field = (page) => page.getByRole("textbox", { name: "Message" });
const ANSWER = `Read it line by line, with \`BufReader\`:

\`\`\`rust
for line in BufReader::new(File::open("notes.txt")?).lines() {
    println!("{}", line?);
}
\`\`\`

| call | gives |
|---|---|
| \`lines\` | text, **without** line ends |
| \`split\` | bytes |

1. It is [documented](https://doc.rust-lang.org/std/io/).
2. ${"averyveryverylongword".repeat(8)}`;

async function conversation(server) {
  await server.api("POST", "/api/chat/messages", [
    { session_id: "looks", role: "user", text: "How do I read a file in Rust?" },
    { session_id: "looks", role: "assistant", text: ANSWER, metadata: { model: "llama3.2", status: "completed", duration_ms: 4210 } },
    { session_id: "looks", role: "system", text: "A new context begins here.", metadata: { type: "clear" } },
    { session_id: "looks", role: "user", text: "مرحبا, and this? ".repeat(6) },
    { session_id: "looks", role: "assistant", text: "A part", metadata: { model: "llama3.2", status: "cancelled", cancelled_by: "client", duration_ms: 910 } },
  ]);
}

for (const [size, how] of Object.entries(WINDOWS)) {
  test(`the chat: ${size}`, async ({ chatkeep, open, looks }) => {
    const server = await chatkeep();
    await conversation(server);
    const page = await open(server, { at: "#/chat/looks", ...how });
    await page.getByText("A part").last().waitFor();
    await looks(page, "messages");
    const message = page.getByRole("article", { name: "Your message" }).last();
    await message.hover();
    await message.getByRole("button", { name: "Edit", exact: true }).click();
    await looks(page, "edit");
  });
}

test("the chat without a connection, and with an answer in progress", async ({ chatkeep, slowModel, open, axe, picture }) => {
  const model = await slowModel();
  const server = await chatkeep({ model });
  const page = await open(server, { at: "#/chat/states" });
  await field(page).fill("a question");
  await field(page).press("Enter");
  const asked = await model.asked();
  await axe(page, "an answer that has not begun");
  asked.say("# It begins\n\nand goes on");
  await page.getByText("and goes on").first().waitFor();
  await field(page).fill("the next one");
  await field(page).press("Enter");
  await page.getByText("Waits for the end of the answer.").waitFor();
  await axe(page, "an answer in progress");
  await picture(page, "answering");
  await server.kill9();
  await page.getByText("Not connected.").first().waitFor();
  await axe(page, "no connection");
  await picture(page, "not-connected");
});

test("a screen reader is told of an answer once it is whole", async ({ chatkeep, slowModel, open }) => {
  const model = await slowModel();
  const server = await chatkeep({ model });
  const page = await open(server, { at: "#/chat/told" });
  const told = page.locator(".pane > [role=status]");
  await field(page).waitFor();
  await page.evaluate(() => {
    window.told = [];
    new MutationObserver(() => window.told.push(document.querySelector(".pane > [role=status]").textContent))
      .observe(document.querySelector(".pane > [role=status]"), { childList: true, characterData: true, subtree: true });
  });
  await field(page).fill("a question");
  await field(page).press("Enter");
  const asked = await model.asked();
  for (const piece of ["One. ", "Two. ", "Three."]) {
    asked.say(piece);
    await page.getByText(piece.trim()).first().waitFor();
  }
  asked.end();
  await told.getByText("Answer: One. Two. Three.").waitFor();
  assert.deepEqual(await page.evaluate(() => window.told), ["Answering…", "Answer: One. Two. Three."]);
});
