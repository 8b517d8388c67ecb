import { afterAll, beforeAll, expect, test } from 'vitest';
import { jobTypes } from '../../src/kernel/jobs/define.ts';
import { newId } from '../../src/kernel/ids.ts';
import { pruneEvents } from '../../src/kernel/maintenance.ts';
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
  const kept = [artifact('READY', old), artifact('PENDING', new Date())];
  await app.db.artifact.createMany({ data: [...kept, artifact('PENDING', old)] });
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
  expect((await app.db.idempotencyKey.findMany({ where: { workspaceId } })).map((one) => one.key)).toEqual(['new']);
});
