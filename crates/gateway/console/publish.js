// Publishing a document.

import { commandList, publishing } from "./commands.js";
import { query } from "./connection.js";
import { by, say, write } from "./dom.js";
import { exampleDocument, parsedDocument } from "./example.js";
import { duration, refusal, shown } from "./shown.js";

let showCommands;
let op = "publish";

/** Returns the document in the editor, or nothing after the fault is shown. */
function checked() {
  try {
    const document = parsedDocument(by("document").value);
    write(by("document-fault"), "");
    by("document").removeAttribute("aria-invalid");
    return document;
  } catch (error) {
    write(by("document-fault"), shown(error.message));
    by("document").setAttribute("aria-invalid", "true");
    return null;
  }
}

function example() {
  by("document").value = JSON.stringify(exampleDocument(), null, 2);
  op = "publish";
  checked();
  showCommands();
}

async function send(verb) {
  op = verb;
  showCommands();
  const document = checked();
  if (!document) return;
  const began = performance.now();
  say("publish-state", "sending");
  try {
    const target = query();
    const done = verb === "delete" ? target.delete(document.id) : target.publish(document);
    const { position } = await done;
    const took = duration(performance.now() - began);
    const what = verb === "delete" ? "deleted" : "durable";
    say("publish-state", `${shown(document.id)} is ${what} after ${took}, at ${shown(position ?? "an unknown position")}`, "good");
  } catch (error) {
    const text = refusal(error, 'the action "publish" must be granted to this token');
    say("publish-state", `not published: ${text}`, "bad");
  }
}

/** Prepares the half of the page that publishes. */
export function startPublish() {
  showCommands = commandList("publish-commands", 2, () => publishing(by("document").value, op));
  by("publish-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send("publish");
  });
  by("delete").addEventListener("click", () => send("delete"));
  by("example").addEventListener("click", example);
  by("document").addEventListener("input", () => {
    op = "publish";
    checked();
  });
  example();
}
