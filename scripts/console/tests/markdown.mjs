// What Markdown becomes: as the CommonMark specification's examples have it, where they concern what is supported, and what
// else is supported. Hostile text is in markdown_hostile.mjs.
import { createRequire } from "node:module";
import path from "node:path";

import { assert, test } from "../harness.mjs";
import { root } from "../processes.mjs";

const { tests: examples } = createRequire(path.join(root, ".cache/console/"))("commonmark-spec");

// Why an example of the specification comes out otherwise: numbers, or the first and last of several. All others must come out
// as it says.
const DIFFERS = {
  "HTML is shown as text": [21, 31, [148, 191], [308, 309], 344, [475, 477], 491, 494, 524, [613, 617], 623, [625, 631],
    [642, 643]],
  "there are no references": [23, 33, [192, 196], 198, [200, 208], 210, [214, 218], 317, [527, 545], [549, 550], [553, 571],
    573, [576, 577], [582, 589], [591, 593]],
  "what leads to no other site is no link": [22, 32, [484, 487], 489, 492, [495, 496], [498, 504], 510, 517, 522, [578, 579],
    596, [598, 599], 601],
  "a bare address is a link": [41, [507, 508], 513, [518, 519], 602, 608, 611],
  "addresses stay as they were written": [20, 346, 526, 603],
  "the title of a link stands in quotes": [505],
  "few names of characters are known": [25],
};
const DIFFERENT = new Set(Object.values(DIFFERS).flat().flatMap((one) => {
  const [first, last] = [one].flat();
  return Array.from({ length: (last ?? first) - first + 1 }, (_, n) => first + n);
}));

// Addresses that lead nowhere outside are no links here, so the examples get some that do.
const absolute = (text) => text.replaceAll(/(\]\(|\]\(<|href="|src=")\/?(ur[il]\d?)\b/g, "$1https://e.org/$2");

const render = (page, texts) => page.evaluate(async (given) => {
  const { markdown } = await import("/console/markdown.js");
  return given.map((text) => {
    const box = markdown(text);
    for (const code of box.querySelectorAll(".code")) code.replaceWith(code.querySelector("pre"));
    return box.innerHTML;
  });
}, texts);

const parse = (page, texts) => page.evaluate((given) => given.map((html) => {
  const { body } = new DOMParser().parseFromString(html, "text/html");
  for (const image of body.querySelectorAll("img")) {
    const link = Object.assign(document.createElement("a"), { href: image.getAttribute("src"), textContent: image.alt || image.getAttribute("src") });
    if (image.title) link.title = image.title;
    image.replaceWith(link);
  }
  // Our code ends without a line's end.
  return body.innerHTML.replaceAll("\n</code></pre>", "</code></pre>");
}), texts);

// Without the attributes that are of this page, and without white space that shows nowhere.
const plain = (html) => html
  .replaceAll(/ rel="noopener noreferrer"| target="_blank"| tabindex="0"| role="group"| aria-label="(?:Table|Code[^"]*)"/g, "")
  .replaceAll(/<h3 class="level-(\d)">(.*?)<\/h3>/gs, "<h$1>$2</h$1>")
  .replaceAll(/<code class="[^"]*">/g, "<code>")
  .replaceAll(/\s*(<\/?(?:p|h\d|ul|ol|li|blockquote|pre|hr|br)\b[^>]*>)\s*/g, "$1")
  .trim();

test("the examples of CommonMark come out as it says, but for what is named", async ({ chatkeep, open, diagnostic }) => {
  const server = await chatkeep();
  const page = await open(server);
  const blank = await open(server, { blank: true });
  const texts = examples.map(({ markdown }) => absolute(markdown.replaceAll("→", "\t")));
  const made = (await render(page, texts)).map(plain);
  const wanted = (await parse(blank, examples.map(({ html }) => absolute(html.replaceAll("→", "\t"))))).map(plain);
  const [differ, same] = [[], []];
  examples.forEach(({ number }, n) => {
    if (made[n] !== wanted[n] && !DIFFERENT.has(number)) differ.push({ number, text: texts[n], made: made[n], wanted: wanted[n] });
    if (made[n] === wanted[n] && DIFFERENT.has(number)) same.push(number);
  });
  assert.deepEqual(differ, [], "examples that come out otherwise");
  assert.deepEqual(same, [], "examples that are named as different, and are not");
  diagnostic(`${examples.length - DIFFERENT.size} of ${examples.length} examples come out as the specification says`);
});

// A text, and what becomes of it.
const CASES = [
  ["a table in a sentence's wake", "Sums:\n| a | b |\n|--|--:|\n| 1 | `x\\|y` |\n| 2 |\n\nEnd",
    '<p>Sums:</p><div class="table"><table><thead><tr><th scope="col">a</th><th class="right" scope="col">b</th></tr></thead><tbody>'
    + '<tr><td>1</td><td class="right"><code>x|y</code></td></tr><tr><td>2</td></tr></tbody></table></div><p>End</p>'],
  ["tasks", "- [x] done *so*\n- [ ] open\n- [x]y",
    '<ul><li class="task"><span role="img" aria-label="done">☑</span>done <em>so</em></li>'
    + '<li class="task"><span role="img" aria-label="to do">☐</span>open</li><li>[x]y</li></ul>'],
  ["what is struck out", "~~no~~ and 5~10 or ~one~ and ~~~three~~~", "<p><del>no</del> and 5~10 or ~one~ and ~~~three~~~</p>"],
  ["bare addresses end before the sentence does", "See **https://e.org/a_b_c**, (http://e.org/x_(y)). Not xhttp://e.org or https:// or ftp://e.org。",
    '<p>See <strong><a href="https://e.org/a_b_c">https://e.org/a_b_c</a></strong>, (<a href="http://e.org/x_(y)">http://e.org/x_(y)</a>). '
    + "Not xhttp://e.org or https:// or ftp://e.org。</p>"],
  ["an address among Chinese characters", "请看https://e.org/路径。好", '<p>请看<a href="https://e.org/路径">https://e.org/路径</a>。好</p>'],
  ["an image is a link", "![](https://e.org/i.png) ![a *b*](https://e.org/i.png)",
    '<p><a href="https://e.org/i.png">https://e.org/i.png</a> <a href="https://e.org/i.png">a <em>b</em></a></p>'],
  ["a picture that leads somewhere", "[![build](https://e.org/b.svg)](https://e.org/ci)", '<p><a href="https://e.org/ci">build</a></p>'],
  ["mail", "<me@e.org> [me](mailto:me@e.org)", '<p><a href="mailto:me@e.org">me@e.org</a> <a href="mailto:me@e.org">me</a></p>'],
  ["what a page must not lead to",
    "[a](javascript:alert(1)) [b](JaVaScRiPt:x) [c](data:text/html,x) [d](\u0001https://e.org) [e](//e.org) [f](&#106;avascript:x) <javascript:x>",
    "<p>[a](javascript:alert(1)) [b](JaVaScRiPt:x) [c](data:text/html,x) [d](\u0001<a href=\"https://e.org\">https://e.org</a>) [e](//e.org) [f](javascript:x) &lt;javascript:x&gt;</p>"],
  ["HTML", '<img src=x onerror="alert(1)"><script>alert(1)</script>',
    '<p>&lt;img src=x onerror="alert(1)"&gt;&lt;script&gt;alert(1)&lt;/script&gt;</p>'],
  ["a list that begins elsewhere", "3. c\n4. d", '<ol start="3"><li>c</li><li>d</li></ol>'],
  ["nothing", "", ""],
];

test("what chats are made of comes out well", async ({ chatkeep, open }) => {
  const page = await open(await chatkeep());
  const made = (await render(page, CASES.map(([, text]) => text))).map(plain);
  CASES.forEach(([name, , wanted], n) => assert.equal(made[n], wanted, name));
});

test("code names its language, can be copied and scrolled by keyboard", async ({ chatkeep, open }) => {
  const page = await open(await chatkeep());
  const found = await page.evaluate(async () => {
    const { codeOf, markdown } = await import("/console/markdown.js");
    document.body.replaceChildren(markdown("- a\n  ```rust,ignore\n  fn main() {\n  \tx\n\n  }\n  ```\n"));
    const button = document.querySelector(".copy-code");
    return { language: document.querySelector(".language").textContent, copied: codeOf(button), name: button.ariaLabel, tab: document.querySelector("pre").tabIndex };
  });
  assert.deepEqual(found, { language: "rust,ignore", copied: "fn main() {\n\tx\n\n}", name: "Copy this code", tab: 0 });
});

test("while a text grows, finished blocks stay the same nodes, and code only gets longer", async ({ chatkeep, open }) => {
  const page = await open(await chatkeep());
  const found = await page.evaluate(async () => {
    const { MarkdownView } = await import("/console/markdown.js");
    const view = new MarkdownView();
    const shown = () => view.element;
    view.update("# Title\n\nA *paragraph* th");
    const [title] = shown().children;
    view.update("# Title\n\nA *paragraph* that ends.\n\n```js\nlet a");
    const [, paragraph, code] = shown().children;
    const text = code.querySelector("code").firstChild;
    view.update("# Title\n\nA *paragraph* that ends.\n\n```js\nlet a = 1;\nlet b");
    const kept = [title === shown().children[0], paragraph === shown().children[1], text === shown().querySelector("code").firstChild];
    const grown = text.data;
    view.update("Something *else*");
    return { kept, grown, anew: shown().innerHTML };
  });
  assert.deepEqual(found, { kept: [true, true, true], grown: "let a = 1;\nlet b", anew: "<p>Something <em>else</em></p>" });
});
