// Makes DOM nodes: the only file that does. Nothing is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

const PROPERTIES = new Set(["value", "checked", "indeterminate", "selected"]);

// element("button", { class: "quiet", "aria-label": "Close", onclick: close }, "×")
//
// `text` stands for children, on… is a listener, `style` and `dataset` are objects (the policy forbids the attribute style); all
// else is an attribute: true sets it empty; false, null and undefined leave it out. Children are nodes, texts and arrays of these;
// null, undefined and false are passed over.
export function element(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

// Puts these children in the place of all that `parent` has.
export function replace(parent, ...children) {
  parent.replaceChildren();
  return append(parent, children);
}

// Sets properties of a node as `element` does.
export function set(node, properties) {
  for (const [name, value] of Object.entries(properties)) setOne(node, name, value);
  return node;
}

function fill(node, properties, children) {
  return append(set(node, properties ?? {}), children);
}

function setOne(node, name, value) {
  if (name === "text") node.textContent = value ?? "";
  else if (name.startsWith("on")) listen(node, name.slice(2), value);
  else if (name === "style") for (const [key, part] of Object.entries(value ?? {})) node.style.setProperty(key, part);
  else if (name === "dataset") Object.assign(node.dataset, value);
  else if (PROPERTIES.has(name)) node[name] = value;
  else if (value === false || value === null || value === undefined) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : value);
}

function listen(node, event, listener) {
  if (!listener) return;
  if (typeof listener !== "function") throw new TypeError(`the listener of ${event} must be a function`);
  node.addEventListener(event, listener);
}

// One after the other: there may be more than a call takes arguments.
function append(node, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(node, child);
    else if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}
