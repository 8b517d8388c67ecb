import type { Context } from '../graphql/context.ts';
import { abortable } from './abortable.ts';

/** What each follows by itself, such as lines of output. Whoever can share what is written of an item does. */
export class TextStream<T extends object> implements AsyncIterable<T> {
  readonly context: Context;
  readonly workspaceId: string;
  readonly #make: (signal: AbortSignal) => AsyncGenerator<T, void, void>;

  /** @param make gives the same objects to all who read at the same time, as far as it can */
  constructor(context: Context, workspaceId: string, make: (signal: AbortSignal) => AsyncGenerator<T, void, void>) {
    this.context = context;
    this.workspaceId = workspaceId;
    this.#make = make;
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<T> {
    return abortable(this.context, this.#make);
  }
}
