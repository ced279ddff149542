// Prints the lines of a file, the most relevant to a query first. Needs Node.js 18 or newer and nothing else.
//
//   node examples/rerank.mjs http://127.0.0.1:8080 "how do bees find home" examples/notes.txt
//
// RERANK_KEY is the API key, if the service needs one.
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const ATTEMPTS = 5;
const TIMEOUT_MS = 60_000;

async function rerank(url, query, texts) {
  const headers = { "Content-Type": "application/json" };
  if (process.env.RERANK_KEY) headers.Authorization = `Bearer ${process.env.RERANK_KEY}`;
  const body = JSON.stringify({ query, documents: texts.map((content) => ({ content })), top_k: 0 });
  for (let attempt = 1; ; attempt++) {
    const reply = await fetch(`${url}/rerank`, { method: "POST", headers, body, signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (reply.ok) return (await reply.json()).results;
    // A service that is busy or starting says when to come back, in seconds.
    const retryAfter = reply.headers.get("Retry-After");
    if (retryAfter === null || attempt === ATTEMPTS) throw new Error(`${reply.status}: ${await reply.text()}`);
    await sleep(1000 * Number(retryAfter));
  }
}

const [url, query, file] = process.argv.slice(2);
if (!file) {
  console.error("usage: node rerank.mjs URL QUERY FILE");
  process.exit(2);
}
const texts = (await readFile(file, "utf8")).split("\n").filter((line) => line.trim());
for (const { score, content } of await rerank(url, query, texts)) console.log(score.toFixed(4), content);
