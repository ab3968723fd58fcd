// Ten thousand messages: older ones come as one scrolls, nothing jumps, and nothing waits for the page.
import { assert, still, test, until } from "../harness.mjs";

const COUNT = 10_000;

// Texts of different heights, each with its number, so that a message is known again.
function texts() {
  const forms = [
    (n) => `Message ${n}: short.`,
    (n) => `Message ${n}:\n\n${"some words that fill a line and then another one ".repeat(1 + n % 9)}`,
    (n) => `## Message ${n}\n\n* one\n* two\n\n\`\`\`js\nconst n = ${n};\n\`\`\``,
    (n) => `Message ${n}\n\n| a | b |\n|---|---|\n| ${n} | *x* |\n`,
  ];
  return Array.from({ length: COUNT }, (_, n) => forms[(n >> 1) % forms.length](n));
}

// From frame to frame all that is seen must move together, and not against the wheel.
function watch(box) {
  window.jumps = [];
  let seen = new Map();
  let before = 0;
  const look = () => {
    const now = new Map();
    const { top: from, bottom: to } = box.getBoundingClientRect();
    for (const node of box.querySelectorAll(".window > article")) {
      const { top, bottom } = node.getBoundingClientRect();
      if (bottom > from && top < to) now.set(node.dataset.id, top);
    }
    const moves = [...now].filter(([id]) => seen.has(id)).map(([id, top]) => top - seen.get(id));
    const against = window.direction * -1;
    if (moves.some((move) => Math.abs(move - moves[0]) > 2 || move * against < -2)) window.jumps.push(moves);
    // Several turns of the wheel may fall into a frame that took long.
    const isSlow = performance.now() - before > 100;
    if (seen.size && !moves.length && !window.leaps && !isSlow) window.jumps.push("nothing that was seen is seen");
    seen = now;
    before = performance.now();
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}

// What the page shows of the conversation, by the numbers of its messages.
function shown(page) {
  return page.evaluate(() => {
    const numbers = [...document.querySelectorAll(".window > article")].map((node) => Number(/Message (\d+)/.exec(node.textContent)[1]));
    return { first: numbers[0], last: numbers.at(-1), whole: numbers.every((number, n) => number === numbers[0] + n) };
  });
}

// The milliseconds of processor that the page's thread has used, in a function that asks for them. What else the machine does is
// not in them.
async function processor(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable", { timeDomain: "threadTicks" });
  return async () => 1000 * (await session.send("Performance.getMetrics")).metrics.find(({ name }) => name === "TaskDuration").value;
}

// Turns the wheel as often as it moves something, by little, so that of what was seen some is still seen when several turns fall
// into one frame; resolves to what each turn took, in the order of length.
async function turn(page, used, by) {
  await page.evaluate((direction) => { window.direction = direction; }, Math.sign(by));
  const place = () => page.getByRole("region", { name: "Messages" }).evaluate((box) => box.scrollTop);
  const took = [];
  for (let n = 0, before = await used(); n < 200; n += 1) {
    // At the top of what has come it moves nothing until more comes.
    await until("the wheel moves the messages", async () => {
      const from = await place();
      await page.mouse.wheel(0, by);
      await page.evaluate(() => new Promise(requestAnimationFrame));
      return (await place()) !== from;
    });
    const now = await used();
    took.push(now - before);
    before = now;
  }
  return took.sort((a, b) => a - b);
}

function sum(numbers) {
  return numbers.reduce((a, b) => a + b, 0);
}

const said = (took) => `${sum(took).toFixed(0)} ms, the longest ${took.slice(-3).map((ms) => ms.toFixed(0)).join(", ")}`;

test("ten thousand messages are scrolled through without a jump or a stall", async ({ chatkeep, open, diagnostic }) => {
  const server = await chatkeep();
  await server.record("long", texts());
  const page = await open(server, { at: "#/chat/long" });
  const scroller = page.getByRole("region", { name: "Messages" });
  await page.getByText(`Message ${COUNT - 1}`).first().waitFor();
  await page.evaluate(() => { window.direction = 0; });
  await scroller.evaluate(watch);
  await page.mouse.move(760, 400);

  const used = await processor(page);
  const few = await turn(page, used, -150);
  const up = await shown(page);
  assert.ok(up.last < COUNT - 50 && up.whole, JSON.stringify(up));

  await page.evaluate(() => Object.assign(window, { leaps: true, direction: 0 }));
  const seen = () => scroller.evaluate((box) => {
    const edge = box.getBoundingClientRect().top;
    const node = [...box.querySelectorAll(".window > article")].find((one) => one.getBoundingClientRect().bottom > edge + 1);
    return node && `${node.dataset.id} at ${Math.round(node.getBoundingClientRect().top)}`;
  });
  const place = await still(page, seen);
  const asked = [];
  page.on("request", (request) => asked.push(request.url()));
  await page.getByRole("link", { name: "Storage" }).click();
  // A second later, when it has something to compare.
  await page.getByRole("img", { name: /^Requests: \d/ }).waitFor();
  await page.getByRole("link", { name: "Chat", exact: true }).click();
  await until("the reader is back at the same place", async () => (await seen()) === place);
  await until("the window has its title again", async () => /^Message 0/.test(await page.title()));
  const pages = asked.filter((url) => /history/.test(url));
  assert.ok(pages.length < 3, `${pages.length} pages were read while another tab was open`);
  await page.mouse.move(760, 400);

  await scroller.press("Home");
  await until("the beginning is seen", async () => (await shown(page)).first === 0, 120);
  await page.getByText("The conversation begins here.").waitFor();
  await page.evaluate(() => { window.leaps = false; });

  // A machine that is busy slows the processor down as well: it is asked again then.
  const isCheap = (took) => sum(took) < 1.5 * sum(few) && took.at(-1) < 200;
  let all = await turn(page, used, 150);
  for (let n = 0; n < 2 && !isCheap(all); n += 1) all = await turn(page, used, 150);
  const down = await shown(page);
  assert.ok(down.first > 20 && down.whole, JSON.stringify(down));

  const { nodes, jumps } = await page.evaluate(() => ({ nodes: document.querySelectorAll("*").length, jumps: window.jumps }));
  diagnostic(`up to ${up.first}, then down to ${down.last}; ${nodes} nodes; two hundred turns of the wheel took ${said(few)} with few messages; `
    + `${said(all)} with all`);
  assert.deepEqual(jumps, []);
  assert.ok(nodes < 5000, `${nodes} nodes: what is not near is not in the page`);
  assert.ok(isCheap(all), `${said(all)} with all messages, ${said(few)} with few: it grows with the conversation, or a turn takes long`);

  await page.evaluate(() => { window.leaps = true; });
  await page.getByRole("button", { name: "Newest" }).click();
  await page.getByText(`Message ${COUNT - 1}`).first().waitFor();
  await until("the end is in view", () => scroller.evaluate((box) => box.scrollHeight - box.scrollTop - box.clientHeight < 2));
});
