import { service } from '#kernel/app.ts';
import { RateLimited } from '#kernel/errors.ts';

/** Documents that this process looks at for somebody who waits, at once. */
const slots = 2;
/** Those that may wait for their turn; more are sent away. */
const maxWaiting = 50;
/** After which one that was sent away may come again, milliseconds. */
const againMs = 10_000;

/** Turns of those who wait for a document to be read: what API processes spend on it is bounded. */
export const Readers = service('readers of documents', () => {
  let busy = 0;
  const waiting: (() => void)[] = [];
  return {
    /** @throws {RateLimited} when too many wait, and the signal's reason */
    async turn<T>(signal: AbortSignal, read: () => Promise<T>): Promise<T> {
      signal.throwIfAborted();
      if (busy < slots) busy++;
      else {
        if (waiting.length >= maxWaiting)
          throw new RateLimited(new Date(Date.now() + againMs), 'Too many documents are being looked at.');
        await new Promise<void>((resolve) => waiting.push(resolve));
      }
      try {
        signal.throwIfAborted();
        return await read();
      } finally {
        const next = waiting.shift();
        if (next) next();
        else busy--;
      }
    },
  };
});
