/** A call of the program's function counts as lost after this time. */
const CALL_MAX = 10_000;

/** Creates the source of tokens: a fixed one, or a function whose last result is kept until it is refused. */
export function createTokens(source, now) {
  const renewable = typeof source === "function";
  let last;
  /** When the call that runs began; Infinity when it is over. */
  let began;

  /** Discards a token that `current` returned, unless there is another one by now. */
  function forget(token) {
    if (last === token) last = undefined;
  }

  return {
    renewable,
    forget,
    /** Returns a promise of the token: the same one until it is forgotten, so that one call runs at a time. */
    current() {
      if (now() - began >= CALL_MAX) last = undefined;
      if (!last) {
        const call = (last = Promise.resolve().then(() => (renewable ? source() : source)));
        began = now();
        call.then(
          () => last === call && (began = Infinity),
          () => forget(call),
        );
      }
      return last;
    },
  };
}
