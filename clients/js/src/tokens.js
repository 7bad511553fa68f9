/** Creates the source of tokens: a fixed one, or a function whose last result is kept until it is refused. */
export function createTokens(source) {
  const renewable = typeof source === "function";
  let last;
  return {
    renewable,
    async token(refresh) {
      if (!renewable) return source;
      if (refresh) last = undefined;
      // One call at a time, and a failure is not kept.
      const current = (last ??= Promise.resolve().then(source));
      current.catch(() => {
        if (last === current) last = undefined;
      });
      return current;
    },
  };
}
