// Databases, collections and queries: what a program asks for, without any connection.

import { invalid } from "./errors.js";
import { createChanges, createList, createSet } from "./views.js";

/** The idempotency keys that gateways take. */
const KEY = /^[ -~]{1,128}$/;

/** Creates a database: its collections are named by their full paths. */
export const createDatabase = (client, name) => ({
  name,
  collection: (path) => createQuery(client, { database: name, collection: path, filters: [] }),
});

/** Creates a question about one collection. Methods that refine it return a new one. */
function createQuery(client, query) {
  const { database, collection, filters, fields, orderBy, limit } = query;
  const path = `/v1/databases/${encodeURIComponent(database)}/collections/${encodeURIComponent(collection)}`;
  const refined = (more) => createQuery(client, { ...query, ...more });
  const refuseOrder = () => {
    if (orderBy || limit) throw invalid("only live() has an order");
  };

  async function post(parameters, documents, { timeout, idempotencyKey: key = randomKey() } = {}) {
    const repeatable = key !== false;
    if (repeatable && !(key?.length && KEY.test(key))) throw invalid("an idempotency key has 1 to 128 characters of ASCII");
    const headers = { "content-type": "application/json", ...(repeatable && { "idempotency-key": key }) };
    const init = { method: "POST", headers, body: JSON.stringify(documents) };
    return (await client.request(path + parameters, init, timeout, repeatable)).body;
  }

  return {
    /** Adds a condition: three values, or the text `total > 5`. All conditions must hold. */
    where: (field, op, value) => refined({ filters: [...filters, op ? `${fieldText(field)} ${op} ${valueText(value)}` : field] }),

    /** Limits `data` to these fields. */
    select: (...selected) => refined({ fields: selected.map(fieldText) }),

    /** Orders by a field; with `limit`. */
    orderBy: (field, direction) => refined({ orderBy: { field: fieldText(field), descending: direction === "desc" } }),

    limit: (count) => refined({ limit: count }),

    /** Returns the documents that match, kept up to date. */
    live(options) {
      if (!orderBy !== !limit) throw invalid("orderBy and limit belong together");
      return orderBy
        ? client.subscribe(query, createList(), options)
        : client.subscribe({ ...query, snapshot: true }, createSet(), options);
    },

    /** Returns the changes from now on, or after a position. */
    changes({ left, snapshot, ...options } = {}) {
      refuseOrder();
      return client.subscribe({ ...query, left, snapshot }, createChanges(), options);
    },

    /** Returns the documents that match, with all changes up to `at`, and the position that changes continue from. */
    async get({ timeout, at } = {}) {
      refuseOrder();
      const parameters = new URLSearchParams(filters.map((filter) => ["filter", filter]));
      if (fields) parameters.set("fields", fields.join());
      if (at) parameters.set("at", at);
      const { body, headers } = await client.request(`${path}?${parameters}`, { headers: { accept: "application/json" } }, timeout);
      return { documents: body.documents, position: headers.get("steadfast-position") ?? undefined };
    },

    /** Stores one document or several, each with an `id`. Resolves once all are durable; a repetition does no harm. */
    publish: (documents, options) => post("", documents, options),

    /** Deletes one document or several by their ids. */
    delete: (ids, options) => post("?op=delete", [ids].flat().map((id) => ({ id })), options),
  };
}

/** A path of keys as text: a list of keys, or text in which keys with dots or blanks are quoted. */
const fieldText = (field) => (Array.isArray(field) ? field.map((key) => JSON.stringify(key)).join(".") : field);

function valueText(value) {
  const text = JSON.stringify(value);
  // JSON writes NaN and infinity as null, which means something else.
  if (!text || (text === "null" && value !== null)) throw invalid(`a filter cannot compare with ${value}`);
  return text;
}

/** Not `crypto.randomUUID`, which exists only on pages served over TLS. */
const randomKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-");
