import { afterAll, beforeAll, expect, test } from 'vitest';
import type { RunStatus } from '#prisma';
import { jobTypes } from '../../src/kernel/jobs/define.ts';
import { instanceWorkspaceId } from '../../src/kernel/auth/instance.ts';
import { newId } from '../../src/kernel/ids.ts';
import { cleanUp, pruneEvents } from '../../src/kernel/maintenance.ts';
import { rowId } from '../../src/kernel/graphql/global-id.ts';
import { person, workspace } from '../support/actors.ts';
import { collect, socket } from '../support/client.ts';
import { append } from '../support/live.ts';
import { startTestServer, type TestServer } from '../support/server.ts';

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
});
afterAll(() => server.stop());

test('events beyond retention go, and a cursor before them meets a gap', async () => {
  const { app } = server.running;
  const owner = await person(server.url);
  const place = await workspace(server.url, owner);
  await append(app, place.id, 2);
  const workspaceId = rowId('Workspace', place.id);
  await app.db
    .$executeRaw`update event set at = now() - interval '100 days' where workspace_id = ${workspaceId}::uuid and seq <= 3`;
  expect(await pruneEvents(app, 90)).toBe(3);
  expect((await app.db.event.findMany({ where: { workspaceId } })).map(({ seq }) => seq)).toEqual([4n]);
  expect(await pruneEvents(app, 90)).toBe(0);
  const client = socket(server.url, owner);
  const items = await collect<{ workspaceEvents: { __typename: string; reason?: string; resumeAfter?: string } }>(
    client,
    `subscription ($id: ID!, $after: String) { workspaceEvents(workspaceId: $id, after: $after) { __typename ... on StreamGap { reason resumeAfter } } }`,
    { id: place.id, after: place.cursor },
    () => true,
  );
  expect(items[0]?.workspaceEvents).toMatchObject({ __typename: 'StreamGap', reason: 'PRUNED' });
  const rest = await collect<{ workspaceEvents: { __typename: string; seq?: string } }>(
    client,
    `subscription ($id: ID!, $after: String) { workspaceEvents(workspaceId: $id, after: $after) { __typename ... on Event { seq } } }`,
    { id: place.id, after: items[0]?.workspaceEvents.resumeAfter },
    () => true,
  );
  expect(String(rest[0]?.workspaceEvents.seq)).toBe('4');
  await client.dispose();
});

test('the hourly clean-up removes used-up keys and abandoned uploads, and nothing else', async () => {
  const { app } = server.running;
  const owner = await person(server.url);
  const workspaceId = rowId('Workspace', (await workspace(server.url, owner)).id);
  const old = new Date(Date.now() - 25 * 3600 * 1000);
  const artifact = (status: 'PENDING' | 'READY', createdAt: Date) => ({
    id: newId(),
    workspaceId,
    name: 'x',
    contentType: 'text/plain',
    sizeBytes: 1n,
    sha256: '0'.repeat(64),
    status,
    createdAt,
  });
  const kept = [artifact('READY', new Date()), artifact('PENDING', new Date())];
  // Nothing makes use of the first one, the second one never came.
  const gone = [artifact('READY', old), artifact('PENDING', old)];
  await app.db.artifact.createMany({ data: [...kept, ...gone] });
  const key = (name: string, createdAt: Date) => ({
    workspaceId,
    actorId: newId(),
    mutation: 'm',
    key: name,
    inputHash: '0'.repeat(64),
    resultId: newId(),
    createdAt,
  });
  await app.db.idempotencyKey.createMany({ data: [key('old', old), key('new', new Date())] });
  const job = jobTypes().get('kernel.cleanUp');
  expect(job?.cron).toBeDefined();
  await job?.handle({} as never, { app, signal: AbortSignal.timeout(60_000), attempt: 1 });
  const left = await app.db.artifact.findMany({ where: { workspaceId } });
  expect(left.map(({ id }) => id).toSorted()).toEqual(kept.map(({ id }) => id).toSorted());
  const told = await app.db.event.findMany({ where: { workspaceId, type: 'artifact.expired' } });
  expect(new Map(told.map(({ subjectId, data }) => [subjectId, (data as { reason: string }).reason]))).toEqual(
    new Map(gone.map(({ id, status }) => [id, status === 'READY' ? 'NOT_USED' : 'NOT_SENT'])),
  );
  expect((await app.db.idempotencyKey.findMany({ where: { workspaceId } })).map((one) => one.key)).toEqual(['new']);
});

test('runs of the server itself and dead letters go with the events of their time; what failed stays to be tried again', async () => {
  const { app } = server.running;
  const own = rowId('Workspace', (await workspace(server.url, await person(server.url))).id);
  const past = (days: number) => new Date(Date.now() - days * 24 * 3600 * 1000);
  const run = async (status: RunStatus, days: number, more: { workspaceId?: string; retryOfId?: string } = {}) => {
    const { id } = await app.db.run.create({
      data: {
        workspaceId: instanceWorkspaceId,
        kind: 'AccountDeletion',
        phase: 'X',
        status,
        deadlineAt: new Date(),
        completedAt: status === 'RUNNING' ? null : past(days),
        createdAt: past(days + 1),
        steps: { create: { name: 'x', position: 0 } },
        accountDeletion: { create: { receiptHash: '0'.repeat(64) } },
        ...more,
      },
    });
    await app.db.logLine.create({ data: { runId: id, seq: 1n, at: new Date(), stream: 'SYSTEM', text: 'x' } });
    return id;
  };
  const failed = await run('FAILED', 95);
  const gone = [failed, await run('SUCCEEDED', 91, { retryOfId: failed })];
  const kept = [
    await run('SUCCEEDED', 89),
    await run('FAILED', 91),
    await run('RUNNING', 91),
    await run('SUCCEEDED', 91, { workspaceId: own }),
  ];
  const letter = async (days: number) =>
    (
      await app.db.deadLetter.create({
        data: { job: 'x', payload: {}, error: 'x', attempts: 1, workspaceId: own, createdAt: past(days) },
      })
    ).id;
  const [, newer] = [await letter(91), await letter(89)];
  await cleanUp.handle({}, { app, signal: AbortSignal.timeout(60_000), attempt: 1 });
  const all = [...gone, ...kept];
  const left = await app.db.run.findMany({ where: { id: { in: all } } });
  expect(left.map(({ id }) => id).toSorted()).toEqual(kept.toSorted());
  for (const count of [
    app.db.runStep.count({ where: { runId: { in: all } } }),
    app.db.accountDeletion.count({ where: { id: { in: all } } }),
    app.db.logLine.count({ where: { runId: { in: all } } }),
  ])
    expect(await count).toBe(kept.length);
  expect((await app.db.deadLetter.findMany({ where: { workspaceId: own } })).map(({ id }) => id)).toEqual([newer]);
});
