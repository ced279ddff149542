import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import test from "node:test";

import { read } from "../../pusher/dashboard/documents.js";
import { placeOfError } from "../../pusher/dashboard/jsonplace.js";
import { fromAnswer } from "../../pusher/dashboard/problems.js";
import { curl, python } from "../../pusher/dashboard/snippets.js";

const texts = (...given) => read(...given).documents;

test("lines are documents, blank ones are not", () => assert.deepEqual(texts("a\r\n\n  b  \n"), ["a", "b"]));
test("a JSON list of texts", () => assert.deepEqual(texts('["a", "b"]'), ["a", "b"]));
test("objects keep what is beside the text as metadata", () =>
  assert.deepEqual(texts('[{"text": "a", "id": 7}, {"content": "b"}]'), [{ content: "a", metadata: { id: 7 } }, { content: "b" }]));
test("a whole request brings its query", () => assert.equal(read('{"query": "q", "documents": ["a"]}').query, "q"));
test("JSON lines", () => assert.deepEqual(texts('{"text": "a"}\n"b"\n', "x.jsonl"), [{ content: "a" }, "b"]));
test("a table's text column is found by name", () => assert.deepEqual(texts('id,text\n1,"a, ""b""\nc"\n2,d', "x.csv"), ['a, "b"\nc', "d"]));
test("a table without names gives its longest column", () => assert.deepEqual(texts("1,long text\n2,other text", "x.csv"), ["long text", "other text"]));
test("tabs", () => assert.deepEqual(texts("id\ttext\n1\ta", "x.tsv"), ["a"]));
test("broken JSON is read as lines, and says so", () => {
  const { documents, note } = read('[{"text": "a",\n oops');
  assert.equal(documents.length, 2);
  assert.match(note, /isn't valid/);
});
test("entries without text are counted, not sent", () => assert.match(read('["a", null, {}, []]').note, /3 of 4/));

test("a broken file has a problem that names the place, and no documents", () => {
  const problem = (...given) => {
    const { documents, problem: found } = read(...given);
    assert.equal(documents.length, 0);
    return found ?? "";
  };
  assert.match(problem('[\n {"text": "a"},\n {"text": "b"\n {"text": "c"}\n]', "x.json"), /^line 4, column 2/);
  assert.match(problem('[{"text": "a"},\n {"text": "b"', "x.json"), /^line 2/);
  assert.match(problem('{"text": "a"}\n\n{"text": "b",}\n{"text": "c"}', "x.jsonl"), /^line 3, column 14:/);
  assert.match(problem('{"text": "a"}\nnonsense\n', "x.ndjson"), /^line 2, column 1:/);
  assert.match(problem('{"text": "a"}\n{"text": \n', "x.json"), /^line 2/);
  assert.match(problem('id,text\n1,"good"\n2,"never closed\n3,more\n', "x.csv"), /^line 3: a quote/);
  assert.match(problem("a\u0000b", "x.txt"), /no text/);
  assert.match(problem("  \n", "x.json"), /empty/);
});

test("the place is where a text stops being JSON, whatever is wrong with it", () => {
  const place = (text) => Object.values(placeOfError(text)).join(":");
  const cases = {
    "[1, 2,]": "1:7", "{'a': 1}": "1:2", '{"a" 1}': "1:6", '{"a": 1,}': "1:9", "[1 2]": "1:4", '["a': "1:2", '["a\nb"]': "1:2", "[1]\n x": "2:2",
    "[1,\n 2": "2:3", "nul": "1:1", "[01]": "1:3", '{"a": [1, {"b": }]}': "1:17", "]": "1:1", "": "1:1", '["\\x"]': "1:2",
  };
  for (const [text, expected] of Object.entries(cases)) {
    assert.throws(() => JSON.parse(text));
    assert.equal(place(text), expected, text);
  }
  const deep = "[".repeat(100_000) + '{"a": "' + "x".repeat(1_000_000) + '", }';
  assert.equal(place(deep), `1:${deep.length}`);
});

test("a sound file, and whatever is pasted, has no problem", () => {
  for (const given of [['[{"text": "a"}]', "x.json"], ['{"text": "a"}\n{"text": "b"}', "x.json"], ['id,text\n1,"a\nb"', "x.csv"], ["plain", "x.txt"], ['[{"text": ', ""], ["", ""]]) {
    assert.equal(read(...given).problem, undefined, given[0]);
  }
});

test("rubbish never throws", () => {
  for (const rubbish of ["\u0000", "[[[[", '"', '{"a":1}', "null", "[]", "{}", ",,,\n,,", '"""', "[1,[2,[3]]]", "\ufeff", "💥\ud800"]) {
    for (const name of ["", "x.csv", "x.json", "x.jsonl", "x.tsv", "x.txt"]) {
      for (const document of texts(rubbish, name)) assert.equal(typeof (document.content ?? document), "string");
    }
  }
});

const BODY = { query: `it's "q"`, documents: ["a'b", { content: "c", metadata: { ok: true, none: null } }], top_k: 0, raw_scores: true };

test("the curl line is a shell command with this very body", () => {
  const command = curl("http://x/rerank", BODY, false).replace(/^curl/, "printf '%s\\0'");
  const parts = execFileSync("sh", ["-c", command], { encoding: "utf8" }).split("\0");
  assert.deepEqual(JSON.parse(parts[parts.indexOf("-d") + 1]), BODY);
});

test("the Python lines compile and name no key", () => {
  const code = python("http://x/rerank", BODY, true);
  execFileSync("python3", ["-c", "import ast, sys; ast.parse(sys.stdin.read())"], { input: code });
  assert.match(code, /RERANK_KEY/);
});

test("errors are sentences", () => {
  const error = (code, message) => ({ error: { code, message }, request_id: "r1" });
  assert.equal(fromAnswer(400, error("invalid_request", "query: must not be blank")), "Query: must not be blank.");
  assert.match(fromAnswer(503, error("overloaded", "512 requests are at work")), /full right now/);
  assert.match(fromAnswer(401, null), /key/);
  assert.match(fromAnswer(502, null), /HTTP 502/);
});
