// Finds what has all words of a query, in titles and in texts, page by page; a newer query ends the one before. It makes no
// nodes.

import { server, sessionPath } from "./server.js";

const TITLES = 6;
const TITLES_OF_NOTHING = 12;
// The server looks at 2000 titles for a page. A title that was not set is the beginning of a message, which is searched as well.
const TITLE_PAGES = 10;
const MESSAGES = 20;
const WAIT_SECONDS_MAX = 30;

// `changed()` is called whenever there is more to show.
//   found.titles      rows of the list of sessions
//   found.messages    messages with a `snippet`
//   found.isReading   more is coming by itself
//   found.next        where to go on with more(); null: everything was searched
//   found.incomplete  why something may be missing
//   found.fault       the ServerError that ended it; busy: the server searches for others, and it is tried again
export function finder({ changed }) {
  let abort, readings = 0, isReadingMessages = false;
  const found = { query: "", titles: [], messages: [], next: null, isReading: false, incomplete: "", fault: undefined, isBusy: false };
  // Titles by session: texts are found in sessions that the list may not have read.
  const titles = new Map();

  async function find(query) {
    abort?.abort();
    abort = new AbortController();
    [readings, isReadingMessages] = [0, false];
    const { signal } = abort;
    const q = query.trim().replaceAll(/\s+/g, " ");
    const fits = fitting(q);
    // What was found before and fits stays until the server has answered: nothing flickers while one types.
    const titles = found.query && q ? found.titles.filter((row) => fits(row.title || row.session_id)) : [];
    const messages = found.messages.filter(({ text }) => q && fits(text));
    Object.assign(found, { query: q, titles, messages, next: null, isReading: true, incomplete: "", fault: undefined, isBusy: false });
    changed();
    await Promise.all([
      attempt(signal, () => findTitles(q, signal)),
      q && attempt(signal, () => findMessages(q, undefined, signal)),
    ]);
  }

  async function findTitles(q, signal) {
    const limit = q ? TITLES : TITLES_OF_NOTHING;
    const rows = [];
    let after, pages = 0;
    while (after !== null && rows.length < limit && pages < TITLE_PAGES) {
      pages += 1;
      const query = { limit: limit - rows.length, after, ...(q ? { q } : { archived: false }) };
      const page = await server.get("/api/chat/sessions", { query, signal });
      remember(page.sessions);
      rows.push(...page.sessions);
      if (rows.length) found.titles = rows;
      after = page.next;
      tellIncomplete(page);
      changed();
    }
    found.titles = rows;
    if (q && after !== null && rows.length < limit) tellIncomplete({ reason: "only the newest 20 000 titles were looked at" });
  }

  // A page may be empty and yet not be the last: it goes on by itself until there is something to show.
  async function findMessages(q, cursor, signal) {
    isReadingMessages = true;
    let isFirst = cursor === undefined, wanted = MESSAGES;
    for (let next = cursor; next !== null && wanted > 0;) {
      const page = await patient(signal, () => searched({ q, limit: MESSAGES, cursor: next }, signal));
      if (isFirst) found.messages = page.messages;
      else found.messages.push(...page.messages);
      [isFirst, wanted, next] = [false, wanted - page.messages.length, page.next];
      found.next = next;
      tellIncomplete(page);
      changed();
      nameSessions(page.messages, signal);
    }
    isReadingMessages = false;
  }

  function searched(query, signal) {
    return server.get("/api/chat/search", { query, signal });
  }

  // The server searches for two at once; it says when to come again.
  async function patient(signal, ask) {
    for (;;) {
      try {
        const page = await ask();
        found.isBusy = false;
        return page;
      } catch (fault) {
        if (fault.code !== "search_busy") throw fault;
        found.isBusy = true;
        changed();
        await pause(Math.min(fault.retryAfter ?? 1, WAIT_SECONDS_MAX), signal);
      }
    }
  }

  async function more() {
    if (isReadingMessages || found.next === null) return;
    const { signal } = abort;
    await attempt(signal, () => findMessages(found.query, found.next, signal));
  }

  async function attempt(signal, work) {
    readings += 1;
    found.isReading = true;
    changed();
    try {
      await work();
    } catch (fault) {
      if (signal.aborted) return;
      Object.assign(found, { fault, isBusy: false });
    }
    if (signal.aborted) return;
    readings -= 1;
    found.isReading = readings > 0;
    changed();
  }

  // Titles and texts may lack something for reasons of their own.
  function tellIncomplete({ complete, reason }) {
    const why = complete ? "" : reason ?? "something could not be read";
    if (!found.incomplete.includes(why)) found.incomplete = found.incomplete ? `${found.incomplete}; ${why}` : why;
  }

  function remember(sessions) {
    for (const { session_id, title } of sessions) titles.set(session_id, title || session_id);
  }

  // One after the other, behind the search: what is found is shown with the session's name until then.
  async function nameSessions(messages, signal) {
    for (const { session_id } of messages) {
      if (titles.has(session_id) || signal.aborted) continue;
      titles.set(session_id, session_id);
      const session = await server.get(sessionPath(session_id), { signal }).catch(() => undefined);
      if (session) remember([session]);
      else titles.delete(session_id);
      changed();
    }
  }

  return { found, find, more, titleOf: (id) => titles.get(id) ?? id, stop: () => abort?.abort() };
}

// Whether a text has all the words: about as the server sees it, which has the last word.
function fitting(query) {
  const words = query.toLowerCase().split(" ");
  return (text) => words.every((word) => text.toLowerCase().includes(word));
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}
