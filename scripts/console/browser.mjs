// Pages in a headless Chromium, and what is looked at in them.
import assert from "node:assert/strict";
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

import { root } from "./processes.mjs";

const fetched = createRequire(path.join(root, ".cache/console/"));
const { chromium } = fetched("playwright-core");
const axeSource = fs.readFileSync(fetched.resolve("axe-core/axe.min.js"), "utf8");

// A machine that is busy takes long for anything.
const TIMEOUT_MS = 30_000;

const pictures = path.join(root, ".cache/console/pictures");

// One browser for the tests of a file; each page has a context of its own, so nothing is shared.
let browser;

export async function closeBrowser() {
  await (await browser)?.close();
}

function launch() {
  browser ??= chromium.launch({
    // Chromium's pages without the browser around them: the same, for two thirds of the processor time.
    executablePath: "/usr/bin/chromium-headless-shell",
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
  });
  return browser;
}

// Opens the console, and returns Playwright's page once it is loaded.
//   at       what follows the address: "#/storage"
//   colors   "light" or "dark", as the system says
//   width, height, motion ("reduce")
//   blank    opens an empty page in place of the console
//   scripts  false: a browser that runs none
//   allow    patterns of complaints that this test is about: [/status of 401/]
// `page.complaints` is what the page complained of so far.
export async function openPage(scope, server, how = {}) {
  const { at = "", colors = "light", width = 1280, height = 800, motion = "no-preference", allow = [], blank = false, scripts = true } = how;
  const context = await (await launch()).newContext({
    viewport: { width, height },
    colorScheme: colors,
    reducedMotion: motion,
    hasTouch: width < 600,
    acceptDownloads: true,
    javaScriptEnabled: scripts,
  });
  scope.ends.push(() => context.close());
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  const page = await context.newPage();
  page.setDefaultTimeout(TIMEOUT_MS);
  const complain = (text) => {
    if (!allow.some((pattern) => pattern.test(text)) && !(server?.wasDown && isNetwork(text))) scope.complaints.push(text);
  };
  page.on("console", (message) => message.type() === "error" && complain(`${message.text()} (${message.location().url})`));
  page.on("pageerror", (error) => {
    complain(error.stack || String(error));
    context.close();  // so that nothing waits for what will not come
  });
  page.on("crash", () => complain("the page crashed"));
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI, sample }) => {
      console.error(`the policy was violated: ${violatedDirective} ${blockedURI} ${sample}`);
    });
    // A note that goes after six seconds stays for a minute: a busy machine may look for it late.
    const { setTimeout } = window;
    window.setTimeout = (work, ms, ...rest) => setTimeout(work, ms === 6000 ? 60_000 : ms, ...rest);
  });
  if (!blank) await page.goto(`${server.url}/${at}`);
  return page;
}

// The windows that the page is looked at in, as options of openPage, and what each of them is changed to: colours, and text of 200 %.
export const WINDOWS = { desk: { motion: "reduce" }, phone: { motion: "reduce", width: 360, height: 740 } };
const LOOKS = { light: {}, dark: { colors: "dark" }, large: { zoom: 2 } };

// Puts the page as it is now before axe-core in each of its looks, and keeps a picture of each, NAME-WINDOW-LOOK.png.
export async function looks(page, name) {
  const size = page.viewportSize().width < 600 ? "phone" : "desk";
  for (const [look, how] of Object.entries(LOOKS)) {
    await change(page, how);
    await axe(page, `${name} (${size}, ${look})`);
    await picture(page, `${name}-${size}-${look}`);
  }
  await change(page, {});
}

async function change(page, { colors = "light", zoom = 1 }) {
  await page.emulateMedia({ colorScheme: colors });
  await page.evaluate((percent) => document.documentElement.style.setProperty("font-size", `${percent}%`), zoom * 100);
}

// Waits for so many frames of the page.
export async function frames(page, count) {
  for (let n = 0; n < count; n += 1) await page.evaluate(() => new Promise(requestAnimationFrame));
}

// Chromium writes these itself when a server is gone; a page can do nothing about them.
function isNetwork(text) {
  return /^Failed to load resource: net::ERR_|^WebSocket connection to .* failed/.test(text);
}

// Fails if axe-core finds anything in the page as it is now, or if it can be scrolled sideways.
export async function axe(page, state = "the page") {
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(axeSource);
  // A colour that is half-way to another one has less contrast.
  await page.evaluate(() => document.getAnimations().filter((one) => one instanceof CSSTransition).forEach((one) => one.finish()));
  const found = await page.evaluate(async () => (await window.axe.run({ resultTypes: ["violations"], preload: false })).violations.flatMap(({ id, help, nodes }) => (
    nodes.map(({ target, failureSummary }) => `${id}: ${help}\n  at ${target}\n  ${failureSummary}`)
  )));
  assert.deepEqual(found, [], `what axe-core finds in ${state}`);
  assert.deepEqual(await page.evaluate(tooWide), [], `what makes ${state} wider than the window`);
}

// In the page: what reaches beyond the window or a dialog, unless it scrolls in itself.
function tooWide() {
  const dialog = document.querySelector("dialog[open]");
  if (dialog?.scrollWidth > dialog?.clientWidth) return [`a dialog of ${dialog.clientWidth} has ${dialog.scrollWidth}`];
  const room = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= room && document.body.scrollWidth <= room) return [];
  const scrolls = (one) => one && one !== document.body && (getComputedStyle(one).overflowX !== "visible" || scrolls(one.parentElement));
  return [...document.body.querySelectorAll("*")]
    .filter((one) => one.getBoundingClientRect().right > room + 1 && !scrolls(one.parentElement))
    .map((one) => `${one.localName}.${one.getAttribute("class") ?? ""} to ${Math.round(one.getBoundingClientRect().right)} of ${room}`);
}

// Keeps a picture of what the window shows. With `forReadme` it becomes one of docs/images if the run is to make these.
export async function picture(page, name, { forReadme = false } = {}) {
  fs.mkdirSync(pictures, { recursive: true });
  const file = path.join(pictures, `${name}.png`);
  await page.screenshot({ path: file, animations: "disabled" });
  const images = forReadme && process.env.CONSOLE_PICTURES;
  if (images) {
    fs.mkdirSync(images, { recursive: true });
    fs.copyFileSync(file, path.join(images, `console-${name}.png`));
  }
}
