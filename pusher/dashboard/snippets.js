// A request as code to copy. PURE. The key is never part of it.

const MOST_SHOWN = 20;

export function curl(url, body, withKey) {
  const key = withKey ? ` \\\n  -H "Authorization: Bearer $RERANK_KEY"` : "";
  const json = JSON.stringify(shortened(body), null, 2).replaceAll("'", "'\\''");
  return `curl ${url} \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${json}'`;
}

export function python(url, body, withKey) {
  const headers = withKey ? `,\n    headers={"Authorization": "Bearer " + os.environ["RERANK_KEY"]}` : "";
  const { query, documents, ...options } = shortened(body);
  const fields = Object.entries(options).map(([name, value]) => `\n    ${JSON.stringify(name)}: ${literal(value)},`);
  const list = documents.map((document) => `\n        ${literal(document)},`).join("");
  return `${withKey ? "import os\n\n" : ""}import requests

reply = requests.post(
    ${JSON.stringify(url)},
    json={
        "query": ${literal(query)},
        "documents": [${list.replaceAll("\n        ", "\n            ")}
        ],${fields.join("").replaceAll("\n    ", "\n        ")}
    }${headers},
    timeout=300,
)
reply.raise_for_status()
for result in reply.json()["results"]:
    print(f'{result["score"]:.4f}  {result["content"]}')
`;
}

// Thousands of documents are not for copying; the first few show the shape.
function shortened(body) {
  if (body.documents.length <= MOST_SHOWN) return body;
  return { ...body, documents: body.documents.slice(0, MOST_SHOWN) };
}

export function isShortened(body) {
  return body.documents.length > MOST_SHOWN;
}

// JSON as Python: the same but for three words.
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}
