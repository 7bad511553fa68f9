// Dark or light: as the system, or as a person chooses.

import { by, write } from "./dom.js";

const THEMES = ["auto", "light", "dark"];
const NAMES = { auto: "as the system", light: "light", dark: "dark" };
const KEY = "steadfast-console-theme";

function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    // A browser may forbid storage. The choice then lasts as long as the page.
    return null;
  }
}

function use(theme) {
  document.documentElement.dataset.theme = theme;
  write(by("theme"), theme);
  by("theme").setAttribute("aria-label", `Colours: ${NAMES[theme]}`);
  document.dispatchEvent(new Event("theme"));
}

/** Changes to the next choice and keeps it. */
export function nextTheme() {
  const now = document.documentElement.dataset.theme;
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  use(next);
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // See above.
  }
}

/** Uses the choice that was kept. */
export function startTheme() {
  const theme = stored();
  if (THEMES.includes(theme)) use(theme);
  by("theme").addEventListener("click", nextTheme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("theme")));
}
