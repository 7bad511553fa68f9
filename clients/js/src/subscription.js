// Subscriptions: a bounded queue between the connection and a consumer.

/** Items that may wait for the consumer of a subscription. */
const QUEUE = 256;

/**
 * Creates a subscription: an async iterator of what `view` makes of the items of `subscribe --json`.
 *
 * The gateway sends as much as the consumer has taken plus the size of the queue. The rest stays in the server's log.
 */
export function createSubscription(link, id, request, view, { from, queue: capacity = QUEUE, save }) {
  // A position of a list cannot be continued.
  const resumes = !request.orderBy;
  // A lost position then means a new state and not a gap.
  const startsWithState = request.snapshot || request.orderBy;
  const queue = [];
  const waiters = [];
  /** Where a new connection continues; undefined if nothing can be continued. */
  let resumeFrom = from;
  /** The position after the item that the consumer holds now. */
  let taking;
  let position;
  let wasSubscribed = false;
  let isOpen = false;
  /** Credit of this connection, as totals: with the subscribe message, announced last, and items taken since. */
  let base = 0;
  let announced = 0;
  let taken = 0;
  let failure;

  function push(item) {
    queue.push({ item, after: item.position });
    flush();
  }

  function continueFrom(at) {
    if (resumes) resumeFrom = at;
  }

  function onProgress(at) {
    // With a snapshot, only its end is a position to continue from.
    if (startsWithState && !resumeFrom) return;
    continueFrom(at);
    if (queue.length) queue.at(-1).after = at;
    else if (waiters.length) settle(at);
    else taking = at;
  }

  function settle(at) {
    if (!at) return;
    taking = undefined;
    position = at;
    save?.(at);
  }

  function flush() {
    while (waiters.length) {
      if (queue.length) {
        const { item, after } = queue.shift();
        taking = after;
        grant();
        const value = view.apply(item);
        if (value) waiters.shift()({ value, done: false });
      } else if (failure) {
        waiters.shift()(Promise.reject(failure));
        failure = undefined;
      } else if (subscription.isOver) {
        waiters.shift()({ value: undefined, done: true });
      } else {
        return;
      }
    }
  }

  function grant() {
    const granted = base + ++taken;
    // A grant per item would be as many messages as items.
    if (!isOpen || granted - announced < capacity / 2) return;
    announced = granted;
    link.grant(id, granted);
  }

  const subscription = {
    // The side of the connection.

    id,
    /** Where it begins is known. A store may have to say it first. */
    isReady: false,
    isOver: false,

    /** Continues from a position that was stored, unless the subscription is over already. */
    start(stored) {
      if (subscription.isOver) return;
      resumeFrom = stored ?? resumeFrom;
      subscription.isReady = true;
      link.subscribe(subscription);
    },

    /** Returns the subscribe message for a new connection. */
    onOpen() {
      base = announced = Math.max(capacity - queue.length, 0);
      taken = 0;
      if (!resumes) {
        // The changes that wait belong to a state that is replaced.
        queue.length = 0;
        base = announced = capacity;
        push({ type: "restart" });
      } else if (wasSubscribed && !resumeFrom && !startsWithState && queue.at(-1)?.item.type !== "gap") {
        // The server has no positions, so that nobody knows what was missed. One such item says it all.
        push({ type: "gap", gap: { reason: "disconnected" } });
      }
      isOpen = true;
      return { type: "subscribe", id, ...request, from: resumeFrom, credit: base };
    },

    onDown() {
      isOpen = false;
    },

    onSubscribed({ position: at }) {
      wasSubscribed = true;
      onProgress(resumeFrom ?? at);
    },

    /** Takes an item from the gateway. Returns false if there was no credit for it. */
    accept(item) {
      const { type, position: at } = item;
      if (type === "progress") {
        onProgress(at);
        return true;
      }
      if (["snapshotBegin", "snapshotEnd", "gap", "resync"].includes(type)) {
        // The position after these holds whatever it was before. Without one, nothing can be continued: what arrived
        // of a snapshot is worth nothing without the rest.
        continueFrom(at);
      } else {
        // A frame that arrives twice must not have two effects.
        if (isBefore(at, resumeFrom)) return true;
        // Changes during a snapshot have no position.
        if (at) continueFrom(at);
      }
      push(item);
      // Twice, because a gateway may count only changes and documents.
      return queue.length <= 2 * capacity;
    },

    /** Ends the subscription: with an error after the items that have arrived, without one at once. */
    fail(error) {
      if (!subscription.isOver) failure = error;
      if (!error) queue.length = 0;
      subscription.isOver = true;
      flush();
    },

    /** Ends the subscription from this side, at once and at the gateway: with an error or without one. */
    cancel(error) {
      link.remove(id, isOpen);
      queue.length = 0;
      subscription.fail(error);
    },

    // The side of the consumer.

    /** The position up to which every item was taken and its effect is over: the next `next()` says so. */
    get position() {
      return position;
    },

    get documents() {
      return view.documents;
    },

    get isWhole() {
      return view.isWhole;
    },

    [Symbol.asyncIterator]: () => subscription,

    /** Returns the next item. The effect of the one before is over. */
    next() {
      settle(taking);
      return new Promise((resolve) => {
        waiters.push(resolve);
        flush();
      });
    },

    /** Ends the subscription; called by `break` in a `for await`. */
    async return(value) {
      // Its effect may have failed: it comes again.
      taking = failure = undefined;
      subscription.cancel();
      return { value, done: true };
    },
  };
  link.add(subscription);
  return subscription;
}

/** Returns true if both positions are of one epoch and the first is not after the second. */
function isBefore(position, last) {
  if (!position || !last) return false;
  const [epoch, offset] = position.split("-");
  const [lastEpoch, lastOffset] = last.split("-");
  return epoch === lastEpoch && +offset <= +lastOffset;
}

/** Creates what writes the newest position to a store, one write at a time. */
export function createPositionWriter(store, name, onError) {
  let next;
  let writing;

  async function write() {
    try {
      for (let position; (position = next); ) {
        next = undefined;
        await store.set(name, position);
      }
    } catch (error) {
      onError(error);
    }
    // Here and not after the promise: a position that is saved in between would stay behind.
    writing = undefined;
  }

  return {
    save(position) {
      next = position;
      writing ??= write();
    },
    /** Returns a promise that resolves when everything is written; undefined if it is. */
    idle: () => writing,
  };
}
