// Keys for what is done often. They do nothing while a person types.

import { by, element } from "./dom.js";
import { show } from "./tabs.js";
import { nextTheme } from "./theme.js";

function click(id) {
  return () => by(id).click();
}

const SHORTCUTS = [
  ["1", "publish and watch", () => show(0)],
  ["2", "cut", () => show(1)],
  ["3", "connections", () => show(2)],
  ["4", "log", () => show(3)],
  ["w", "watch, or stop watching", click("watch")],
  ["p", "pause the list", click("pause")],
  ["n", "another example document", click("example")],
  ["x", "cut the connection", click("cut")],
  ["t", "colours", nextTheme],
  ["?", "this list", () => by("shortcuts").showModal()],
];

function types(target) {
  return target instanceof HTMLTextAreaElement || (target instanceof HTMLInputElement && target.type !== "checkbox");
}

/** Follows the keyboard. */
export function startShortcuts() {
  for (const [key, what] of [...SHORTCUTS, ["Ctrl Enter", "in the document: publish"]]) {
    by("shortcut-list").append(element("dt", {}, element("kbd", {}, key)), element("dd", {}, what));
  }
  by("help").addEventListener("click", () => by("shortcuts").showModal());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.id === "document") {
      event.preventDefault();
      by("publish-form").requestSubmit();
    }
    if (event.ctrlKey || event.metaKey || event.altKey || types(event.target) || by("shortcuts").open) return;
    const found = SHORTCUTS.find(([key]) => key === event.key);
    if (!found) return;
    event.preventDefault();
    found[2]();
  });
}
