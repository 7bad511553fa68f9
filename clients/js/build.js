// Writes steadfast.js, the one file that gateways serve.

import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";

/** Names of properties that modules use among themselves. No text contains one of them as a name. */
const INTERNAL = [
  "on[A-Z].*",
  "advice",
  "after",
  "afterOrderlyEnd",
  "alive",
  "atLeast",
  "authenticate",
  "cancel",
  "current",
  "deadline",
  "end",
  "endOf",
  "errorCode",
  "expectsAcks",
  "generation",
  "grant",
  "idle",
  "initial",
  "interval",
  "isOpen",
  "isOver",
  "isReady",
  "item",
  "jitter",
  "liveness",
  "longest",
  "maxWait",
  "minInterval",
  "multiplier",
  "paused",
  "phase",
  "ping",
  "recovery",
  "refresh",
  "remove",
  "renewable",
  "renews",
  "renewToken",
  "request",
  "reset",
  "retries",
  "save",
  "step",
  "subscribe",
  "subscription",
  "text",
  "wait",
  "wall",
  "writer",
];

/** Returns the bundle. */
export function bundle() {
  const { outputFiles } = buildSync({
    absWorkingDir: fileURLToPath(new URL(".", import.meta.url)),
    entryPoints: ["src/index.js"],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    legalComments: "none",
    mangleProps: new RegExp(`^(${INTERNAL.join("|")})$`),
    write: false,
  });
  return Buffer.from(outputFiles[0].contents);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(new URL("steadfast.js", import.meta.url), bundle());
}
