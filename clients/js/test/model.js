// A small gateway over a log in memory: enough of `steadfast.v1` to judge what a client makes of it.

export class ModelGateway {
  /** Changes, oldest first; the offset of the first is `trimmed + 1`. */
  log = [];
  trimmed = 0;
  /** Accepted tokens, or null for none. */
  tokens = null;
  expiresInMs;
  positions = true;
  heartbeatMs = 25_000;
  epoch = "0000000000000007";
  connections = new Set();
  /** Items sent per call of `pump`. */
  budget = Infinity;
  /** Chance that an item is sent twice. */
  duplicates = 0;
  random = Math.random;

  get head() {
    return this.trimmed + this.log.length;
  }

  position(offset) {
    return `${this.epoch}-${offset}`;
  }

  publish(id, data) {
    const before = this.documents().get(id);
    const op = data === null ? "delete" : before ? "update" : "insert";
    this.log.push({ offset: this.head + 1, id, data: data ?? before ?? {}, op, before, deleted: data === null });
  }

  trim(offset) {
    this.base = this.documents(offset);
    this.log.splice(0, offset - this.trimmed);
    this.trimmed = offset;
  }

  /** The documents at an offset. */
  documents(offset = this.head) {
    const documents = new Map(this.base);
    for (const event of this.log) {
      if (event.offset > offset) break;
      if (event.deleted) documents.delete(event.id);
      else documents.set(event.id, event.data);
    }
    return documents;
  }

  /** The documents that match at an offset, as a client shows them. */
  matching(filters, offset) {
    const found = [...this.documents(offset)].filter(([, data]) => matches(filters, data));
    return new Map(found.map(([id, data]) => [id, { ...data, id }]));
  }

  /** Connects a socket with `send(text)` and `close(code, reason)`; returns what the socket calls, `start` first. */
  connect(socket) {
    const connection = { socket, subscriptions: new Map(), authenticated: !this.tokens, paused: false };
    this.connections.add(connection);
    const auth = this.tokens ? "required" : "optional";
    return {
      start: () => this.#send(connection, { type: "welcome", version: 1, heartbeatMs: this.heartbeatMs, auth, socket: 1 }),
      onText: (text) => this.#onMessage(connection, JSON.parse(text)),
      onGone: () => this.connections.delete(connection),
    };
  }

  #send(connection, message) {
    connection.socket.send(JSON.stringify(message));
  }

  #onMessage(connection, message) {
    const reply = (fields) => this.#send(connection, fields);
    const { id } = message;
    switch (message.type) {
      case "auth":
        if (this.tokens && !this.tokens.includes(message.token)) {
          reply({ type: "error", code: "unauthenticated", message: "the token is not valid" });
          return connection.socket.close(4401, "");
        }
        connection.authenticated = true;
        return reply({ type: "authenticated", principal: message.token, expiresInMs: this.expiresInMs });
      case "subscribe":
        if (!connection.authenticated) return reply({ type: "refused", id, code: "denied", message: "no token" });
        connection.subscriptions.set(id, this.#begin(connection, message));
        return this.onSubscribe?.();
      case "unsubscribe":
        connection.subscriptions.delete(id);
        return reply({ type: "unsubscribed", id });
      case "credit":
        connection.subscriptions.get(id).credit = message.messages;
        return this.onSubscribe?.();
      case "ping": return reply({ type: "pong", n: message.n });
      case "cut": return connection.socket.close(1006, "");
    }
  }

  #begin(connection, message) {
    const { id, filters, from, snapshot, left, credit = Infinity } = message;
    const subscription = { id, filters, snapshot, left: left || snapshot, credit, sent: 0, next: this.head + 1, items: [] };
    const offset = from && Number(from.split("-")[1]);
    const isKnown = from?.startsWith(this.epoch) && offset >= this.trimmed && offset <= this.head;
    if (isKnown) subscription.next = offset + 1;
    const position = this.positions ? this.position(subscription.next - 1) : undefined;
    this.#send(connection, { type: "subscribed", id, position });
    if (from && !isKnown) this.#loseFrom(subscription, from);
    else if (snapshot && !isKnown) this.#beginSnapshot(subscription);
    return subscription;
  }

  #loseFrom(subscription, lostFrom) {
    const { snapshot } = subscription;
    subscription.next = this.head + 1;
    const position = snapshot ? undefined : this.position(this.head);
    subscription.items = [{ type: "resync", position, resync: { lostFrom, reason: "trimmed", snapshotFollows: Boolean(snapshot) } }];
    if (snapshot) this.#beginSnapshot(subscription);
  }

  #beginSnapshot(subscription) {
    const { filters, items } = subscription;
    subscription.next = this.head + 1;
    subscription.inSnapshot = true;
    items.push({ type: "snapshotBegin" });
    for (const [id, data] of this.documents()) if (matches(filters, data)) items.push({ type: "document", id, data });
  }

  /** The next item, if there is one. */
  #take(subscription) {
    if (subscription.items.length) return subscription.items.shift();
    if (subscription.next <= this.trimmed) {
      this.#loseFrom(subscription, this.position(subscription.next - 1));
      return subscription.items.shift();
    }
    if (subscription.inSnapshot && subscription.next > this.head) {
      subscription.inSnapshot = false;
      return { type: "snapshotEnd", position: this.position(subscription.next - 1) };
    }
    while (subscription.next <= this.head) {
      const event = this.log[subscription.next++ - this.trimmed - 1];
      const { id, op, data, offset, deleted, before } = event;
      const had = before && matches(subscription.filters, before);
      const has = !deleted && matches(subscription.filters, data);
      // During a snapshot nobody may continue from a change.
      const position = this.positions && !subscription.inSnapshot ? this.position(offset) : undefined;
      if (has || (deleted && had && !subscription.left)) return { type: "change", id, op, data, position, eventId: `e${offset}` };
      if (had && subscription.left) return { type: "left", id, op, position, eventId: `e${offset}` };
    }
  }

  /** Sends what the credit and the budget allow. */
  pump() {
    let budget = this.budget;
    for (const connection of this.connections) {
      for (const subscription of connection.subscriptions.values()) {
        while (budget > 0 && subscription.sent < subscription.credit) {
          const item = this.#take(subscription);
          if (!item) break;
          budget -= 1;
          subscription.sent += 1;
          const message = { sub: subscription.id, ...item };
          this.#send(connection, message);
          // Only what has a position can be known to be the same.
          if (item.position && this.random() < this.duplicates) this.#send(connection, message);
        }
      }
    }
  }
}

/** Filters are texts of the form `field > number`. */
function matches(filters, data) {
  return filters.every((filter) => {
    const [field, op, value] = filter.split(" ");
    if (op !== ">") throw new Error(`the model has no operator ${op}`);
    return data[field] > Number(value);
  });
}
