// Requests over HTTP: snapshots of collections, and publishing.

import { SteadfastError } from "./errors.js";
import { createBackoff, defaults } from "./session.js";

/** Says that the request had no effect. */
const LIMITED = 429;
/** Other failures after which the same request may succeed; without a status, the response was lost. */
const PASSING = [502, 503, 504, undefined];

/**
 * Creates a function that sends a request until there is a response that is not a passing failure, for at most
 * `timeout`, and resolves with its JSON and headers. A request that is not `repeatable` is sent again only after a
 * response that says that it had no effect.
 */
export function createRequester(base, tokens, random, closed, fetch = globalThis.fetch) {
  return (path, init, timeout = 30_000, repeatable = true) =>
    new Promise((resolve, reject) => {
      const backoff = createBackoff(defaults, random);
      // Not `AbortSignal.any` with `AbortSignal.timeout`: some runtimes collect such signals as garbage, and then they
      // never fire.
      const abort = new AbortController();
      const { signal } = abort;
      let failure = new SteadfastError("timeout", `no response in time: ${path}`);
      let isRefreshed = false;
      let retry;

      const fail = (error) => (end(), reject(error));
      // Rejects at once: a token may never come.
      const stop = () => fail(closed.aborted ? new SteadfastError("closed", "the client was closed") : failure);
      const timer = setTimeout(stop, timeout);
      closed.addEventListener("abort", stop, { signal });

      function end() {
        abort.abort();
        clearTimeout(timer);
        clearTimeout(retry);
      }

      async function attempt(refused) {
        const token = tokens.current(refused);
        try {
          const bearer = await token;
          const headers = { ...init.headers, ...(bearer && { authorization: `Bearer ${bearer}` }) };
          const response = await fetch(base + path, { ...init, headers, signal });
          if (response.ok) {
            resolve({ body: await response.json(), headers: response.headers });
            return end();
          }
          failure = await errorOf(response);
        } catch (error) {
          failure = new SteadfastError("unavailable", `the request failed: ${error.message}`);
        }
        if (signal.aborted) return;
        const { status, retryAfterMs } = failure;
        if (status === 401 && !isRefreshed && tokens.renewable) {
          isRefreshed = true;
          return attempt(token);
        }
        if (status !== LIMITED && !(repeatable && PASSING.includes(status))) return fail(failure);
        const delay = backoff.next();
        retry = setTimeout(attempt, retryAfterMs ? Math.max(backoff.atLeast(retryAfterMs), delay) : delay);
      }

      closed.aborted ? stop() : attempt();
    });
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
