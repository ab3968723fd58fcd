// The page's icons, drawn with the colour of the text beside them. They say nothing by themselves: a button that has only an icon
// has an aria-label.

import { svg } from "./dom.js";

const PATHS = {
  archive: "M2 3h12v3H2zM3 6v7h10V6M6.5 9h3",
  back: "M10 3 5 8l5 5",
  branch: "M4.5 5.5v5m0-5a2 2 0 1 0 0-4 2 2 0 0 0 0 4Zm0 5a2 2 0 1 0 0 4 2 2 0 0 0 0-4Zm7-5a2 2 0 1 0 0-4 2 2 0 0 0 0 4Zm0 0c0 3-3 3-7 4.5",
  check: "M3 8.5 6.5 12 13 4.5",
  close: "M4 4l8 8M12 4l-8 8",
  copy: "M5.5 5.5v-4h9v9h-4m-9-5h9v9h-9z",
  down: "M8 3v10m-4.5-4.5L8 13l4.5-4.5",
  download: "M8 2v8M4.5 7 8 10.5 11.5 7M2.5 13.5h11",
  edit: "m2.5 13.5.8-3.3 7.7-7.7 2.5 2.5-7.7 7.7zM9.5 4 12 6.5",
  erase: "M2.5 4h11M6 4V2.5h4V4M4 4l.6 9.5h6.8L12 4M6.7 6.5v4.5M9.3 6.5v4.5",
  forward: "m6 3 5 5-5 5",
  key: "M10.5 9.5a4 4 0 1 0-3.8-2.8L2 11.5v2.5h3v-2h2v-2l.8-.8a4 4 0 0 0 2.7.3ZM11 5h.01",
  keyboard: "M1.5 4h13v8.5h-13zM4 6.75h.01m2.65 0h.01m2.65 0h.01M12 6.75h.01M5 9.75h6",
  list: "M2 4h12M2 8h12M2 12h12",
  more: "M3.5 8h.01M8 8h.01M12.5 8h.01",
  open: "M2 3h12v8.5H8L4.5 14v-2.5H2z",
  pin: "M6 2h4M6.5 2v4.5L4.5 9v1h7V9l-2-2.5V2M8 10v4.5",
  plus: "M8 3v10M3 8h10",
  retry: "M13.5 8a5.5 5.5 0 1 1-1.7-4l1.7 1.6m0-3.6v3.6h-3.6",
  search: "M7 2.5a4.5 4.5 0 1 1 0 9a4.5 4.5 0 1 1 0-9M10.3 10.3 14 14",
  select: "M2.5 2.5h11v11h-11zM5 8l2.2 2.2L11 6",
  send: "M8 13.5v-11M3.5 7 8 2.5 12.5 7",
  stop: "M4 4h8v8H4z",
  upload: "M8 10.5v-8M4.5 6 8 2.5 11.5 6M2.5 13.5h11",
  warning: "M8 2 1.5 13.5h13zM8 6.5v3m0 2v.01",
};

export function icon(name) {
  return svg("svg", { viewBox: "0 0 16 16", class: `glyph glyph-${name}`, "aria-hidden": "true" }, svg("path", { d: PATHS[name] }));
}
