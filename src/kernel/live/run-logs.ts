import { NotFound } from '../errors.ts';
import type { Context } from '../graphql/context.ts';
import { decodeCursor, given } from './cursor.ts';
import { follow, tickMs } from './follow.ts';
import type { LoggedLine } from './hub.ts';
import { EntryItem, type StreamItem } from './items.ts';
import { endsRun, findRun, stateOf } from './runs.ts';
import { changesRights, recheck } from './stream-rights.ts';
import { TextStream } from './text-stream.ts';

/** A run's output from its first line (or after the cursor); ends when the run has and everything was told. */
export async function runLogs(
  context: Context,
  id: string,
  after: string | null | undefined,
  wanted: (line: LoggedLine) => boolean = () => true,
): Promise<TextStream<StreamItem<LoggedLine>>> {
  const { workspaceId } = await findRun(context, id);
  const cursor = given(after, id);
  return new TextStream(context, workspaceId, async function* (outer) {
    const subscription = await context.app.hub.watchLines(id);
    if (!subscription) throw new NotFound('Run', id);
    const { channel, release } = subscription;
    const stop = new AbortController();
    const signal = AbortSignal.any([outer, stop.signal]);
    let lost: unknown = null;
    const watching = watchRun(context, workspaceId, id, signal)
      .catch((error: unknown) => {
        lost = error;
      })
      .finally(() => stop.abort());
    try {
      const begin = cursor ?? { seq: 0n, epoch: channel.head.epoch };
      let position = begin.seq;
      for await (const item of follow<LoggedLine>({ stream: id, channel, after: begin, signal, wanted })) {
        if (lost) throw lost;
        yield item;
        if (item.kind === 'gap') return;
        position = item.kind === 'entry' ? item.entry.seq : decodeCursor(item.cursor, id).seq;
      }
      if (lost) throw lost;
      // The run is over, and its lines were written before its end: what the table holds is all there will be.
      while (!outer.aborted) {
        const rest = await channel.read(position);
        if (rest.length === 0) return;
        for (const entry of rest) {
          position = entry.seq;
          if (!wanted(entry)) continue;
          yield new EntryItem(id, begin.epoch, entry);
        }
      }
    } finally {
      stop.abort();
      release();
      await watching;
    }
  });
}

/** Returns when the run is over. Rejects when the actor's right to it ended. */
async function watchRun(context: Context, workspaceId: string, runId: string, signal: AbortSignal): Promise<void> {
  const subscription = await context.app.hub.watchEvents(workspaceId);
  if (!subscription) throw new NotFound('Run', runId);
  const { channel, release } = subscription;
  try {
    while (!signal.aborted) {
      const { head } = channel;
      await recheck(context, workspaceId);
      if ((await stateOf(context, runId)) !== 'OPEN') return;
      for await (const found of channel.follow(head.seq, head.epoch, tickMs, signal)) {
        if (found.kind === 'gap') break; // another history: look at the run again
        if (found.kind === 'idle') continue;
        for (const event of found.entries) if (changesRights(event, context.actor)) await recheck(context, workspaceId);
        if (found.entries.some((event) => event.runId === runId && endsRun(event))) return;
      }
    }
  } finally {
    release();
  }
}
