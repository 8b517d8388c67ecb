import type { ExecutionArgs } from 'graphql';
import { maskError } from '../http/errors.ts';
import type { AudiencesOf } from './audiences.ts';
import type { LoggedLine } from './hub.ts';
import type { StreamItem } from './items.ts';
import type { LineStream } from './line-stream.ts';
import { Follower, type Outlet } from './outlet.ts';
import { payloadFor } from './shared-text.ts';

/** One who reads the output of a run. */
export class LineFollower extends Follower {
  readonly #audiences: AudiencesOf;
  readonly #args: ExecutionArgs;
  readonly #stream: LineStream;
  readonly #outlet: Outlet;
  #items: AsyncIterableIterator<StreamItem<LoggedLine>> | null = null;
  #over = false;

  constructor(audiences: AudiencesOf, args: ExecutionArgs, stream: LineStream, outlet: Outlet) {
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

  async #read(items: AsyncIterableIterator<StreamItem<LoggedLine>>): Promise<void> {
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
