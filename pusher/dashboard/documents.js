// Text or a file -> documents. PURE. Whatever comes in, something sensible or a plain sentence comes out.

import { placeOfError } from "./jsonplace.js";

const TEXT_FIELDS = ["content", "text", "document", "body", "passage", "snippet", "title"];
const LIST_FIELDS = ["documents", "texts", "passages", "inputs", "results", "data"];

// -> { documents: [string or object with content], query?, note?, problem? }. A file that says what it is and is not
// has a problem, which names the place; what was typed or pasted is read as lines then.
export function read(text, fileName = "") {
  const kind = fileName.toLowerCase().split(".").pop();
  const whole = text.replace(/^\ufeff/, "");
  const trimmed = whole.trim();
  if (fileName && whole.includes("\u0000")) return broken("it is no text");
  if (!trimmed) return fileName ? broken("it is empty") : { documents: [] };
  if (kind === "csv" || kind === "tsv") return fromTable(whole, kind === "tsv" ? "\t" : ",");
  if (kind === "json" || kind === "jsonl" || kind === "ndjson") return fromJsonFile(whole, kind);
  if (/^[[{"]/.test(trimmed)) {
    const value = parseJson(trimmed);
    if (value !== undefined) return fromJson(value);
    const lines = fromJsonLines(trimmed);
    if (lines) return lines;
    if (/^[[{]/.test(trimmed))
      return { documents: plainLines(trimmed), note: "This looks like JSON but isn't valid; read as one document a line." };
  }
  return { documents: plainLines(trimmed) };
}

function broken(problem) {
  return { documents: [], problem };
}

// One JSON value, or one a line, whatever the name says of it.
function fromJsonFile(text, kind) {
  const value = parseJson(text);
  if (value !== undefined) return fromJson(value);
  const lines = fromJsonLines(text.trim());
  if (lines) return lines;
  const several = kind !== "json" || parseJson(plainLines(text)[0]) !== undefined;
  const { line, column } = several ? badLine(text) : placeOfError(text);
  return broken(`line ${line}, column ${column}: this is no valid JSON`);
}

function badLine(text) {
  const lines = text.split("\n");
  const index = lines.findIndex((line) => line.trim() && parseJson(line) === undefined);
  return { line: index + 1, column: placeOfError(lines[index]).column };
}

function plainLines(text) {
  return text.split(/\r?\n/).map((line) => line.trim()).filter(Boolean);
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function fromJson(value) {
  if (Array.isArray(value)) return fromList(value);
  if (value && typeof value === "object") {
    const name = LIST_FIELDS.find((field) => Array.isArray(value[field]));
    const query = typeof value.query === "string" ? value.query : undefined;
    if (name) return { ...fromList(value[name]), ...(query ? { query } : {}) };
  }
  return fromList([value]);
}

function fromJsonLines(text) {
  const values = plainLines(text).map(parseJson);
  return values.every((value) => value !== undefined) ? fromList(values) : null;
}

function fromList(values) {
  const documents = values.map(toDocument).filter((document) => document !== null);
  const left = values.length - documents.length;
  return left ? { documents, note: `${left} of ${values.length} entries hold no text and were left out.` } : { documents };
}

// A text, or { content, metadata } from an object that has a text somewhere.
function toDocument(value) {
  if (typeof value === "string") return value.trim() ? value : null;
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  if (!value || typeof value !== "object" || Array.isArray(value)) return null;
  const name = textField(value);
  if (!name) return null;
  const { [name]: content, metadata, ...rest } = value;
  const isObject = metadata && typeof metadata === "object" && !Array.isArray(metadata);
  const kept = { ...(isObject ? metadata : {}), ...rest };
  return Object.keys(kept).length ? { content, metadata: kept } : { content };
}

function textField(value) {
  const isText = (name) => typeof value[name] === "string" && value[name].trim();
  return TEXT_FIELDS.find(isText) ?? Object.keys(value).find(isText);
}

function fromTable(text, separator) {
  const { rows: every, open } = parseTable(text, separator);
  if (open) return broken(`line ${open}: a quote is opened here and never closed`);
  const rows = every.filter((row) => row.some((cell) => cell.trim()));
  if (!rows.length) return { documents: [] };
  const header = rows[0].map((cell) => cell.trim().toLowerCase());
  const named = TEXT_FIELDS.map((name) => header.indexOf(name)).find((index) => index >= 0);
  const body = named === undefined ? rows : rows.slice(1);
  const column = named ?? widest(body);
  const documents = body.map((row) => (row[column] ?? "").trim()).filter(Boolean);
  const note = header.length > 1 ? `Took column ${named === undefined ? column + 1 : `“${rows[0][named].trim()}”`} of ${header.length}.` : undefined;
  return note ? { documents, note } : { documents };
}

function widest(rows) {
  const lengths = rows[0].map((_, column) => rows.reduce((sum, row) => sum + (row[column] ?? "").length, 0));
  return lengths.indexOf(Math.max(...lengths));
}

// RFC 4180: quotes around a cell, doubled inside it; a quoted cell may hold separators and line breaks.
function parseTable(text, separator) {
  const rows = [[]];
  let cell = "";
  let quoted = false;
  let line = 1;
  let open = 0; // the line of the last quote that opened
  for (let i = 0; i < text.length; i++) {
    const sign = text[i];
    if (sign === "\n") line++;
    if (quoted) {
      if (sign !== '"') cell += sign;
      else if (text[i + 1] === '"') cell += text[++i];
      else quoted = false;
    } else if (sign === '"' && cell === "") {
      quoted = true;
      open = line;
    } else if (sign === separator || sign === "\n") {
      rows.at(-1).push(cell.replace(/\r$/, ""));
      cell = "";
      if (sign === "\n") rows.push([]);
    } else cell += sign;
  }
  rows.at(-1).push(cell.replace(/\r$/, ""));
  return { rows, open: quoted ? open : 0 };
}

export function textOf(document) {
  return typeof document === "string" ? document : document.content;
}
