// The package: its size, its bundle, its declarations, and the files in it.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { bundle } from "../build.js";
import * as bundled from "../steadfast.js";
import * as source from "../src/index.js";

const folder = new URL("..", import.meta.url);
const read = (name) => readFileSync(new URL(name, folder));
const npm = (...args) => execFileSync("npm", args, { cwd: folder, encoding: "utf8" });

test("the client has at most 8 KB when minified and compressed", (t) => {
  const bytes = gzipSync(read("steadfast.js"), { level: 9 }).length;
  t.diagnostic(`${bytes} bytes`);
  assert.ok(bytes <= 8_192, `${bytes} bytes`);
});

test("the bundle is that of the sources", () => {
  assert.ok(bundle().equals(read("steadfast.js")), "run `npm run build`");
  assert.deepEqual(Object.keys(bundled).sort(), Object.keys(source).sort());
});

test("the declarations describe what programs write", () => {
  npm("run", "--silent", "check");
});

test("everything that is declared exists", () => {
  const declared = read("steadfast.d.ts").toString();
  const names = [...declared.matchAll(/^export (?:class|function) (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual(names.sort(), Object.keys(source).sort());
  const client = source.connect("ws://localhost", { WebSocket: class {} });
  const collection = client.db("d").collection("c");
  const objects = {
    Client: client,
    Database: client.db("d"),
    Query: collection,
    Collection: collection,
    OrderedQuery: collection,
    LiveSet: collection.live(),
    LiveList: collection.orderBy("n").limit(1).live(),
    Subscription: collection.changes(),
    PositionStore: source.indexedDbStore(),
  };
  for (const [name, object] of Object.entries(objects)) {
    const [, body] = new RegExp(`interface ${name}\\b.*{\\n([^]*?)\\n}`).exec(declared);
    const members = [...body.matchAll(/^ {2}(?:readonly )?(\w+)\??[:(<]/gm)].map(([, member]) => member);
    assert.ok(members.length, name);
    for (const member of members) assert.ok(member in object, `${name}.${member}`);
  }
  client.close();
});

test("the package contains what it exports and nothing else", () => {
  const [{ files }] = JSON.parse(npm("pack", "--dry-run", "--json", "--silent"));
  const names = files.map(({ path }) => path).sort();
  const sources = readdirSync(new URL("src", folder)).map((name) => `src/${name}`);
  const others = ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "package.json", "steadfast.d.ts", "steadfast.js", "stores.d.ts"];
  assert.deepEqual(names, [...others, ...sources].sort());
  const { exports, dependencies } = JSON.parse(read("package.json"));
  assert.equal(dependencies, undefined);
  for (const target of Object.values(exports).flatMap(Object.values)) assert.ok(names.includes(target.slice(2)), target);
});
