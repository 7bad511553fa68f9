// The views, one at a time.

const tabs = [...document.querySelectorAll('[role="tab"]')];

function panel(tab) {
  return document.getElementById(tab.getAttribute("aria-controls"));
}

function nameOf(tab) {
  return panel(tab).id.slice("view-".length);
}

/** Shows the view with this number, from 0. */
export function show(number, focus = false) {
  const chosen = tabs[number];
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", String(tab === chosen));
    tab.tabIndex = tab === chosen ? 0 : -1;
    panel(tab).hidden = tab !== chosen;
  }
  const name = nameOf(chosen);
  // Figures are not of one collection.
  document.getElementById("target").hidden = name === "connections" || name === "log";
  history.replaceState(null, "", `#${name}`);
  if (focus) chosen.focus();
  document.dispatchEvent(new Event("view"));
}

/** Returns the name of the view that is shown. */
export function current() {
  return nameOf(tabs.find((tab) => tab.getAttribute("aria-selected") === "true"));
}

/** Shows the view that the address names, and follows the tabs. */
export function startTabs() {
  tabs.forEach((tab, number) => {
    tab.addEventListener("click", () => show(number));
    tab.addEventListener("keydown", (event) => {
      const last = tabs.length - 1;
      const next = { ArrowRight: number + 1, ArrowLeft: number + last, Home: 0, End: last }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      show(next % tabs.length, true);
    });
  });
  const wanted = tabs.findIndex((tab) => `#${nameOf(tab)}` === location.hash);
  show(Math.max(0, wanted));
}
