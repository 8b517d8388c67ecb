import { createHash } from 'node:crypto';
import { access, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { isAlive } from '../../../src/kernel/processes/children.ts';
import { Quotas } from '../../../src/domains/deployments/service/quotas.ts';
import { DeploymentSettings } from '../../../src/domains/deployments/service/shared.ts';
import { member, person, type Person } from '../../support/actors.ts';
import { data } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { startTestServer, testFolder, type TestServer } from '../../support/server.ts';
import { operator } from '../instance/support.ts';
import { answering, asProcess, livenessMs, plain, raw, repository, team, type Team } from './harness.ts';

let server: TestServer;
let folder: string;
let on: Team;
beforeAll(async () => {
  folder = await testFolder();
  server = await startTestServer({ SWITCHYARD_DISK_INTERVAL_S: '2' });
  on = await team(server.url);
});
afterAll(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});
const db = () => server.running.app.db;

interface Answer {
  readonly __typename: string;
  readonly code?: string;
  readonly issues?: readonly { readonly path: string }[];
  readonly deletion?: { readonly id: string };
}

async function mutate(verb: string, fields: string, input: object, who: Person = on.who): Promise<Answer> {
  const name = verb.charAt(0).toUpperCase() + verb.slice(1);
  const answer = await data<Record<string, Answer>>(
    server.url,
    `mutation ($input: ${name}Input!) { ${verb}(input: $input) { __typename ... on ${name}Success { ${fields} } ... on ValidationError { issues { path } } ... on Error { code } } }`,
    { input },
    who,
  );
  return answer[verb] as Answer;
}
const update = (input: object, who?: Person) => mutate('updateApplication', 'application { id }', input, who);
const remove = (id: string, who?: Person) => mutate('deleteApplication', 'deletion { id }', { id }, who);

interface History {
  readonly activations: readonly {
    readonly endedAt: string | null;
    readonly environmentVersion: number;
    readonly release: { readonly id: string };
    readonly deployment: { readonly id: string; readonly trigger: string };
  }[];
  readonly releases: {
    readonly nodes: readonly {
      readonly id: string;
      readonly artifactId: string;
      readonly deployment: { readonly id: string };
      readonly rollbackProblem: string | null;
      readonly viewerCanRollback: boolean;
      readonly restarts: number;
      readonly crashLoopedAt: string | null;
    }[];
  };
}
async function history(id: string, who: Person = on.who): Promise<History> {
  const { node } = await data<{ node: History }>(
    server.url,
    `query ($id: ID!) { node(id: $id) { ... on Application {
      activations { endedAt environmentVersion release { id } deployment { id trigger } }
      releases(first: 10) { edges { node { id } } nodes { id artifactId deployment { id } rollbackProblem viewerCanRollback restarts crashLoopedAt } } } } }`,
    { id },
    who,
  );
  return node;
}

/** Serves until it is told to die, and then dies at each start. */
const mortal = (text: string): string => `
const { existsSync, writeFileSync } = require('node:fs');
const mark = process.env.HOME + '/dead';
if (existsSync(mark)) process.exit(1);
require('node:http').createServer((request, response) => {
  if (request.url === '/die') writeFileSync(mark, '');
  // Once the answer is out.
  response.end(${JSON.stringify(text)}, () => request.url === '/die' && process.exit(1));
}).listen(Number(process.env.PORT), '127.0.0.1');
`;

test('a release that crashes again and again is replaced by the one before it, and that one by none', async () => {
  const source = await repository(folder, 'mortal');
  await source.commit({ ...plain, 'server.js': mortal('one') });
  const id = await on.application({ name: 'mortal', repositoryUrl: source.url });
  expect(await update({ id, crashLoopRestarts: 1 })).toMatchObject({ __typename: 'UpdateApplicationSuccess' });
  const first = await on.deploy(id);
  await source.commit({ 'server.js': mortal('two') });
  const second = await on.deploy(id);
  expect(second).toMatchObject({ phase: 'DEPLOYED' });
  const before = await history(id);
  const [newest, oldest] = before.releases.nodes;
  expect(newest).toMatchObject({ deployment: { id: second.id }, viewerCanRollback: false });
  expect(newest?.rollbackProblem).toBe('This release serves already.');
  expect(oldest).toMatchObject({ deployment: { id: first.id }, viewerCanRollback: true, rollbackProblem: null });
  expect(oldest?.artifactId).toBe(`${raw('Run', first.id)}.1`);
  const viewer = await member(server.url, on.who, on.workspaceId, 'VIEWER');
  expect((await history(id, viewer)).releases.nodes[1]).toMatchObject({
    viewerCanRollback: false,
    rollbackProblem: null,
  });

  expect(await on.answer(id, '/die')).toBe('two');
  await until('the first one serves', async () => (await on.answer(id).catch(() => '')) === 'one', livenessMs);
  const told = () => db().event.findMany({ where: { type: 'application.crashLooped' }, orderBy: { seq: 'asc' } });
  await until('it is over', async () => (await db().run.count({ where: { completedAt: null } })) === 0, livenessMs);
  const [event] = await told();
  const automatic = await db().run.findFirstOrThrow({ where: { trigger: 'AUTOMATIC_ROLLBACK' } });
  expect(automatic).toMatchObject({ phase: 'DEPLOYED', actorId: null });
  expect(event?.data).toMatchObject({ releaseId: newest?.id, deploymentId: automatic.id, restarts: 1 });
  const after = await history(id);
  expect(after.activations.map(({ release, deployment, endedAt }) => [release.id, deployment.trigger, endedAt === null])).toEqual([
    [oldest?.id, 'AUTOMATIC_ROLLBACK', true],
    [newest?.id, 'API', false],
    [oldest?.id, 'API', false],
  ]); // prettier-ignore
  expect(after.releases.nodes[0]?.crashLoopedAt).not.toBeNull();

  // No ping-pong: what the server had brought back is left alone.
  await on.answer(id, '/die');
  await until('that is told, too', async () => (await told()).length === 2, livenessMs);
  expect((await told())[1]?.data).toMatchObject({ releaseId: oldest?.id, deploymentId: null });
  await until('it was started again since', async () => ((await history(id)).releases.nodes[1]?.restarts ?? 0) > 2, livenessMs); // prettier-ignore
  expect(await db().run.count({ where: { trigger: 'AUTOMATIC_ROLLBACK' } })).toBe(1);
  expect(await told()).toHaveLength(2);
  await on.stopApplication(id);
});

test('settings change for the next deployment, and only for those who may', async () => {
  const source = await repository(folder, 'changing');
  await source.commit({ ...plain, 'server.js': answering('a') });
  const id = await on.application({ name: 'changing', repositoryUrl: source.url, buildCommand: 'exit 1' });
  await on.application({ name: 'taken', repositoryUrl: source.url });
  expect(await update({ id, name: 'taken' })).toMatchObject({ code: 'CONFLICT' });
  for (const [field, value] of [
    ['repositoryUrl', 'ext::sh -c id'],
    ['branch', '--upload-pack=id'],
    ['healthCheckPath', 'no-slash'],
    ['memoryMb', 9_999_999],
    ['retainedReleases', 0],
    ['crashLoopWindowS', 1],
    ['environment', { LD_PRELOAD: 'x' }],
  ] as const)
    expect((await update({ id, [field]: value })).issues?.map((issue) => issue.path)).toEqual([field]);
  const [viewer, stranger] = [await member(server.url, on.who, on.workspaceId, 'VIEWER'), await person(server.url)];
  expect(await update({ id, name: 'mine' }, viewer)).toMatchObject({ code: 'FORBIDDEN' });
  expect(await update({ id, name: 'mine' }, stranger)).toMatchObject({ code: 'NOT_FOUND' });
  expect(await update({ id, name: 'changed', buildCommand: null, environment: { GREETING: '!' } })).toMatchObject({ __typename: 'UpdateApplicationSuccess' }); // prettier-ignore
  expect(await on.deploy(id)).toMatchObject({ phase: 'DEPLOYED' });
  expect(await on.answer(id)).toBe('a!');
});

test('a deletion ends and removes everything, what is being built included', async () => {
  const source = await repository(folder, 'doomed');
  await source.commit({ ...plain, 'server.js': answering('doomed') });
  const id = await on.application({
    name: 'doomed',
    repositoryUrl: source.url,
    environment: { SECRET: 'of the doomed' },
  });
  expect(await on.deploy(id)).toMatchObject({ phase: 'DEPLOYED' });
  const address = (await on.address(id)) ?? '';
  const uuid = raw('Application', id);
  const release = asProcess(await db().release.findFirstOrThrow({ where: { applicationId: uuid } }));
  await update({ id, buildCommand: 'echo begun; sleep 600' });
  const building = await on.createDeployment({ applicationId: id });
  await until(
    'it builds',
    async () => (await db().runStep.count({ where: { runId: raw('Run', building.deployment?.id ?? ''), name: 'build', status: 'RUNNING' } })) > 0,
    livenessMs,
  ); // prettier-ignore
  const [mate, stranger] = [await member(server.url, on.who, on.workspaceId, 'MEMBER'), await person(server.url)];
  expect(await remove(id, mate)).toMatchObject({ code: 'FORBIDDEN' });
  expect(await remove(id, stranger)).toMatchObject({ code: 'NOT_FOUND' });
  const asked = await remove(id);
  expect(asked).toMatchObject({ __typename: 'DeleteApplicationSuccess' });
  expect(await remove(id)).toMatchObject({ deletion: { id: asked.deletion?.id } });
  expect(await on.createDeployment({ applicationId: id })).toMatchObject({ code: 'CONFLICT' });
  expect((await on.retry(building.deployment?.id ?? '')).__typename).not.toBe('RetryRunSuccess');
  const deletion = () => db().run.findUniqueOrThrow({ where: { id: raw('Run', asked.deletion?.id ?? '') } });
  await until('it is deleted', async () => (await deletion()).completedAt !== null, livenessMs);
  expect(await deletion()).toMatchObject({ phase: 'REMOVED', statusReason: null, progress: 1 });

  expect(await isAlive({ pid: release.pid ?? 0, startTime: release.startTime ?? '' })).toBe(false);
  await until('its address is closed', async () => fetch(address).then(() => false, () => true), livenessMs); // prettier-ignore
  await expect(access(path.dirname(release.path))).rejects.toMatchObject({ code: 'ENOENT' });
  const { rows } = await server.running.app.database.pool.query<{ left: number }>(
    `select (select count(*) from application where id = $1) + (select count(*) from deployment where application_id = $1)
       + (select count(*) from release where application_id = $1) + (select count(*) from activation where application_id = $1)
       + (select count(*) from environment_variable where application_id = $1) + (select count(*) from environment_version where application_id = $1)
       + (select count(*) from run where kind = 'Deployment' and input->>'applicationId' = $1::text)
       + (select count(*) from run_lock where key = 'application:' || $1::text)
       + (select count(*) from log_line where run_id not in (select id from run)) as left`,
    [uuid],
  );
  expect(Number(rows[0]?.left)).toBe(0);
  // The name is free, and so is the rest.
  expect(await on.create({ name: 'doomed', repositoryUrl: source.url })).toMatchObject({ __typename: 'CreateApplicationSuccess' }); // prettier-ignore
  const text = await data<object>(server.url, `query ($id: ID!) { node(id: $id) { ... on ApplicationDeletion { phase applicationName applicationId } } }`, { id: asked.deletion?.id }, on.who); // prettier-ignore
  expect(text).toMatchObject({ node: { phase: 'REMOVED', applicationName: 'doomed', applicationId: id } });
});

test('a workspace has what operators allow it: applications are refused, deployments wait', async () => {
  const source = await repository(folder, 'limited');
  await source.commit({ ...plain, 'server.js': answering('limited') });
  const other = await team(server.url);
  const workspaceId = raw('Workspace', other.workspaceId);
  const quotas = server.running.app.use(Quotas);
  // An owner of the workspace is no operator of the server.
  const mine = { workspaceId: other.workspaceId, maxApplications: 9 };
  expect(await mutate('setWorkspaceQuota', 'eventCursor', mine, other.who)).toMatchObject({ code: 'NOT_FOUND' });
  await quotas.set(operator, { workspaceId, maxApplications: 2, maxConcurrentDeployments: 1, retainedReleases: 1 });
  const gate = path.join(folder, 'open');
  const slow = { repositoryUrl: source.url, buildCommand: `while ! [ -e ${gate} ]; do sleep 0.05; done` };
  const made = await Promise.all(['a', 'b', 'c', 'd'].map((name) => other.create({ name, ...slow })));
  expect(made.map(({ code }) => code ?? 'made').toSorted()).toEqual([
    'QUOTA_EXCEEDED',
    'QUOTA_EXCEEDED',
    'made',
    'made',
  ]);
  const [a = '', b = ''] = made.flatMap(({ application }) => application?.id ?? []);
  expect(await update({ id: a, retainedReleases: 2 }, other.who)).toMatchObject({ code: 'QUOTA_EXCEEDED' });

  const state = async (run: string) =>
    (await data<{ node: { status: string; queuePosition: number | null } }>(server.url, `query ($id: ID!) { node(id: $id) { ... on Deployment { status queuePosition } } }`, { id: run }, other.who)).node; // prettier-ignore
  const first = (await other.createDeployment({ applicationId: a })).deployment?.id ?? '';
  await until('the first one runs', async () => (await state(first)).status === 'RUNNING', livenessMs);
  const second = (await other.createDeployment({ applicationId: b })).deployment?.id ?? '';
  const quota = async () =>
    (await data<{ node: { deploymentQuota: object } }>(server.url, `query ($id: ID!) { node(id: $id) { ... on Workspace { deploymentQuota { maxApplications applications maxConcurrentDeployments concurrentDeployments retainedReleases } } } }`, { id: other.workspaceId }, other.who)).node.deploymentQuota; // prettier-ignore
  // One of another workspace passes: what waits for room holds nobody up.
  const fast = await on.application({ name: 'passes', repositoryUrl: source.url });
  expect(await on.deploy(fast)).toMatchObject({ phase: 'DEPLOYED' });
  expect(await state(second)).toEqual({ status: 'QUEUED', queuePosition: 1 });
  // Whoever looks whether there is room, and finds none, says when: it is not woken again at once.
  const waiting = { where: { id: raw('Deployment', second) } };
  await db().$executeRaw`update run set updated_at = 'epoch' where id = ${waiting.where.id}::uuid`;
  await until(
    'it was looked at',
    async () => (await db().run.findUniqueOrThrow(waiting)).updatedAt.getTime() > 0,
    livenessMs,
  );
  expect(await state(second)).toEqual({ status: 'QUEUED', queuePosition: 1 });
  expect(await quota()).toEqual({ maxApplications: 2, applications: 2, maxConcurrentDeployments: 1, concurrentDeployments: 1, retainedReleases: 1 }); // prettier-ignore
  await writeFile(gate, '');
  expect(await other.over(first)).toMatchObject({ phase: 'DEPLOYED' });
  expect(await other.over(second)).toMatchObject({ phase: 'DEPLOYED' });
  expect((await state(second)).queuePosition).toBeNull();
  // One is kept beside the one that serves.
  await other.deploy(a);
  await other.deploy(a);
  await until(
    'the oldest one is gone',
    async () => (await db().release.count({ where: { applicationId: raw('Application', a), prunedAt: null } })) === 2,
    livenessMs,
  );
});

test('disk is measured: a workspace that has as much as it may is told, and builds nothing more', async () => {
  const own = await team(server.url);
  const workspaceId = raw('Workspace', own.workspaceId);
  const source = await repository(folder, 'large');
  await source.commit({
    ...plain,
    'server.js': answering('large'),
    'noise.txt': createHash('shake256', { outputLength: 3 * 2 ** 19 })
      .update('1')
      .digest('hex'),
  });
  const id = await own.application({ name: 'large', repositoryUrl: source.url });
  expect(await own.deploy(id)).toMatchObject({ phase: 'DEPLOYED' });
  const quota = async () =>
    (
      await data<{ node: { deploymentQuota: { diskMb: number; maxDiskMb: number } } }>(
        own.url,
        'query ($id: ID!) { node(id: $id) { ... on Workspace { deploymentQuota { diskMb maxDiskMb } } } }',
        { id: own.workspaceId },
        own.who,
      )
    ).node.deploymentQuota;
  await until('it is measured', async () => (await quota()).diskMb >= 3, livenessMs);
  const inbox = () => db().inboxItem.findMany({ where: { workspaceId, status: 'OPEN' } });
  expect(await inbox()).toEqual([]);

  const quotas = server.running.app.use(Quotas);
  await quotas.set(operator, { workspaceId, maxDiskMb: 3 });
  await until('it is told', async () => (await inbox()).length > 0, livenessMs);
  expect(await inbox()).toMatchObject([{ kind: 'deployments.disk', subjectId: workspaceId }]);
  const refused = await own.deploy(id);
  expect(refused).toMatchObject({ phase: 'FAILED' });
  expect(refused.statusReason).toMatch(/^The workspace may have 3 MiB of disk for its applications, and has \d+\.$/);
  expect(await own.answer(id)).toBe('large');
  // Nobody else is held back.
  const other = await team(server.url);
  expect(await other.deploy(await other.application({ name: 'beside', repositoryUrl: source.url }))).toMatchObject({ phase: 'DEPLOYED' }); // prettier-ignore

  await quotas.set(operator, { workspaceId, maxDiskMb: 1_000 });
  await until('it is over', async () => (await inbox()).length === 0, livenessMs);
  // A host's own disk is looked at before each build.
  const settings = server.running.app.use(DeploymentSettings) as { minFreeDiskMb: number };
  const { minFreeDiskMb } = settings;
  onTestFinished(() => void (settings.minFreeDiskMb = minFreeDiskMb));
  settings.minFreeDiskMb = 1_000_000_000;
  expect(await own.deploy(id)).toMatchObject({ phase: 'FAILED', statusReason: 'Less than 1000000000 MiB are free on the disk of the host.' }); // prettier-ignore
});
