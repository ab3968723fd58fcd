// How times are written: as the browser's user writes them.

const formats = new Map();

function format(options) {
  const key = JSON.stringify(options);
  // Making a format costs more than a hundred uses of it.
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat(undefined, options));
  return formats.get(key);
}

const CLOCK = { hour: "2-digit", minute: "2-digit" };
const DAY_MS = 86_400_000;

// Today by the clock, this year by the day, else by the date. `time` as the server writes it, RFC 3339; so below.
export function shortTime(time) {
  const then = new Date(time), now = new Date();
  if (then.toDateString() === now.toDateString()) return format(CLOCK).format(then);
  const year = then.getFullYear() === now.getFullYear() ? undefined : "numeric";
  return format({ day: "numeric", month: "short", year }).format(then);
}

export function clockTime(time) {
  return format(CLOCK).format(new Date(time));
}

// The day in words: Today, Yesterday, or its name.
export function dayOf(time) {
  const then = new Date(time), now = new Date();
  const days = Math.round((new Date(now).setHours(0, 0, 0, 0) - new Date(then).setHours(0, 0, 0, 0)) / DAY_MS);
  if (days === 0) return "Today";
  if (days === 1) return "Yesterday";
  const parts = then.getFullYear() === now.getFullYear() ? { weekday: "long" } : { year: "numeric" };
  return format({ day: "numeric", month: "long", ...parts }).format(then);
}
