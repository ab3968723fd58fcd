// Copies the path that leads to a message into a new conversation. Each message has a key made of the new session's id and its
// place, so a copy that broke off is completed by copying again, and no message comes twice.

import { server, sessionPath } from "./server.js";

const MESSAGES_MAX = 500;      // in a request
const CHARACTERS_MAX = 200_000;

// Letters and digits that are not mistaken for one another.
const LETTERS = "23456789abcdefghjkmnpqrstuvwxyz";

// A short id for a new session; `prefix` is what the token asks ids to begin with.
export function newSession(prefix = "") {
  const letters = [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => LETTERS[byte % LETTERS.length]);
  return `${prefix}chat-${letters.join("")}`;
}

// progress(share) is called with 0 to 1. Throws a ServerError; the same call again goes on.
export async function branchOff(conversation, message, session, { title, progress }) {
  while (conversation.more) await conversation.older(500);
  if (conversation.incomplete) throw new Error(`What precedes this message cannot be read now: ${conversation.incomplete}`);
  const path = conversation.messages.slice(0, conversation.place(message.id) + 1);
  let copied = 0;
  for (const part of parts(path)) {
    await server.post("/api/chat/messages", part.map(({ role, text, metadata }, n) => (
      { session_id: session, role, text, metadata, message_id: `${session}-${copied + n}` })));
    copied += part.length;
    progress(copied / path.length);
  }
  await server.patch(sessionPath(session), {
    title: title && `${title} (branch)`,
    metadata: { branched_from: { session_id: conversation.session, message_id: message.id } },
  });
}

function* parts(messages) {
  let part = [];
  let size = 0;
  for (const message of messages) {
    const own = message.text.length + JSON.stringify(message.metadata ?? {}).length;
    if (part.length && (part.length === MESSAGES_MAX || size + own > CHARACTERS_MAX)) {
      yield part;
      part = [];
      size = 0;
    }
    part.push(message);
    size += own;
  }
  if (part.length) yield part;
}
