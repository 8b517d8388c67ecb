import { createSourceEventStream, execute, type ExecutionArgs, type ExecutionResult } from 'graphql';
import type { Context } from '../graphql/context.ts';
import { Audiences, SharedExecution } from './audiences.ts';
import { EventFollower } from './event-follower.ts';
import { EventStream } from './event-stream.ts';
import { textOf, type Follower, type Outlet } from './outlet.ts';
import type { Shared } from './shared-text.ts';
import { TextFollower } from './text-follower.ts';
import { TextStream } from './text-stream.ts';

const isAsyncIterable = (value: unknown): value is AsyncIterable<unknown> =>
  typeof value === 'object' && value !== null && Symbol.asyncIterator in value;

/**
 * GraphQL's `subscribe`, but each event is executed with a context of its own: what loaders and guards remember for an
 * operation must not outlive the event, or a stream would show the state and the rights of its first minute for ever.
 *
 * Where the transport has an outlet, those who follow a workspace's events share executions, and nothing is iterated.
 * @see https://spec.graphql.org/October2021/#MapSourceToResponseEvent()
 */
export async function subscribeFresh(
  args: ExecutionArgs,
): Promise<ExecutionResult | AsyncIterableIterator<ExecutionResult> | Follower> {
  const source = await createSourceEventStream(args);
  if (!isAsyncIterable(source)) return source;
  const { app, connection } = args.contextValue as Context & {
    readonly connection?: { readonly outlet?: Outlet | null };
  };
  // What has an end already is short, and nobody else stands where it does.
  if (connection?.outlet && source instanceof EventStream && source.plan.until === undefined)
    return new EventFollower(app.use(Audiences), args, source, connection.outlet);
  if (connection?.outlet && source instanceof TextStream)
    return new TextFollower(app.use(Audiences), args, source, connection.outlet);
  return new Results(args, source);
}

/** Results for a transport that iterates them: server-sent events. What is written of an item for all is their text, too. */
class Results implements AsyncIterableIterator<ExecutionResult> {
  readonly #args: ExecutionArgs;
  readonly #items: AsyncIterator<unknown>;
  readonly #leave: () => void;
  #shared: Shared | null = null;

  constructor(args: ExecutionArgs, source: AsyncIterable<unknown>) {
    this.#args = args;
    this.#items = source[Symbol.asyncIterator]();
    const { app } = args.contextValue as Context;
    const workspaceId = workspaceOf(source);
    if (workspaceId !== null && app.use(SharedExecution).on)
      this.#shared = app.use(Audiences).enterShared(args, workspaceId);
    this.#leave = () => {
      if (this.#shared) app.use(Audiences).leaveShared(this.#shared);
      this.#shared = null;
    };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<ExecutionResult>> {
    try {
      const item = await this.#items.next();
      if (!item.done) return { done: false, value: await this.#result(item.value) };
      this.#leave();
      return item;
    } catch (error) {
      await this.return();
      throw error;
    }
  }

  async return(): Promise<IteratorReturnResult<undefined>> {
    this.#leave();
    await this.#items.return?.();
    return { done: true, value: undefined };
  }

  async throw(error: unknown): Promise<never> {
    await this.return();
    throw error;
  }

  async #result(item: unknown): Promise<ExecutionResult> {
    const payload = await this.#shared?.payload(item as object);
    if (payload != null) return written(payload);
    return execute({ ...this.#args, rootValue: item, contextValue: { ...(this.#args.contextValue as object) } });
  }
}

/** The workspace of what is handed to all who follow it alike; null: it is each one's own. */
function workspaceOf(source: AsyncIterable<unknown>): string | null {
  if (source instanceof EventStream) return source.plan.workspaceId;
  return source instanceof TextStream ? source.workspaceId : null;
}

/** What was written last, and as what: all who are told it are told it one after another. */
let last: { readonly payload: string; readonly text: string } = { payload: '', text: '' };

/** A result as its text. @param payload see `Outlet.send` */
function written(payload: string): ExecutionResult & { readonly stringify: () => string } {
  if (last.payload !== payload) last = { payload, text: textOf(payload.slice(0, -1)) };
  const { text } = last;
  return {
    get data() {
      return (JSON.parse(text) as ExecutionResult).data ?? null;
    },
    stringify: () => text,
  };
}
