import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import type { Client } from 'graphql-ws';
import pg from 'pg';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { WebSocket } from 'ws';
import { acquireEmbeddedPostgres, type EmbeddedPostgres } from '../../src/kernel/db/embedded/index.ts';
import { migrate } from '../../src/kernel/db/migrate.ts';
import { globalId, rowId } from '../../src/kernel/graphql/global-id.ts';
import { createLogger } from '../../src/kernel/log.ts';
import { person, workspace, type Person } from '../support/actors.ts';
import { data, socket, type Auth } from '../support/client.ts';
import { freePort } from '../support/counterparts.ts';
import { suiteStateDirs, until } from '../support/embedded.ts';
import { documents, Follower, upTo, type Item } from '../support/live.ts';
import type { Result, Task } from '../support/log-writers.ts';
import { random } from '../support/random.ts';
import { environment, spawnServer, testFolder, type ServerProcess } from '../support/server.ts';

/** Enlarges every size. */
const scale = Number(process.env['PROOF_SCALE'] ?? '1');
const sizes = {
  workspaces: 50 * scale,
  writers: 8,
  eventsPerWriter: 2000 * scale,
  /** Followers of each workspace. */
  followers: 2,
  pausedEvents: 20_000 * scale,
  paused: 10,
  runs: 30 * scale,
} as const;
/** Liveness bound: how long anything may take that does come, in milliseconds. */
const patienceMs = 180_000;

const measured = (what: string, figures: Record<string, number | string>) =>
  console.log(
    `MEASURED ${what}: ${Object.entries(figures)
      .map(([name, figure]) => `${name} ${typeof figure === 'number' ? Math.round(figure * 10) / 10 : figure}`)
      .join(', ')}`,
  );
const quantile = (sorted: readonly number[], part: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN;

const log = createLogger('silent');
let cluster: Awaited<ReturnType<typeof suiteStateDirs>>;
let postgres: EmbeddedPostgres;
let folder: string;
let admin: pg.Pool;
let databases = 0;

beforeAll(async () => {
  cluster = await suiteStateDirs();
  postgres = await acquireEmbeddedPostgres({ ...cluster, log });
  folder = await testFolder();
  admin = new pg.Pool({ connectionString: postgres.url, max: 2 });
  admin.on('error', () => undefined); // it is killed below
});
afterAll(async () => {
  await admin.end();
  await postgres.release();
  await cluster.remove();
  await rm(folder, { recursive: true, force: true });
});

const addressOf = (database: string): string => {
  const url = new URL(postgres.url);
  url.pathname = `/${database}`;
  return url.href;
};

async function newDatabase(): Promise<{ name: string; url: string }> {
  const name = `proof_${++databases}`;
  await admin.query(`create database ${name}`);
  await migrate(addressOf(name), { log });
  return { name, url: addressOf(name) };
}

async function query<R extends pg.QueryResultRow>(url: string, sql: string, values: unknown[] = []): Promise<R[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<R>(sql, values)).rows;
  } finally {
    await client.end();
  }
}

/** An API process on a port that it keeps over restarts. */
class Api {
  readonly env: Record<string, string>;
  process!: ServerProcess;

  private constructor(env: Record<string, string>) {
    this.env = env;
  }
  static async start(databaseUrl: string, extra: Record<string, string> = {}): Promise<Api> {
    const api = new Api(
      environment(path.join(folder, `api-${databases}`), databaseUrl, {
        SWITCHYARD_ROLES: 'api',
        PORT: String(await freePort()),
        PUBLIC_URL: 'http://switchyard.test', // the issuer of sessions, one for all processes
        SESSION_SECRET: 'a secret of the proof, the same in all processes',
        SWITCHYARD_MAX_SOCKETS_PER_ACTOR: '10000',
        ...extra,
      }),
    );
    await api.start();
    onTestFinished(() => api.process.kill('SIGKILL'));
    return api;
  }
  async start(): Promise<void> {
    this.process = await spawnServer(this.env);
  }
  get url(): string {
    return `http://127.0.0.1:${this.env['PORT']}/graphql`;
  }
  /** Resident memory, in megabytes. */
  async rss(): Promise<number> {
    const text = await (await fetch(new URL('/metrics', this.url))).text();
    return Number(/^process_resident_memory_bytes (\S+)/m.exec(text)?.[1]) / 2 ** 20;
  }
}

/** Writers in processes of their own. */
class Writers {
  readonly #children: ChildProcess[] = [];
  readonly #committed: number[] = [];
  readonly done: Promise<Result[]>;

  constructor(task: Omit<Task, 'writers' | 'seed'>, processes: number, writers: number, seed = 1) {
    this.done = Promise.all(
      upTo(processes).map(async (index) => {
        const given: Task = { ...task, writers: writers / processes, seed: seed + index };
        const child = spawn(process.execPath, [path.resolve('test/support/log-writers.ts'), JSON.stringify(given)], {
          stdio: ['ignore', 'pipe', 'inherit'],
        });
        this.#children.push(child);
        const ended = once(child, 'exit');
        let result: Result | null = null;
        for await (const line of createInterface({ input: child.stdout })) {
          const said = JSON.parse(line) as Partial<Result> & { committed: number };
          this.#committed[index] = said.committed;
          if (said.done) result = said as Result;
        }
        await ended;
        if (!result) throw new Error('A writer ended without a word');
        return result;
      }),
    );
    onTestFinished(() => this.#children.forEach((child) => child.kill('SIGKILL')));
  }

  get committed(): number {
    return this.#committed.reduce((sum, one) => sum + (one ?? 0), 0);
  }
}

/** WebSockets as graphql-ws makes them, within reach of the test. */
const captured = (take: (ws: WebSocket) => void) =>
  class extends WebSocket {
    constructor(...args: ConstructorParameters<typeof WebSocket>) {
      super(...args);
      take(this);
    }
  };

/** Follows one workspace and resumes by cursor whatever happens to its socket, its server or the database. */
class Tenacious {
  readonly seen: string[] = [];
  readonly latencies: number[] = [];
  gaps = 0;
  resumes = -1;
  cursor: string;
  readonly #url: string;
  readonly #auth: Auth;
  readonly workspaceId: string;
  #client: Client | null = null;
  #socket: WebSocket | null = null;
  #stopped = false;
  readonly done: Promise<void>;

  constructor(url: string, auth: Auth, workspaceId: string, cursor: string) {
    this.#url = url;
    this.#auth = auth;
    this.workspaceId = workspaceId;
    this.cursor = cursor;
    this.done = this.#run();
  }

  /** Cuts the connection. */
  kill(): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.terminate();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#client?.dispose();
    await this.done;
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      this.resumes++;
      this.#client = socket(this.#url, this.#auth, { webSocketImpl: captured((ws) => (this.#socket = ws)) });
      await new Promise<void>((resolve) => {
        this.#client?.subscribe<{ item: Item }>(
          { query: documents.workspaceEvents, variables: { id: this.workspaceId, after: this.cursor } },
          {
            next: ({ data: got }) => this.#take(got?.item),
            error: () => resolve(), // cut off, or the server cannot just now: resume
            complete: () => resolve(),
          },
        );
      });
      await this.#client.dispose();
      // A server that is away is not asked again at once.
      if (!this.#stopped) await delay(50);
    }
  }

  #take(item: Item | undefined): void {
    if (!item) return;
    if (item.__typename === 'StreamGap') this.gaps++;
    if (item.cursor) this.cursor = item.cursor;
    if (item.__typename !== 'Event') return;
    this.seen.push(`${item.seq} ${item.type} ${JSON.stringify(item.data)}`);
    if (item.at) this.latencies.push(Date.now() - new Date(item.at).getTime());
  }
}

interface Setting {
  readonly database: { name: string; url: string };
  readonly api: Api;
  readonly workspaces: { id: string; cursor: string }[];
  readonly ada: Person;
}

async function setting(workspaces: number, extra: Record<string, string> = {}): Promise<Setting> {
  const database = await newDatabase();
  const api = await Api.start(database.url, extra);
  const ada = await person(api.url);
  const made: Setting['workspaces'] = [];
  for (let n = 0; n < workspaces; n++) made.push(await workspace(api.url, ada));
  return { database, api, workspaces: made, ada };
}

/** What every follower must have seen: the log after the cursor that it began with. */
async function logs({ database, workspaces }: Setting): Promise<Map<string, string[]>> {
  const rows = await query<{ workspace_id: string; seq: string; type: string; data: object }>(
    database.url,
    'select workspace_id, seq, type, data from event where seq > 1 order by workspace_id, seq',
  );
  const byWorkspace = Map.groupBy(rows, (row) => row.workspace_id);
  return new Map(
    workspaces.map(({ id }) => [
      id,
      (byWorkspace.get(rowId('Workspace', id)) ?? []).map(
        (row) => `${row.seq} ${row.type} ${JSON.stringify(row.data)}`,
      ),
    ]),
  );
}

/** What is wrong with what the followers saw and with the log itself. */
const flawless = { missing: 0, repeated: 0, disordered: 0, gaps: 0, holes: 0, uncommitted: 0 };

/** Writers and followers at once, with `disturb` in the middle. */
async function prove(what: string, disturb: (setting: Setting) => Promise<void>): Promise<typeof flawless> {
  const made = await setting(sizes.workspaces);
  const { api, ada, workspaces, database } = made;
  const followers = workspaces.flatMap(({ id, cursor }) =>
    upTo(sizes.followers).map(() => new Tenacious(api.url, ada, id, cursor)),
  );
  onTestFinished(async () => void (await Promise.all(followers.map((follower) => follower.stop()))));
  await until('all follow', async () => followers.every(({ seen }) => seen.length > 0), patienceMs);
  for (const follower of followers) follower.latencies.length = 0; // of what was there already

  const task = {
    databaseUrl: database.url,
    workspaceIds: workspaces.map(({ id }) => rowId('Workspace', id)),
    events: sizes.eventsPerWriter,
    batch: 5,
  };
  const total = sizes.writers * sizes.eventsPerWriter;
  const writers = new Writers(task, 2, sizes.writers);
  // The last follower of each workspace is never cut off: it tells the latency.
  const steady = followers.filter((_, index) => index % sizes.followers === sizes.followers - 1);
  const cut = followers.filter((follower) => !steady.includes(follower));
  const next = random(7);
  const written = new AbortController();
  const killing = (async () => {
    while (!written.signal.aborted) {
      cut[Math.floor(next() * cut.length)]?.kill();
      await delay(25 + next() * 50);
    }
  })();
  await until('the middle', async () => writers.committed >= total / 3, patienceMs);
  await disturb(made);
  const results = await writers.done;
  written.abort();
  await killing;

  const expected = await logs(made);
  await until(
    'all have seen as much as there is',
    async () => followers.every(({ seen, workspaceId }) => seen.length >= (expected.get(workspaceId)?.length ?? 0)),
    patienceMs,
  );
  let missing = 0;
  let repeated = 0;
  let disordered = 0;
  for (const { seen, workspaceId } of followers) {
    const wanted = expected.get(workspaceId) ?? [];
    const got = new Set(seen);
    missing += wanted.filter((event) => !got.has(event)).length;
    repeated += seen.length - got.size;
    if (seen.some((event, index) => event !== wanted[index])) disordered++;
  }
  const latencies = steady.flatMap((follower) => follower.latencies).toSorted((a, b) => a - b);
  const sum = (key: 'committed' | 'rolledBack' | 'long' | 'interrupted') =>
    results.reduce((all, result) => all + result[key], 0);
  const seconds = Math.max(...results.map((result) => result.seconds));
  const inLog = [...expected.values()].reduce((all, events) => all + events.length, 0);
  measured(what, {
    'events in the log': inLog,
    followers: followers.length,
    deliveries: inLog * sizes.followers,
    missing,
    repeated,
    'out of order': disordered,
    gaps: followers.reduce((all, follower) => all + follower.gaps, 0),
    resumes: followers.reduce((all, follower) => all + follower.resumes, 0),
    'rolled back': sum('rolledBack'),
    long: sum('long'),
    interrupted: sum('interrupted'),
    'events/s': sum('committed') / seconds,
    'ms commit to client median': quantile(latencies, 0.5),
    '99 %': quantile(latencies, 0.99),
    worst: quantile(latencies, 1),
    'MB of the API': await api.rss(),
  });
  const [dense] = await query<{ holes: string }>(
    database.url,
    `select sum(h.seq - (select count(*) from event e where e.workspace_id = h.workspace_id)) holes from event_head h`,
  );
  return {
    missing,
    repeated,
    disordered,
    gaps: followers.reduce((all, follower) => all + follower.gaps, 0),
    holes: Number(dense?.holes),
    uncommitted: total - sum('committed'),
  };
}

test('every follower sees exactly the log, cut off and resumed at random', async () => {
  expect(await prove('log, followers cut off', async () => undefined)).toEqual(flawless);
});

test('every follower sees exactly the log, although the API process is killed in the middle', async () => {
  const found = await prove('log, API killed', async ({ api }) => {
    await api.process.kill('SIGKILL');
    await api.start();
  });
  expect(found).toEqual(flawless);
});

test('every follower sees exactly the log, although PostgreSQL is killed in the middle', async () => {
  const before = postgres.url;
  const found = await prove('log, PostgreSQL killed', async () => {
    process.kill(postgres.pid, 'SIGKILL');
    await postgres.lost;
    await postgres.release();
    postgres = await acquireEmbeddedPostgres({ ...cluster, log });
  });
  expect(postgres.url).toBe(before);
  expect(found).toEqual(flawless);
});

test('after a restore an old cursor meets a gap, and after the epoch command every one', async () => {
  const made = await setting(1);
  const { api, ada, database } = made;
  const [one] = made.workspaces;
  if (!one) throw new Error('no workspace');
  const { id } = one;
  const write = async (events: number, seed: number) => {
    const task = { databaseUrl: database.url, workspaceIds: [rowId('Workspace', id)], events, batch: 5 };
    await new Writers(task, 1, 1, seed).done;
  };
  const follow = (after: string | null) => {
    const follower = new Follower(api.url, ada, 'workspaceEvents', { id, after });
    onTestFinished(() => follower.close());
    return follower;
  };
  const ended = async (follower: Follower, reason: string) => {
    await until('it met the gap', async () => follower.completed, patienceMs);
    expect(follower.items.at(-1)).toMatchObject({ __typename: 'StreamGap', reason });
    return follower.items.at(-1)?.resumeAfter ?? null;
  };

  await write(50, 1);
  // The dump: a copy of the files, as `pg_dump` is no part of the embedded server.
  await admin.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [database.name]);
  await retried(() => admin.query(`create database dump template ${database.name} strategy file_copy`));
  await write(50, 2);
  const open = follow(one.cursor);
  await until('all came', async () => open.events.length === 101, patienceMs);
  const old = open.cursor;

  // The restore, under the feet of a server that runs and of a stream that is open.
  await admin.query(`drop database ${database.name} with (force)`);
  await admin.query(`create database ${database.name} template dump`);
  await ended(open, 'AHEAD');
  const resumeAfter = await ended(follow(old), 'AHEAD');
  const resumed = follow(resumeAfter);
  await write(100, 3);
  await until('it goes on', async () => resumed.events.length === 100, patienceMs);

  // The log has grown past the old cursor: its number alone does not tell any more. The command does.
  await promisify(execFile)(process.execPath, [path.resolve('tools/epoch.ts')], { env: api.env });
  await ended(resumed, 'EPOCH_CHANGED');
  const last = follow(await ended(follow(old), 'EPOCH_CHANGED'));
  await write(5, 4);
  await until('it goes on', async () => last.events.length === 5, patienceMs);
});

/** Other connections come back between one statement and the next. */
async function retried(fn: () => Promise<unknown>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await fn();
      return;
    } catch (error) {
      if (attempt === 20) throw error;
      await admin.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [
        `proof_${databases}`,
      ]);
    }
  }
}

test('a subscriber that stops reading costs no memory, delays nobody, and catches up without loss', async () => {
  // A heap that is kept small, so that what is measured is what is held and not what was not yet collected.
  const made = await setting(1, { NODE_OPTIONS: '--max-old-space-size=200 --max-semi-space-size=8' });
  const { api, ada, database } = made;
  const [one] = made.workspaces;
  if (!one) throw new Error('no workspace');
  const write = (seed: number) =>
    new Writers(
      {
        databaseUrl: database.url,
        workspaceIds: [rowId('Workspace', one.id)],
        events: sizes.pausedEvents / 4,
        batch: 20,
        textLength: 1000,
      },
      1,
      4,
      seed,
    ).done;
  const reader = new Tenacious(api.url, ada, one.id, one.cursor);
  onTestFinished(() => reader.stop());

  // The same load without anybody who has stopped, to compare with.
  let peak = 0;
  const watch = async (work: Promise<unknown>) => {
    peak = 0;
    const over = new AbortController();
    const done = work.finally(() => over.abort());
    while (!over.signal.aborted) {
      peak = Math.max(peak, await api.rss());
      await delay(100);
    }
    await done;
    return peak;
  };
  await watch(write(1));
  await until('it has all', async () => reader.seen.length >= sizes.pausedEvents + 1, patienceMs);
  const without = await watch(write(2));
  await until('it has all', async () => reader.seen.length >= 2 * sizes.pausedEvents + 1, patienceMs);
  const usual = reader.latencies
    .splice(0)
    .slice(sizes.pausedEvents)
    .toSorted((a, b) => a - b);

  const sockets: WebSocket[] = [];
  const webSocketImpl = captured((ws) => sockets.push(ws));
  const stopped = upTo(sizes.paused).map(
    () => new Follower(api.url, ada, 'workspaceEvents', { id: one.id, after: reader.cursor }, { webSocketImpl }),
  );
  onTestFinished(async () => void (await Promise.all(stopped.map((follower) => follower.close()))));
  await until(
    'all are connected',
    async () => sockets.length === sizes.paused && sockets.every((ws) => ws.readyState === WebSocket.OPEN),
    patienceMs,
  );
  await until('all follow', async () => (await subscribers(api)) === sizes.paused + 1, patienceMs);
  for (const ws of sockets) ws.pause();
  const withStopped = await watch(write(3));
  await until('the reader has all', async () => reader.seen.length >= 3 * sizes.pausedEvents + 1, patienceMs);
  const meanwhile = reader.latencies.splice(0).toSorted((a, b) => a - b);
  expect(reader.resumes).toBe(0);
  const held = stopped.map((follower) => follower.events.length);
  for (const count of held) expect(count).toBeLessThan(sizes.pausedEvents);

  // They read on. Those whom the server has given up meanwhile (no pong for 12 to 24 s) resume by cursor.
  for (const ws of sockets) ws.resume();
  const seen: string[][] = [];
  for (const follower of stopped) {
    const before = () => follower.events.map((item) => `${item.seq} ${item.type} ${JSON.stringify(item.data)}`);
    await until(
      'it has caught up or was given up',
      async () => follower.closed !== null || follower.events.length >= sizes.pausedEvents,
      patienceMs,
    );
    const got = before();
    if (got.length < sizes.pausedEvents) {
      const rest = new Tenacious(api.url, ada, one.id, follower.cursor ?? '');
      await until('it has caught up', async () => got.length + rest.seen.length >= sizes.pausedEvents, patienceMs);
      await rest.stop();
      got.push(...rest.seen);
    }
    seen.push(got);
  }
  const all = (await logs(made)).get(one.id) ?? [];
  expect(reader.seen).toEqual(all);
  for (const got of seen) expect(got).toEqual(all.slice(-sizes.pausedEvents));

  const unread = sizes.paused * sizes.pausedEvents * 1.2e-3; // MB: an event as JSON has 1.2 kB
  measured('subscribers that stop reading', {
    stopped: sizes.paused,
    'events of 1 kB': sizes.pausedEvents,
    'given up by the server': stopped.filter((follower) => follower.closed !== null).length,
    'read before they stopped, most': Math.max(...held),
    'MB unread': unread,
    'MB peak of the API without them': without,
    'with them': withStopped,
    'ms to the reader median without them': quantile(usual, 0.5),
    'median with them': quantile(meanwhile, 0.5),
    '99 % without': quantile(usual, 0.99),
    '99 % with': quantile(meanwhile, 0.99),
  });
  // What the server may hold for each: a page of events (at most 500, 1 MB) and a message on its way: 20 MB. As much
  // again is left to chance. A queue would hold all that is unread: in the heap, which has no room for it, or outside.
  expect(withStopped - without).toBeLessThan(40);
  expect(unread).toBeGreaterThan(200);
});

async function subscribers(api: Api): Promise<number> {
  const text = await (await fetch(new URL('/metrics', api.url))).text();
  return Number(/^switchyard_live_subscribers (\S+)/m.exec(text)?.[1]);
}

test('two API processes and two workers on one database behave as one', async () => {
  const probe = { NODE_OPTIONS: `--import=${pathToFileURL(path.resolve('test/support/probe.ts')).href}` };
  const made = await setting(1, probe);
  const { api, ada, database } = made;
  const [one] = made.workspaces;
  if (!one) throw new Error('no workspace');
  const second = await Api.start(database.url, probe);
  const workers = [];
  for (const name of ['one', 'two']) {
    const worker = await spawnServer(
      environment(path.join(folder, `worker-${name}`), database.url, {
        ...probe,
        SWITCHYARD_ROLES: 'worker',
        SWITCHYARD_WORKER_CONCURRENCY: '2',
      }),
    );
    onTestFinished(() => worker.kill('SIGKILL'));
    workers.push(worker);
  }
  const urls = [api.url, second.url] as const;
  const all = urls.map((url) => new Tenacious(url, ada, one.id, one.cursor));
  onTestFinished(async () => void (await Promise.all(all.map((follower) => follower.stop()))));

  await until('both follow', async () => all.every(({ seen }) => seen.length > 0), patienceMs);
  for (const follower of all) follower.latencies.length = 0; // of what was there already

  const begun = performance.now();
  const watched = await Promise.all(
    upTo(sizes.runs).map(async (n) => {
      const [here, there] = n % 2 === 0 ? urls : [urls[1], urls[0]];
      const { startProbe } = await data<{ startProbe: string }>(
        here,
        `mutation ($id: ID!) { startProbe(workspaceId: $id, lines: 500) }`,
        { id: one.id },
        ada,
      );
      const id = globalId('Probe', startProbe);
      const streams = (['runEvents', 'runLogs', 'run'] as const).map(
        (stream) => new Follower(there, ada, stream, { id }),
      );
      onTestFinished(async () => void (await Promise.all(streams.map((follower) => follower.close()))));
      return streams;
    }),
  );
  await until(
    'all runs are over for those who watch them',
    async () => watched.flat().every(({ completed }) => completed),
    patienceMs,
  );
  const seconds = (performance.now() - begun) / 1000;
  for (const [events, lines, snapshots] of watched) {
    expect(events?.events.map((item) => item.type)).toEqual([
      'probe.queued',
      'probe.working',
      'probe.stepStarted',
      'probe.stepSucceeded',
      'probe.done',
    ]);
    expect(lines?.items.flatMap((item) => item.text ?? [])).toEqual(upTo(500).map((n) => `line ${n}`));
    expect(snapshots?.items.at(-1)?.run?.status).toBe('SUCCEEDED');
  }
  const expected = (await logs(made)).get(one.id) ?? [];
  await until('both have the log', async () => all.every(({ seen }) => seen.length >= expected.length), patienceMs);
  for (const { seen } of all) expect(seen).toEqual(expected);
  const executed = workers.map(({ lines }) => lines.filter((line) => line.includes('"msg":"run ended"')).length);
  expect(executed.reduce((sum, count) => sum + count, 0)).toBe(sizes.runs);
  for (const count of executed) expect(count).toBeGreaterThan(0);

  // A right that ends at one ends the streams at the other.
  const latencies = all.flatMap((follower) => follower.latencies).toSorted((a, b) => a - b);
  const open = new Follower(urls[1], ada, 'workspaceEvents', { id: one.id });
  await until('it has begun', async () => open.items.length > 0, patienceMs);
  await data(urls[0], `mutation { signOutEverywhere { __typename } }`, {}, ada);
  await until('the other has ended it', async () => open.closed !== null, patienceMs);
  expect(open.closed?.code).toBe(4403);
  measured('two API processes, two workers', {
    runs: sizes.runs,
    seconds,
    'by each worker': executed.join(' and '),
    'events seen by both': expected.length,
    'ms commit to client median': quantile(latencies, 0.5),
    worst: quantile(latencies, 1),
  });
});
