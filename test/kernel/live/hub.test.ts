import { connect, createServer, type Socket } from 'node:net';
import { once } from 'node:events';
import pg from 'pg';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { system } from '../../../src/kernel/auth/actor.ts';
import { createDatabase, type Database } from '../../../src/kernel/db/client.ts';
import { createTransact } from '../../../src/kernel/db/transact.ts';
import type { LoggedEvent } from '../../../src/kernel/events/define.ts';
import { newId } from '../../../src/kernel/ids.ts';
import type { Channel } from '../../../src/kernel/live/channel.ts';
import { Hub } from '../../../src/kernel/live/hub.ts';
import { Coalescer, PostgresWakeUps, type WakeUps } from '../../../src/kernel/live/wakeups.ts';
import { createLogger } from '../../../src/kernel/log.ts';
import { createMetrics } from '../../../src/kernel/telemetry/metrics.ts';
import { testDatabase, type TestDatabase } from '../../support/database.ts';
import { until } from '../../support/embedded.ts';
import { noted, upTo } from '../../support/live.ts';
import { random } from '../../support/random.ts';

let own: TestDatabase;
let admin: pg.Pool;

beforeAll(async () => {
  own = await testDatabase();
  admin = new pg.Pool({ connectionString: own.url, max: 2 });
  admin.on('error', () => undefined);
});
afterAll(async () => {
  await admin.end();
  await own.drop();
});

interface Process {
  readonly database: Database;
  readonly wakeUps: WakeUps;
  readonly hub: Hub;
  /** Every statement that went through the pool. */
  readonly statements: string[];
  counted(pattern: RegExp): number;
  /** Wake-ups by source. */
  heard(): Promise<Record<string, number>>;
  append(workspaceId: string, count?: number): Promise<void>;
}

/** As much of a server as the log needs. */
async function oneProcess(options: { pollMs?: number; wakeUps?: WakeUps } = {}): Promise<Process> {
  const log = createLogger('silent');
  const database = createDatabase({ url: own.url, directUrl: own.url, poolMax: 5, applicationName: 'test' });
  const statements: string[] = [];
  const query = database.pool.query.bind(database.pool) as (...args: unknown[]) => unknown;
  database.pool.query = ((...args: unknown[]) => {
    const [statement] = args;
    statements.push(typeof statement === 'string' ? statement : (statement as { text: string }).text);
    return query(...args);
  }) as typeof database.pool.query;
  const wakeUps = options.wakeUps ?? new PostgresWakeUps({ pool: database.pool, directUrl: own.url, log });
  const metrics = createMetrics({ processMetrics: false });
  const hub = new Hub({ pool: database.pool, named: true, wakeUps, log, metrics, pollMs: options.pollMs ?? 600_000 });
  await hub.start();
  onTestFinished(async () => {
    hub.stop();
    await wakeUps.close();
    await database.close();
  });
  const transact = createTransact({
    database,
    originIds: () => {
      throw new Error('no origin here');
    },
    traceparent: () => undefined,
    onAppended: (events) => events.forEach(({ workspaceId }) => wakeUps.publish(`w:${workspaceId}`)),
  });
  return {
    database,
    wakeUps,
    hub,
    statements,
    counted: (pattern) => statements.filter((sql) => pattern.test(sql)).length,
    async heard() {
      const { values } = await metrics.wakeUps.get();
      return Object.fromEntries(values.map(({ labels, value }) => [String(labels['source']), value]));
    },
    append: (workspaceId, count = 1) =>
      transact(system, async (tx) => {
        for (let n = 1; n <= count; n++) tx.append({ type: noted, workspaceId, subjectId: workspaceId, data: { n } });
      }),
  };
}

async function log(): Promise<string> {
  const id = newId();
  await admin.query('insert into event_head (workspace_id) values ($1)', [id]);
  return id;
}

async function watch(hub: Hub, workspaceId: string) {
  const subscription = await hub.watchEvents(workspaceId);
  if (!subscription) throw new Error('no such log');
  return subscription;
}

function reader(channel: Channel<LoggedEvent>, after = 0n): { readonly seqs: number[] } {
  const stop = new AbortController();
  onTestFinished(() => stop.abort());
  const seqs: number[] = [];
  void (async () => {
    for await (const found of channel.follow(after, channel.head.epoch, 600_000, stop.signal))
      if (found.kind === 'entries') seqs.push(...found.entries.map(({ seq }) => Number(seq)));
  })();
  return { seqs };
}

test('a commit in one process is read in another by its wake-up, before any poll', async () => {
  const [writer, follower] = [await oneProcess(), await oneProcess()];
  const workspaceId = await log();
  const { channel } = await watch(follower.hub, workspaceId);
  const { seqs } = reader(channel);
  for (const n of upTo(5)) {
    await writer.append(workspaceId);
    await until('it came', async () => seqs.length === n);
  }
  expect(seqs).toEqual(upTo(5));
  expect(await follower.heard()).toEqual({ notify: 5 });
  // The writer hears its own keys at once and not again from the server.
  expect(await writer.heard()).toEqual({ local: 5 });
});

test('logs that grow at the same time are read together, each to its end', async () => {
  const { hub, counted, database } = await oneProcess();
  const ids = await Promise.all(upTo(12).map(() => log()));
  const readers = await Promise.all(ids.map(async (id) => reader((await watch(hub, id)).channel)));
  // More of one than it is given with eleven others.
  const sizes = ids.map((_, index) => (index === 0 ? 700 : index));
  await database.pool.query(
    `with grown as (
      update event_head h set seq = h.seq + n from unnest($1::uuid[], $2::int[]) w(id, n)
      where workspace_id = w.id returning workspace_id, h.seq, n
    ), added as (
      insert into event (workspace_id, seq, type, version, subject_type, subject_id, actor_kind, data)
      select workspace_id, i, 'noted', 1, 'Workspace', workspace_id, 'SYSTEM', '{}' from grown, generate_series(1, n) i
    ) select pg_notify('switchyard', 'another,' || string_agg('w:' || workspace_id, ',')) from grown`,
    [ids, sizes],
  );
  await until('all is read', async () => readers.every(({ seqs }, index) => seqs.length === sizes[index]));
  for (const [index, { seqs }] of readers.entries()) expect(seqs).toEqual(upTo(sizes[index] as number));
  expect(counted(/\$2::bigint\[\]/)).toBeLessThanOrEqual(3);
  expect(counted(/from event e/)).toBeLessThanOrEqual(4);
});

test('logs that grow, are pruned, begin anew and end while they are read together: each in order, or told as a gap', async () => {
  const { hub } = await oneProcess({ pollMs: 20 });
  const next = random(3);
  const pick = (below: number) => Math.floor(next() * below);
  const ids = await Promise.all(upTo(12).map(() => log()));
  const stop = new AbortController();
  onTestFinished(() => stop.abort());
  const gaps: string[] = [];
  let read = 0;
  const follow = async (id: string) => {
    const { channel } = await watch(hub, id);
    for (let at: { seq: bigint; epoch: number } | null = channel.head; at;) {
      let seq: bigint = at.seq;
      const epoch: number = at.epoch;
      const place = () => (positions.set(id, seq), false);
      at = null;
      for await (const found of channel.follow(seq, epoch, 600_000, stop.signal, place)) {
        if (found.kind === 'entries')
          for (const event of found.entries) {
            if (event.workspaceId !== id || event.seq !== ++seq || event.data['of'] !== `${id} ${epoch}`)
              throw new Error(`${event.workspaceId} ${event.seq} in place of ${id} ${seq} ${epoch}`);
            read++;
          }
        if (found.kind !== 'gap') continue;
        gaps.push(found.reason);
        at = found.head && { epoch: found.head.epoch, seq: found.reason === 'PRUNED' ? found.head.prunedSeq : found.head.seq }; // prettier-ignore
        if (!at) positions.delete(id);
      }
    }
  };
  const positions = new Map<string, bigint>();
  const followers = Promise.all(ids.map(follow));
  await until('all are followed', async () => positions.size === ids.length);
  for (let step = 0; step < 150; step++) {
    const id = ids[pick(ids.length)] ?? '';
    const what = pick(20);
    if (what === 0)
      await admin.query('with gone as (delete from event_head where workspace_id = $1) delete from event where workspace_id = $1', [id]); // prettier-ignore
    else if (what < 3)
      await admin.query('with h as (update event_head set epoch = epoch + 1, seq = seq / 2, pruned_seq = seq / 2 where workspace_id = $1) delete from event where workspace_id = $1', [id]); // prettier-ignore
    else if (what < 6)
      await admin.query('with h as (update event_head set pruned_seq = seq where workspace_id = $1 returning seq) delete from event e using h where workspace_id = $1 and e.seq <= h.seq', [id]); // prettier-ignore
    else
      await admin.query(
        `with grown as (
          update event_head h set seq = h.seq + n from unnest($1::uuid[], $2::int[]) w(id, n)
          where workspace_id = w.id returning workspace_id, h.seq, n, epoch
        ), added as (
          insert into event (workspace_id, seq, type, version, subject_type, subject_id, actor_kind, data)
          select workspace_id, seq - n + i, 'noted', 1, 'Workspace', workspace_id, 'SYSTEM', jsonb_build_object('of', workspace_id || ' ' || epoch)
          from grown, generate_series(1, n) i
        ) select pg_notify('switchyard', 'another,' || string_agg('w:' || workspace_id, ',')) from grown`,
        [ids.slice(0, 1 + pick(12)), ids.map(() => (pick(10) === 0 ? 400 : 1 + pick(20)))],
      );
  }
  const heads = async () => {
    const { rows } = await admin.query<{ id: string; seq: string }>('select workspace_id id, seq from event_head where workspace_id = any($1::uuid[])', [ids]); // prettier-ignore
    return new Map(rows.map(({ id, seq }) => [id, BigInt(seq)]));
  };
  const last = await heads();
  await until('all stand at the end', async () => [...last].every(([id, seq]) => positions.get(id) === seq) && positions.size === last.size); // prettier-ignore
  stop.abort();
  await followers;
  // Whether somebody is behind what is pruned is left to chance.
  expect(gaps).toEqual(expect.arrayContaining(['EPOCH_CHANGED', 'GONE']));
  expect(read).toBeGreaterThan(1000);
});

test('a burst of commits costs few messages and few reads', async () => {
  const [writer, follower] = [await oneProcess(), await oneProcess()];
  const workspaceId = await log();
  const { seqs } = reader((await watch(follower.hub, workspaceId)).channel);
  follower.statements.length = 0;
  for (let n = 0; n < 200; n++) writer.wakeUps.publish(`w:${workspaceId}`);
  await writer.append(workspaceId, 200);
  await until('all came', async () => seqs.length === 200);
  expect(seqs).toEqual(upTo(200));
  // One for the keys of one turn of the loop, one for the commit after it.
  expect(writer.counted(/pg_notify/)).toBeLessThanOrEqual(3);
  expect(follower.counted(/from event e/)).toBeLessThanOrEqual(5);
});

test('messages are sent one at a time; keys that come meanwhile are merged into the next', async () => {
  const sent: string[][] = [];
  let release = Promise.withResolvers<void>();
  const coalescer = new Coalescer(async (keys) => {
    sent.push(keys);
    await release.promise;
  }, 1);
  coalescer.add('a');
  await until('the first is on its way', async () => sent.length === 1);
  for (const key of ['a', 'b', 'a', 'c', 'b']) coalescer.add(key);
  const flushed = coalescer.flush();
  expect(sent).toEqual([['a']]);
  release.resolve();
  release = Promise.withResolvers<void>();
  await until('the next is on its way', async () => sent.length === 2);
  release.resolve();
  await flushed;
  expect(sent).toEqual([['a'], ['a', 'b', 'c']]);
});

test('many keys fit into messages of the size that NOTIFY takes', async () => {
  const [writer, follower] = [await oneProcess(), await oneProcess()];
  const runs = upTo(500).map(() => newId());
  const heard = new Set<string>();
  follower.hub.onCancel((runId) => heard.add(runId));
  for (const runId of runs) writer.wakeUps.publish(`c:${runId}`);
  await until('all were heard', async () => heard.size === runs.length);
  expect(heard).toEqual(new Set(runs));
});

test('a lost wake-up is found by the poll, with one statement for all heads', async () => {
  const deaf: WakeUps = { publish: () => undefined, start: async () => undefined, close: async () => undefined };
  const follower = await oneProcess({ pollMs: 50, wakeUps: deaf });
  const logs = await Promise.all(upTo(20).map(() => log()));
  const readers = await Promise.all(logs.map(async (id) => reader((await watch(follower.hub, id)).channel)));
  const writer = await oneProcess({ wakeUps: deaf });
  for (const id of logs) await writer.append(id, 3);
  await until('all came', async () => readers.every(({ seqs }) => seqs.length === 3));
  for (const { seqs } of readers) expect(seqs).toEqual([1, 2, 3]);
  // More where a poll comes between the events of one log.
  expect((await follower.heard())['poll']).toBeGreaterThanOrEqual(20);
  follower.statements.length = 0;
  await until('it polls', async () => follower.statements.length >= 3);
  expect(follower.statements.filter((sql) => !sql.includes('from event_head'))).toEqual([]);
});

test('a LISTEN connection that is killed comes back, and what was missed meanwhile is read', async () => {
  const [writer, follower] = [await oneProcess(), await oneProcess()];
  const workspaceId = await log();
  const { seqs } = reader((await watch(follower.hub, workspaceId)).channel);
  const listeners = async (): Promise<number[]> => {
    const { rows } = await admin.query<{ pid: number }>(
      `select pid from pg_stat_activity where application_name = 'switchyard-listen' and datname = current_database()`,
    );
    return rows.map((row) => row.pid);
  };
  for (const round of upTo(3)) {
    const before = await listeners();
    expect(before).toHaveLength(2);
    await admin.query('select pg_terminate_backend(pid) from unnest($1::int[]) pid', [before]);
    // No wake-up of this one arrives: nobody listens.
    await writer.append(workspaceId);
    await until('both listen again', async () => {
      const now = await listeners();
      return now.length === 2 && now.every((pid) => !before.includes(pid));
    });
    await until('what was missed was read', async () => seqs.length === round * 2 - 1);
    await writer.append(workspaceId);
    await until('it is heard again', async () => seqs.length === round * 2);
  }
  expect(seqs).toEqual(upTo(6));
});

test('while the database refuses connections there is one attempt at a time', async () => {
  let attempts = 0;
  let open = 0;
  let most = 0;
  const gate = createServer((socket) => {
    attempts++;
    most = Math.max(most, ++open);
    socket.on('close', () => open--);
    if (refusing) {
      socket.destroy();
      return;
    }
    const target = new URL(own.url);
    const through = connect(Number(target.port), target.hostname);
    socket.pipe(through).pipe(socket);
    for (const end of [socket, through]) {
      end.on('error', () => undefined);
      end.on('close', () => {
        socket.destroy();
        through.destroy();
      });
    }
    live.add(socket);
  });
  const live = new Set<Socket>();
  let refusing = false;
  gate.listen(0, '127.0.0.1');
  await once(gate, 'listening');
  onTestFinished(() => void gate.close());
  const url = new URL(own.url);
  url.port = String((gate.address() as { port: number }).port);
  const pool = new pg.Pool({ connectionString: own.url, max: 2 });
  onTestFinished(() => pool.end());
  const wakeUps = new PostgresWakeUps({ pool, directUrl: url.href, log: createLogger('silent') });
  let resets = 0;
  await wakeUps.start(
    () => undefined,
    () => resets++,
  );
  expect({ attempts, resets }).toEqual({ attempts: 1, resets: 1 });
  refusing = true;
  for (const socket of live) socket.destroy();
  await until('it has tried three times', async () => attempts >= 4);
  expect(most).toBe(1);
  refusing = false;
  await until('it listens again', async () => resets === 2);
  await wakeUps.close();
  await until('nothing is left open', async () => open === 0);
});

test('LISTEN through something that never delivers is refused at start, and nothing is left of it', async () => {
  // As a pooler in transaction mode does: accepts LISTEN and forgets it. Here, by another database.
  const deaf = await testDatabase();
  onTestFinished(() => deaf.drop());
  const pool = new pg.Pool({ connectionString: own.url, max: 2 });
  onTestFinished(() => pool.end());
  const wakeUps = new PostgresWakeUps({ pool, directUrl: deaf.url, log: createLogger('silent'), proofMs: 500 });
  await expect(
    wakeUps.start(
      () => undefined,
      () => undefined,
    ),
  ).rejects.toThrow('LISTEN/NOTIFY does not work on DATABASE_DIRECT_URL');
  const { rows } = await admin.query(
    `select 1 from pg_stat_activity where application_name = 'switchyard-listen' and datname = $1`,
    [new URL(deaf.url).pathname.slice(1)],
  );
  expect(rows).toEqual([]);
});

test('LISTEN where nobody answers fails at start, and is not tried again', async () => {
  const pool = new pg.Pool({ connectionString: own.url, max: 2 });
  onTestFinished(() => pool.end());
  const nowhere = createServer();
  nowhere.listen(0, '127.0.0.1');
  await once(nowhere, 'listening');
  const { port } = nowhere.address() as { port: number };
  nowhere.close();
  await once(nowhere, 'close');
  const url = new URL(own.url);
  url.port = String(port);
  const wakeUps = new PostgresWakeUps({ pool, directUrl: url.href, log: createLogger('silent') });
  await expect(
    wakeUps.start(
      () => undefined,
      () => undefined,
    ),
  ).rejects.toThrow('ECONNREFUSED');
});

test('followers of one log share its channel, and the last one to leave frees it', async () => {
  const { hub } = await oneProcess();
  const workspaceId = await log();
  const [one, two] = await Promise.all([watch(hub, workspaceId), watch(hub, workspaceId)]);
  expect(one.channel).toBe(two.channel);
  expect(hub.watched).toBe(1);
  one.release();
  one.release();
  expect(hub.watched).toBe(1);
  two.release();
  expect(hub.watched).toBe(0);
  expect((await watch(hub, workspaceId)).channel).not.toBe(one.channel);
  expect(await hub.watchEvents(newId())).toBeNull();
  expect(await hub.watchLines(newId())).toBeNull();
  expect(hub.watched).toBe(1);
});

test('whatever the order of coming and going, who watches a log is woken', async () => {
  const writer = await oneProcess();
  const { hub } = writer;
  const workspaceId = await log();
  // All wait for the same look at the head; some leave at once, while others still wait.
  const leaving = upTo(20).map(async () => (await watch(hub, workspaceId)).release());
  const staying = upTo(5).map(() => watch(hub, workspaceId));
  await Promise.all(leaving);
  const readers = (await Promise.all(staying)).map(({ channel }) => reader(channel));
  await writer.append(workspaceId, 2);
  await until('all were woken', async () => readers.every(({ seqs }) => seqs.length === 2));
  expect(hub.watched).toBe(1);
});
