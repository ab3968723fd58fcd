// The page's icons, drawn with the colour of the text beside them. They say nothing by themselves: a button that has only an icon
// has an aria-label.

import { svg } from "./dom.js";

const PATHS = {
  archive: "M2 3h12v3H2zM3 6v7h10V6M6.5 9h3",
  check: "M3 8.5 6.5 12 13 4.5",
  close: "M4 4l8 8M12 4l-8 8",
  download: "M8 2v8M4.5 7 8 10.5 11.5 7M2.5 13.5h11",
  erase: "M2.5 4h11M6 4V2.5h4V4M4 4l.6 9.5h6.8L12 4M6.7 6.5v4.5M9.3 6.5v4.5",
  more: "M3.5 8h.01M8 8h.01M12.5 8h.01",
  open: "M2 3h12v8.5H8L4.5 14v-2.5H2z",
  pin: "M6 2h4M6.5 2v4.5L4.5 9v1h7V9l-2-2.5V2M8 10v4.5",
  plus: "M8 3v10M3 8h10",
  rename: "M3 13l.7-3L11 2.7 13.3 5 6 12.3zM9.5 4.2l2.3 2.3",
  search: "M7 2.5a4.5 4.5 0 1 1 0 9a4.5 4.5 0 1 1 0-9M10.3 10.3 14 14",
  select: "M2.5 2.5h11v11h-11zM5 8l2.2 2.2L11 6",
  upload: "M8 10.5v-8M4.5 6 8 2.5 11.5 6M2.5 13.5h11",
};

export function icon(name) {
  return svg("svg", { viewBox: "0 0 16 16", class: `glyph glyph-${name}`, "aria-hidden": "true" }, svg("path", { d: PATHS[name] }));
}
