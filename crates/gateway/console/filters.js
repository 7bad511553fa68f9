// The conditions of a subscription as a person types them, and where the gateway finds a fault.

import { shown } from "./shown.js";

/** Returns the conditions: a line each, without empty ones. */
export function conditions(text) {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
}

/**
 * Returns the text of a refusal with the condition that it is about, and a mark below the column that it names.
 * A message without a column is shown as it is.
 */
export function located(message, filters) {
  const column = /column (\d+)/.exec(message);
  if (!column) return shown(message);
  const at = filters.findIndex((filter) => message.includes(JSON.stringify(filter)) || message.includes(filter));
  const numbered = /(?:filter|condition) (\d+)/.exec(message);
  const index = at >= 0 ? at : numbered ? Number(numbered[1]) - 1 : 0;
  const filter = filters[index] ?? "";
  const mark = " ".repeat(Math.max(0, Math.min(filter.length, Number(column[1]) - 1)));
  return `${shown(filter)}\n${mark}^\n${shown(message)}`;
}
