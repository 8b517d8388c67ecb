import { GraphQLError } from 'graphql';
import type { Context } from '../graphql/context.ts';
import { followEvents } from './event-stream.ts';
import { requireMember } from './stream-rights.ts';
import { TextStream } from './text-stream.ts';

/** A stream of a workspace that is no log of it: it ends when the right to the workspace does. */
export function workspaceStream<T extends object>(
  context: Context,
  workspaceId: string,
  make: (signal: AbortSignal) => AsyncIterable<T>,
): TextStream<T> {
  requireMember(context, workspaceId, 'Workspace', workspaceId);
  return new TextStream(context, workspaceId, async function* (outer) {
    const stop = new AbortController();
    const signal = AbortSignal.any([outer, stop.signal]);
    let lost: unknown = null;
    const watch = async (): Promise<void> => {
      for await (const item of followEvents(context, { workspaceId, after: null, wanted: () => false }, signal))
        if (item.kind === 'gap')
          throw new GraphQLError('The workspace is gone.', { extensions: { code: 'NOT_FOUND' } });
    };
    const watching = watch()
      .catch((error: unknown) => {
        lost = error;
      })
      .finally(() => stop.abort());
    try {
      for await (const item of make(signal)) {
        if (lost) throw lost;
        yield item;
      }
      if (lost) throw lost;
    } finally {
      stop.abort();
      await watching;
    }
  });
}
