// The little that is needed to build and update elements. Texts go in as text, never as HTML.

export const $ = (id) => document.getElementById(id);

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "class") element.className = value;
    else if (value === true) element.setAttribute(name, "");
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Keep one child for each key, in order; `make(item)` an element once, `update(element, item)` it each time. Whatever
// else is in there goes, and an item whose key has come before is left out: rows can neither double nor stay behind.
export function keep(parent, items, keyOf, make, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const kept = new Set();
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = old.get(key);
    if (kept.has(child)) continue;
    if (!child) {
      child = make(item);
      child.dataset.key = key;
      old.set(key, child);
    }
    kept.add(child);
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
}
