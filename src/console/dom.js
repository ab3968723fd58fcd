// Makes DOM nodes: the only file that does. Text becomes text nodes and attributes are set by name, so nothing that a message
// or a server says is ever read as HTML. It knows nothing of what the nodes are for.

const SVG = "http://www.w3.org/2000/svg";

// What a user changes is a property; the attribute of that name is only its first value.
const PROPERTIES = new Set(["value", "checked", "indeterminate", "selected"]);

// element("button", { class: "quiet", "aria-label": "Close", onclick: close }, "×")
//
// A property is one of:
//   text             the text content, in place of children
//   on…              a listener, called with its event: onclick, onkeydown
//   style            an object: { "--share": "40%" } (the policy forbids the attribute)
//   dataset          an object: { session: id }
//   value, checked, indeterminate, selected
//   any other name   an attribute: true sets it empty; false, null and undefined leave it out
//
// A child is a node, a text, a number, or an array of these; null, undefined and false are passed over.
export function element(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

// The same for SVG: svg("line", { x1: 0, y1: 0, x2: 9, y2: 9 })
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

// Nodes that have no parent yet, to be put somewhere together.
export function fragment(...children) {
  return append(document.createDocumentFragment(), children);
}

// Puts these children in the place of all that `parent` has, and returns `parent`.
export function replace(parent, ...children) {
  parent.replaceChildren();
  return append(parent, children);
}

// Sets properties of a node that is there already, as `element` does. `false`, `null` and `undefined` remove an attribute.
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
