import type { LoggedEvent } from '../events/define.ts';
import type { Context } from '../graphql/context.ts';
import { encodeCursor } from './cursor.ts';
import { EventStream, type EventPlan } from './event-stream.ts';
import { tickMs } from './follow.ts';
import type { Snapshot } from './items.ts';
import { endsRun, findRun, stateOf } from './runs.ts';
import { changesRights, recheck } from './stream-rights.ts';

/** A run as it changes: at once as it is now, then after each change, merged while the reader is busy. */
export async function runSnapshots(context: Context, id: string): Promise<EventStream> {
  const { workspaceId } = await findRun(context, id);
  const isOf = (event: LoggedEvent): boolean => event.runId === id;
  const at = (epoch: number, seq: bigint): Snapshot => ({
    kind: 'snapshot',
    id,
    cursor: encodeCursor({ stream: workspaceId, epoch, seq }),
  });
  return new EventStream(context, {
    workspaceId,
    after: null,
    wanted: isOf,
    only: { runId: id },
    last: (event) => isOf(event) && endsRun(event),
    snapshots: { of: (event, epoch) => at(epoch, event.seq), follow: followAlone },
  });

  async function* followAlone(...[channel, of, { after }, signal, options]: Following): AsyncGenerator<Snapshot> {
    let joined = false;
    const taken = (position: bigint): boolean => (joined = options?.taken?.(position) === true);
    for (let resumed = options?.resumed ? after : null; !signal.aborted; resumed = null) {
      // The head is read before the snapshot: what commits between the two is told again, never lost.
      const { epoch, seq } = resumed ?? channel.head;
      if (!resumed) {
        await recheck(of, workspaceId);
        const state = await stateOf(of, id);
        if (state === 'GONE') return;
        yield at(epoch, seq);
        if (state === 'OVER') return;
      }
      for await (const found of channel.follow(seq, epoch, tickMs, signal, taken)) {
        if (found.kind === 'gap') break; // another history: begin again with a snapshot
        if (found.kind === 'idle') continue;
        for (const event of found.entries) if (changesRights(event, of.actor)) await recheck(of, workspaceId);
        const newest = found.entries.findLast(isOf);
        if (!newest) continue;
        const state = await stateOf(of, id);
        if (state === 'GONE') return;
        yield at(epoch, newest.seq);
        if (state === 'OVER') return;
      }
      if (joined) return;
    }
  }
}

type Following = Parameters<NonNullable<EventPlan['snapshots']>['follow']>;
