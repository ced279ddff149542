// Where a text stops being JSON. PURE. Browsers say it in ways of their own, or not at all.

const TOKEN = /[ \t\r\n]*(?:("[^"\\\u0000-\u001f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\u0000-\u001f]*)*")|(-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)|([[\]{},:]))/y;

// What may come -> the tokens by which it goes on; "s" is a string, "v" any other plain value.
const NEXT = { value: "sv[{", firstValue: "sv[{]", key: "s", firstKey: "s}", colon: ":", inList: ",]", inObject: ",}", end: "" };

// -> { line, column } of the first character that can't be there, both from 1; of the end, where more was to come.
export function placeOfError(text) {
  const open = [];
  const after = () => (open.length ? (open.at(-1) === "[" ? "inList" : "inObject") : "end");
  let wanted = "value";
  TOKEN.lastIndex = 0;
  for (;;) {
    const from = TOKEN.lastIndex;
    const found = TOKEN.exec(text);
    const token = found && (found[1] ? "s" : found[2] ? "v" : found[3]);
    if (!token || !NEXT[wanted].includes(token)) return placeAt(text, from + text.slice(from).search(/[^ \t\r\n]|$/));
    if (token === "[" || token === "{") {
      open.push(token);
      wanted = token === "[" ? "firstValue" : "firstKey";
    } else if (token === ",") wanted = open.at(-1) === "[" ? "value" : "key";
    else if (token === ":") wanted = "value";
    else if (wanted === "key" || (wanted === "firstKey" && token === "s")) wanted = "colon";
    else {
      if (token === "]" || token === "}") open.pop();
      wanted = after();
    }
  }
}

function placeAt(text, index) {
  const before = text.slice(0, index).split("\n");
  return { line: before.length, column: before.at(-1).length + 1 };
}
