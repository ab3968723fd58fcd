// Speaks HTTP with the server that this page came from: adds the token, turns every failure into a ServerError, reads streams.

// A request that failed. Without a reply `status` is 0 and `code` "unreachable", "timeout" or "aborted"; `message` is what to
// show; `retryAfter` is in seconds.
export class ServerError extends Error {
  constructor(status, code, message, { field, retryAfter } = {}) {
    super(message);
    Object.assign(this, { name: "ServerError", status, code, field, retryAfter });
  }
}

let token = "";

export const server = {
  setToken(value) {
    token = value ?? "";
  },

  get hasToken() {
    return token !== "";
  },

  // Returns the Response, which is ok; its body may still be streaming. `query` is an object, in which null and undefined are left
  // out; `json` is the body as a value; `timeout` is in milliseconds, until the end of the body. Throws a ServerError.
  async request(method, path, { query, json, body, type, headers, signal, timeout } = {}) {
    if (token && !/^[!-~]+$/.test(token)) {
      throw new ServerError(401, "unauthorized", "A token is visible ASCII: letters, digits and signs, without spaces.");
    }
    const reply = await reachable(signal, () => fetch(address(path, query), {
      method,
      headers: {
        ...(token && { Authorization: `Bearer ${token}` }),
        ...(json !== undefined && { "Content-Type": "application/json" }),
        ...(type && { "Content-Type": type }),
        ...headers,
      },
      body: json === undefined ? body : JSON.stringify(json),
      signal: timeout ? AbortSignal.any([AbortSignal.timeout(timeout), ...(signal ? [signal] : [])]) : signal,
      cache: "no-store",
      redirect: "error",
    }));
    if (!reply.ok) throw await refusal(reply);
    return reply;
  },

  // The same, and returns the JSON of the reply: null where it has none.
  async call(method, path, options) {
    const reply = await this.request(method, path, options);
    const text = await reachable(options?.signal, () => reply.text());
    return text === "" ? null : JSON.parse(text);
  },

  get(path, options) {
    return this.call("GET", path, options);
  },
  post(path, json, options) {
    return this.call("POST", path, { json, ...options });
  },
  patch(path, json, options) {
    return this.call("PATCH", path, { json, ...options });
  },
  delete(path, options) {
    return this.call("DELETE", path, options);
  },

  // The token goes as a subprotocol, since a page cannot set a header here.
  socket(path, query) {
    const url = new URL(address(path, query), location.href);
    url.protocol = url.protocol.replace("http", "ws");
    return new WebSocket(url, token ? ["chatkeep", `chatkeep.token.${base64url(token)}`] : ["chatkeep"]);
  },
};

// The path of a session's calls: session("a b", "stop") is /api/chat/sessions/a%20b/stop
export function sessionPath(id, ...rest) {
  return ["/api/chat/sessions", encodeURIComponent(id), ...rest].join("/");
}

// The lines of a reply as they come, without their ends. Leaving the loop ends the request.
export async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reachable(undefined, () => reader.read());
      if (done) break;
      const parts = value.split("\n");
      parts[0] = rest + parts[0];
      rest = parts.pop();
      for (const part of parts) yield part.endsWith("\r") ? part.slice(0, -1) : part;
    }
    if (rest) yield rest;
  } finally {
    reader.cancel().catch(() => {});
  }
}

// The server-sent events of a reply as they come: { id, event, data }. Comments are passed over; `data` is text.
export async function* events(response) {
  let current = {};
  for await (const line of lines(response)) {
    if (line === "") {
      if (current.data !== undefined) yield { event: "message", ...current };
      current = {};
      continue;
    }
    const [, name, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
    if (name === "data" && current.data !== undefined) current.data += `\n${value ?? ""}`;
    else if (name) current[name] = value ?? "";
  }
}

function address(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

// A browser says "Failed to fetch" of everything; the page says what it means.
async function reachable(signal, work) {
  try {
    return await work();
  } catch (error) {
    if (signal?.aborted || error.name === "AbortError") throw new ServerError(0, "aborted", "This was given up.");
    if (error.name === "TimeoutError") throw new ServerError(0, "timeout", "The server does not answer in time.");
    throw new ServerError(0, "unreachable", "The server cannot be reached.");
  }
}

async function refusal(reply) {
  const problem = await reply.json().catch(() => ({}));
  const detail = problem.detail ?? `The server answered ${reply.status}${reply.statusText ? ` ${reply.statusText}` : ""}.`;
  const retryAfter = Number.parseInt(reply.headers.get("Retry-After") ?? "", 10);
  return new ServerError(reply.status, problem.code ?? "unknown", detail, {
    field: problem.field,
    retryAfter: Number.isNaN(retryAfter) ? undefined : retryAfter,
  });
}

function base64url(text) {
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
