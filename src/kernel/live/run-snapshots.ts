import { NotFound } from '../errors.ts';
import type { Context } from '../graphql/context.ts';
import { abortable } from './abortable.ts';
import { encodeCursor } from './cursor.ts';
import { tickMs } from './follow.ts';
import { findRun, stateOf } from './runs.ts';
import { changesRights, recheck } from './stream-rights.ts';

/** Ids and cursors of a run as it changes: at once as it is now, then after each change, merged while the reader is busy. */
export async function runSnapshots(
  context: Context,
  id: string,
): Promise<AsyncIterableIterator<{ id: string; cursor: string }>> {
  const { workspaceId } = await findRun(context, id);
  return abortable(context, async function* (signal) {
    const subscription = await context.app.hub.watchEvents(workspaceId);
    if (!subscription) throw new NotFound('Run', id);
    const { channel, release } = subscription;
    try {
      while (!signal.aborted) {
        // The head is read before the snapshot: what commits between the two is told again, never lost.
        const { head } = channel;
        const cursorAt = (seq: bigint) => encodeCursor({ stream: workspaceId, epoch: head.epoch, seq });
        await recheck(context, workspaceId);
        const state = await stateOf(context, id);
        if (state === 'GONE') return;
        yield { id, cursor: cursorAt(head.seq) };
        if (state === 'OVER') return;
        for await (const found of channel.follow(head.seq, head.epoch, tickMs, signal)) {
          if (found.kind === 'gap') break; // another history: begin again with a snapshot
          if (found.kind === 'idle') continue;
          for (const event of found.entries) {
            if (changesRights(event, context.actor)) await recheck(context, workspaceId);
          }
          if (!found.entries.some((event) => event.runId === id)) continue;
          const now = await stateOf(context, id);
          if (now === 'GONE') return;
          yield { id, cursor: cursorAt(found.last) };
          if (now === 'OVER') return;
        }
      }
    } finally {
      release();
    }
  });
}
