import '../../support/probe.ts';
import { createClient } from 'graphql-sse';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { system } from '../../../src/kernel/auth/actor.ts';
import { globalId, rowId } from '../../../src/kernel/graphql/global-id.ts';
import { newId } from '../../../src/kernel/ids.ts';
import { encodeCursor } from '../../../src/kernel/live/cursor.ts';
import { createRedactor, pieceChars } from '../../../src/kernel/redact.ts';
import { searchLines } from '../../../src/kernel/runs/log-search.ts';
import { LogWriter } from '../../../src/kernel/runs/log-writer.ts';
import { Runs, type Hold } from '../../../src/kernel/runs/runs.ts';
import { person, workspace, type Person } from '../../support/actors.ts';
import { data, headersOf, send, socket } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { append, documents, Follower, ignored, noted, upTo, type Item } from '../../support/live.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { keyOf } from '../../support/world.ts';

let server: TestServer;
let ada: Person;

beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
  ada = await person(server.url);
});
afterAll(() => server.stop());

const app = () => server.running.app;
const sql = (text: string, values: unknown[]) => app().database.pool.query(text, values);

function follow(
  ...[stream, variables]: [ConstructorParameters<typeof Follower>[2], ConstructorParameters<typeof Follower>[3]]
) {
  const follower = new Follower(server.url, ada, stream, variables);
  onTestFinished(() => follower.close());
  return follower;
}

const subscribers = async (): Promise<number> => (await app().metrics.liveSubscribers.get()).values[0]?.value ?? 0;
const nobodyFollows = async (): Promise<boolean> => (await subscribers()) === 0 && app().hub.watched === 0;
const started = (follower: Follower) => until('the stream has begun', async () => follower.items.length > 0);

describe('workspaceEvents', () => {
  test('replays after the cursor, then goes on live, without gap or repeat', async () => {
    const { id, cursor } = await workspace(server.url, ada);
    await append(app(), id, 1200);
    const follower = follow('workspaceEvents', { id, after: cursor });
    const writing = (async () => {
      for (const n of upTo(50, 1201)) await append(app(), id, 1, noted, n);
    })();
    await writing;
    await until('all came', async () => follower.noted.length === 1250);
    expect(follower.noted).toEqual(upTo(1250));
    // The creation of the workspace wrote two events; the cursor is that of the first.
    expect(follower.seqs).toEqual(upTo(1251, 2));
  });

  test('without a cursor begins now, and says where that is, to resume from', async () => {
    const { id } = await workspace(server.url, ada);
    await append(app(), id, 3);
    const follower = follow('workspaceEvents', { id });
    await started(follower);
    expect(follower.items).toEqual([{ __typename: 'StreamCheckpoint', cursor: expect.any(String) }]);
    await follower.close();
    await append(app(), id, 2, noted, 4); // nobody looks
    const resumed = follow('workspaceEvents', { id, after: follower.cursor });
    await until('what came meanwhile was told', async () => resumed.noted.length === 2);
    expect(resumed.noted).toEqual([4, 5]);
  });

  test('every cursor of a stream resumes it at its place', async () => {
    const { id, cursor } = await workspace(server.url, ada);
    await append(app(), id, 5);
    const all = follow('workspaceEvents', { id, after: cursor });
    await until('all came', async () => all.noted.length === 5);
    for (const [index, item] of all.events.entries()) {
      if (index === all.events.length - 1) continue;
      const rest = follow('workspaceEvents', { id, after: item.cursor ?? null });
      await until('the rest came', async () => rest.events.length === all.events.length - 1 - index);
      expect(rest.seqs).toEqual(all.seqs.slice(index + 1));
      await rest.close();
    }
  });

  test('a filter skips, and a checkpoint follows each page that was skipped', async () => {
    const { id, cursor } = await workspace(server.url, ada);
    await append(app(), id, 1100, ignored);
    await append(app(), id, 2);
    const follower = follow('workspaceEvents', { id, after: cursor, filter: { types: ['test.noted'] } });
    await until('the wanted ones came', async () => follower.noted.length === 2);
    expect(follower.items.map((item) => item.__typename)).toEqual([
      'StreamCheckpoint',
      'StreamCheckpoint',
      'Event',
      'Event',
    ]);
    const second = follow('workspaceEvents', {
      id,
      after: follower.items[1]?.cursor ?? null,
      filter: { types: ['nothing', 'test.*'] },
    });
    await until('it goes on there', async () => second.noted.length === 2);
    expect(second.events).toHaveLength(103); // 1 of the workspace and 1000 others were skipped before
    await append(app(), id, 1, ignored);
    await append(app(), id, 1, noted, 3);
    await until('live too', async () => follower.noted.length === 3);
    // Skipped events as they come are no reason for a message each.
    expect(follower.items).toHaveLength(5);
  });

  test('filters by subject and by run', async () => {
    const { id, cursor } = await workspace(server.url, ada);
    const runId = await startRun(id);
    await append(app(), id, 2);
    const bySubject = follow('workspaceEvents', { id, after: cursor, filter: { subjectId: id, types: ['test.*'] } });
    const byRun = follow('workspaceEvents', { id, after: cursor, filter: { runId: globalId('Probe', runId) } });
    await until('they came', async () => bySubject.noted.length === 2 && byRun.events.length === 1);
    expect(byRun.events[0]?.type).toBe('probe.queued');
  });

  test.each(['PRUNED', 'EPOCH_CHANGED', 'AHEAD'] as const)(
    'a cursor that is %s gets a gap, with where to go on',
    async (reason) => {
      const { id, cursor } = await workspace(server.url, ada);
      const workspaceId = rowId('Workspace', id);
      await append(app(), id, 8); // seq 3 to 10
      let after: string = cursor;
      if (reason === 'PRUNED') {
        await sql('update event_head set pruned_seq = 6 where workspace_id = $1', [workspaceId]);
        await sql('delete from event where workspace_id = $1 and seq <= 6', [workspaceId]);
      } else if (reason === 'EPOCH_CHANGED') {
        await sql('update event_head set epoch = 2 where workspace_id = $1', [workspaceId]);
      } else after = encodeCursor({ stream: workspaceId, epoch: 1, seq: 11n });
      const follower = follow('workspaceEvents', { id, after });
      await until('it ended', async () => follower.completed);
      expect(follower.items).toEqual([{ __typename: 'StreamGap', reason, resumeAfter: expect.any(String) }]);
      const resumed = follow('workspaceEvents', { id, after: follower.items[0]?.resumeAfter ?? null });
      const rest = reason === 'PRUNED' ? [5, 6, 7, 8, 9] : [9];
      await append(app(), id, 1, noted, 9);
      await until('it goes on', async () => resumed.noted.length === rest.length);
      expect(resumed.noted).toEqual(rest);
    },
  );

  test('a stream that is open when the epoch changes is told by the next poll at the latest', async () => {
    const { id } = await workspace(server.url, ada);
    const follower = follow('workspaceEvents', { id });
    await started(follower);
    await sql('update event_head set epoch = 2 where workspace_id = $1', [rowId('Workspace', id)]);
    await until('it ended', async () => follower.completed);
    expect(follower.items.at(-1)).toMatchObject({ __typename: 'StreamGap', reason: 'EPOCH_CHANGED' });
  });

  test.each([
    [
      'of another stream',
      (workspaceId: string) => encodeCursor({ stream: newId(), epoch: 1, seq: BigInt(workspaceId.length) }),
      'is a cursor of another stream',
    ],
    ['that is none', () => 'AAAA', 'is not a cursor of this API'],
    ['that is empty', () => '', 'is not a cursor of this API'],
  ])('a cursor %s is a typed error, and does not cost the connection', async (_, cursorOf, message) => {
    const { id } = await workspace(server.url, ada);
    const follower = follow('workspaceEvents', { id, after: cursorOf(id) });
    await until('it was refused', async () => follower.errors.length > 0);
    expect(follower.errors[0]?.extensions).toMatchObject({
      code: 'VALIDATION_ERROR',
      issues: [{ path: 'after', message }],
    });
    // At most the client itself left, having nothing more to do.
    expect(follower.closed?.code ?? 1000).toBe(1000);
    await until('nothing is held', nobodyFollows);
  });

  test('a stranger learns nothing, nobody is turned away', async () => {
    const { id } = await workspace(server.url, ada);
    const eve = new Follower(server.url, await person(server.url, 'Eve'), 'workspaceEvents', { id });
    onTestFinished(() => eve.close());
    await until('refused', async () => eve.errors.length > 0);
    expect(eve.errors[0]?.extensions).toMatchObject({ code: 'NOT_FOUND' });
    const nobody = new Follower(server.url, {}, 'workspaceEvents', { id });
    onTestFinished(() => nobody.close());
    await until('refused', async () => nobody.errors.length > 0);
    expect(nobody.errors[0]?.extensions).toMatchObject({ code: 'UNAUTHENTICATED' });
  });
});

async function startRun(workspace_: string): Promise<string> {
  const { startProbe } = await data<{ startProbe: string }>(
    server.url,
    `mutation ($id: ID!) { startProbe(workspaceId: $id, lines: 0) }`,
    { id: workspace_ },
    ada,
  );
  return startProbe;
}

/** Executes a run by hand, as a worker would. */
async function take(runId: string) {
  const runs = app().use(Runs);
  const workerId = newId();
  const run = await runs.take(runId, { workerId, hostId: newId() });
  if (!run) throw new Error('not taken');
  const hold: Hold = { runId, attempt: run.attempt, workerId };
  const writer = new LogWriter(app(), hold, 0n, () => createRedactor([]));
  return {
    async log(...lines: string[]): Promise<void> {
      for (const line of lines) await writer.write('STDOUT', null, line);
      await writer.flush();
    },
    finish: () => app().transact(system, (tx) => runs.finish(tx, hold, { phase: 'DONE' })),
  };
}

const types = (follower: Follower): (string | undefined)[] => follower.events.map((item) => item.type);
const texts = (follower: Follower): (string | undefined)[] => follower.items.flatMap((item) => item.text ?? []);

describe('a run', () => {
  test('lines tell how severe they are, and are searched for and followed by that', async () => {
    const { id } = await workspace(server.url, ada);
    const runId = await startRun(id);
    const run = { id: globalId('Probe', runId) };
    const followed = follow('runLogs', { ...run, filter: { level: 'WARN' } });
    const worker = await take(runId);
    await worker.log('[error] one', 'WARN two', '{"level":30,"msg":"three"}', 'four', 'npm warn five');
    const long = `ERROR ${'x'.repeat(pieceChars - 6)}`;
    await worker.log(long, 'INFO the rest of that line');
    const query = `query ($id: ID!, $filter: LogFilter) { node(id: $id) { ... on Run { logs(filter: $filter) { nodes { text level } } } } }`;
    const levels = async (filter: object | null) => {
      const { node } = await data<{ node: { logs: { nodes: { text: string; level: string | null }[] } } }>(
        server.url,
        query,
        { ...run, filter },
        ada,
      );
      return node.logs.nodes.map(({ level }) => level);
    };
    expect(await levels(null)).toEqual(['ERROR', 'WARN', 'INFO', null, 'WARN', 'ERROR', 'ERROR']);
    expect(await levels({ level: 'ERROR' })).toEqual(['ERROR', 'ERROR', 'ERROR']);
    expect(await levels({ level: 'DEBUG' })).toHaveLength(6);
    expect(await levels({ level: 'WARN', text: 'five' })).toEqual(['WARN']);
    await until('those came', async () => texts(followed).length === 5);
    expect(texts(followed).map((text) => text?.slice(0, 13))).toEqual(['[error] one', 'WARN two', 'npm warn five', 'ERROR xxxxxxx', 'INFO the rest']); // prettier-ignore
    await worker.finish();
    await until('it ended', async () => followed.completed);
  });

  test('of its output a part is searched for and followed, by text, stream and step', async () => {
    const { id } = await workspace(server.url, ada);
    const runId = await startRun(id);
    const run = { id: globalId('Probe', runId) };
    const followed = follow('runLogs', { ...run, filter: { text: 'NEEDLE', streams: ['STDOUT'] } });
    const worker = await take(runId);
    await worker.log('a needle', 'hay', '100% Needle_', 'hay again', 'no n.edle');
    const page = async (filter: object, more: object = {}) => {
      const query = `query ($id: ID!, $filter: LogFilter, $first: Int, $after: String) { node(id: $id) { ... on Run { logs(filter: $filter, first: $first, after: $after) { nodes { text cursor } endCursor hasNextPage } } } }`;
      const { node } = await data<{
        node: { logs: { nodes: { text: string }[]; endCursor: string; hasNextPage: boolean } };
      }>(server.url, query, { ...run, filter, ...more }, ada);
      return { ...node.logs, texts: node.logs.nodes.map(({ text }) => text) };
    };
    const one = await page({ text: 'nEEdle' }, { first: 1 });
    expect(one).toMatchObject({ texts: ['a needle'], hasNextPage: true });
    const two = await page({ text: 'nEEdle' }, { first: 1, after: one.endCursor });
    expect(two).toMatchObject({ texts: ['100% Needle_'], hasNextPage: false });
    // Everything was looked through: the next page begins behind it.
    expect((await page({ text: 'n' }, { after: two.endCursor })).texts).toEqual([]);
    // No pattern: what it contains means itself.
    expect((await page({ text: '%' })).texts).toEqual(['100% Needle_']);
    expect((await page({ text: 'n.edle' })).texts).toEqual(['no n.edle']);
    expect((await page({ streams: ['STDERR', 'SYSTEM'] })).texts).toEqual([]);
    expect((await page({ step: 'other' })).texts).toEqual([]);
    expect((await page({})).texts).toHaveLength(5);
    for (const filter of [{ text: '' }, { text: 'x'.repeat(201) }, { streams: [] }])
      await expect(page(filter)).rejects.toThrow(/filter|must|at most|VALIDATION|Too big|Too small/i);
    // What it looks through is paid for, however little it gives.
    const searches = Array.from(
      { length: 25 },
      (_, i) => `l${i}: logs(filter: { text: "hay" }, first: 1) { endCursor }`,
    );
    const costly = `query ($id: ID!) { node(id: $id) { ... on Run { ${searches.join(' ')} } } }`;
    expect((await send(server.url, costly, run, ada)).errors?.[0]?.extensions?.['code']).toBe('TOO_COSTLY');
    await worker.log('the last needle');
    await worker.finish();
    await until('it ended', async () => followed.completed);
    expect(texts(followed)).toEqual(['a needle', '100% Needle_', 'the last needle']);
    const late = follow('runLogs', { ...run, filter: { text: 'hay' } });
    await until('it ended, too', async () => late.completed);
    expect(texts(late)).toEqual(['hay', 'hay again']);
  });

  test('a search looks through so many lines at once, and goes on from there', async () => {
    const { id } = await workspace(server.url, ada);
    const runId = await startRun(id);
    await sql(
      `insert into log_line (run_id, seq, at, stream, text) select $1, n, now(), 'STDOUT', case when n = 30000 then 'here' else 'x' end from generate_series(1, 40000) n`,
      [runId],
    );
    const search = (after: string | null) =>
      searchLines(
        app(),
        { id: runId, workspaceId: rowId('Workspace', id) },
        { filter: { text: 'here' }, after, first: 10 },
      );
    const one = await search(null);
    expect(one).toMatchObject({ nodes: [], hasNextPage: true });
    const two = await search(one.endCursor);
    expect(two.nodes.map(({ entry }) => entry.seq)).toEqual([30_000n]);
    expect(await search(two.endCursor)).toMatchObject({ nodes: [], hasNextPage: false });
  });

  test('runEvents and runLogs tell all of it and end with it; run tells each state', async () => {
    const { id } = await workspace(server.url, ada);
    const first = await startRun(id);
    const runId = await startRun(id);
    const run = { id: globalId('Probe', runId) };
    const events = follow('runEvents', run);
    const logs = follow('runLogs', run);
    const snapshots = follow('run', run);
    await until('it is queued', async () => events.events.length === 1 && snapshots.items.length === 1);
    await append(app(), id, 3); // others do not matter
    const worker = await take(runId);
    await worker.log(...upTo(300).map((n) => `line ${n}`));
    await until('its output came', async () => logs.items.length === 300);
    await worker.log('last words');
    await worker.finish();
    await until('all ended', async () => [events, logs, snapshots].every(({ completed }) => completed));
    expect(types(events)).toEqual(['probe.queued', 'probe.working', 'probe.done']);
    expect(texts(logs)).toEqual([...upTo(300).map((n) => `line ${n}`), 'last words']);
    expect(snapshots.items[0]?.run?.status).toBe('QUEUED');
    expect(snapshots.items.at(-1)?.run?.status).toBe('SUCCEEDED');
    for (const follower of [events, logs, snapshots]) expect(follower.errors).toEqual([]);
    await app()
      .use(Runs)
      .cancel(await actorOf(), first);
  });

  test('what loaders remember does not outlive an event', async () => {
    const { id } = await workspace(server.url, ada);
    const first = await startRun(id);
    const second = await startRun(id);
    const snapshots = follow('run', { id: globalId('Probe', second) });
    await started(snapshots);
    const before = snapshots.items[0]?.run?.queuePosition ?? 0;
    await app()
      .use(Runs)
      .cancel(await actorOf(), first);
    const workspaceId = rowId('Workspace', id);
    await app().transact(system, async (tx) => {
      const run = { id: second, kind: 'Probe' };
      tx.append({ type: noted, workspaceId, subjectId: workspaceId, run, data: { n: 1 } });
    });
    await until('it is told again', async () => snapshots.items.length === 2);
    expect(snapshots.items[1]?.run).toEqual({ status: 'QUEUED', queuePosition: before - 1 });
    await app()
      .use(Runs)
      .cancel(await actorOf(), second);
    await until('it ended', async () => snapshots.completed);
  });

  test('says that a key may stop or retry it only when the key is for that', async () => {
    const { id } = await workspace(server.url, ada);
    const of = { id: rowId('Workspace', id), marker: 'retries' };
    const [open, over] = [await startRun(id), await startRun(id)];
    await app().use(Runs).stop(over);
    const query = `query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Run { viewerCanCancel viewerCanRetry } } }`;
    for (const verb of ['cancelRun', 'retryRun', 'createUpload']) {
      const key = await keyOf(app(), of, rowId('User', ada.id), 'MEMBER', { scopes: [`runs.${verb}`] });
      const { nodes } = await data<{ nodes: unknown }>(
        server.url,
        query,
        { ids: [globalId('Probe', open), globalId('Probe', over)] },
        key,
      );
      expect(nodes).toEqual([
        { viewerCanCancel: verb === 'cancelRun', viewerCanRetry: false },
        { viewerCanCancel: false, viewerCanRetry: verb === 'retryRun' },
      ]);
    }
    await app().use(Runs).stop(open);
  });

  test('streams of a run that is over tell all of it and end', async () => {
    const { id } = await workspace(server.url, ada);
    const runId = await startRun(id);
    const worker = await take(runId);
    await worker.log('one', 'two', 'three');
    await worker.finish();
    await append(app(), id, 5);
    const run = { id: globalId('Probe', runId) };
    const events = follow('runEvents', run);
    const logs = follow('runLogs', run);
    const snapshots = follow('run', run);
    await until('all ended', async () => [events, logs, snapshots].every(({ completed }) => completed));
    expect(types(events)).toEqual(['probe.queued', 'probe.working', 'probe.done']);
    expect(texts(logs)).toEqual(['one', 'two', 'three']);
    expect(snapshots.items.map((item) => item.run?.status)).toEqual(['SUCCEEDED']);
    // Resumed in the middle, at the end, and after it.
    const later = follow('workspaceEvents', { id, after: events.cursor });
    await until('later ones came', async () => later.noted.length === 5);
    const resumed = [events.events[0]?.cursor, events.cursor, later.cursor].map((after) =>
      follow('runEvents', { ...run, after: after ?? null }),
    );
    const rest = follow('runLogs', { ...run, after: logs.items[1]?.cursor ?? null });
    await until('all ended again', async () => [...resumed, rest].every(({ completed }) => completed));
    expect(resumed.map(types)).toEqual([['probe.working', 'probe.done'], [], []]);
    expect(texts(rest)).toEqual(['three']);
  });

  test('of a run whose events were pruned, the gap is told', async () => {
    const { id } = await workspace(server.url, ada);
    const workspaceId = rowId('Workspace', id);
    const runId = await startRun(id);
    await (await take(runId)).finish();
    await append(app(), id, 1);
    for (const left of [1, 0]) {
      const { rows } = await sql('select max(seq) seq from event where run_id = $1', [runId]);
      const upToSeq = BigInt((rows[0] as { seq: string }).seq) - BigInt(left);
      await sql('update event_head set pruned_seq = $2 where workspace_id = $1', [workspaceId, upToSeq]);
      await sql('delete from event where workspace_id = $1 and seq <= $2', [workspaceId, upToSeq]);
      const events = follow('runEvents', { id: globalId('Probe', runId) });
      await until('it ended', async () => events.completed);
      expect(events.items).toEqual([{ __typename: 'StreamGap', reason: 'PRUNED', resumeAfter: expect.any(String) }]);
      const resumed = follow('runEvents', {
        id: globalId('Probe', runId),
        after: events.items[0]?.resumeAfter ?? null,
      });
      await until('the rest came', async () => resumed.completed);
      expect(types(resumed)).toEqual(left === 1 ? ['probe.done'] : []);
      if (left === 0) break;
    }
  });

  test('a cursor of the log is none of the output', async () => {
    const { id, cursor } = await workspace(server.url, ada);
    const logs = follow('runLogs', { id: globalId('Probe', await startRun(id)), after: cursor });
    await until('it was refused', async () => logs.errors.length > 0);
    expect(logs.errors[0]?.extensions).toMatchObject({ code: 'VALIDATION_ERROR' });
  });
});

async function actorOf() {
  return app().actors.authenticate({ authorization: `Bearer ${ada.token}` });
}

describe('the end of a subscription', () => {
  test('unsubscribing releases at once, although nothing comes; the socket stays', async () => {
    const { id } = await workspace(server.url, ada);
    const runId = await startRun(id);
    const client = socket(server.url, ada);
    onTestFinished(async () => client.dispose());
    await until('nobody else follows', nobodyFollows);
    const ends = (['workspaceEvents', 'runEvents', 'runLogs', 'run'] as const).map((stream) =>
      client.subscribe(
        { query: documents[stream], variables: { id: stream === 'workspaceEvents' ? id : globalId('Probe', runId) } },
        { next: () => undefined, error: () => undefined, complete: () => undefined },
      ),
    );
    await until('all are followed', async () => (await subscribers()) === 4 && app().hub.watched === 2);
    for (const end of ends) end();
    await until('all are released', nobodyFollows);
    expect(await subscribers()).toBe(0);
  });

  test('a socket that is cut releases', async () => {
    const { id } = await workspace(server.url, ada);
    const client = socket(server.url, ada);
    client.subscribe(
      { query: documents.workspaceEvents, variables: { id } },
      { next: () => undefined, error: () => undefined, complete: () => undefined },
    );
    await until('it is followed', async () => (await subscribers()) === 1);
    client.terminate();
    await until('it is released', nobodyFollows);
    expect(await subscribers()).toBe(0);
  });

  test('unsubscribing before the stream has begun releases too', async () => {
    const { id } = await workspace(server.url, ada);
    const client = socket(server.url, ada, { lazy: false });
    onTestFinished(async () => client.dispose());
    for (let n = 0; n < 30; n++) {
      const end = client.subscribe(
        { query: documents.workspaceEvents, variables: { id } },
        { next: () => undefined, error: () => undefined, complete: () => undefined },
      );
      if (n % 3 === 1) await Promise.resolve();
      if (n % 3 === 2) await until('it has begun', async () => (await subscribers()) > 0);
      end();
    }
    await until('all are released', nobodyFollows);
    expect(await subscribers()).toBe(0);
  });
});

describe('over SSE', () => {
  test('the same stream with the same cursors; ends when the client leaves', async () => {
    const { id, cursor } = await workspace(server.url, ada);
    await append(app(), id, 3);
    const client = createClient({ url: server.url, headers: headersOf(ada), retryAttempts: 0 });
    const items: Item[] = [];
    const end = client.subscribe<{ item: Item }>(
      { query: documents.workspaceEvents, variables: { id, after: cursor } },
      {
        next: (result) => void (result.data?.item && items.push(result.data.item)),
        error: () => undefined,
        complete: () => undefined,
      },
    );
    await until('the past came', async () => items.filter((item) => item.type === noted.name).length === 3);
    await append(app(), id, 1, noted, 4);
    await until('the present came', async () => items.some((item) => item.data?.n === 4));
    const overSocket = follow('workspaceEvents', { id, after: cursor });
    await until('it came there too', async () => overSocket.noted.length === 4);
    expect(items).toEqual(overSocket.items);
    await overSocket.close();
    end();
    await until('it is released', nobodyFollows);
  });

  test('ends with its run, and a wrong cursor is a typed error', async () => {
    const { id } = await workspace(server.url, ada);
    const runId = await startRun(id);
    await (await take(runId)).finish();
    const client = createClient({ url: server.url, headers: headersOf(ada), retryAttempts: 0 });
    const items: unknown[] = [];
    for await (const result of client.iterate<{ item: Item }>({
      query: documents.runEvents,
      variables: { id: globalId('Probe', runId) },
    }))
      items.push(result.data?.item.type);
    expect(items).toEqual(['probe.queued', 'probe.working', 'probe.done']);
    const refused = [];
    for await (const result of client.iterate({ query: documents.workspaceEvents, variables: { id, after: 'x' } }))
      refused.push(result.errors?.[0]?.extensions?.['code']);
    expect(refused).toEqual(['VALIDATION_ERROR']);
    await until('nothing is held', nobodyFollows);
  });
});
