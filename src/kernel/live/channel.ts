/** Where a dense log stands. */
export interface LogHead {
  /** Seq of the newest entry; 0 before the first. */
  readonly seq: bigint;
  /** Seq of the newest entry that was removed. */
  readonly prunedSeq: bigint;
  readonly epoch: number;
}

/** A dense log in the database. */
export interface LogSource<T> {
  /** Null when the log is gone. */
  head(): Promise<LogHead | null>;
  /** Entries after `seq`, ascending. */
  page(after: bigint, limit: number): Promise<T[]>;
}

export type GapReason = 'PRUNED' | 'EPOCH_CHANGED' | 'AHEAD' | 'GONE';

export type Followed<T> =
  | { readonly kind: 'entries'; readonly entries: readonly T[]; readonly last: bigint }
  /** Nothing came for a while; `last` is where the reader stands. */
  | { readonly kind: 'idle'; readonly last: bigint }
  /** What the reader asked for is not to be had. The last thing that a follower yields. */
  | { readonly kind: 'gap'; readonly reason: GapReason; readonly head: LogHead | null };

const ringSize = 1024;
const pageSize = 500;

/**
 * One log as this process knows it: read once from the database into a bounded ring, whatever the number of
 * followers. Followers pull: one that is behind the ring reads from the table, so a slow one costs a page of memory
 * and nobody else anything.
 */
export class Channel<T extends { readonly seq: bigint }> {
  readonly #source: LogSource<T>;
  #ring: T[] = [];
  /** Seq of the newest entry seen; the ring ends here. */
  #last: bigint;
  #head: LogHead;
  #gone = false;
  #fetching = false;
  #again = false;
  readonly #waiting = new Set<() => void>();
  readonly #onError: (error: unknown) => void;

  constructor(source: LogSource<T>, head: LogHead, onError: (error: unknown) => void) {
    this.#source = source;
    this.#head = head;
    this.#last = head.seq;
    this.#onError = onError;
  }

  get last(): bigint {
    return this.#last;
  }

  get head(): LogHead {
    return { ...this.#head, seq: this.#last };
  }

  /**
   * What the database says of the head.
   * @param before `last` as it was before the database was asked: a head below it is another history
   */
  observe(head: LogHead | null, before: bigint): void {
    if (head === null || head.epoch !== this.#head.epoch || head.seq < before) {
      // Another history: what the ring holds is not of it.
      this.#gone = head === null;
      this.#ring = [];
      if (head) {
        this.#head = head;
        this.#last = head.seq;
      }
      this.#wakeFollowers();
      return;
    }
    this.#head = head;
    if (head.seq > this.#last) this.wake();
  }

  async #check(): Promise<LogHead | null> {
    const before = this.#last;
    const head = await this.#source.head();
    this.observe(head, before);
    return head;
  }

  /** Reads what is new. Calls while a read is on its way cause one more read. */
  wake(): void {
    if (this.#fetching) {
      this.#again = true;
      return;
    }
    this.#fetching = true;
    this.#fetch()
      .catch(this.#onError) // the poll comes back to it
      .finally(() => {
        this.#fetching = false;
        if (this.#again) {
          this.#again = false;
          this.wake();
        }
      });
  }

  async #fetch(): Promise<void> {
    for (;;) {
      const from = this.#last;
      const entries = await this.#source.page(from, pageSize);
      // An epoch may have changed meanwhile; then this page is of the old history.
      if (this.#last !== from) return;
      if (entries.length === 0) return;
      if (entries[0]?.seq !== from + 1n) {
        await this.#check();
        return;
      }
      this.#ring.push(...entries);
      if (this.#ring.length > ringSize) this.#ring = this.#ring.slice(-ringSize / 2);
      this.#last = entries.at(-1)?.seq ?? from;
      this.#wakeFollowers();
      if (entries.length < pageSize) return;
    }
  }

  #wakeFollowers(): void {
    for (const wake of this.#waiting) wake();
  }

  /**
   * Everything after `after`, then what comes, until `signal` aborts. Yields `idle` after `idleMs` without entries.
   * @param epoch the history that `after` was made for
   */
  async *follow(
    after: bigint,
    epoch: number,
    idleMs: number,
    signal: AbortSignal,
  ): AsyncGenerator<Followed<T>, void, void> {
    let position = after;
    const gap = (reason: GapReason): Followed<T> => ({ kind: 'gap', reason, head: this.#gone ? null : this.head });
    if (epoch === this.#head.epoch && position > this.#last) {
      // The cursor may be newer than this process' reading: ask before calling it impossible.
      const head = await this.#check();
      while (head?.epoch === epoch && !signal.aborted && this.#last < head.seq && this.#last < position) {
        await this.#change(idleMs, signal);
      }
    }
    for (;;) {
      if (this.#gone) return yield gap('GONE');
      if (epoch !== this.#head.epoch) return yield gap('EPOCH_CHANGED');
      if (position > this.#last) return yield gap('AHEAD');
      if (position < this.#head.prunedSeq) return yield gap('PRUNED');
      if (signal.aborted) return;
      if (position === this.#last) {
        if (!(await this.#change(idleMs, signal))) {
          if (signal.aborted) return;
          yield { kind: 'idle', last: position };
        }
        continue;
      }
      const entries = await this.#after(position);
      const [first] = entries;
      if (!first) continue; // the ring was dropped meanwhile: look again
      if (first.seq !== position + 1n) {
        const head = await this.#check();
        if (head && head.epoch === epoch && position >= head.prunedSeq) {
          throw new Error(`The log has a hole after ${position}: a bug, or somebody removed rows by hand`);
        }
        continue;
      }
      position = entries.at(-1)?.seq ?? position;
      yield { kind: 'entries', entries, last: position };
    }
  }

  /** A page of entries after a place, from the table. */
  read(after: bigint): Promise<readonly T[]> {
    return this.#source.page(after, pageSize);
  }

  async #after(position: bigint): Promise<readonly T[]> {
    const first = this.#ring[0]?.seq;
    if (first !== undefined && position + 1n >= first) {
      const from = Number(position + 1n - first);
      return this.#ring.slice(from, from + pageSize);
    }
    return this.read(position);
  }

  /** True at the next change, false after `idleMs` or on abort. */
  #change(idleMs: number, signal: AbortSignal): Promise<boolean> {
    return new Promise((resolve) => {
      const done = (changed: boolean) => {
        this.#waiting.delete(wake);
        clearTimeout(timer);
        signal.removeEventListener('abort', abort);
        resolve(changed);
      };
      const wake = () => done(true);
      const abort = () => done(false);
      const timer = setTimeout(() => done(false), idleMs);
      this.#waiting.add(wake);
      signal.addEventListener('abort', abort, { once: true });
      if (signal.aborted) done(false);
    });
  }
}
