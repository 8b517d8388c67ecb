/** Where a dense log stands. */
export interface LogHead {
  /** Seq of the newest entry; 0 before the first. */
  readonly seq: bigint;
  /** Seq of the newest entry that was removed. */
  readonly prunedSeq: bigint;
  readonly epoch: number;
}

/** Entries read in one statement, with the history that they are of. */
export interface LogPage<T> {
  /** Null when there are no entries. */
  readonly epoch: number | null;
  readonly entries: readonly T[];
}

export interface FreshPage<T> extends LogPage<T> {
  /** Whether there may be others behind them. */
  readonly more: boolean;
}

/** A dense log in the database. */
export interface LogSource<T> {
  /** Null when the log is gone. */
  head(): Promise<LogHead | null>;
  /** Entries after `seq`, ascending. */
  page(after: bigint, limit: number): Promise<LogPage<T>>;
  /** The same of what is new, as many as it is given at once. */
  fresh(after: bigint): Promise<FreshPage<T>>;
}

export type GapReason = 'PRUNED' | 'EPOCH_CHANGED' | 'AHEAD' | 'GONE';

export type Followed<T> =
  | { readonly kind: 'entries'; readonly entries: readonly T[]; readonly last: bigint }
  /** Nothing came for a while; `last` is where the reader stands. */
  | { readonly kind: 'idle'; readonly last: bigint }
  /** What the reader asked for is not to be had. The last thing that a follower yields. */
  | { readonly kind: 'gap'; readonly reason: GapReason; readonly head: LogHead | null };

/** How much of a log is held at once, in entries. */
export interface ChannelSize {
  /** Kept for all followers. */
  readonly ring: number;
  /** Read in one statement, and handed to a follower at once. */
  readonly page: number;
}

export interface ChannelOptions<T> {
  readonly size: ChannelSize;
  /** A read in the background failed; it is tried again at the next wake-up or poll. */
  readonly onError: (error: unknown) => void;
  /** New entries, once each. */
  readonly onFresh?: (entries: readonly T[]) => void;
}

/** Is handed each entry as the channel reads it. Must not throw. */
export interface Listener<T> {
  /** @returns when to read on; nothing: at once */
  fresh(entries: readonly T[]): Promise<void> | void;
  /** What the channel held is not of the log as it is now. */
  dropped(): void;
}

/** How many pages of the table are kept for others who replay, and how long, milliseconds. */
const maxPages = 8;
const pageMs = 1000;

/**
 * One log as this process knows it: read once from the database into a bounded ring, whatever the number of
 * followers. Followers pull: one that is behind the ring reads from the table, so a slow one costs a page of memory
 * and nobody else anything.
 */
export class Channel<T extends { readonly seq: bigint }> {
  readonly #source: LogSource<T>;
  readonly #options: ChannelOptions<T>;
  #ring: T[] = [];
  /** Seq of the newest entry seen; the ring ends here. */
  #last: bigint;
  #head: LogHead;
  #gone = false;
  /** Rises when the ring is dropped: a read that began before is void. */
  #generation = 0;
  #fetching = false;
  #again = false;
  readonly #waiting = new Set<() => void>();
  /** Pages of the table that were just read, by the place that they come after: those who replay together read once. */
  readonly #pages = new Map<bigint, Promise<LogPage<T>>>();
  #listener: Listener<T> | null = null;

  constructor(source: LogSource<T>, head: LogHead, options: ChannelOptions<T>) {
    this.#source = source;
    this.#head = head;
    this.#last = head.seq;
    this.#options = options;
  }

  /** Most entries that a follower is handed at once. */
  get pageSize(): number {
    return this.#options.size.page;
  }

  get last(): bigint {
    return this.#last;
  }

  get head(): LogHead {
    return { ...this.#head, seq: this.#last };
  }

  /** Hands what comes after `last` to the one listener that a channel can have; null: to nobody. */
  listen(listener: Listener<T> | null): void {
    this.#listener = listener;
  }

  /**
   * What the database says of the head.
   * @param before `last` as it was before the database was asked: a head below it is another history
   * @returns true when there is more to read
   */
  observe(head: LogHead | null, before: bigint): boolean {
    if (head === null) {
      if (!this.#gone) this.#drop(null);
      return false;
    }
    if (this.#gone || head.epoch !== this.#head.epoch || head.seq < before) {
      this.#drop(head);
      return false;
    }
    this.#head = head;
    if (head.seq <= this.#last) return false;
    this.wake();
    return true;
  }

  /** Forgets the ring, which is not of the log as it is now, and goes on at `head`. */
  #drop(head: LogHead | null): void {
    this.#generation++;
    this.#gone = head === null;
    this.#ring = [];
    this.#pages.clear();
    if (head) {
      this.#head = head;
      this.#last = head.seq;
    }
    this.#listener?.dropped();
    this.#wakeFollowers();
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
      .catch(this.#options.onError) // the poll comes back to it
      .finally(() => {
        this.#fetching = false;
        if (this.#again) {
          this.#again = false;
          this.wake();
        }
      });
  }

  async #fetch(): Promise<void> {
    const { size, onFresh } = this.#options;
    for (;;) {
      const from = this.#last;
      const generation = this.#generation;
      const { entries, epoch, more } = await this.#source.fresh(from);
      if (generation !== this.#generation) return;
      if (entries.length === 0) return;
      if (epoch !== this.#head.epoch || entries[0]?.seq !== from + 1n) {
        const head = await this.#check();
        // Not another history, so there is a hole (rows were pruned before they were read here): followers meet it in
        // the table and are told.
        if (generation === this.#generation && head) this.#drop(head);
        return;
      }
      this.#ring.push(...entries);
      if (this.#ring.length > size.ring) this.#ring = this.#ring.slice(-size.ring / 2);
      this.#last = entries.at(-1)?.seq ?? from;
      onFresh?.(entries);
      this.#wakeFollowers();
      await this.#listener?.fresh(entries);
      if (!more) return;
    }
  }

  #wakeFollowers(): void {
    for (const wake of this.#waiting) wake();
  }

  /**
   * Everything after `after`, then what comes, until `signal` aborts. Yields `idle` after `idleMs` without entries.
   * @param epoch the history that `after` was made for
   * @param taken told of each place where the follower has everything that there is, before it waits; true ends it there
   * @throws when the log has a hole, or cannot be read
   */
  async *follow(
    after: bigint,
    epoch: number,
    idleMs: number,
    signal: AbortSignal,
    taken?: (position: bigint) => boolean,
  ): AsyncGenerator<Followed<T>, void, void> {
    let position = after;
    const gap = (reason: GapReason): Followed<T> => ({ kind: 'gap', reason, head: this.#gone ? null : this.head });
    if (epoch === this.#head.epoch && position > this.#last) {
      // The cursor may be newer than this process' reading: ask before calling it impossible.
      const head = await this.#check();
      const generation = this.#generation;
      const behind = () => this.#generation === generation && this.#last < (head?.seq ?? 0n) && this.#last < position;
      while (behind() && !signal.aborted) await this.#change(idleMs, signal);
    }
    for (;;) {
      if (this.#gone) return yield gap('GONE');
      if (epoch !== this.#head.epoch) return yield gap('EPOCH_CHANGED');
      if (position > this.#last) return yield gap('AHEAD');
      if (position < this.#head.prunedSeq) return yield gap('PRUNED');
      if (signal.aborted) return;
      if (position === this.#last) {
        if (taken?.(position)) return;
        if (!(await this.#change(idleMs, signal))) {
          if (signal.aborted) return;
          yield { kind: 'idle', last: position };
        }
        continue;
      }
      // Not beyond what the channel has read: whoever stands ahead of it is told so.
      const limit = Math.min(this.#options.size.page, Number(this.#last - position));
      const page = this.#fromRing(position) ?? (await this.#page(position, limit));
      if (page.epoch !== epoch || page.entries[0]?.seq !== position + 1n) {
        // Pruned, or another history. What else would explain it is told as an error, never by silence.
        const head = await this.#check();
        if (head?.epoch === epoch && position >= head.prunedSeq && position < head.seq) {
          throw new Error(`The log has a hole after ${position}: a bug, or somebody removed rows by hand`);
        }
        continue;
      }
      position = page.entries.at(-1)?.seq ?? position;
      yield { kind: 'entries', entries: page.entries, last: position };
    }
  }

  /** A page of entries after a place, from the table. */
  async read(after: bigint): Promise<readonly T[]> {
    return (await this.#page(after, this.#options.size.page)).entries;
  }

  async #page(after: bigint, limit: number): Promise<LogPage<T>> {
    const known = this.#pages.get(after);
    if (known) return known;
    const read = this.#source.page(after, limit);
    this.#pages.set(after, read);
    const forget = () => {
      if (this.#pages.get(after) === read) this.#pages.delete(after);
    };
    for (const [oldest] of this.#pages) {
      if (this.#pages.size <= maxPages) break;
      this.#pages.delete(oldest);
    }
    try {
      const page = await read;
      if (page.entries.length === 0) forget();
      else setTimeout(forget, pageMs).unref();
      return page;
    } catch (error) {
      forget();
      throw error;
    }
  }

  #fromRing(position: bigint): LogPage<T> | null {
    const first = this.#ring[0]?.seq;
    if (first === undefined || position + 1n < first) return null;
    const from = Number(position + 1n - first);
    return { epoch: this.#head.epoch, entries: this.#ring.slice(from, from + this.#options.size.page) };
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
