// Text that others chose, as it can be shown.

// Control characters, and characters that are not shown and change what is: marks of direction, separators of
// lines, and those without width.
const HIDDEN = /[\p{Cc}\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu;

const NAMES = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** Returns the text on one line with such characters escaped. */
export function shown(text) {
  return String(text).replace(HIDDEN, (char) => NAMES[char] ?? `\\u{${char.codePointAt(0).toString(16)}}`);
}

/** Returns a value as indented JSON with such characters escaped in its texts. */
export function shownJson(value) {
  const json = JSON.stringify(value, null, 2) ?? "";
  return json
    .split("\n")
    .map((line) => shown(line))
    .join("\n");
}

/** Returns a whole number with its thousands apart. */
export function grouped(number) {
  return String(Math.round(number)).replace(/\B(?=(\d{3})+$)/g, " ");
}

/** Returns a duration in the precision that a reader needs. */
export function duration(milliseconds) {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  if (milliseconds < 60_000) return `${(milliseconds / 1000).toFixed(1)} s`;
  const seconds = Math.floor(milliseconds / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** Returns a size in the precision that a reader needs. */
export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; bytes >= 1024 && unit < units.length - 1; unit += 1) bytes /= 1024;
  return unit === 0 ? `${bytes} B` : `${bytes.toFixed(1)} ${units[unit]}`;
}

/** Returns the text of an error of the gateway; `needed` names the actions that a person lacks if it is denied. */
export function refusal({ code, message }, needed) {
  if (code === "unauthenticated") return `the token was refused: ${shown(message)}`;
  return code === "denied" ? `denied: ${shown(message)}; ${needed}` : shown(message);
}
