// Ten thousand messages: older ones come as one scrolls, nothing jumps, and nothing waits for the page.
import { assert, test, until } from "../harness.mjs";

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

// From frame to frame all that is seen must move together, and not against the wheel; a task over 50 ms is noted.
function watch(box) {
  window.tasks = [];
  window.jumps = [];
  new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map(({ duration }) => duration))).observe({ entryTypes: ["longtask"] });
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

function sum(numbers) {
  return numbers.reduce((a, b) => a + b, 0);
}

async function turn(page, times, by) {
  await page.evaluate((direction) => { window.direction = direction; }, Math.sign(by));
  for (let n = 0; n < times; n += 1) {
    await page.mouse.wheel(0, by);
    await page.evaluate(() => new Promise(requestAnimationFrame));
  }
}

test("ten thousand messages are scrolled through without a jump or a stall", async ({ chatkeep, open, diagnostic }) => {
  const server = await chatkeep();
  await server.record("long", texts());
  const page = await open(server, { at: "#/chat/long" });
  const scroller = page.getByRole("region", { name: "Messages" });
  await page.getByText(`Message ${COUNT - 1}`).first().waitFor();
  await page.evaluate(() => { window.direction = 0; });
  await scroller.evaluate(watch);
  await page.mouse.move(760, 400);

  const tasks = () => page.evaluate(() => window.tasks.splice(0));
  await turn(page, 100, -300);
  const few = await tasks();
  const up = await shown(page);
  assert.ok(up.last < COUNT - 50 && up.whole, JSON.stringify(up));

  await page.evaluate(() => { window.leaps = true; });
  await scroller.press("Home");
  await until("the beginning is seen", async () => (await shown(page)).first === 0, 20);
  await page.getByText("The conversation begins here.").waitFor();
  diagnostic(`tasks over 50 ms while all was loaded: ${(await tasks()).join(", ") || "none"}`);
  await page.evaluate(() => { window.leaps = false; });

  await turn(page, 100, 300);
  const down = await shown(page);
  assert.ok(down.first > 20 && down.whole, JSON.stringify(down));

  const { nodes, jumps } = await page.evaluate(() => ({ nodes: document.querySelectorAll("*").length, jumps: window.jumps }));
  const all = await tasks();
  diagnostic(`up to ${up.first}, then down to ${down.last}; ${nodes} nodes; tasks over 50 ms with few messages: ${few.join(", ") || "none"}; `
    + `with all: ${all.join(", ") || "none"}`);
  assert.deepEqual(jumps, []);
  assert.ok(nodes < 5000, `${nodes} nodes: what is not near is not in the page`);
  // A machine that is busy makes tasks long; they may not grow with the conversation.
  assert.ok(sum(all) < 2 * sum(few) + 500, `tasks of ${all} ms with all messages, of ${few} ms with few`);

  await page.evaluate(() => { window.leaps = true; });
  await page.getByRole("button", { name: "Newest" }).click();
  await page.getByText(`Message ${COUNT - 1}`).first().waitFor();
  await until("the end is in view", () => scroller.evaluate((box) => box.scrollHeight - box.scrollTop - box.clientHeight < 2));
});
