import type { Channel, Followed } from './channel.ts';
import { encodeCursor } from './cursor.ts';
import { EntryItem, type Gap, type StreamItem } from './items.ts';

/** How often a quiet follower looks at the clock. */
export const tickMs = 5_000;
/** A stream that was silent for this long says where it stands; with the tick, at least every 15 seconds. */
export const checkpointMs = 10_000;

const gapOf = (stream: string, found: Extract<Followed<unknown>, { kind: 'gap' }>): Gap => ({
  kind: 'gap',
  reason: found.reason,
  resumeAfter: found.head
    ? encodeCursor({
        stream,
        epoch: found.head.epoch,
        seq: found.reason === 'PRUNED' ? found.head.prunedSeq : found.head.seq,
      })
    : null,
});

export interface Following<T extends { readonly seq: bigint }> {
  readonly stream: string;
  readonly channel: Channel<T>;
  readonly after: { readonly seq: bigint; readonly epoch: number };
  readonly signal: AbortSignal;
  /** Told of the entries that were read together, before they are looked at one by one. */
  readonly prepare?: (entries: readonly T[]) => Promise<unknown>;
  readonly wanted: (entry: T) => boolean | Promise<boolean>;
  /** Before an entry is delivered, and for those that are skipped. May throw to end the stream. */
  readonly before?: (entry: T) => Promise<void> | void;
  /** True when nothing will come after this entry. */
  readonly last?: (entry: T) => boolean;
  /** Nothing will come after this seq. */
  readonly until?: bigint | undefined;
  /** @see Channel.follow */
  readonly taken?: ((position: bigint) => boolean) | undefined;
}

export async function* follow<T extends { readonly seq: bigint }>(
  options: Following<T>,
): AsyncGenerator<StreamItem<T>, void, void> {
  const { stream, channel, after, signal, until } = options;
  const cursorAt = (seq: bigint) => encodeCursor({ stream, epoch: after.epoch, seq });
  let spokeAt = performance.now();
  for await (const found of channel.follow(after.seq, after.epoch, tickMs, signal, options.taken)) {
    if (found.kind === 'gap') return yield gapOf(stream, found);
    let skippedAll = false;
    if (found.kind === 'entries') {
      skippedAll = true;
      if (options.prepare) await options.prepare(found.entries);
      for (const entry of found.entries) {
        if (options.before) await options.before(entry);
        const wanted = options.wanted(entry);
        if (typeof wanted === 'boolean' ? wanted : await wanted) {
          skippedAll = false;
          yield new EntryItem(stream, after.epoch, entry);
          spokeAt = performance.now();
        }
        if (options.last?.(entry)) return;
      }
      // A page that is not full is the log as it grows: a message for each would be as many as there are events.
      skippedAll &&= found.entries.length >= channel.pageSize;
    }
    if (skippedAll || performance.now() - spokeAt >= checkpointMs) {
      yield { kind: 'checkpoint', cursor: cursorAt(found.last) };
      spokeAt = performance.now();
    }
    if (until !== undefined && found.last >= until) return;
  }
}
