// Writes steadfast.js, the one file that gateways serve.

import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";

/** Names of properties that modules use among themselves. No text contains one of them as a name. */
const INTERNAL = [
  "on[A-Z].*",
  "afterOrderlyEnd",
  "atLeast",
  "authenticate",
  "endOf",
  "errorCode",
  "expectsAcks",
  "isOpen",
  "liveness",
  "maxWait",
  "minInterval",
  "multiplier",
  "recovery",
  "renewToken",
  "renewable",
  "renews",
  "retries",
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
