/** A call of the program's function counts as lost after this time. */
const CALL_MAX = 10_000;

/** Creates the source of tokens: a fixed one, or a function whose last result is kept until it is refused. */
export function createTokens(source, now) {
  const renewable = typeof source === "function";
  let last;
  /** When the call that runs began; Infinity when it is over. */
  let began;

  return {
    renewable,
    /**
     * Returns a promise of the token: the same one until a caller passes it as refused, so that one call runs at a time.
     */
    current(refused) {
      if (last === refused || now() - began >= CALL_MAX) last = undefined;
      if (!last) {
        const call = (last = Promise.resolve().then(renewable ? source : () => source));
        began = now();
        call.then(
          () => last === call && (began = Infinity),
          // A failure is not kept.
          () => last === call && (last = undefined),
        );
      }
      return last;
    },
  };
}
