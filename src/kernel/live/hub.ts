import type pg from 'pg';
import type { LoggedEvent } from '../events/define.ts';
import type { Logger } from '../log.ts';
import { toLogLevel, type LogLevel } from '../runs/log-level.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import { Channel, type ChannelSize, type FreshPage, type LogHead, type LogPage } from './channel.ts';
import { eventSql, lineSql, type LogSql, type Named } from './log-sql.ts';
import { Together } from './together.ts';
import type { WakeUps, WakeUpSource } from './wakeups.ts';

/** One line of a run's output. */
export interface LoggedLine {
  readonly runId: string;
  readonly seq: bigint;
  readonly at: Date;
  readonly stream: 'STDOUT' | 'STDERR' | 'SYSTEM';
  /** Null: it does not tell. */
  readonly level: LogLevel | null;
  readonly step: string | null;
  readonly text: string;
}

interface Watched<T extends { readonly seq: bigint }> {
  readonly channel: Channel<T>;
  users: number;
}

/** One kind of log: how it is read, and those of it that are followed. */
interface Logs<T extends { readonly seq: bigint }> {
  readonly watched: Map<string, Promise<Watched<T> | null>>;
  /** What is new in those that have just grown. */
  readonly fresh: Together<Place, FreshPage<T>>;
  readonly sql: LogSql;
  readonly size: ChannelSize;
  readonly toEntry: (row: never) => T;
  readonly onFresh?: (entries: readonly T[]) => void;
}

/** A log, and the seq that is read after. */
interface Place {
  readonly id: string;
  readonly after: bigint;
}

type HeadRow = { id: string; seq: string; pruned_seq: string; epoch: number };

const toHead = (row: HeadRow | undefined): LogHead | null =>
  row ? { seq: BigInt(row.seq), prunedSeq: BigInt(row.pruned_seq), epoch: row.epoch } : null;

/** Most logs that are read in one statement, and statements of them on their way: what grows meanwhile waits for one of these. */
const freshSize = { most: 32, underWay: 2 } as const;

const eventSize: ChannelSize = { ring: 1024, page: 500 };
/** Smaller, because a line may have 16 kB. */
const lineSize: ChannelSize = { ring: 256, page: 128 };

export type EventRow = {
  workspace_id: string;
  seq: string;
  type: string;
  version: number;
  from_state: string | null;
  to_state: string | null;
  subject_type: string;
  subject_id: string;
  run_id: string | null;
  run_kind: string | null;
  actor_id: string | null;
  actor_kind: LoggedEvent['actorKind'];
  credential_id: string | null;
  origin_id: string | null;
  data: Record<string, unknown>;
  at: Date;
  traceparent: string | null;
};

/** Makes an event of its database row. */
export const toEvent = (row: EventRow): LoggedEvent => ({
  workspaceId: row.workspace_id,
  seq: BigInt(row.seq),
  type: row.type,
  version: row.version,
  from: row.from_state,
  to: row.to_state,
  subjectType: row.subject_type,
  subjectId: row.subject_id,
  runId: row.run_id,
  runKind: row.run_kind,
  actorId: row.actor_id,
  actorKind: row.actor_kind,
  credentialId: row.credential_id,
  originId: row.origin_id,
  data: row.data,
  at: row.at,
  traceparent: row.traceparent,
});

export type LineRow = {
  run_id: string;
  seq: string;
  at: Date;
  stream: LoggedLine['stream'];
  level: number | null;
  step: string | null;
  text: string;
};

export const toLine = (row: LineRow): LoggedLine => ({
  runId: row.run_id,
  seq: BigInt(row.seq),
  at: row.at,
  stream: row.stream,
  level: toLogLevel(row.level),
  step: row.step,
  text: row.text,
});

/** A log that somebody in this process follows. Release it when done. */
export interface Subscription<T extends { readonly seq: bigint }> {
  readonly channel: Channel<T>;
  release(): void;
}

/**
 * Every log that this process follows: one channel for each, fed by wake-ups, with one poll for all of them as the
 * backstop for a lost wake-up.
 */
export class Hub {
  readonly #pool: pg.Pool;
  readonly #named: boolean;
  readonly #wakeUps: WakeUps;
  readonly #log: Logger;
  readonly #pollMs: number;
  readonly #metrics: Pick<Metrics, 'wakeUps' | 'liveLagSeconds'> | null;
  readonly #events: Logs<LoggedEvent>;
  readonly #lines: Logs<LoggedLine>;
  readonly #onCancel = new Set<(runId: string) => void>();
  readonly #onHost = new Map<string, () => void>();
  readonly #onKey = new Map<string, Set<() => void>>();
  #timer: NodeJS.Timeout | null = null;
  #polling = false;
  #polledAt = performance.now();

  /** @param options.named whether statements may be prepared by name */
  constructor(options: {
    pool: pg.Pool;
    named: boolean;
    wakeUps: WakeUps;
    log: Logger;
    pollMs?: number;
    metrics?: Pick<Metrics, 'wakeUps' | 'liveLagSeconds'>;
  }) {
    this.#pool = options.pool;
    this.#named = options.named;
    this.#wakeUps = options.wakeUps;
    this.#log = options.log;
    this.#pollMs = options.pollMs ?? 1000;
    this.#metrics = options.metrics ?? null;
    this.#events = {
      watched: new Map(),
      fresh: new Together((places) => this.#fresh(this.#events, places), freshSize),
      sql: eventSql,
      size: eventSize,
      toEntry: toEvent,
      onFresh: ([oldest]) => {
        if (oldest) this.#metrics?.liveLagSeconds.observe(Math.max(Date.now() - oldest.at.getTime(), 0) / 1000);
      },
    };
    this.#lines = {
      watched: new Map(),
      fresh: new Together((places) => this.#fresh(this.#lines, places), freshSize),
      sql: lineSql,
      size: lineSize,
      toEntry: toLine,
    };
  }

  async start(): Promise<void> {
    await this.#wakeUps.start(
      (key, source) => this.#hear(key, source),
      () => this.#poll(),
    );
    this.#timer = setInterval(() => this.#poll(), this.#pollMs);
  }

  /** @throws when the heads were not read for a while: streams are late */
  async check(): Promise<void> {
    if (performance.now() - this.#polledAt > this.#pollMs * 10) throw new Error('The log heads are not being read');
  }

  stop(): void {
    if (this.#timer) clearInterval(this.#timer);
  }

  /** How many logs are followed, for metrics. */
  get watched(): number {
    return this.#events.watched.size + this.#lines.watched.size;
  }

  /** Null when there is no such workspace. */
  watchEvents(workspaceId: string): Promise<Subscription<LoggedEvent> | null> {
    return this.#watch(this.#events, workspaceId);
  }

  /** Null when there is no such run. */
  watchLines(runId: string): Promise<Subscription<LoggedLine> | null> {
    return this.#watch(this.#lines, runId);
  }

  /** Hears of runs that were told to stop. Returns the way to stop hearing. */
  onCancel(fn: (runId: string) => void): () => void {
    this.#onCancel.add(fn);
    return () => this.#onCancel.delete(fn);
  }

  /** Hears of a key of a domain's own. Returns the way to stop hearing. */
  onKey(key: string, fn: () => void): () => void {
    const all = this.#onKey.get(key) ?? new Set();
    this.#onKey.set(key, all.add(fn));
    return () => {
      all.delete(fn);
      if (all.size === 0) this.#onKey.delete(key);
    };
  }

  /** Hears that a host has something to do. */
  onHost(hostId: string, fn: () => void): void {
    this.#onHost.set(hostId, fn);
  }

  async #watch<T extends { readonly seq: bigint }>(logs: Logs<T>, id: string): Promise<Subscription<T> | null> {
    const all = logs.watched;
    for (;;) {
      let made = all.get(id);
      if (!made) all.set(id, (made = this.#open(logs, id)));
      const forget = () => {
        if (all.get(id) === made) all.delete(id);
      };
      let watched: Watched<T> | null;
      try {
        watched = await made;
      } catch (error) {
        forget();
        throw error;
      }
      if (!watched) {
        forget();
        return null;
      }
      const { channel } = watched;
      // Its last user may have left while this caller waited: nobody wakes that channel any more.
      if (all.get(id) !== made) continue;
      watched.users++;
      let released = false;
      const release = () => {
        if (released) return;
        released = true;
        if (--watched.users === 0) forget();
      };
      return { channel, release };
    }
  }

  /** @returns null when there is no such log */
  async #open<T extends { readonly seq: bigint }>(logs: Logs<T>, id: string): Promise<Watched<T> | null> {
    const head = () => this.#query<HeadRow>(logs.sql.heads, [[id]]).then(([row]) => toHead(row));
    const page = (after: bigint, limit: number) => this.#page(logs, { id, after }, limit);
    const fresh = (after: bigint) => logs.fresh.get({ id, after });
    const at = await head();
    if (!at) return null;
    const onError = (error: unknown) => this.#log.warn({ err: error, id }, 'log not read; the poll tries again');
    const { size, onFresh } = logs;
    return {
      channel: new Channel<T>({ head, page, fresh }, at, { size, onError, ...(onFresh ? { onFresh } : {}) }),
      users: 0,
    };
  }

  async #query<R>({ name, text }: Named, values: unknown[]): Promise<R[]> {
    const { rows } = await this.#pool.query({ ...(this.#named ? { name } : {}), text, values });
    return rows as R[];
  }

  async #page<T extends { readonly seq: bigint }>(
    { sql, toEntry }: Logs<T>,
    { id, after }: Place,
    limit: number,
  ): Promise<LogPage<T>> {
    const rows = await this.#query<{ epoch: number }>(sql.page, [id, after.toString(), limit]);
    return { epoch: rows[0]?.epoch ?? null, entries: rows.map((row) => toEntry(row as never)) };
  }

  /** Several are given two pages in all, each its part of them. */
  async #fresh<T extends { readonly seq: bigint }>(logs: Logs<T>, places: readonly Place[]): Promise<FreshPage<T>[]> {
    const [first] = places;
    const { page } = logs.size;
    if (first && places.length === 1) {
      const read = await this.#page(logs, first, page);
      return [{ ...read, more: read.entries.length >= page }];
    }
    const limit = Math.ceil((2 * page) / places.length);
    const rows = await this.#query<{ place: number; epoch: number }>(logs.sql.pages, [
      places.map(({ id }) => id),
      places.map(({ after }) => after.toString()),
      limit,
    ]);
    const pages = places.map(() => ({ epoch: null as number | null, entries: [] as T[], more: false }));
    for (const row of rows) {
      const read = pages[row.place - 1];
      if (!read) continue;
      read.epoch = row.epoch;
      read.entries.push(logs.toEntry(row as never));
      read.more = read.entries.length >= limit;
    }
    return pages;
  }

  #hear(key: string, source: WakeUpSource): void {
    this.#metrics?.wakeUps.inc({ source });
    for (const fn of this.#onKey.get(key) ?? []) fn();
    const id = key.slice(2);
    if (key.startsWith('w:')) this.#wake(this.#events.watched.get(id));
    else if (key.startsWith('l:')) this.#wake(this.#lines.watched.get(id));
    else if (key.startsWith('h:')) this.#onHost.get(id)?.();
    else if (key.startsWith('c:')) for (const fn of this.#onCancel) fn(id);
  }

  #wake<T extends { readonly seq: bigint }>(watched: Promise<Watched<T> | null> | undefined): void {
    // A failed look-up is told to whoever asked for it.
    watched?.then(
      (found) => found?.channel.wake(),
      () => undefined,
    );
  }

  #poll(): void {
    if (this.#polling) return;
    this.#polling = true;
    Promise.all([this.#pollHeads(this.#events), this.#pollHeads(this.#lines)])
      .then(() => {
        this.#polledAt = performance.now();
      })
      .catch((error: unknown) => this.#log.warn({ err: error }, 'heads not read; trying again'))
      .finally(() => {
        this.#polling = false;
      });
  }

  async #pollHeads<T extends { readonly seq: bigint }>(logs: Logs<T>): Promise<void> {
    const watched = new Map<string, { channel: Channel<T>; before: bigint }>();
    for (const [id, made] of logs.watched) {
      const found = await made.catch(() => null); // told to whoever asked for it
      if (found) watched.set(id, { channel: found.channel, before: found.channel.last });
    }
    if (watched.size === 0) return;
    const rows = await this.#query<HeadRow>(logs.sql.heads, [[...watched.keys()]]);
    const heads = new Map(rows.map((row) => [row.id, row]));
    for (const [id, { channel, before }] of watched) {
      if (channel.observe(toHead(heads.get(id)), before)) this.#metrics?.wakeUps.inc({ source: 'poll' });
    }
  }
}
