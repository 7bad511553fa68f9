// Requests over HTTP: snapshots of collections, and publishing.

import { SteadfastError } from "./errors.js";
import { createBackoff, defaults } from "./session.js";

/** Statuses after which the same request may succeed. */
const PASSING = [429, 502, 503, 504];

/**
 * Creates a function that sends a request until there is a response that is not a passing failure, for at most
 * `timeout`, and returns its JSON and headers. The caller makes sure that repeating it does no harm.
 */
export function createRequester(base, tokens, random, closed, fetch = globalThis.fetch) {
  async function repeat(path, init, signal) {
    const backoff = createBackoff(defaults, random);
    let failure = new SteadfastError("timeout", `no response in time: ${path}`);
    for (let refresh = false; ; ) {
      try {
        const token = await tokens.token(refresh);
        const headers = { ...init.headers, ...(token && { authorization: `Bearer ${token}` }) };
        const response = await fetch(base + path, { ...init, headers, signal });
        if (response.ok) return { body: await response.json(), headers: response.headers };
        failure = await errorOf(response);
      } catch (error) {
        if (!signal.aborted) failure = new SteadfastError("unavailable", `the request failed: ${error.message}`);
      }
      const { status, retryAfterMs } = failure;
      if (status === 401 && !refresh && tokens.renewable) {
        refresh = true;
        continue;
      }
      if (status && !PASSING.includes(status)) throw failure;
      const delay = backoff.next();
      await sleep(retryAfterMs ? Math.max(backoff.atLeast(retryAfterMs), delay) : delay, signal);
      if (closed.aborted) throw new SteadfastError("closed", "the client was closed");
      if (signal.aborted) throw failure;
    }
  }

  return async (path, init, timeout = 30_000) => {
    // Not `AbortSignal.any` with `AbortSignal.timeout`: some runtimes collect such signals as garbage, and then they
    // never fire.
    const abort = new AbortController();
    const stop = () => abort.abort();
    const timer = setTimeout(stop, timeout);
    closed.addEventListener("abort", stop);
    if (closed.aborted) stop();
    try {
      return await repeat(path, init, abort.signal);
    } finally {
      clearTimeout(timer);
      closed.removeEventListener("abort", stop);
    }
  };
}

/** Returns the error of a response, which is JSON unless something before the gateway made it. */
async function errorOf(response) {
  const { error } = await response.json().catch(() => ({}));
  const code = error?.code ?? (response.status === 401 ? "unauthenticated" : "unavailable");
  const seconds = Number(response.headers.get("retry-after"));
  return new SteadfastError(code, error?.message ?? `the gateway responded with status ${response.status}`, {
    status: response.status,
    retryAfterMs: seconds > 0 ? seconds * 1_000 : undefined,
  });
}

/** Resolves after the delay, or at once when the signal is aborted. */
function sleep(delay, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(resolve, delay);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
