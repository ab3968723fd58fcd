// Short forms of times: today by the clock, this year by the day, else by the date. As the browser's user writes them.

const formats = new Map();

function format(options) {
  const key = JSON.stringify(options);
  // Making a format costs more than a hundred uses of it.
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat(undefined, options));
  return formats.get(key);
}

// `time` as the server writes it, RFC 3339.
export function shortTime(time) {
  const then = new Date(time), now = new Date();
  if (then.toDateString() === now.toDateString()) return format({ hour: "2-digit", minute: "2-digit" }).format(then);
  const year = then.getFullYear() === now.getFullYear() ? undefined : "numeric";
  return format({ day: "numeric", month: "short", year }).format(then);
}
