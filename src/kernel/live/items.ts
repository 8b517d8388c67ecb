import type { LoggedEvent } from '../events/define.ts';
import type { GapReason } from './channel.ts';
import { encodeCursor } from './cursor.ts';

/** Where a quiet stream stands. */
export interface Checkpoint {
  readonly kind: 'checkpoint';
  readonly cursor: string;
}

/** What a stream could not tell. It ends after this. */
export interface Gap {
  readonly kind: 'gap';
  readonly reason: GapReason;
  /** Where to go on: before the oldest entry that is left. Null when the log is gone. */
  readonly resumeAfter: string | null;
}

/** A run that has changed, to be told as it is by then. */
export interface Snapshot {
  readonly kind: 'snapshot';
  readonly id: string;
  readonly cursor: string;
}

export type StreamItem<T> = { readonly kind: 'entry'; readonly entry: T; readonly cursor: string } | Checkpoint | Gap;

/** What a plan over a workspace's log tells. */
export type EventItem = StreamItem<LoggedEvent> | Snapshot;

/** An entry of a log as it is told; its cursor is made when it is asked for. */
export class EntryItem<T extends { readonly seq: bigint }> {
  readonly kind = 'entry';
  readonly entry: T;
  readonly #stream: string;
  readonly #epoch: number;

  constructor(stream: string, epoch: number, entry: T) {
    this.entry = entry;
    this.#stream = stream;
    this.#epoch = epoch;
  }
  get cursor(): string {
    return encodeCursor({ stream: this.#stream, epoch: this.#epoch, seq: this.entry.seq });
  }
}
