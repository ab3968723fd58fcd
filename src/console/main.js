// Starts the page: asks for the token if there is one, shows the tab and the conversation that the address names, reads the
// server's status again and again, and knows the keys that count everywhere.

import { Banner } from "./banner.js";
import { Chat } from "./chat.js";
import { showKeys } from "./dialog.js";
import { replace } from "./dom.js";
import { icon } from "./icon.js";
import { sessionList } from "./list.js";
import { searchDialog } from "./search.js";
import { server } from "./server.js";
import { StorageView } from "./storage.js";
import { askForToken, forgetToken, recallToken } from "./token.js";
import { transfer } from "./transfer.js";

const STATUS_MS = 5000;   // between two readings of the status while the page is seen

const main = document.getElementById("main");
const banner = new Banner();
let status = null;
let chat, list, search, files, storage;   // for what the token may do
let asking = false;

async function readStatus() {
  status = await server.get("/api/storage/status", { timeout: 10_000 });
  return status;
}

async function start() {
  recallToken();
  document.getElementById("banners").replaceWith(banner.element);
  labels();
  while (!status) {
    try {
      await readStatus();
    } catch (error) {
      if (error.status === 401) await askForToken(main, readStatus);
      else {
        banner.show(error);
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    }
  }
  show();
}

// Makes the tabs for what the token may do.
function show() {
  const writable = status.access !== "read";
  document.getElementById("forget").hidden = !server.hasToken;
  banner.show(status);
  const admin = status.access === "admin";
  files = transfer({ server, canAdmin: admin, current: () => chat?.recorded, titleOf: (session) => list.titleOf(session) });
  search = searchDialog({ onOpen: go });
  list?.close();
  list = sessionList({
    canWrite: writable, canAdmin: admin,
    onOpen: (session) => go(session), onNew: () => go(""), onSearch: () => search.open(),
    onExport: (sessions) => files.openExport(sessions), onImport: () => files.openImport(), onErased: (session) => session === chat.session && go(""),
  });
  chat = new Chat({ status: () => status, writable, go, list, unauthorized: askAgain, help });
  route();
}

// The token is not valid any more. What is written and not yet sent waits for the next one, if that may do the same.
async function askAgain() {
  if (asking) return;
  asking = true;
  const { access, sessions } = status;
  await askForToken(main, readStatus);
  asking = false;
  if (access === status.access && sessions === status.sessions) {
    route();
    chat.reconnect();
    list.reconnect();
  } else {
    chat.close();
    show();
  }
}

function forgetIt() {
  forgetToken();
  location.reload();
}

// The address: #/chat/SESSION/MESSAGE or #/storage
function place() {
  const [, tab = "chat", session, message] = location.hash.split("/").map(decoded);
  return { tab: tab === "storage" ? "storage" : "chat", session: session || undefined, message: message || undefined };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;  // somebody wrote a % by hand
  }
}

function addressOf(...parts) {
  return ["#/chat", ...parts.filter(Boolean).map(encodeURIComponent)].join("/");
}

function go(session, message) {
  const hash = addressOf(session, message);
  if (location.hash === hash) route();
  else location.hash = hash;
}

function route() {
  if (!chat || asking) return;
  const { tab, session, message } = place();
  for (const link of document.querySelectorAll("[data-tab]")) {
    if (link.dataset.tab === tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (tab === "storage") return showStorage();
  storage?.hide();
  if (!main.contains(chat.element)) replace(main, chat.element);
  chat.open(session, message);
  // A new conversation has its address from the beginning, and the tab returns to what was open.
  const address = addressOf(chat.session);
  if (!session) history.replaceState(null, "", address);
  document.querySelector("[data-tab=chat]").href = address;
}

function showStorage() {
  document.title = "Storage · chatkeep";
  storage ??= new StorageView();
  replace(main, storage.element);
  storage.show();
}

async function watch() {
  if (document.visibilityState === "visible" && chat && !asking) {
    const before = status.mongo.status;
    try {
      banner.show(await readStatus());
      if (before === "error" && status.mongo.status === "ok") chat.complete();
    } catch (error) {
      if (error.status === 401) askAgain();
      else banner.show(error.status === 0 ? null : error);  // both tabs say themselves that there is no connection
    }
  }
  setTimeout(watch, STATUS_MS);
}

const KEYS = [
  { title: "Anywhere", keys: [
    [["Ctrl", "K"], "Search"], [["Ctrl", "Shift", "O"], "New conversation"], [["/"], "Write a message"], [["?"], "This list"],
  ] },
  { title: "Writing", keys: [
    [["Enter"], "Send"], [["Shift", "Enter"], "Begin a line"], [["Esc"], "Stop the answer"], [["↑"], "Edit your last message, while the field is empty"],
  ] },
  { title: "Messages", keys: [[["Home"], "To the beginning"], [["PgUp"], "To older ones"], [["End"], "To the newest"]] },
  { title: "Commands, as messages", keys: [
    [["/clear"], "Begin a new context: the history stays, answers see only what follows"], [["/stop"], "Stop the answer"], [["/help"], "This list"],
  ] },
  { title: "List of conversations", keys: [
    [["↑", "↓"], "Move"], [["Enter"], "Open"], [["Space"], "Select"], [["F2"], "Rename"], [["P"], "Pin"], [["A"], "Archive"], [["Del"], "Erase"],
  ] },
];

function help() {
  showKeys(KEYS);
}

function onKey(event) {
  const { key, shiftKey, altKey } = event;
  const command = event.ctrlKey || event.metaKey;
  const inDialog = document.querySelector("dialog[open]");
  const writing = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (event.isComposing || event.defaultPrevented || inDialog || !chat || asking) return;
  if (command && !altKey && key.toLowerCase() === "k") search.open();
  else if (command && shiftKey && key.toLowerCase() === "o") go("");
  else if (command || altKey || writing) return;
  else if (key === "?") help();
  else if (key === "/" && place().tab === "chat") chat.pane.focus();
  else return;
  event.preventDefault();
}

function labels() {
  const keys = document.getElementById("keys");
  const forget = document.getElementById("forget");
  replace(keys, icon("keyboard"));
  replace(forget, icon("key"));
  keys.onclick = help;
  forget.onclick = forgetIt;
}

addEventListener("hashchange", route);
addEventListener("keydown", onKey);
addEventListener("beforeunload", (event) => chat?.hasUnsent && event.preventDefault());
addEventListener("online", () => chat?.reconnect());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && chat?.reconnect());
start();
setTimeout(watch, STATUS_MS);
