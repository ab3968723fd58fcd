// Programs that a test runs. Each is the head of a process group, so that what it started ends with it.
import { spawn } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import readline from "node:readline";

export const root = path.join(import.meta.dirname, "../..");

const running = new Set();

// Starts it; its stderr is added to the file `log`.
export function start(program, options, log) {
  const stderr = fs.openSync(log, "a");
  const child = spawn(program, options, { stdio: ["ignore", "pipe", stderr], detached: true });
  fs.closeSync(stderr);
  child.lines = readline.createInterface({ input: child.stdout });
  child.log = log;
  child.program = program;
  child.over = new Promise((resolve) => {
    child.on("error", resolve);
    child.on("exit", resolve);
  });
  running.add(child);
  child.over.then(() => running.delete(child));
  return child;
}

// What `pattern` matches in the first line of stdout that it fits. Later lines are passed over.
export function lineOf(child, pattern) {
  return new Promise((resolve, reject) => {
    child.lines.on("line", (line) => {
      const match = pattern.exec(line);
      if (match) resolve(match);
    });
    child.over.then(() => {
      const log = fs.readFileSync(child.log, "utf8").split("\n").slice(-15).join("\n");
      reject(new Error(`${child.program} ended before it wrote ${pattern}:\n${log}`));
    });
  });
}

export function ended(child) {
  return child.over;
}

// Sends the signal to the whole group, and returns when its head has ended.
export async function endGroup(child, signal) {
  try {
    process.kill(-child.pid, signal);
  } catch (error) {
    if (error.code !== "ESRCH") throw error;
  }
  await child.over;
}

// A run that is ended by its time limit leaves nothing behind.
function endAll() {
  for (const child of running) {
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch {
      // It has ended meanwhile.
    }
  }
}
process.on("exit", endAll);
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(signal, () => process.exit(1));
