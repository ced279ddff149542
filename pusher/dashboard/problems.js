// What went wrong, in plain words. PURE.

const SENTENCES = {
  unauthorized: "The service did not accept the key.",
  payload_too_large: "That is more than the service takes in one request. Send fewer or shorter documents.",
  rate_limited: "That is more than your key may ask for in a minute. Try again in a moment.",
  overloaded: "The service is full right now. Try again in a moment.",
  unavailable: "The service is starting, restarting or being stopped. Try again in a moment.",
  deadline_exceeded: "The time was over before every document was scored. Send fewer documents at a time.",
  engine_failed: "The model could not score this request.",
  internal: "Something broke on the server.",
};

// From an answer that is no success; `body` is its JSON, or null.
export function fromAnswer(status, body) {
  const error = body?.error ?? {};
  const sentence = SENTENCES[error.code] ?? (status === 401 || status === 403 ? SENTENCES.unauthorized : null);
  const detail = error.message ? `${error.message.charAt(0).toUpperCase()}${error.message.slice(1)}` : `HTTP ${status}`;
  const id = body?.request_id ? ` (request ${body.request_id})` : "";
  if (error.code === "invalid_request") return `${detail}.`.replace(/\.\.$/, ".");
  return sentence ? `${sentence} ${status >= 500 ? `${detail}${id}.` : ""}`.trim() : `${detail}${id}.`;
}

export const UNREACHABLE = "The service can't be reached. Is it running?";
