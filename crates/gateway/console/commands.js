// The command lines that do the same as the page.

import { hasToken, observe, place } from "./connection.js";
import { by, element, write } from "./dom.js";
import { streamerAddress } from "./status.js";

/** Returns a word as a POSIX shell reads it. */
function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

function line(...words) {
  return words.flat(Infinity).map(quoted).join(" ");
}

/** Returns the path of the collection below the gateway. */
function collectionPath() {
  const { database, collection } = place();
  return `/v1/databases/${encodeURIComponent(database)}/collections/${encodeURIComponent(collection)}`;
}

// The token itself is never part of a command: it would stay in the history of the shell.
function curl(...words) {
  const token = hasToken() ? ' -H "Authorization: Bearer $TOKEN"' : "";
  return `curl -sS${token} ${line(...words)}`;
}

function streamer(verb, ...words) {
  const { database, collection } = place();
  const where = streamerAddress() ? ["--addr", streamerAddress()] : [];
  const token = hasToken() ? ["--token-file", "console.token"] : [];
  return line("steadfast", "streamer", verb, where, token, "-d", database, "-c", collection, words);
}

/** Returns the commands that watch the collection. */
export function watching({ filters, snapshot, left, from }) {
  const options = [snapshot && "--snapshot", left && !snapshot && "--left", "--json"].filter(Boolean);
  const begin = from ? ["--from", from] : [];
  const query = new URLSearchParams();
  for (const filter of filters) query.append("filter", filter);
  if (snapshot) query.set("snapshot", "true");
  if (left) query.set("left", "true");
  if (from) query.set("from", from);
  const target = `${location.origin}${collectionPath()}/changes${query.size > 0 ? `?${query}` : ""}`;
  // Behind `--`, because a filter may begin with a hyphen.
  const conditions = filters.length > 0 ? ["--", ...filters] : [];
  return [
    streamer("subscribe", options, begin, conditions),
    curl("-N", "-H", "Accept: text/event-stream", target),
  ];
}

/** Returns the commands that publish, or delete, the document of this text. */
export function publishing(text, op) {
  const path = `${location.origin}${collectionPath()}${op === "delete" ? "?op=delete" : ""}`;
  let document = text.trim();
  let entry = document;
  try {
    const parsed = JSON.parse(document);
    document = JSON.stringify(parsed);
    entry = op === "delete" ? JSON.stringify({ id: parsed.id, op }) : document;
  } catch {
    // What is not JSON yet is shown as it is typed.
  }
  return [
    // Not `echo`: that of some shells makes a line break of the characters \n.
    `printf '%s\\n' ${quoted(entry)} | ${streamer("publish")}`,
    curl("-X", "POST", "-H", "Content-Type: application/json", "-d", document, path),
  ];
}

/** Returns the commands that show the figures. */
export function figures() {
  const token = hasToken() ? " --token-file console.token" : "";
  return [`steadfast top${token}`, `steadfast streamer status${token}`, curl(`${location.origin}/v1/status`)];
}

/** Returns the commands that read the log. */
export function reading() {
  return [streamer("subscribe", "--from", "oldest", "--json"), "steadfast streamer log verify --data ./steadfast-data"];
}

/**
 * Keeps the commands that `lines` returns, each with a button that copies it. They follow what a person enters, the
 * token and the Streamer. Returns a function that shows them when something else has changed.
 */
export function commandList(id, number, lines) {
  const rows = Array.from({ length: number }, (_, index) => {
    const text = element("pre", { tabindex: "0", role: "group", "aria-label": `Command ${index + 1}` });
    const button = element("button", { type: "button" }, "Copy");
    button.addEventListener("click", () => copy(text, button));
    by(id).append(element("div", { class: "command" }, text, button));
    return text;
  });
  const show = () => lines().forEach((line, index) => write(rows[index], line));
  for (const event of ["input", "streamer"]) document.addEventListener(event, show);
  observe({ onRenew: show });
  show();
  return show;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text.textContent);
    write(button, "Copied");
  } catch {
    // Without HTTPS a page on another machine has no clipboard: a person copies the selection.
    getSelection().selectAllChildren(text);
    write(button, "Selected");
  }
  setTimeout(() => write(button, "Copy"), 1500);
}
