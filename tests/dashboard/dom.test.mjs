import assert from "node:assert/strict";
import test from "node:test";

import { keep } from "../../pusher/dashboard/dom.js";

// As much of an element as `keep` needs.
class Element {
  children = [];
  dataset = {};
  get firstElementChild() {
    return this.children[0] ?? null;
  }
  get nextElementSibling() {
    return this.parent.children[this.parent.children.indexOf(this) + 1] ?? null;
  }
  insertBefore(child, place) {
    child.parent?.children.splice(child.parent.children.indexOf(child), 1);
    child.parent = this;
    this.children.splice(place ? this.children.indexOf(place) : this.children.length, 0, child);
  }
  remove() {
    this.parent.children.splice(this.parent.children.indexOf(this), 1);
  }
}

const draw = (list, keys) => keep(list, keys, (key) => key, () => new Element(), () => {});
const shown = (list) => list.children.map((child) => child.dataset.key).join("");

test("rows follow their items, and an element stays its key's", () => {
  const list = new Element();
  draw(list, [..."abc"]);
  const b = list.children[1];
  draw(list, [..."xcb"]);
  assert.equal(shown(list), "xcb");
  assert.equal(list.children[2], b);
  draw(list, []);
  assert.equal(shown(list), "");
});

test("a key that comes twice has one row, however often it is drawn", () => {
  const list = new Element();
  for (let times = 0; times < 5; times++) draw(list, [..."abab"]);
  assert.equal(shown(list), "ab");
});

test("rows that somebody else put there, or put there twice, go", () => {
  const list = new Element();
  draw(list, [..."ab"]);
  const double = new Element();
  double.dataset.key = "a";
  list.insertBefore(double, null);
  list.insertBefore(new Element(), null);
  draw(list, [..."ab"]);
  assert.equal(shown(list), "ab");
});
