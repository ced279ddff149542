// One request's progress by server-sent events. With fetch and not EventSource, which can't send a key.

export async function follow(id, key, onProgress, signal) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const reply = await fetch(`../progress/${encodeURIComponent(id)}`, { headers, signal });
  if (!reply.ok) return;
  let rest = "";
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").find((line) => line.startsWith("data: "));
      if (data) onProgress(JSON.parse(data.slice("data: ".length)));
    }
  }
}
