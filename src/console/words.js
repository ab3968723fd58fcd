// How the page writes numbers.

export function number(value) {
  return value.toLocaleString();
}

export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}
