// How figures are written, as the browser's user writes numbers.

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayAndClock = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

export function count(value) {
  return whole.format(value);
}

export function plural(value, one) {
  return `${count(value)} ${value === 1 ? one : `${one}s`}`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let [left, unit] = [value, 0];
  for (; left >= 1000 && unit < units.length - 1; unit += 1) left /= 1024;
  return `${short.format(left)} ${units[unit]}`;
}

export function perSecond(value) {
  return `${short.format(value < 0.01 ? 0 : value)}/s`;
}

// A time span, given in seconds.
export function span(seconds) {
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${short.format(seconds * 1e6)} µs`;
  if (seconds < 1) return `${short.format(seconds * 1000)} ms`;
  if (seconds < 60) return `${short.format(Math.round(seconds * 10) / 10)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return seconds % 60 < 1 ? `${minutes} min` : `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days ${hours % 24} h`;
}

// A point in time: the clock today, the day as well otherwise.
export function moment(time) {
  const then = new Date(time);
  return (then.toDateString() === new Date().toDateString() ? clock : dayAndClock).format(then);
}
