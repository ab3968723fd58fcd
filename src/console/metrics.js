// Reads the text format of Prometheus, as far as chatkeep writes it, and what happened between two readings.

export class Metrics {
  #families = new Map();

  constructor(text) {
    for (const line of text.split("\n")) {
      const [, name, labels, value] = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
      if (!name) continue;
      if (!this.#families.has(name)) this.#families.set(name, []);
      this.#families.get(name).push({ labels: labelsOf(labels), value: value === "+Inf" ? Infinity : Number(value) });
    }
  }

  // The sum of a metric over its labels, or over those that `wanted(labels)` names; undefined if there is none.
  sum(name, wanted = () => true) {
    const samples = this.#families.get(name)?.filter(({ labels }) => wanted(labels));
    return samples?.length ? samples.reduce((total, { value }) => total + value, 0) : undefined;
  }

  // A label of a metric that has one sample, such as the features of the build.
  label(name, label) {
    return this.#families.get(name)?.[0]?.labels[label];
  }
}

// How much a counter rose each second between two readings; undefined if it did not, because the server was started again.
export function rate(earlier, later, seconds, ...what) {
  const rise = later.sum(...what) - earlier.sum(...what);
  return rise >= 0 && seconds > 0 ? rise / seconds : undefined;
}

// The mean of what a histogram counted between two readings; undefined if it counted nothing.
export function mean(earlier, later, name) {
  const counted = later.sum(`${name}_count`) - earlier.sum(`${name}_count`);
  return counted > 0 ? (later.sum(`${name}_sum`) - earlier.sum(`${name}_sum`)) / counted : undefined;
}

function labelsOf(text = "") {
  return Object.fromEntries([...text.matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]));
}
