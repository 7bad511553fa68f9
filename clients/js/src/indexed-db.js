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
  const forget = () => (opened = undefined);
  async function open() {
    const request = indexedDB.open(database, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(POSITIONS);
    const connection = await settled(request);
    connection.onclose = forget;
    // Another page changes or deletes the database, and waits until nobody uses it.
    connection.onversionchange = () => (connection.close(), forget());
    return connection;
  }
  async function positions(mode, isLast) {
    // A failure is not kept: the next use opens it again.
    opened ??= open().catch((error) => (forget(), Promise.reject(error)));
    const connection = await opened;
    try {
      return connection.transaction(POSITIONS, mode).objectStore(POSITIONS);
    } catch (error) {
      // It was lost without an event.
      connection.close();
      forget();
      if (isLast) throw error;
      return positions(mode, true);
    }
  }
  return {
    get: async (name) => settled((await positions("readonly")).get(name)),
    set: async (name, position) => void (await settled((await positions("readwrite")).put(position, name))),
  };
}
