import { required } from '#kernel/app.ts';
import { RateLimited } from '#kernel/errors.ts';
import type { Extractors } from '../../../integrations/extractors/index.ts';

/** Documents that this process looks at for somebody who waits, at once. */
export const slots = 2;
/** Those that may wait for their turn; more are sent away. */
const maxWaiting = 50;
/** After which one that was sent away may come again, milliseconds. */
const againMs = 10_000;

/** What reads documents for those who wait for it: what API processes spend on that is bounded. */
export interface Readers {
  /** Waits for a turn, and has it until `read` is done. @throws {RateLimited} when too many wait, and the signal's reason */
  turn<T>(signal: AbortSignal, read: (extractors: Extractors) => Promise<T>): Promise<T>;
}
export const Readers = required<Readers>('readers of documents');

export function readersOf(extractors: Extractors): Readers {
  let busy = 0;
  const waiting: (() => void)[] = [];
  return {
    async turn(signal, read) {
      signal.throwIfAborted();
      if (busy < slots) busy++;
      else {
        if (waiting.length >= maxWaiting)
          throw new RateLimited(new Date(Date.now() + againMs), 'Too many documents are being looked at.');
        await new Promise<void>((resolve) => waiting.push(resolve));
      }
      try {
        signal.throwIfAborted();
        return await read(extractors);
      } finally {
        const next = waiting.shift();
        if (next) next();
        else busy--;
      }
    },
  };
}
