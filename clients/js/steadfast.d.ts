/** The place in the log after a change; opaque, kept by programs as it is. */
export type Position = string;

/** A document with its id. */
export type Stored<T> = T & { id: string };

export interface ConnectOptions {
  /** The bearer token, or a function that fetches one: before the first use, before it expires, and after a refusal. */
  token?: string | (() => string | Promise<string>);
  /** The class of WebSockets, for runtimes without one: that of the package `ws` in Node 20. */
  WebSocket?: new (url: string, protocols: string[]) => unknown;
  /** The function for HTTP requests; the runtime's own if absent. */
  fetch?: typeof fetch;
  /** The store of positions for `persist`; IndexedDB if absent. */
  store?: PositionStore;
}

/** A store of positions by name. */
export interface PositionStore {
  get(name: string): Promise<Position | undefined>;
  set(name: string, position: Position): Promise<void>;
}

export interface Status {
  /** `live`: everything is subscribed. `waiting`: for the next attempt, at `until`. `closed`: for good. */
  readonly state: "connecting" | "live" | "waiting" | "closed";
  /** The cause of the state, or the newest failure, as one plain line. */
  readonly cause: string;
  /** The time of the next attempt, in milliseconds since 1970. Only while `waiting`. */
  readonly until?: number;
}

/**
 * A connection to a gateway. It is kept up until `close()`, or until the gateway says that trying again is useless: a
 * fixed token was refused, or the protocol was broken.
 */
export interface Client {
  readonly status: Status;
  /** Calls `watcher` with the status now and after each change. Returns a function that ends this. */
  watch(watcher: (status: Status) => void): () => void;
  /** Returns a database. */
  db(name: string): Database;
  /** Checks the connection now, and shortens a wait for the next attempt. Browsers do this by themselves. */
  wake(): void;
  /** Asks the gateway to drop the connection without a word, to try out what happens then. */
  cut(): void;
  /** Ends every subscription and the connection. Resolves within 2 s. */
  close(): Promise<void>;
}

export interface Database {
  readonly name: string;
  /** Returns a collection by its full path, such as `rooms/r1/messages`. */
  collection<T extends object = Record<string, unknown>>(path: string): Collection<T>;
}

export type Operator = "==" | "!=" | ">" | ">=" | "<" | "<=" | "in" | "contains";

/** A path of keys. In a text, keys with dots or blanks are quoted: `"a.b".c` is the same as `["a.b", "c"]`. */
export type Field = string | readonly string[];

export interface SubscribeOptions {
  /** The number of items that may wait for the consumer. Default 256. The rest stays in the server's log. */
  queue?: number;
}

export interface ChangesOptions extends SubscribeOptions {
  /** The position after which to begin. Absent: now. */
  from?: Position;
  /** Tells when a document no longer matches. */
  left?: boolean;
  /**
   * Keeps the position under this name, and continues there. A change counts once the next one is asked for. One name
   * per subscription and tab: a client refuses a name in use, and other tabs would overwrite each other's position.
   */
  persist?: string;
}

export interface RequestOptions {
  /** The time for all attempts together, in milliseconds. Default 30,000. */
  timeout?: number;
}

export interface PublishOptions extends RequestOptions {
  /**
   * Names the request, in 1 to 128 characters of ASCII: the gateway publishes nothing twice under one key. A random one
   * if absent. With `false` there is none, which spares the server a record of it, and the request is sent again only
   * after 401 and 429: one whose response was lost fails, and may have had its effect.
   */
  idempotencyKey?: string | false;
}

/** The documents of a collection that satisfy conditions. Methods return new queries. */
export interface Query<T> {
  /** Adds a condition. All must hold. */
  where(field: Field, op: Operator, value: unknown): Query<T>;
  /** Adds a condition as text: `total > 5`. */
  where(condition: string): Query<T>;
  /** Limits `data` to these fields. */
  select(...fields: Field[]): Query<Partial<T>>;
  /** Orders the documents by a field. */
  orderBy(field: Field, direction?: "asc" | "desc"): OrderedQuery<T>;
  /** Returns the documents that match, kept up to date. */
  live(options?: SubscribeOptions): LiveSet<T>;
  /** Begins with the documents that match, unless `from` can be continued, and again wherever changes are missing. */
  changes(options: ChangesOptions & { snapshot: true }): Subscription<SnapshotItem<T> | Change<T> | Left | Gap | Resync>;
  /** Returns the changes from now on, or after a position. */
  changes(options?: ChangesOptions & { snapshot?: false }): Changes<T>;
  /**
   * Returns the documents that match, and the position from which `changes({ from: position, left: true })` continues
   * them. Without `left`, documents that stop matching are missed. Changes that the documents contain may come again.
   * What was published just before may be missing and follow among those changes, unless `at` is its position.
   */
  get(options?: RequestOptions & { at?: Position }): Promise<{ documents: Stored<T>[]; position?: Position }>;
}

export interface OrderedQuery<T> {
  /** Limits the list to the first documents. */
  limit(count: number): { live(options?: SubscribeOptions): LiveList<T> };
}

export interface Collection<T> extends Query<T> {
  /** Stores one document or several. Resolves once all are durable. A request that is repeated stores nothing twice. */
  publish(documents: Stored<T> | Stored<T>[], options?: PublishOptions): Promise<Published>;
  /** Deletes one document or several by id. */
  delete(ids: string | string[], options?: PublishOptions): Promise<Published>;
}

export interface Published {
  published: number;
  position?: Position;
}

interface DocumentItem {
  id: string;
  /** The position after this item. Absent within a snapshot, and with servers without positions. */
  position?: Position;
  eventId?: string;
  op?: "insert" | "update" | "delete";
  database?: string;
  collection?: string;
  /** The time at which the server stored the change, in milliseconds since 1970. */
  timestamp?: number;
}

/** A document changed. */
export interface Change<T> extends DocumentItem {
  type: "change";
  op: "insert" | "update" | "delete";
  data: T;
}

/** A document no longer matches, or was deleted. */
export interface Left extends DocumentItem {
  type: "left";
}

/** Changes may be missing here, and nobody knows which. */
export interface Gap {
  type: "gap";
  gap: { reason: "disconnected" | "overflow" | "evicted" | "leftProfile" | "tooLarge"; dropped?: number };
}

/** Changes are missing here, between two known positions. */
export interface Resync {
  type: "resync";
  position?: Position;
  resync: {
    reason: "epoch" | "trimmed" | "future" | "damaged" | "refused" | "rights" | "unstated";
    /** The last position up to which nothing is missing. */
    lostFrom: Position;
    snapshotFollows: boolean;
  };
}

/** `documents` is the state at this position, for the first time or again: any document may be another one. */
export interface Whole {
  type: "whole";
  position?: Position;
}

/** The documents that exist, between two marks. Those of before are obsolete at the end; another beginning starts over. */
export type SnapshotItem<T> =
  | { type: "snapshotBegin" }
  | (DocumentItem & { type: "document"; data: T })
  | { type: "snapshotEnd"; position?: Position };

/** A document of a live set is new, or has changed. */
export interface Entered<T> extends DocumentItem {
  type: "entered" | "changed";
  data: T;
}

export type ListItem<T> =
  | { type: "entered" | "changed"; index: number; id: string; data: T }
  | { type: "moved"; from: number; index: number; id: string; data: T }
  | { type: "left"; index: number; id: string }
  | Whole
  | Gap
  | Resync;

/**
 * Items in the order of the log. `for await` takes them; what is not taken yet stays in the server. Leaving the loop
 * unsubscribes. A subscription that the gateway refuses throws a `SteadfastError`.
 */
export interface Subscription<I> extends AsyncIterableIterator<I> {
  /** The newest position whose items all had their effect: the next item was asked for. */
  readonly position?: Position;
  return(value?: unknown): Promise<IteratorReturnResult<any>>;
}

export type Changes<T> = Subscription<Change<T> | Left | Gap | Resync>;

/** The documents that match: always the state at one position. They change as items are taken. */
export interface LiveSet<T> extends Subscription<Whole | Entered<T> | Left | Gap | Resync> {
  readonly documents: ReadonlyMap<string, Stored<T>>;
  /** True once `documents` is the state at a position. */
  readonly isWhole: boolean;
}

/** The first documents of an order. They change as items are taken. */
export interface LiveList<T> extends Subscription<ListItem<T>> {
  readonly documents: readonly Stored<T>[];
  /** True once `documents` is the state at a position. */
  readonly isWhole: boolean;
}

/**
 * An error. `code` is `denied`, `invalid`, `limit`, `unavailable`, `unauthenticated`, `protocol`, `closed`, `timeout`,
 * `store`, or another one of the gateway.
 */
export class SteadfastError extends Error {
  constructor(code: string, message: string, more?: object);
  readonly code: string;
  /** The status of the HTTP response, if there was one. */
  readonly status?: number;
  /** The time after which another attempt may succeed, if the gateway said so. */
  readonly retryAfterMs?: number;
}

/** Connects to a gateway: `https://host`, `wss://host`, or in a page a path on its own host. */
export function connect(url: string | URL, options?: ConnectOptions): Client;

/** Creates a store in IndexedDB, shared by the pages of an origin. */
export function indexedDbStore(database?: string): PositionStore;
