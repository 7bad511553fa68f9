// Runs the first example of the README in a process of its own.

import { execFile } from "node:child_process";
import { readFile, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const folder = new URL("..", import.meta.url);

/** Runs the example against the gateway at `url`, with what `change` makes of it; returns what it printed. */
export async function runExample(url, change = (example) => example) {
  const [, example] = /```js\n([^]*?)```/.exec(await readFile(new URL("README.md", folder), "utf8"));
  // Within the package, which resolves its own name.
  const file = new URL(`test/example-${new URL(url).port}.generated.js`, folder);
  await writeFile(file, change(example).replace(/http:\/\/127\.0\.0\.1:\d+/, url));
  // Node 20 has a WebSocket behind this flag, and later versions accept it.
  const args = [...(globalThis.WebSocket ? [] : ["--experimental-websocket"]), fileURLToPath(file)];
  try {
    return (await promisify(execFile)(process.execPath, args, { timeout: 20_000 })).stdout;
  } finally {
    await rm(file);
  }
}
