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

// What a request's status means that was not answered with scores; "" where the status says all.
const OF_STATUS = {
  ...SENTENCES,
  invalid_request: "The request is not valid; the reply named the place.",
  not_found: "There is nothing at the path that was asked for.",
  model_not_found: "The request named a model that is not served here.",
  method_not_allowed: "The path does not take this HTTP method.",
  shed: "The service was full and took nothing of it in.",
  expired: SENTENCES.deadline_exceeded,
  cancelled: "The client hung up before the answer.",
  lost: "Its end was not reported: its worker died, or the event was lost.",
};

export function sentenceOf(status) {
  return OF_STATUS[status] ?? "";
}

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
