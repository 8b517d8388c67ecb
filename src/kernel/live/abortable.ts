import type { Context } from '../graphql/context.ts';
import { onceAt } from '../timer.ts';
import { credentialEnded, onNewEnd } from './stream-rights.ts';

/**
 * An iterator whose `return` ends a wait at once (a generator's own would be heard only at its next yield), and that
 * ends when the actor's credential does.
 */
export function abortable<T>(
  context: Context,
  make: (signal: AbortSignal) => AsyncGenerator<T, void, void>,
): AsyncIterableIterator<T> {
  const abort = new AbortController();
  let expired = false;
  let disarm = (): void => undefined;
  const arm = (): void => {
    disarm();
    const { expiresAt } = context.actor;
    if (!expiresAt || over) return;
    disarm = onceAt(expiresAt, () => {
      expired = true;
      abort.abort();
    });
  };
  let over = false;
  arm();
  onNewEnd(context, arm);
  const generator = make(abort.signal);
  context.app.metrics.liveSubscribers.inc();
  const end = () => {
    if (over) return;
    over = true;
    disarm();
    context.app.metrics.liveSubscribers.dec();
  };
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      // A transport may go on pulling after an error.
      if (over) return { done: true, value: undefined };
      try {
        const result = await generator.next();
        // Also for what was read before the end and not told yet.
        if (expired) {
          await generator.return();
          throw credentialEnded(context);
        }
        if (result.done) end();
        return result;
      } catch (error) {
        end();
        throw error;
      }
    },
    async return() {
      abort.abort();
      end();
      await generator.return();
      return { done: true, value: undefined };
    },
    async throw(error) {
      abort.abort();
      end();
      return generator.throw(error);
    },
  };
}
