// The Storage tab: what it tells of MongoDB, also while that is away, of a server without MongoDB, and to tokens that may read.
import { assert, test } from "../harness.mjs";

const plot = (page, name) => page.getByRole("img", { name: new RegExp(`^${name}: `) });
const figure = (page, name) => page.locator(".figures > div", { has: page.getByText(name, { exact: true }) }).locator(".figure");

// The messages that it says are in MongoDB. Some were there already where a slow batch had to be sent again.
async function stored(page) {
  const said = await page.locator(".figures > div", { hasText: "Stored in MongoDB" }).textContent();
  const numbers = /MongoDB(\d+)Messages since the start(?:; (\d+) more)?/.exec(said) ?? [];
  return Number(numbers[1]) + Number(numbers[2] ?? 0);
}

// The number that a plot says is now.
async function now(page, name) {
  const [, value] = /: ([\d.,]+)/.exec(await plot(page, name).getAttribute("aria-label")) ?? [];
  return Number(value?.replaceAll(",", ""));
}

test("MongoDB goes away: what waits grows, nothing is lost, and it drains", async ({ chatkeep, mongod, open, axe, picture, until }) => {
  const mongo = await mongod();
  const server = await chatkeep({ mongo });
  await server.record("before", ["one", "two"]);
  const page = await open(server, { at: "#/storage" });
  await page.getByRole("heading", { name: "MongoDB is connected" }).waitFor();
  await page.getByText(/Everything is in .*chat_messages/).waitFor();
  await until("both are said to be there", async () => (await stored(page)) === 2);
  await axe(page, "the storage tab with MongoDB");

  // It is noticed when there is something to send.
  await mongo.kill9();
  await server.record("during", Array.from({ length: 500 }, (_, n) => `message ${n}`));
  await page.getByRole("heading", { name: "MongoDB is away" }).waitFor();
  await until("500 wait", async () => (await now(page, "Waiting for MongoDB")) === 500);
  await page.getByText(/Nothing is lost.*500 messages wait in the journal/).waitFor();
  const spoken = await page.locator("[role=status], [aria-live]").allTextContents();
  assert.ok(spoken.includes("MongoDB is away") && !spoken.some((text) => /Since/.test(text)), "what rises is not spoken each second");
  await until("time passes for the oldest", async () => (await now(page, "Oldest that waits")) > 0);
  assert.ok(await page.locator(".plot-bands rect").count() > 0, "the outage is shaded");
  await page.getByText("What to do: docs/runbook.md, “MongoDB is away”.").waitFor();
  await axe(page, "the storage tab while MongoDB is away");
  await picture(page, "storage-away");

  await mongo.start();
  await page.getByRole("heading", { name: "MongoDB is connected" }).waitFor();
  await until("nothing waits", async () => (await now(page, "Waiting for MongoDB")) === 0);
  await page.getByText("All that waited is in MongoDB: 500 messages, none lost.").waitFor();
  await until("all are said to be there", async () => (await stored(page)) === 502);
  assert.match(await plot(page, "Waiting for MongoDB").getAttribute("aria-label"), /: 0 now, at most 500 in the last/);
  await until("a batch took some time", async () => (await now(page, "Time of a batch")) > 0);
  await picture(page, "storage-back");
});

test("without MongoDB it says where everything is, and how to add one", async ({ chatkeep, open, axe, picture, until }) => {
  const server = await chatkeep();
  await server.record("s", Array.from({ length: 40 }, (_, n) => `message ${n}`));
  const page = await open(server, { at: "#/storage" });
  await page.getByRole("heading", { name: "Everything is on this disk" }).waitFor();
  await page.getByText("mongo: enabled: true").waitFor();
  await until("nothing waits for the transcripts", async () => (await now(page, "Waiting for the transcripts")) === 0);
  await until("requests are counted", async () => {
    await server.api("GET", "/livez");
    return (await now(page, "Requests")) > 0;
  });
  await server.record("s", ["a", "b"]);
  await until("a sync took some time", async () => (await now(page, "Time of a sync")) > 0);
  assert.equal(await plot(page, "Time of a batch").count(), 0);
  await until("all are counted", async () => (await figure(page, "Recorded").textContent()) === "42");
  await axe(page, "the storage tab without MongoDB");
  await picture(page, "storage-local");
});

test("it reads only while it is seen, and says when the server is gone", async ({ chatkeep, open, until }) => {
  const server = await chatkeep();
  const asked = async () => (await server.api("GET", "/metrics")).match(/route="\/metrics",method="GET",code="200"\} (\d+)/)?.[1] ?? 0;
  const page = await open(server, { at: "#/storage" });
  await plot(page, "Memory").waitFor();
  await page.goto(`${server.url}/#/chat`);
  await page.locator(".storage").waitFor({ state: "detached" });
  // Its last round may be on the way.
  await until("it stops", async () => {
    const before = Number(await asked());
    await new Promise((resolve) => setTimeout(resolve, 1500));
    return Number(await asked()) - before === 1;
  });
  await page.goto(`${server.url}/#/storage`);
  await plot(page, "Memory").waitFor();
  await server.kill9();
  await page.getByText(/The server cannot be reached\. The figures below are of/).waitFor();
  await server.restart();
  await page.getByText("The server was started again and answers.").waitFor();
});

test("a token that may only read sees it, and one for some sessions sees what it may", async ({ chatkeep, mongod, open, axe }) => {
  const mongo = await mongod();
  const auth_tokens = [
    { name: "reader", token: "reader-token", access: "read" },
    { name: "some", token: "some-token", access: "read", sessions: "bot-*" },
  ];
  const server = await chatkeep({ mongo, config: { server: { auth_token: "admin-token", auth_tokens } } });
  for (const [token, place] of [["reader-token", /on 127\.0\.0\.1/], ["some-token", /Everything is in it\./]]) {
    const page = await open(server, { at: "#/storage", allow: [/status of 401/] });
    await page.getByLabel("Token", { exact: true }).fill(token);
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "MongoDB is connected" }).waitFor();
    await page.getByText(place).waitFor();
    await plot(page, "Memory").waitFor();
    await axe(page, `the storage tab with ${token}`);
  }
});
