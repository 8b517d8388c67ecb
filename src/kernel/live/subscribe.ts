import { createSourceEventStream, execute, type ExecutionArgs, type ExecutionResult } from 'graphql';
import type { Context } from '../graphql/context.ts';
import { Audiences } from './audiences.ts';
import { EventFollower } from './event-follower.ts';
import { EventStream } from './event-stream.ts';
import { LineFollower } from './line-follower.ts';
import { LineStream } from './line-stream.ts';
import type { Follower, Outlet } from './outlet.ts';

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
  if (connection?.outlet && source instanceof LineStream)
    return new LineFollower(app.use(Audiences), args, source, connection.outlet);
  const events = source[Symbol.asyncIterator]();
  const done = { done: true, value: undefined } as const;
  const results: AsyncIterableIterator<ExecutionResult> = {
    [Symbol.asyncIterator]: () => results,
    async next() {
      const event = await events.next();
      if (event.done) return done;
      try {
        const contextValue = { ...(args.contextValue as object) };
        return { done: false, value: await execute({ ...args, rootValue: event.value, contextValue }) };
      } catch (error) {
        await events.return?.();
        throw error;
      }
    },
    async return() {
      await events.return?.();
      return done;
    },
    async throw(error: unknown) {
      await events.return?.();
      throw error;
    },
  };
  return results;
}
