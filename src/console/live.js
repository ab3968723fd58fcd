// Follows the feed of all sessions while the page is visible. A browser opens six connections to a host, so a page that nobody
// looks at holds none. It knows nothing of what becomes of the events.

import { events, server } from "./server.js";

const PAUSE_MS = 1000;
const PAUSE_MS_MAX = 30_000;
// After that long unseen it is cheaper to read what is shown anew than to be told everything that happened.
const ANEW_AFTER_MS = 300_000;

// `onEvent(event)` gets each event; `onAnew()` is called, and waited for, where events may have been missed, also at the start;
// `onState(connected)` tells whether events come.
export function follow({ onEvent, onAnew, onState }) {
  let abort, cursor, hidden = 0;
  const turn = () => {
    abort?.abort();
    abort = undefined;
    if (document.visibilityState !== "visible") {
      hidden = Date.now();
      return;
    }
    if (Date.now() - hidden > ANEW_AFTER_MS) cursor = undefined;
    abort = new AbortController();
    run(abort.signal);
  };

  async function run(signal) {
    let pause = PAUSE_MS;
    while (!signal.aborted) {
      try {
        if (!cursor) {
          // The cursor of before: what is recorded while the list is read may come twice, but is not missed.
          const now = await newest(signal).catch((fault) => fault);
          await onAnew();
          if (now instanceof Error) throw now;
          cursor = now;
        }
        for await (const event of await stream(signal)) {
          pause = PAUSE_MS;
          take(event);
        }
      } catch (fault) {
        if (signal.aborted) return;
        // The cursor works no more: the journal has gone on without us, or was restored.
        if (fault.status === 410) cursor = undefined;
      }
      if (signal.aborted) return;
      onState(false);
      await after(pause, signal);
      pause = Math.min(pause * 2, PAUSE_MS_MAX);
    }
  }

  async function newest(signal) {
    const { next } = await server.get("/api/chat/feed", { query: { after: "latest", limit: 1 }, signal });
    return next;
  }

  async function stream(signal) {
    const headers = { Accept: "text/event-stream" };
    const reply = await server.request("GET", "/api/chat/feed", { query: { after: cursor }, headers, signal });
    onState(true);
    return events(reply);
  }

  function take({ id, event, data }) {
    if (id) cursor = id;
    if (event === "error") throw JSON.parse(data);
    onEvent(JSON.parse(data));
  }

  document.addEventListener("visibilitychange", turn);
  turn();
  return {
    reconnect: turn,
    close() {
      document.removeEventListener("visibilitychange", turn);
      abort?.abort();
    },
  };
}

function after(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds * (0.5 + Math.random()));
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
