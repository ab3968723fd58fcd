// The Storage tab, live: reads status and metrics once a second while it is seen, and keeps ten minutes of them. What the figures
// mean is in storage-figures.js, the sentences in storage-state.js.
import { element, replace, set } from "./dom.js";
import { Metrics } from "./metrics.js";
import { Plot } from "./plot.js";
import { server } from "./server.js";
import { figuresOf, metersOf, plotsOf, sampleOf, warningsOf } from "./storage-figures.js";
import { Diary, stateOf, wayOf } from "./storage-state.js";
import { moment } from "./units.js";

const INTERVAL_MS = 1000;
const KEPT_MS = 600_000;
const TIMEOUT_MS = 5000;

export class StorageView {
  #seen = false;      // the tab is the one that is shown
  #running = false;
  #reading;           // the last { at, status, metrics }
  #samples = [];
  #plots = new Map();
  #diary = new Diary();

  constructor() {
    this.stale = element("p", { class: "stale", role: "status", hidden: true });
    this.title = element("h2", { "aria-live": "polite" });
    this.state = element("div");
    this.card = element("div", { class: "state-card" }, this.title, this.state);
    this.way = element("ol", { class: "way", "aria-label": "The way of a message" });
    this.warnings = element("section", { class: "warnings", "aria-label": "Warnings", hidden: true });
    this.plots = element("div", { class: "plots" });
    this.meters = element("div", { class: "meters" });
    this.figures = element("dl", { class: "figures" });
    this.diary = element("ol", { class: "diary", "aria-live": "polite" });
    this.diaryPart = element("section", { hidden: true }, element("h2", { text: "Since this page is open" }), this.diary);
    const part = (id, text, content) => element("section", { "aria-labelledby": id }, element("h2", { id, text }), content);
    // It is long: the arrow keys scroll it.
    this.element = element("div", { class: "storage", role: "region", "aria-label": "Storage", tabindex: 0 },
      element("h1", { class: "only-heard", text: "Storage" }), this.stale, this.card, this.way, this.warnings,
      part("storage-live", "Live", this.plots),
      this.diaryPart,
      part("storage-room", "Room", this.meters),
      part("storage-more", "More figures", this.figures));
    document.addEventListener("visibilitychange", () => this.#run());
  }

  show() {
    this.#seen = true;
    this.#run();
  }

  hide() {
    this.#seen = false;
  }

  // One round after the other, so that a slow server gets no more of them.
  async #run() {
    if (this.#running) return;
    this.#running = true;
    while (this.#seen && document.visibilityState === "visible") {
      const began = Date.now();
      await this.#read();
      await new Promise((resolve) => setTimeout(resolve, Math.max(100, INTERVAL_MS - (Date.now() - began))));
    }
    this.#running = false;
  }

  async #read() {
    try {
      const options = { timeout: TIMEOUT_MS };
      const [status, metrics] = await Promise.all([
        server.get("/api/storage/status", options),
        server.request("GET", "/metrics", options).then((reply) => reply.text()),
      ]);
      this.#take({ at: Date.now(), status, metrics: new Metrics(metrics) });
    } catch (error) {
      this.#diary.unreachable(Date.now(), error.message);
      set(this.stale, { hidden: false, text: `${error.message}${this.#reading ? ` The figures below are of ${moment(this.#reading.at)}.` : ""}` });
      this.#showDiary();
    }
  }

  #take(reading) {
    const sample = sampleOf(this.#reading, reading);
    this.#reading = reading;
    this.#samples = [...this.#samples.filter(({ at }) => at > reading.at - KEPT_MS), sample];
    this.#diary.take(reading.at, reading.status);
    this.stale.hidden = true;
    this.#showState(reading, sample);
    this.#showWarnings(reading.status);
    this.#showPlots(reading.status);
    this.#showMeters(reading.status);
    this.#showFigures(reading);
    this.#showDiary();
  }

  #showState({ status, metrics }, sample) {
    const { kind, title, text, reason, section, add, config } = stateOf(status, metrics);
    set(this.card, { class: `state-card ${kind}` });
    // A screen reader is told the title alone: the text counts the seconds.
    once(this.title, title, () => [element("span", { class: "dot", "aria-hidden": "true" }), title]);
    once(this.state, [text, reason, section, add, config], () => [
      element("p", { text }),
      reason && element("p", { class: "reason" }, "Why: ", element("code", { text: reason })),
      section && element("p", { class: "reason", text: whatToDo(section) }),
      add && element("p", { text: add }),
      config && element("pre", { tabindex: 0, "aria-label": "Lines for config.yaml", role: "group" }, element("code", { text: config })),
    ]);
    const way = wayOf(status, sample);
    once(this.way, way, () => way.map(({ name, said, text: what, kind: how }) => element("li", { class: how || null },
      element("span", { class: "way-name", text: name }), element("span", { class: "way-said", text: said }), element("span", { class: "means", text: what }))));
  }

  #showWarnings(status) {
    const found = warningsOf(status);
    this.warnings.hidden = found.length === 0;
    once(this.warnings, found, () => [
      element("h2", { text: found.length === 1 ? "A warning" : `${found.length} warnings` }),
      element("ul", {}, found.map(({ name, text, section, reason }) => element("li", {},
        element("strong", { text: name.replaceAll("_", " ") }), ` – ${text}${reason ? ` (${reason})` : ""} ${whatToDo(section)}`))),
    ]);
  }

  #showPlots(status) {
    for (const { key, ...what } of plotsOf(status)) {
      if (!this.#plots.has(key)) {
        this.#plots.set(key, new Plot(what));
        this.plots.append(this.#plots.get(key).element);
      }
      this.#plots.get(key).show(this.#samples.map((sample) => ({ at: sample.at, value: sample[key], away: sample.away })));
    }
  }

  #showMeters(status) {
    const meters = metersOf(status);
    once(this.meters, meters, () => meters.map(({ name, value, most, said, text }) => {
      const share = most > 0 ? Math.min(1, value / most) : 1;
      const bar = element("div", { class: share > 0.9 ? "bar-fill full" : share > 0.5 ? "bar-fill half" : "bar-fill", style: { "--share": `${share * 100}%` } });
      return element("div", { class: "meter" },
        element("div", { class: "plot-head" }, element("h3", { text: name }), element("span", { class: "plot-value", text: said })),
        element("div", { class: "bar-track", role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 100,
          "aria-valuenow": Math.round(share * 100), "aria-valuetext": said }, bar),
        element("p", { class: "means", text }));
    }));
  }

  #showFigures({ status, metrics }) {
    const figures = figuresOf(status, metrics);
    once(this.figures, figures, () => figures.map(({ name, said, text, bad }) => element("div", { class: bad ? "bad" : null },
      element("dt", { text: name }), element("dd", { class: "figure", text: said }), element("dd", { class: "means", text }))));
  }

  #showDiary() {
    const { entries } = this.#diary;
    this.diaryPart.hidden = entries.length === 0;
    once(this.diary, entries, () => entries.map(({ at, text }) => element("li", {}, element("time", { text: moment(at) }), ` ${text}`)));
  }
}

function whatToDo(section) {
  return section ? `What to do: docs/runbook.md, “${section}”.` : "";
}

// Makes the content of a node again only if what it is made of has changed: what is selected in it stays, and a screen reader
// is told nothing twice.
const shown = new WeakMap();
function once(node, of, make) {
  const key = JSON.stringify(of);
  if (shown.get(node) === key) return;
  shown.set(node, key);
  replace(node, make());
}
