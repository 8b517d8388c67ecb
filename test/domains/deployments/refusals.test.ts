import { rm } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { member } from '../../support/actors.ts';
import { send } from '../../support/client.ts';
import { startTestServer, testFolder, type TestServer } from '../../support/server.ts';
import { plain, repository, team, type Repository, type Team } from './harness.ts';

/** Takes no deployments: nothing is told by a host. */
let server: TestServer;
let folder: string;
let on: Team;
let source: Repository;
beforeAll(async () => {
  folder = await testFolder();
  server = await startTestServer({ SWITCHYARD_ROLES: 'api', SWITCHYARD_GIT_PROTOCOLS: 'https,http,file' });
  on = await team(server.url);
  source = await repository(folder);
  await source.commit(plain);
});
afterAll(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

test('without a host that is alive nothing is queued', async () => {
  const applicationId = await on.application({ name: 'nowhere', repositoryUrl: source.url });
  expect(await on.createDeployment({ applicationId })).toMatchObject({ __typename: 'NoHost', code: 'NO_HOST' });
  // A host that was seen too long ago is as good as none.
  await server.running.app.database.pool.query(
    `insert into host (id, name, last_seen_at, agent_id, agent_until, updated_at)
     values (gen_random_uuid(), 'old', now() - interval '1 minute', gen_random_uuid(), now(), now())`,
  );
  expect(await on.createDeployment({ applicationId, idempotencyKey: 'k' })).toMatchObject({ code: 'NO_HOST' });
  expect(await on.rollback({ applicationId })).toMatchObject({ code: 'NOTHING_TO_RESTORE' });
  expect(await server.running.app.db.run.count()).toBe(0);
  expect(await server.running.app.db.idempotencyKey.count()).toBe(0);
});

const wrong: readonly (readonly [field: string, input: object])[] = [
  ['repositoryUrl', { repositoryUrl: 'https://user:secret@example.com/a.git' }],
  ['repositoryUrl', { repositoryUrl: 'git://example.com/a.git' }],
  ['repositoryUrl', { repositoryUrl: 'ext::sh -c id' }],
  ['repositoryUrl', { repositoryUrl: 'ssh://git@example.com/a.git' }],
  ['repositoryUrl', { repositoryUrl: '--upload-pack=id' }],
  ['repositoryUrl', { repositoryUrl: 'https://example.com/a.git\n' }],
  ['branch', { branch: '--upload-pack=id' }],
  ['branch', { branch: 'a..b' }],
  ['branch', { branch: 'a b' }],
  ['name', { name: 'Upper' }],
  ['name', { name: '../etc' }],
  ['healthCheckPath', { healthCheckPath: 'no-slash' }],
  ['healthCheckPath', { healthCheckPath: '/a b' }],
  ['healthCheckPath', { healthCheckPath: '/a\r\nHost: evil' }],
  ['healthTimeoutS', { healthTimeoutS: 0 }],
  ['healthTimeoutS', { healthTimeoutS: 601 }],
  ['buildCommand', { buildCommand: ' ' }],
  ['buildCommand', { buildCommand: 'x'.repeat(4001) }],
  ['environment', { environment: { LD_PRELOAD: '/tmp/evil.so' } }],
  ['environment', { environment: { BASH_ENV: '/tmp/evil.sh' } }],
  ['environment', { environment: Object.fromEntries(Array.from({ length: 201 }, (_, n) => [`N${n}`, ''])) }],
  ['environment', { environment: Object.fromEntries(Array.from({ length: 9 }, (_, n) => [`N${n}`, 'x'.repeat(32_000)])) }], // prettier-ignore
  ['environment.A-B', { environment: { 'A-B': 'x' } }],
  ['environment.LONG', { environment: { LONG: 'x'.repeat(32_769) } }],
  ['port', { port: 80 }],
  ['port', { port: 4000 }],
  ['port', { port: 5432 }],
  ['port', { port: 40_000 }],
];

test.each(wrong)('an application with a wrong %s is refused with its name: %j', async (field, input) => {
  const refused = await on.create({ name: 'fine', repositoryUrl: source.url, ...input });
  expect(refused).toMatchObject({ __typename: 'ValidationError', code: 'VALIDATION_ERROR' });
  expect(refused.issues?.map((issue) => issue.path)).toEqual([field]);
});

test('a port is one of those for addresses, and a refusal names them', async () => {
  const [from = 0, to = 0] = (server.env['SWITCHYARD_ADDRESS_PORTS'] ?? '').split('-').map(Number);
  const [instance = 0] = (server.env['SWITCHYARD_INSTANCE_PORTS'] ?? '').split('-').map(Number);
  for (const port of [from - 1, to + 1, instance, Number(new URL(server.url).port), 0, -1]) {
    const refused = await on.create({ name: 'fine', repositoryUrl: source.url, port });
    expect([port, refused.issues]).toEqual([
      port,
      [{ path: 'port', message: `must be from ${from} to ${to}: those are for addresses of applications` }],
    ]);
  }
  for (const port of [from, to]) await on.application({ name: `at-${port}`, repositoryUrl: source.url, port });
});

test('what is told back of an input is short', async () => {
  const long = 'x'.repeat(100_000);
  for (const environment of [{ [`-${long}`]: 'x' }, { [long]: 'x' }, { LD_PRELOAD: long, [`LD_${long}`]: '' }]) {
    const refused = await on.create({ name: 'fine', repositoryUrl: source.url, environment });
    expect(refused.code).toBe('VALIDATION_ERROR');
    expect(JSON.stringify(refused).length).toBeLessThan(1_000);
  }
  const environment = Object.fromEntries(Array.from({ length: 1_000 }, (_, n) => [`-${n}`, '']));
  const many = await on.create({ name: 'fine', repositoryUrl: source.url, environment });
  expect(many.issues).toHaveLength(50);
});

test('everything that is wrong is named at once', async () => {
  const refused = await on.create({
    name: 'fine',
    repositoryUrl: 'git://x/y',
    branch: '-x',
    environment: { IFS: 'x' },
  });
  expect(refused.issues?.map(({ path }) => path)).toEqual(['repositoryUrl', 'branch', 'environment']);
});

test('a name is taken once for each workspace', async () => {
  await on.application({ name: 'taken', repositoryUrl: source.url });
  expect(await on.create({ name: 'taken', repositoryUrl: source.url })).toMatchObject({ code: 'CONFLICT' });
  const other = await team(server.url);
  expect((await other.create({ name: 'taken', repositoryUrl: source.url })).__typename).toBe(
    'CreateApplicationSuccess',
  );
});

test('a hostile ref or key is refused, what belongs to others is not found, viewers may not', async () => {
  const applicationId = await on.application({ name: 'refs', repositoryUrl: source.url });
  for (const ref of ['--upload-pack=id', '../../etc/passwd', 'a b', 'HEAD', 'refs/heads/x.lock', 'x'.repeat(256)]) {
    const refused = await on.createDeployment({ applicationId, ref });
    expect([ref.slice(0, 20), refused.code]).toEqual([ref.slice(0, 20), 'VALIDATION_ERROR']);
  }
  for (const idempotencyKey of ['', 'x'.repeat(201), 'a\nb']) {
    expect(await on.createDeployment({ applicationId, idempotencyKey })).toMatchObject({ code: 'VALIDATION_ERROR' });
  }
  const other = await team(server.url);
  expect(await other.createDeployment({ applicationId })).toMatchObject({ code: 'NOT_FOUND' });
  expect(await other.rollback({ applicationId })).toMatchObject({ code: 'NOT_FOUND' });
  expect(await other.stopApplication(applicationId)).toMatchObject({ code: 'NOT_FOUND' });
  expect(await other.create({ workspaceId: on.workspaceId, name: 'x', repositoryUrl: source.url })).toMatchObject({
    code: 'NOT_FOUND',
  });
  const viewer = await member(server.url, on.who, on.workspaceId, 'VIEWER');
  const answer = await send<{ stopApplication: { code: string } }>(
    server.url,
    `mutation ($id: ID!) { stopApplication(input: { id: $id }) { __typename ... on Error { code } } }`,
    { id: applicationId },
    viewer,
  );
  expect(answer.data?.stopApplication.code).toBe('FORBIDDEN');
});
