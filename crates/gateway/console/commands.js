// The command lines that do the same as the page.

import { element, write } from "./dom.js";

/** Returns a word as a POSIX shell reads it. */
export function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

function line(...words) {
  return words.flat(Infinity).map(quoted).join(" ");
}

/** Returns the path of a collection below the gateway. */
function collectionPath({ database, collection }) {
  return `/v1/databases/${encodeURIComponent(database)}/collections/${encodeURIComponent(collection)}`;
}

// The token itself is never part of a command: it would stay in the history of the shell.
function curl(hasToken, ...words) {
  const token = hasToken ? ' -H "Authorization: Bearer $TOKEN"' : "";
  return `curl -sS${token} ${line(...words)}`;
}

function streamer(verb, { database, collection }, hasToken, streamerAddress, ...words) {
  const where = streamerAddress ? ["--addr", streamerAddress] : [];
  const token = hasToken ? ["--token-file", "console.token"] : [];
  return line("steadfast", "streamer", verb, where, token, "-d", database, "-c", collection, words);
}

/** Returns the commands that watch a collection. */
export function watching(place, { filters, snapshot, left, from }, hasToken, streamerAddress) {
  const options = [snapshot && "--snapshot", left && !snapshot && "--left", "--json"].filter(Boolean);
  const begin = from ? ["--from", from] : [];
  const query = new URLSearchParams();
  for (const filter of filters) query.append("filter", filter);
  if (snapshot) query.set("snapshot", "true");
  if (left) query.set("left", "true");
  if (from) query.set("from", from);
  const target = `${location.origin}${collectionPath(place)}/changes${query.size > 0 ? `?${query}` : ""}`;
  // Behind `--`, because a filter may begin with a hyphen.
  const conditions = filters.length > 0 ? ["--", ...filters] : [];
  return [
    streamer("subscribe", place, hasToken, streamerAddress, options, begin, conditions),
    curl(hasToken, "-N", "-H", "Accept: text/event-stream", target),
  ];
}

/** Returns the commands that publish, or delete, the document of this text. */
export function publishing(place, text, op, hasToken, streamerAddress) {
  const path = `${location.origin}${collectionPath(place)}${op === "delete" ? "?op=delete" : ""}`;
  let document = text.trim();
  let entry = document;
  try {
    const parsed = JSON.parse(document);
    document = JSON.stringify(parsed);
    entry = op === "delete" ? JSON.stringify({ id: parsed.id, op }) : document;
  } catch {
    // What is not JSON yet is shown as it is typed.
  }
  const published = streamer("publish", place, hasToken, streamerAddress);
  return [
    // Not `echo`: that of some shells makes a line break of the characters \n.
    `printf '%s\\n' ${quoted(entry)} | ${published}`,
    curl(hasToken, "-X", "POST", "-H", "Content-Type: application/json", "-d", document, path),
  ];
}

/** Returns the commands that show the figures. */
export function figures(hasToken) {
  const token = hasToken ? " --token-file console.token" : "";
  return [`steadfast top${token}`, `steadfast streamer status${token}`, curl(hasToken, `${location.origin}/v1/status`)];
}

/** Keeps a list of commands, each with a button that copies it. */
export function commandList(target, number) {
  const rows = Array.from({ length: number }, (_, index) => {
    const text = element("pre", { tabindex: "0", role: "group", "aria-label": `Command ${index + 1}` });
    const button = element("button", { type: "button" }, "Copy");
    button.addEventListener("click", () => copy(text, button));
    target.append(element("div", { class: "command" }, text, button));
    return text;
  });
  return (commands) => rows.forEach((row, index) => write(row, commands[index] ?? ""));
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
