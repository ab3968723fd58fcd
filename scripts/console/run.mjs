// Runs test files with Node's runner, and tells of each test in a line: first those that measure time, alone, then the others, three
// at a time for each processor, since a test mostly waits. The last line is as cargo writes it: scripts/check adds it up.
// run.mjs [THEME …] runs tests/THEME.mjs, or all that there are but the pictures.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { run } from "node:test";

const folder = path.join(import.meta.dirname, "tests");
const TIMED = ["serving.mjs", "long.mjs", "markdown_hostile.mjs"];
// The longest begin first, so that none of them is left to run alone at the end.
const FIRST = ["list.mjs", "connection.mjs", "import.mjs", "search.mjs", "storage.mjs", "messages.mjs"];
const all = () => fs.readdirSync(folder).filter((name) => name.endsWith(".mjs") && name !== "pictures.mjs").sort();
const themes = process.argv.length > 2
  ? process.argv.slice(2).map((theme) => `${path.basename(theme, ".mjs")}.mjs`)
  : [...new Set([...TIMED, ...FIRST, ...all()])];
const files = themes.map((name) => path.join(folder, name));
for (const file of files) {
  if (!fs.existsSync(file)) {
    console.error(`error: there is no ${file}`);
    process.exit(2);
  }
}

// The runner's own sums, which it tells as a test tells what it measured.
const SUM = /^(tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) [\d.]+$/;

const counts = { passed: 0, failed: 0, ignored: 0 };

function reason(details) {
  const error = details.error?.cause ?? details.error;
  return String(error?.stack ?? error).replaceAll(/^/gm, "    ");
}

// A file is told of as well: that is no test, unless it could not even begin.
function tell({ name, skip, todo, details }, passed) {
  if (files.includes(path.resolve(name)) && (passed || details.error?.failureType === "subtestsFailed")) return;
  const outcome = skip !== undefined || todo !== undefined ? "ignored" : passed ? "passed" : "failed";
  counts[outcome] += 1;
  const word = { passed: "ok", failed: "FAILED", ignored: "ignored" }[outcome];
  console.log(`test ${name} ... ${word} (${(details.duration_ms / 1000).toFixed(1)} s)`);
  if (outcome === "failed") console.log(reason(details));
}

async function runAll(some, concurrency) {
  for await (const { type, data } of run({ files: some, concurrency })) {
    if (type === "test:pass") tell(data, true);
    else if (type === "test:fail") tell(data, false);
    else if (type === "test:stderr") process.stderr.write(data.message);
    else if (type === "test:stdout") process.stdout.write(data.message);
    else if (type === "test:diagnostic" && !SUM.test(data.message)) console.log(data.message.replaceAll(/^/gm, "    "));
  }
}

const isTimed = (file) => TIMED.includes(path.basename(file));
await runAll(files.filter(isTimed), 1);
await runAll(files.filter((file) => !isTimed(file)), 3 * os.availableParallelism());

const { passed, failed, ignored } = counts;
const ok = failed === 0 && passed > 0;
console.log(`test result: ${ok ? "ok" : "FAILED"}. ${passed} passed; ${failed} failed; ${ignored} ignored; 0 measured; 0 filtered out`);
process.exit(ok ? 0 : 1);
