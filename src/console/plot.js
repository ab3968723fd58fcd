// A small plot of one figure over the last minutes, with its scale and what it means; a screen reader is told it in words.
import { element, replace, set, svg } from "./dom.js";
import { span } from "./units.js";

const [WIDTH, HEIGHT] = [300, 72];
const WINDOW_MIN_S = 60;
// Values that are further apart have nothing between them: the tab was hidden, or the server was away.
const GAP_MS = 5000;

export class Plot {
  // name, text: what it is called and means; format: a value as a text; binary: its scale is a power of two
  constructor({ name, text, format, binary = false }) {
    Object.assign(this, { name, format, binary });
    this.value = element("span", { class: "plot-value", text: "–" });
    this.bands = svg("g", { class: "plot-bands" });
    this.area = svg("path", { class: "plot-area" });
    this.line = svg("path", { class: "plot-line", "vector-effect": "non-scaling-stroke" });
    this.picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" }, this.bands, this.area, this.line);
    this.top = element("span", { class: "plot-top" });
    this.since = element("span");
    this.element = element("section", { class: "plot" },
      element("div", { class: "plot-head" }, element("h3", { text: name }), this.value),
      element("div", { class: "plot-frame" }, this.picture, element("div", { class: "plot-scale", "aria-hidden": "true" }, this.top, element("span", { text: "0" }))),
      element("div", { class: "plot-time", "aria-hidden": "true" }, this.since, element("span", { text: "now" })),
      element("p", { class: "means", text }));
  }

  // points: [{ at (ms), value (undefined: nothing to tell), away }], oldest first; `away` shades the time until then.
  show(points) {
    const now = points.at(-1)?.at ?? 0;
    const window = Math.max(WINDOW_MIN_S * 1000, now - (points[0]?.at ?? now));
    const values = points.map(({ value }) => value).filter((value) => value !== undefined);
    const most = Math.max(0, ...values);
    const top = niceTop(most, this.binary);
    const x = (at) => round(WIDTH - ((now - at) / window) * WIDTH);
    const y = (value) => round(HEIGHT - 1 - (value / top) * (HEIGHT - 6));
    const runs = runsOf(points);
    set(this.line, { d: runs.map((run) => path(run, x, y)).join("") });
    set(this.area, { d: runs.map((run) => `${path(run, x, y)}V${HEIGHT}H${x(run[0].at)}Z`).join("") });
    replace(this.bands, awayOf(points).map(([from, to]) => svg("rect", { x: x(from), y: 0, width: round(x(to) - x(from)), height: HEIGHT })));
    const last = values.at(-1);
    const said = last === undefined ? "–" : this.format(last);
    const long = span(Math.round(window / 1000));
    this.value.textContent = said;
    this.top.textContent = values.length ? this.format(top) : "";
    this.since.textContent = `${long} ago`;
    set(this.picture, { "aria-label": `${this.name}: ${last === undefined ? "nothing yet" : `${said} now, at most ${this.format(most)} in the last ${long}`}.` });
  }
}

// The values that follow each other without a gap. Where there was nothing to tell for a while, the line goes on.
function runsOf(points) {
  const runs = [];
  let before = -Infinity;
  let run = [];
  for (const point of points) {
    if (point.at - before > GAP_MS) runs.push(run = []);
    before = point.at;
    if (point.value !== undefined) run.push(point);
  }
  return runs.filter(({ length }) => length > 0);
}

// From when to when it was away.
function awayOf(points) {
  const bands = [];
  points.forEach(({ at, away }, n) => {
    if (!away) return;
    if (points[n - 1]?.away) bands.at(-1)[1] = at;
    else bands.push([points[n - 1]?.at ?? at, at]);
  });
  return bands;
}

function path(run, x, y) {
  // A single value is a short line.
  const [first] = run;
  const start = `M${x(first.at)} ${y(first.value)}`;
  return run.length === 1 ? `${start}h2` : start + run.slice(1).map(({ at, value }) => `L${x(at)} ${y(value)}`).join("");
}

// The end of the scale: 1, 2 or 5 and zeroes.
function niceTop(most, binary) {
  if (!(most > 0)) return 1;
  if (binary) return 2 ** Math.ceil(Math.log2(most));
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].find((step) => step * power >= most) * power;
}

function round(value) {
  return Math.round(value * 10) / 10;
}
