/** Longest wait that a timer of Node's can have, milliseconds. */
const longestMs = 2 ** 31 - 1;

/** Calls `fn` once, at that instant or at once when it has passed, however far off it is. Returns the way to call it off. */
export function onceAt(at: Date, fn: () => void): () => void {
  let timer: NodeJS.Timeout;
  const arm = (): void => {
    const leftMs = at.getTime() - Date.now();
    timer = leftMs > longestMs ? setTimeout(arm, longestMs) : setTimeout(fn, Math.max(leftMs, 0));
  };
  arm();
  return () => clearTimeout(timer);
}
