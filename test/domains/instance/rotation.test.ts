import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { anonymous, system } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { Mail } from '#kernel/mail/mail.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { Instance } from '../../../src/domains/instance/index.ts';
import { testDatabase, type TestDatabase } from '../../support/database.ts';
import { until } from '../../support/embedded.ts';
import { keptLog } from '../../support/http.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { key, kids, livenessMs, operator, rotate, rotated, rotation, sealed, withKeys } from './support.ts';

const [k1, k2] = [key('k1'), key('k2')];

let database: TestDatabase;
const servers: TestServer[] = [];
beforeAll(async () => {
  database = await testDatabase();
});
beforeEach(async () => {
  for (const server of servers.splice(0)) await server.stop();
});
afterAll(async () => {
  for (const server of servers) await server.stop();
  await database.drop();
});

/** A server with these keys, the current one first. */
async function started(
  role: 'api' | 'worker',
  keys: readonly string[],
  options: Parameters<typeof startTestServer>[1] = {},
) {
  const server = await startTestServer(withKeys(role, keys), options, database);
  servers.push(server);
  return { server, app: server.running.app };
}
const worker = (keys: readonly string[], options: Parameters<typeof startTestServer>[1] = {}) =>
  started('worker', keys, options);
/** One that was not restarted with the new keys yet. It takes no runs. */
const oldProcess = () => started('api', [k1]);

test('everything is put under the current key; then it opens without the old one, and a second time there is nothing to do', async () => {
  const first = await oldProcess();
  await sealed(first.app, 250);
  await first.server.stop();
  const { app, server } = await worker([k2, k1]);
  const done = await rotated(app, await rotate(app));
  expect(done).toMatchObject({ status: 'SUCCEEDED', phase: 'ROTATED', workspaceId: instanceWorkspaceId, progress: 1 });
  expect(done.keyRotation).toMatchObject({
    keyId: 'k2',
    columns: { 'mail.content': { rewrapped: 250, failed: 0 }, 'mail.recipient': { rewrapped: 250, failed: 0 } },
  });
  expect(await kids(app)).toEqual(['k2']);
  const again = await rotated(app, await rotate(app));
  expect(again.status).toBe('SUCCEEDED');
  expect(again.keyRotation?.columns).toMatchObject({ 'mail.content': { rewrapped: 0, failed: 0 } });
  await server.stop();
  const after = await worker([k2]);
  const mails = await after.app.use(Mail).outbox();
  expect(new Set(mails.map(({ text }) => text)).size).toBe(250);
  expect(mails.every(({ to, text }) => to === `person-${text.replace('secret ', '')}@example.com`)).toBe(true);
});

test('writers who go on meanwhile win: what they wrote stays, and what is left of theirs is found', async () => {
  const first = await oldProcess();
  const ids = await sealed(first.app, 400);
  const { app } = await worker([k2, k1]);
  // One process was not restarted yet and goes on sealing by the old key; it ends before the rotation does.
  const old = first.app.use(Sealing);
  const written = new Map<string, string>();
  const stop = new AbortController();
  const writer = (async () => {
    for (let round = 0; !stop.signal.aborted; round++) {
      const id = ids[(round * 7) % ids.length] ?? '';
      const text = `rewritten ${round}`;
      const content = await old.seal(JSON.stringify({ subject: 'Hello', text }), `mail.content:${id}`);
      await first.app.db.mail.update({ where: { id }, data: { content } });
      written.set(id, text);
    }
  })();
  const run = await rotate(app);
  await until(
    'some are done',
    async () => {
      const columns = (await rotation(app, run)).keyRotation?.columns as
        Record<string, { rewrapped: number }> | undefined;
      return Object.values(columns ?? {}).some(({ rewrapped }) => rewrapped >= 100);
    },
    livenessMs,
  ).finally(() => stop.abort());
  await writer;
  await first.server.stop();
  expect(written.size).toBeGreaterThan(0);
  const done = await rotated(app, run);
  expect(done.statusReason ?? 'Still sealed by other keys').toMatch(/^Still sealed by other keys/);
  // Whatever the race left: after one more everything is done, and nothing that was written is lost.
  expect(await rotated(app, await rotate(app))).toMatchObject({ status: 'SUCCEEDED' });
  expect(await kids(app)).toEqual(['k2']);
  const byId = new Map((await app.use(Mail).outbox()).map(({ id, text }) => [id, text]));
  expect(byId.size).toBe(400);
  for (const [id, text] of written) expect(byId.get(id)).toBe(text);
});

test('a row that somebody holds for a moment is done by a later pass', async () => {
  const first = await oldProcess();
  const ids = await sealed(first.app, 5);
  const { app } = await worker([k2, k1]);
  const run = await first.app.transact(system, async (tx) => {
    await tx.db.$queryRaw`select 1 from mail where id = ${ids[2]}::uuid for update`;
    const id = await rotate(app);
    const count = async () => (await rotation(app, id)).keyRotation?.columns;
    await until('the others are done', async () => JSON.stringify(await count()).includes('"rewrapped":4'), livenessMs);
    return id;
  });
  expect(await rotated(app, run)).toMatchObject({
    status: 'SUCCEEDED',
    keyRotation: { columns: { 'mail.content': { rewrapped: 5, failed: 0 } } },
  });
});

test('values that do not open are reported, named in the log, and keep the old key from being given up', async () => {
  const first = await oldProcess();
  const [moved = '', damaged = '', good = ''] = await sealed(first.app, 3);
  const { content } = await first.app.db.mail.findUniqueOrThrow({ where: { id: good } });
  await first.app.db.mail.update({ where: { id: moved }, data: { content } });
  await first.app.db.mail.update({ where: { id: damaged }, data: { content: 'v1.k3.AAAA.AAAA.AAAA' } });
  const { app } = await worker([k2, k1]);
  const id = await rotate(app);
  const done = await rotated(app, id);
  expect(done).toMatchObject({
    status: 'FAILED',
    phase: 'FAILED',
    keyRotation: { columns: { 'mail.content': { rewrapped: 1, failed: 2 }, 'mail.recipient': { rewrapped: 3 } } },
  });
  expect(done.statusReason).toBe(
    'Still sealed by other keys, which must stay configured: 1 of mail.content by the key k1, 1 of mail.content by the key k3.',
  );
  const lines = await app.db.logLine.findMany({ where: { runId: id } });
  for (const row of [moved, damaged]) expect(lines.some(({ text }) => text.includes(row))).toBe(true);
});

test('a worker that was not restarted with the new key does nothing', async () => {
  const old = await worker([k1]);
  await sealed(old.app, 3);
  const { app } = await started('api', [k2, k1]);
  const refused = await rotated(app, await rotate(app));
  expect(refused).toMatchObject({ status: 'FAILED', phase: 'FAILED', keyRotation: { keyId: 'k2', columns: {} } });
  expect(refused.statusReason).toContain('current encryption key is k1, not k2');
  expect(await kids(app)).toEqual(['k1']);
});

test('is for operators only, once for an idempotency key', async () => {
  const { app } = await worker([k2]);
  const instance = app.use(Instance);
  await expect(instance.rotateEncryptionKeys(anonymous, {})).rejects.toMatchObject({ code: 'UNAUTHENTICATED' });
  const stranger = { ...operator, roles: new Map([[randomUUID(), 'OWNER' as const]]) };
  await expect(instance.rotateEncryptionKeys(stranger, {})).rejects.toMatchObject({ code: 'NOT_FOUND' });
  const lower = { ...operator, roles: new Map([[instanceWorkspaceId, 'ADMIN' as const]]) };
  await expect(instance.rotateEncryptionKeys(lower, {})).rejects.toMatchObject({ code: 'FORBIDDEN' });
  const input = { idempotencyKey: 'once' };
  const [one, two] = [
    await instance.rotateEncryptionKeys(operator, input),
    await instance.rotateEncryptionKeys(operator, input),
  ];
  expect(two.id).toBe(one.id);
  expect((await rotated(app, one.id)).actorId).toBe(operator.userId);
});

test('a start without a key that values need says so loudly, for each column and key, and starts', async () => {
  const first = await oldProcess();
  await sealed(first.app, 3);
  await first.server.stop();
  const { log, lines } = keptLog('info');
  const { app } = await worker([k2], { log });
  const said = () => lines.filter(({ level, msg }) => level >= 50 && msg.startsWith('ENCRYPTION KEY MISSING'));
  await until('it was said', async () => said().length >= 2);
  expect(said().map(({ column, kid, values }) => [column, kid, values])).toEqual([
    ['mail.content', 'k1', 3],
    ['mail.recipient', 'k1', 3],
  ]);
  await expect(app.use(Mail).outbox()).rejects.toMatchObject({ code: 'SEALING_KEY_UNKNOWN', kid: 'k1' });
  // What needs no old key works.
  expect(
    await app.transact(system, (tx) => app.use(Mail).send(tx, { to: 'a@b.org', subject: 's', text: 't' })),
  ).toBeTruthy();
  const quiet = keptLog('info');
  await (await worker([k2, k1], { log: quiet.log })).server.stop();
  expect(quiet.lines.some(({ msg }) => msg.startsWith('ENCRYPTION KEY MISSING'))).toBe(false);
});
