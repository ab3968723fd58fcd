// The token: asked for when the server wants one, kept in memory, or in the browser by choice.

import { element, replace } from "./dom.js";
import { server } from "./server.js";

const KEPT = "chatkeep-token";

// Takes the token that the browser kept.
export function recallToken() {
  server.setToken(storage((kept) => kept.getItem(KEPT)) ?? "");
}

export function forgetToken() {
  storage((kept) => kept.removeItem(KEPT));
  server.setToken("");
}

// A form that asks for it. check() resolves if the server takes the token, and throws a ServerError otherwise. Resolves then.
export function askForToken(parent, check) {
  const wrong = storage((kept) => kept.getItem(KEPT)) ? "The token that this browser kept is not valid any more." : "";
  forgetToken();
  return new Promise((resolve) => {
    const fault = element("p", { class: "fault", role: "alert", id: "token-fault", text: wrong });
    const field = element("input", { type: "password", class: "field", id: "token", autocomplete: "current-password", required: true, "aria-describedby": "token-fault" });
    const keep = element("input", { type: "checkbox", id: "keep-token" });
    const submit = element("button", { class: "primary", type: "submit" }, "Open");
    const enter = async (event) => {
      event.preventDefault();
      submit.disabled = true;
      server.setToken(field.value.trim());
      try {
        await check();
        if (keep.checked) storage((kept) => kept.setItem(KEPT, field.value.trim()));
        resolve();
      } catch (error) {
        server.setToken("");
        replace(fault, error.status === 401 ? "The server does not know this token." : error.message);
        field.select();
        field.focus();
      } finally {
        submit.disabled = false;
      }
    };
    replace(parent, element("form", { class: "token-form", onsubmit: enter },
      element("h1", { text: "This server asks for a token" }),
      element("p", { class: "muted" }, "It is one of those that ", element("code", { text: "server.auth_token" }), " and ",
        element("code", { text: "server.auth_tokens" }), " of its configuration name."),
      element("label", { for: "token", text: "Token" }), field, fault,
      element("label", { class: "check", for: "keep-token" }, keep, "Keep it in this browser. Otherwise it is forgotten with the page."),
      element("div", { class: "row" }, submit)));
    field.focus();
  });
}

// A browser may refuse to keep anything.
function storage(use) {
  try {
    return use(localStorage);
  } catch {
    return undefined;
  }
}
