import type { ExecutionArgs } from 'graphql';
import { maskError } from '../http/errors.ts';
import type { AudiencesOf } from './audiences.ts';
import { Follower, type Outlet } from './outlet.ts';
import { payloadFor } from './shared-text.ts';
import type { TextStream } from './text-stream.ts';

/** One who follows by itself, and is sent texts that are written once for all. */
export class TextFollower extends Follower {
  readonly #audiences: AudiencesOf;
  readonly #args: ExecutionArgs;
  readonly #stream: TextStream<object>;
  readonly #outlet: Outlet;
  #items: AsyncIterableIterator<object> | null = null;
  #over = false;

  constructor(audiences: AudiencesOf, args: ExecutionArgs, stream: TextStream<object>, outlet: Outlet) {
    super();
    this.#audiences = audiences;
    this.#args = args;
    this.#stream = stream;
    this.#outlet = outlet;
  }

  begin(): void {
    this.#outlet.follow(this);
    this.#items = this.#stream[Symbol.asyncIterator]();
    this.#read(this.#items).then(
      () => this.#end(null),
      (error: unknown) => this.#end(error),
    );
  }

  stop(): void {
    this.#over = true;
    const { log } = this.#stream.context.app;
    this.#items?.return?.().catch((error: unknown) => log.error({ err: error }, 'a stream was not given up'));
  }

  #end(error: unknown): void {
    if (this.#over) return;
    this.#over = true;
    const { app, requestId } = this.#stream.context;
    this.#outlet.end(error === null ? null : maskError(error, requestId, app.log));
  }

  async #read(items: AsyncIterableIterator<object>): Promise<void> {
    const { context, workspaceId } = this.#stream;
    const shared = this.#audiences.enterShared(this.#args, workspaceId);
    try {
      for await (const item of items) {
        const made = payloadFor(context, shared, item);
        const payload = made instanceof Promise ? await made : made;
        if (this.#over) return;
        this.#outlet.send(payload);
        if (this.#outlet.behind) await this.#outlet.drained();
      }
    } finally {
      this.#audiences.leaveShared(shared);
    }
  }
}
