import type pg from 'pg';
import type { LoggedEvent } from '../events/define.ts';
import type { Logger } from '../log.ts';
import { Channel, type LogHead } from './channel.ts';
import type { WakeUps } from './wakeups.ts';

/** One line of a run's output. */
export interface LoggedLine {
  readonly runId: string;
  readonly seq: bigint;
  readonly at: Date;
  readonly stream: 'STDOUT' | 'STDERR' | 'SYSTEM';
  readonly step: string | null;
  readonly text: string;
}

interface Watched<T extends { readonly seq: bigint }> {
  readonly channel: Channel<T>;
  users: number;
}

type HeadRow = { id: string; seq: string; pruned_seq: string; epoch: number };

const toHead = (row: HeadRow | undefined): LogHead | null =>
  row ? { seq: BigInt(row.seq), prunedSeq: BigInt(row.pruned_seq), epoch: row.epoch } : null;

const eventHeads = `select workspace_id id, seq, pruned_seq, epoch from event_head where workspace_id = any($1::uuid[])`;
const lineHeads = `select r.id, r.log_seq seq, 0 pruned_seq, h.epoch
  from run r join event_head h using (workspace_id) where r.id = any($1::uuid[])`;
const eventPage = `select workspace_id, seq, type, version, from_state, to_state, subject_type, subject_id, run_id, run_kind,
  actor_id, actor_kind, data, at, traceparent from event where workspace_id = $1 and seq > $2 order by seq limit $3`;
const linePage = `select run_id, seq, at, stream, step, text from log_line where run_id = $1 and seq > $2 order by seq limit $3`;

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
  data: row.data,
  at: row.at,
  traceparent: row.traceparent,
});

export type LineRow = {
  run_id: string;
  seq: string;
  at: Date;
  stream: LoggedLine['stream'];
  step: string | null;
  text: string;
};

export const toLine = (row: LineRow): LoggedLine => ({
  runId: row.run_id,
  seq: BigInt(row.seq),
  at: row.at,
  stream: row.stream,
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
  readonly #wakeUps: WakeUps;
  readonly #log: Logger;
  readonly #pollMs: number;
  readonly #events = new Map<string, Promise<Watched<LoggedEvent> | null>>();
  readonly #lines = new Map<string, Promise<Watched<LoggedLine> | null>>();
  readonly #onCancel = new Set<(runId: string) => void>();
  readonly #onHost = new Map<string, () => void>();
  #timer: NodeJS.Timeout | null = null;
  #polling = false;
  #polledAt = performance.now();

  constructor(options: { pool: pg.Pool; wakeUps: WakeUps; log: Logger; pollMs?: number }) {
    this.#pool = options.pool;
    this.#wakeUps = options.wakeUps;
    this.#log = options.log;
    this.#pollMs = options.pollMs ?? 1000;
  }

  async start(): Promise<void> {
    await this.#wakeUps.start(
      (key) => this.#hear(key),
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
    return this.#events.size + this.#lines.size;
  }

  /** Null when there is no such workspace. */
  watchEvents(workspaceId: string): Promise<Subscription<LoggedEvent> | null> {
    return this.#watch(this.#events, workspaceId, eventHeads, (after, limit) =>
      this.#pool
        .query<EventRow>(eventPage, [workspaceId, after.toString(), limit])
        .then(({ rows }) => rows.map(toEvent)),
    );
  }

  /** Null when there is no such run. */
  watchLines(runId: string): Promise<Subscription<LoggedLine> | null> {
    return this.#watch(this.#lines, runId, lineHeads, (after, limit) =>
      this.#pool.query<LineRow>(linePage, [runId, after.toString(), limit]).then(({ rows }) => rows.map(toLine)),
    );
  }

  /** Hears of runs that were told to stop. Returns the way to stop hearing. */
  onCancel(fn: (runId: string) => void): () => void {
    this.#onCancel.add(fn);
    return () => this.#onCancel.delete(fn);
  }

  /** Hears that a host has something to do. */
  onHost(hostId: string, fn: () => void): void {
    this.#onHost.set(hostId, fn);
  }

  async #watch<T extends { readonly seq: bigint }>(
    all: Map<string, Promise<Watched<T> | null>>,
    id: string,
    heads: string,
    page: (after: bigint, limit: number) => Promise<T[]>,
  ): Promise<Subscription<T> | null> {
    const head = () => this.#pool.query<HeadRow>(heads, [[id]]).then(({ rows }) => toHead(rows[0]));
    let made = all.get(id);
    if (!made) {
      made = head().then((at) => {
        if (!at) return null;
        const onError = (error: unknown) => this.#log.warn({ err: error, id }, 'log not read; the poll tries again');
        return { channel: new Channel<T>({ head, page }, at, onError), users: 0 };
      });
      all.set(id, made);
    }
    let watched: Watched<T> | null;
    try {
      watched = await made;
    } catch (error) {
      all.delete(id);
      throw error;
    }
    if (!watched) {
      all.delete(id);
      return null;
    }
    // Somebody may have been the last to leave while this caller waited.
    all.set(id, made);
    watched.users++;
    let released = false;
    return {
      channel: watched.channel,
      release: () => {
        if (released) return;
        released = true;
        if (--watched.users === 0) all.delete(id);
      },
    };
  }

  #hear(key: string): void {
    const id = key.slice(2);
    if (key.startsWith('w:')) this.#wake(this.#events.get(id));
    else if (key.startsWith('l:')) this.#wake(this.#lines.get(id));
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
    Promise.all([this.#pollHeads(this.#events, eventHeads), this.#pollHeads(this.#lines, lineHeads)])
      .then(() => {
        this.#polledAt = performance.now();
      })
      .catch((error: unknown) => this.#log.warn({ err: error }, 'heads not read; trying again'))
      .finally(() => {
        this.#polling = false;
      });
  }

  async #pollHeads<T extends { readonly seq: bigint }>(
    all: Map<string, Promise<Watched<T> | null>>,
    sql: string,
  ): Promise<void> {
    if (all.size === 0) return;
    const watched = new Map<string, { channel: Channel<T>; before: bigint }>();
    for (const [id, made] of all) {
      const found = await made.catch(() => null); // told to whoever asked for it
      if (found) watched.set(id, { channel: found.channel, before: found.channel.last });
    }
    const { rows } = await this.#pool.query<HeadRow>(sql, [[...watched.keys()]]);
    const heads = new Map(rows.map((row) => [row.id, row]));
    for (const [id, { channel, before }] of watched) channel.observe(toHead(heads.get(id)), before);
  }
}
