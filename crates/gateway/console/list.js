// A list of what arrives: bounded, the newest on top, with a pause.

import { eachFrame, element, write } from "./dom.js";

/** The lines that are kept; older ones are dropped. */
const LINES_MAX = 500;
/** The lines that are shown. */
const SLOTS = 200;

/**
 * A list whose lines have fixed places: a new line changes the texts in the places and moves no element, so
 * that nothing jumps under the pointer.
 */
export class List {
  #target;
  #slots = [];
  #lines = [];
  #shown = [];
  #paused = false;
  #selected = null;
  #onSelect;
  #draw = eachFrame(() => this.#update());

  /** `onSelect` receives the line that a person chooses. */
  constructor(target, label, onSelect) {
    this.#target = target;
    this.#onSelect = onSelect;
    target.setAttribute("role", "listbox");
    target.setAttribute("aria-label", label);
    target.tabIndex = 0;
    for (let number = 0; number < SLOTS; number += 1) {
      const cells = ["type", "op", "id", "position", "data", "note"].map((name) => element("span", { class: name }));
      const slot = element("div", { class: "slot", role: "option", id: `${target.id}-${number}`, hidden: "" }, ...cells);
      slot.addEventListener("click", () => this.#select(this.#shown[number]));
      this.#slots.push({ slot, cells });
      target.append(slot);
    }
    target.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** Adds a line `{type, op, id, position, data}` of texts, or a `note` in place of all but the type. */
  add(line) {
    this.#lines.unshift(line);
    if (this.#lines.length > LINES_MAX) this.#lines.pop();
    if (!this.#paused) this.#draw();
  }

  clear() {
    this.#lines = [];
    this.#selected = null;
    this.#draw();
  }

  /** Stops or continues to show new lines. They are kept meanwhile. */
  pause(paused) {
    this.#paused = paused;
    if (!paused) this.#draw();
  }

  #update() {
    this.#shown = this.#lines.slice(0, SLOTS);
    this.#slots.forEach(({ slot, cells }, number) => {
      const line = this.#shown[number];
      slot.hidden = !line;
      if (!line) return;
      slot.dataset.type = line.type;
      const texts = [line.type, line.op, line.id, line.position, line.data, line.note];
      texts.forEach((text, at) => write(cells[at], text ?? ""));
    });
    this.#mark();
  }

  #mark() {
    const at = this.#shown.indexOf(this.#selected);
    this.#slots.forEach(({ slot }, number) => slot.setAttribute("aria-selected", String(number === at)));
    if (at < 0) this.#target.removeAttribute("aria-activedescendant");
    else this.#target.setAttribute("aria-activedescendant", this.#slots[at].slot.id);
  }

  #select(line) {
    if (!line) return;
    this.#selected = line;
    this.#mark();
    this.#onSelect(line);
  }

  #onKey(event) {
    const at = this.#shown.indexOf(this.#selected);
    const last = this.#shown.length - 1;
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: last }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const chosen = Math.max(0, Math.min(last, next));
    this.#select(this.#shown[chosen]);
    // Within the list only: the page must not scroll.
    const slot = this.#slots[chosen].slot;
    if (slot.offsetTop < this.#target.scrollTop) this.#target.scrollTop = slot.offsetTop;
    const bottom = slot.offsetTop + slot.offsetHeight - this.#target.clientHeight;
    if (bottom > this.#target.scrollTop) this.#target.scrollTop = bottom;
  }
}
