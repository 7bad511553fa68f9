// Positions in IndexedDB. A store has `get(name)` and `set(name, position)`, both asynchronous.

/** Positions in IndexedDB, shared by all pages of an origin. */
export function indexedDbStore(database = "steadfast") {
  const POSITIONS = "positions";
  const settled = (request) =>
    new Promise((resolve, reject) => {
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  let opened;
  const positions = async (mode) => {
    const open = () => {
      const request = indexedDB.open(database, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(POSITIONS);
      return settled(request);
    };
    // A failure is not kept: the next use opens it again.
    opened ??= open().catch((error) => ((opened = undefined), Promise.reject(error)));
    return (await opened).transaction(POSITIONS, mode).objectStore(POSITIONS);
  };
  return {
    get: async (name) => settled((await positions("readonly")).get(name)),
    set: async (name, position) => void (await settled((await positions("readwrite")).put(position, name))),
  };
}
