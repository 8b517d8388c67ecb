import pg from 'pg';
import { pool } from './data.ts';
import { databaseUrl } from './serve.ts';

// The workspaces' logs, followed as the server follows them: NOTIFY says which one has grown, a page is read once for
// everybody who follows it.

export interface EventRow {
  readonly workspace_id: string;
  readonly seq: string;
  readonly type: string;
  readonly from_state: string | null;
  readonly to_state: string | null;
  readonly subject_type: string;
  readonly subject_id: string;
  readonly run_id: string | null;
  readonly data: unknown;
  readonly at: Date;
}

const columns = 'workspace_id, seq, type, from_state, to_state, subject_type, subject_id, run_id, data, at';
const pageSql = `select ${columns} from event where workspace_id = $1 and seq > $2 order by seq limit $3`;
const pageOf = async (workspaceId: string, after: string, limit: number): Promise<EventRow[]> =>
  (await pool.query<EventRow>({ name: 'page', text: pageSql, values: [workspaceId, after, limit] })).rows;

/** A workspace's log that somebody follows. */
class Log {
  readonly listeners = new Set<(event: EventRow) => void>();
  readonly #id: string;
  #last: string;
  #reading = false;
  #again = false;

  constructor(id: string, last: string) {
    this.#id = id;
    this.#last = last;
  }

  async read(): Promise<void> {
    this.#again = true;
    if (this.#reading) return;
    this.#reading = true;
    while (this.#again) {
      this.#again = false;
      for (let page = await pageOf(this.#id, this.#last, 500); page.length > 0;) {
        this.#last = page.at(-1)?.seq ?? this.#last;
        for (const event of page) for (const listener of this.listeners) listener(event);
        page = page.length < 500 ? [] : await pageOf(this.#id, this.#last, 500);
      }
    }
    this.#reading = false;
  }
}

const logs = new Map<string, Promise<Log>>();

async function open(workspaceId: string): Promise<Log> {
  const { rows } = await pool.query<{ seq: string }>('select seq from event_head where workspace_id = $1', [
    workspaceId,
  ]);
  return new Log(workspaceId, rows[0]?.seq ?? '0');
}

/** Hears of each event of a workspace from now on. @returns the way to stop */
export async function follow(workspaceId: string, listener: (event: EventRow) => void): Promise<() => void> {
  let log = logs.get(workspaceId);
  if (!log) logs.set(workspaceId, (log = open(workspaceId)));
  const { listeners } = await log;
  listeners.add(listener);
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) logs.delete(workspaceId);
  };
}

/** The same as an iterator; with a seq, what came after it is read first. */
export async function* events(workspaceId: string, after: string | null = null): AsyncGenerator<EventRow> {
  const queue: EventRow[] = [];
  let wake: (() => void) | null = null;
  let last = BigInt(after ?? '0');
  const stop = await follow(workspaceId, (event) => {
    queue.push(event);
    wake?.();
  });
  try {
    if (after !== null) {
      for (;;) {
        const page = await pageOf(workspaceId, String(last), 500);
        for (const event of page) yield event;
        last = BigInt(page.at(-1)?.seq ?? last);
        if (page.length < 500) break;
      }
    }
    for (;;) {
      for (let event = queue.shift(); event; event = queue.shift()) if (BigInt(event.seq) > last) yield event;
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (queue.length > 0) resolve();
      });
    }
  } finally {
    stop();
  }
}

export async function workspaceOfRun(runId: string): Promise<string> {
  const { rows } = await pool.query<{ id: string }>('select workspace_id id from run where id = $1', [runId]);
  return rows[0]?.id ?? '';
}

/** Begins to listen. */
export async function listenForEvents(): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  client.on('notification', ({ payload = '' }) => {
    for (const key of payload.split(',')) {
      if (key.startsWith('w:')) void logs.get(key.slice(2))?.then((log) => log.read());
    }
  });
  await client.query('listen switchyard');
}
