// Stores for programs without IndexedDB: `import { fileStore, memoryStore } from "steadfast/stores.js"`.

import { readFile, rename, writeFile } from "node:fs/promises";

/** Positions in the memory of this process. */
export function memoryStore() {
  const positions = new Map();
  return {
    get: async (name) => positions.get(name),
    set: async (name, position) => void positions.set(name, position),
  };
}

/**
 * Positions in one JSON file. Each write replaces the file, so that a crash leaves the old or the new one. Two
 * processes must not share a file.
 */
export function fileStore(path) {
  let loading;
  const read = async () => {
    try {
      return JSON.parse(await readFile(path, "utf8"));
    } catch (error) {
      if (error.code === "ENOENT") return {};
      throw error;
    }
  };
  // One object for everyone: a second one would lack what was set in the first. A failure is not kept.
  const load = () => (loading ??= read().catch((error) => ((loading = undefined), Promise.reject(error))));
  let last = Promise.resolve();
  return {
    get: async (name) => (await load())[name],
    set: (name, position) => {
      // One after another: several subscriptions share the file.
      last = last.catch(() => {}).then(async () => {
        const positions = await load();
        positions[name] = position;
        await writeFile(`${path}.new`, JSON.stringify(positions));
        await rename(`${path}.new`, path);
      });
      return last;
    },
  };
}
