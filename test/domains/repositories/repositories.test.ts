import { randomUUID, generateKeyPairSync } from 'node:crypto';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { newId } from '#kernel/ids.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { member, person, workspace, type Person } from '../../support/actors.ts';
import { data } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { Deliveries } from '../../../src/domains/repositories/service/deliveries.ts';
import { Statuses } from '../../../src/domains/repositories/service/statuses.ts';
import { deliver, pullRequest, push, type GitHubEdge } from '../../support/github.ts';
import { mutate, type Outcome } from '../../support/mutate.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { livenessMs, raw, serving, team, type Team } from '../deployments/harness.ts';
import { startShop, token, type Shop } from './harness.ts';

const personal = 'gho_ofGrace';

let octo: Shop;
let github: GitHubEdge;
let server: TestServer;
let on: Team;

beforeAll(async () => {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const pem = privateKey.export({ type: 'pkcs1', format: 'pem' }).toString();
  octo = await startShop(serving('one'), {
    tokens: [personal],
    repos: [
      { owner: 'octo', name: 'installed' },
      { owner: 'octo', name: 'open' },
    ],
    apps: [
      {
        app_id: 4711,
        slug: 'switchyard',
        name: 'Switchyard',
        private_key: pem,
        permissions: { contents: 'read', statuses: 'write' },
        installations: [
          { installation_id: 99, account: 'octo', repository_selection: 'selected', repositories: ['octo/installed'] },
        ],
      },
    ],
  });
  github = octo.github;
  server = await startTestServer({
    GITHUB_URL: github.url,
    GITHUB_API_URL: github.url,
    GITHUB_APP_ID: '4711',
    GITHUB_APP_PRIVATE_KEY: pem.replaceAll('\n', '\\n'),
  });
  on = await team(server.url);
});
afterAll(async () => {
  await server.stop();
  await octo.close();
});

const db = () => server.running.app.db;

/** Commits, and pushes to where GitHub has it. */
async function pushed(text: string): Promise<string> {
  const sha = await octo.source.commit({ 'server.js': serving(text) });
  await octo.push('main');
  return sha;
}

const connect = (workspaceId: string, name: string, who: Person, given?: string): Promise<Outcome> =>
  mutate(server.url, 'connectRepository', { workspaceId, repository: name, token: given }, who, 'webhookSecret connectedRepository { id webhookUrl access isPrivate fullName cloneUrl }'); // prettier-ignore

/** Links somebody with GitHub, as signing in there does. */
async function linked(who: Person): Promise<Person> {
  const id = newId();
  await db().externalIdentity.create({
    data: {
      id,
      userId: raw('User', who.id),
      provider: 'github',
      subject: id,
      token: await server.running.app.use(Sealing).seal(personal, `external_identity.token:${id}`),
    },
  });
  return who;
}

const statusesOf = (sha: string) => github.statuses.filter((one) => one.path.endsWith(`/${sha}`));
const told = (sha: string, state: string) =>
  until(`GitHub was told ${state} of ${sha}`, async () => statusesOf(sha).at(-1)?.state === state, livenessMs);

test('a private repository is connected; a signed push deploys it, and GitHub is told, though it was down', async () => {
  const made = await connect(on.workspaceId, 'octo/shop', on.who, token);
  expect(made).toMatchObject({
    __typename: 'ConnectRepositorySuccess',
    connectedRepository: {
      access: 'TOKEN',
      isPrivate: true,
      fullName: 'octo/shop',
      cloneUrl: `${github.url}/octo/shop.git`,
    },
  });
  const { id, webhookUrl } = made['connectedRepository'];
  const row = await db().connectedRepository.findUniqueOrThrow({ where: { id: raw('ConnectedRepository', id) } });
  expect(JSON.stringify(row, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value))).not.toContain(
    token,
  );
  expect((await connect(on.workspaceId, 'octo/shop', on.who, token)).__typename).toBe('Conflict');

  const applicationId = await on.application({ name: 'shop', repositoryUrl: `${github.url}/octo/shop.git` });
  const sha = await pushed('two');
  github.failStatuses(2);
  const guid = randomUUID();
  const repositoryOf = { id: row.githubId, fullName: 'octo/shop' };
  // Names that JavaScript knows mean nothing in it.
  const body = JSON.stringify(push(repositoryOf, sha)).replace('{', '{"__proto__":{"ref":"x"},"constructor":{"a":1},');
  expect(await deliver(webhookUrl, made['webhookSecret'], body, { guid })).toBe(202);
  const deployment = async () => db().deployment.findFirst({ where: { ref: sha }, include: { run: true } });
  await until('the push deployed', async () => (await deployment())?.run.phase === 'DEPLOYED', livenessMs);
  expect(await on.answer(applicationId)).toBe('two');
  await told(sha, 'success');
  expect(statusesOf(sha).every(({ context, authorization }) => context === 'switchyard/shop' && authorization === `Bearer ${token}`)).toBe(true); // prettier-ignore
  const { id: runId } = (await deployment()) ?? { id: '' };
  expect(statusesOf(sha).at(-1)?.target_url).toContain(`/deployments/${runId}`);
  const statusOf = () => db().commitStatus.findUniqueOrThrow({ where: { id: runId } });
  // It is written down after GitHub was told.
  await until('the row says so', async () => (await statusOf()).state === 'SUCCESS', livenessMs);
  const status = await statusOf();
  expect([status.state, status.error, status.attempts >= 3]).toEqual(['SUCCESS', null, true]);
  const lines = await db().logLine.findMany({ where: { runId } });
  expect(lines.length).toBeGreaterThan(0);
  expect(lines.some(({ text }) => text.includes(token))).toBe(false);

  // Everybody of the workspace sees the delivery; nobody else does.
  const query = `query ($id: ID) { webhookDeliveries(workspaceId: $id) { totalCount nodes { guid event status reason attempts ref fullName } } }`;
  const seen = async (who: Person) =>
    (await data<{ webhookDeliveries: { totalCount: number } }>(server.url, query, { id: on.workspaceId }, who))
      .webhookDeliveries;
  expect(await seen(await member(server.url, on.who, on.workspaceId, 'VIEWER'))).toEqual({
    totalCount: 1,
    nodes: [{ guid, event: 'push', status: 'PROCESSED', reason: null, attempts: 1, ref: 'refs/heads/main', fullName: 'octo/shop' }], // prettier-ignore
  });
  expect(await seen(await person(server.url))).toEqual({ totalCount: 0, nodes: [] });

  // A commit that does not become healthy, and a new secret, next to which the one before is good.
  const broken = await octo.source.commit({ 'server.js': 'process.exit(1)' });
  await octo.push('main');
  const rotated = await mutate(server.url, 'rotateWebhookSecret', { id }, on.who, 'webhookSecret');
  expect(rotated['webhookSecret']).not.toBe(made['webhookSecret']);
  // Whoever read the secret before somebody else changed it is told so, and nothing is lost.
  const sealing = server.running.app.use(Sealing);
  vi.spyOn(sealing, 'openText').mockImplementationOnce(async () => {
    const { webhookSecret } = await db().connectedRepository.findUniqueOrThrow({ where: { id: row.id } });
    const plain = await sealing.openText(webhookSecret, `connected_repository.webhook_secret:${row.id}`);
    await db().connectedRepository.update({
      where: { id: row.id },
      data: { webhookSecret: await sealing.seal(plain, `connected_repository.webhook_secret:${row.id}`) },
    });
    return plain;
  });
  expect((await mutate(server.url, 'rotateWebhookSecret', { id }, on.who, 'webhookSecret')).__typename).toBe(
    'Conflict',
  );
  expect(await deliver(webhookUrl, made['webhookSecret'], push(repositoryOf, broken))).toBe(202);
  await told(broken, 'failure');
  expect(await deliver(webhookUrl, rotated['webhookSecret'], { zen: 'z' }, { event: 'ping' })).toBe(202);
  await db().connectedRepository.update({ where: { id: row.id }, data: { formerUntil: new Date(0) } });
  expect(await deliver(webhookUrl, made['webhookSecret'], { zen: 'z' }, { event: 'ping' })).toBe(401);

  expect((await mutate(server.url, 'disconnectRepository', { id }, on.who)).__typename).toBe(
    'DisconnectRepositorySuccess',
  );
  expect(await deliver(webhookUrl, rotated['webhookSecret'], { zen: 'z' }, { event: 'ping' })).toBe(401);
  const without = await on.deploy(applicationId);
  expect([without.phase, without.statusReason]).toEqual(['FAILED', expect.stringContaining('cannot be read')]);
});

test('who connects a repository reaches it with what is theirs, and may push to it', async () => {
  const grace = await linked(await person(server.url, 'Grace'));
  const { id: workspaceId } = await workspace(server.url, grace);
  const query = '{ repositories { nextPage repositories { fullName isPrivate mayPush } } }';
  const list = async (who: Person) =>
    (await data<{ repositories: { repositories: unknown[] } | null }>(server.url, query, {}, who)).repositories;
  expect((await list(grace))?.repositories).toContainEqual({ fullName: 'octo/open', isPrivate: false, mayPush: true });
  expect(await list(on.who)).toBeNull();

  expect((await connect(workspaceId, 'octo/open', grace))['connectedRepository'].access).toBe('PERSON');
  expect((await connect(workspaceId, 'octo/installed', grace))['connectedRepository'].access).toBe('INSTALLATION');
  expect((await connect(workspaceId, 'octo/none', grace)).code).toBe('REPOSITORY_NOT_REACHED');
  expect((await connect(workspaceId, '../octo', grace)).issues?.map((one) => one.path)).toEqual(['repository']);
  expect((await connect(on.workspaceId, 'octo/open', on.who)).code).toBe('REPOSITORY_NOT_REACHED');
  const maintainer = await member(server.url, grace, workspaceId, 'MEMBER');
  expect((await connect(workspaceId, 'octo/open', maintainer, token)).__typename).toBe('Forbidden');
  expect((await connect(workspaceId, 'octo/open', on.who, token)).__typename).toBe('NotFound');

  // What is said of a commit is said with a token of the installation, and with that of a person as long as they lend it.
  const commit = 'a'.repeat(40);
  const app = (name: string, repo: string) =>
    mutate(server.url, 'createApplication', { workspaceId, name, repositoryUrl: `${github.url}/octo/${repo}` }, grace, 'application { id }'); // prettier-ignore
  const deploy = async (made: Outcome): Promise<Outcome> =>
    mutate(server.url, 'createDeployment', { applicationId: made['application'].id, ref: commit }, grace, 'deployment { id }'); // prettier-ignore
  await deploy(await app('installed', 'installed'));
  const open = await app('open', 'open');
  const first = raw('Run', (await deploy(open))['deployment'].id);
  const toldBy = (repo: string) => statusesOf(commit).filter((one) => one.path.includes(`/octo/${repo}/`));
  await until('both are told', async () => toldBy('installed').length > 0 && toldBy('open').length > 0, livenessMs);
  expect(toldBy('open')[0]?.authorization).toBe(`Bearer ${personal}`);
  expect(toldBy('installed')[0]?.authorization).toMatch(/^Bearer ghs_/);

  // Of two deployments of a commit the newer one has the last word, whoever of them is late.
  const toldOf = (runId: string) => toldBy('open').filter(({ target_url: url }) => url.endsWith(runId)).length;
  const ended = (id: string) => until('it ended', async () => (await db().run.findUniqueOrThrow({ where: { id } })).completedAt !== null, livenessMs); // prettier-ignore
  await ended(first);
  const second = raw('Run', (await deploy(open))['deployment'].id);
  await ended(second);
  await until('GitHub knows', async () => (await db().commitStatus.findUnique({ where: { id: second } }))?.state === 'FAILURE', livenessMs); // prettier-ignore
  await db().commitStatus.updateMany({ where: { id: { in: [first, second] } }, data: { state: null } });
  const before = [toldOf(first), toldOf(second)];
  for (const id of [second, first]) await server.running.app.use(Statuses).report(id, AbortSignal.timeout(livenessMs));
  expect(toldOf(first)).toBe(before[0]);
  expect(toldOf(second)).toBeGreaterThan(before[1] ?? 0);
});

test('each pull request has a status of its own; its preview goes when the application is deployed from elsewhere', async () => {
  const others = await team(server.url);
  const made = await connect(others.workspaceId, 'octo/open', others.who, token);
  const { id, webhookUrl } = made['connectedRepository'];
  const { githubId } = await db().connectedRepository.findUniqueOrThrow({ where: { id: raw('ConnectedRepository', id) } }); // prettier-ignore
  const ofId = await others.application({ name: 'site', repositoryUrl: `${github.url}/octo/open.git` });
  await mutate(server.url, 'setPreviewPolicy', { applicationId: ofId, enabled: true }, others.who);
  // Two that have one head commit.
  const sha = 'f'.repeat(40);
  const numbers = [3, 4];
  let at = Date.now();
  const tell = async (action: string, number: number) => {
    const guid = randomUUID();
    const event = pullRequest({ id: githubId, fullName: 'octo/open' }, action, new Date((at += 1000)), { number, sha });
    await deliver(webhookUrl, made['webhookSecret'], event, { event: 'pull_request', guid });
    const row = () => db().webhookDelivery.findFirstOrThrow({ where: { guid } });
    await until('it was processed', async () => (await row()).status !== 'RECEIVED', livenessMs);
    return (await row()).status;
  };
  for (const number of numbers) expect(await tell('opened', number)).toBe('PROCESSED');
  const toldOf = (number: number) => statusesOf(sha).findLast(({ context }) => context === `switchyard/site/pr-${number}`)?.state; // prettier-ignore
  for (const number of numbers) await until('it is pending', async () => toldOf(number) === 'pending', livenessMs);

  // One of them runs.
  const previews = () => db().preview.findMany({ where: { ofId: raw('Application', ofId) }, orderBy: { number: 'asc' } }); // prettier-ignore
  const [first] = await previews();
  const runs = await others.application({ name: 'site-pr-3', repositoryUrl: `${github.url}/octo/open.git` });
  await db().preview.update({ where: { id: first?.id ?? '' }, data: { state: 'ACTIVE', applicationId: raw('Application', runs) } }); // prettier-ignore
  const update = (input: object) => mutate(server.url, 'updateApplication', { id: ofId, ...input }, others.who);
  // The same, written otherwise.
  expect((await update({ repositoryUrl: `${github.url}/octo/Open/`, branch: 'main' })).__typename).toBe('UpdateApplicationSuccess'); // prettier-ignore
  expect((await previews()).map(({ state }) => state)).toEqual(['ACTIVE', 'AWAITING_APPROVAL']);
  expect((await update({ repositoryUrl: `${github.url}/octo/installed.git` })).__typename).toBe('UpdateApplicationSuccess'); // prettier-ignore
  const closed = { state: 'CLOSED', reason: 'The application is deployed from elsewhere now.' };
  expect(await previews()).toMatchObject([closed, closed]);
  for (const number of numbers) await until('it is over', async () => toldOf(number) === 'error', livenessMs);
  const waiting = { workspaceId: raw('Workspace', others.workspaceId), status: 'OPEN' as const };
  expect(await db().inboxItem.count({ where: waiting })).toBe(0);
  await until('what ran it is gone', async () => (await db().application.count({ where: { id: raw('Application', runs) } })) === 0, livenessMs); // prettier-ignore
  expect(await tell('reopened', 3)).toBe('IGNORED');

  // Back again, and then of another branch.
  await update({ repositoryUrl: `${github.url}/octo/open` });
  expect(await tell('reopened', 3)).toBe('PROCESSED');
  expect(await previews()).toMatchObject([{ state: 'AWAITING_APPROVAL' }, closed]);
  await update({ branch: 'next' });
  expect(await previews()).toMatchObject([closed, closed]);
});

test('of old deliveries the bodies are forgotten, later all of it, in batches that a signal ends', async () => {
  const { prune } = server.running.app.use(Deliveries);
  const day = 24 * 3_600_000;
  const aged = (days: number, count: number) =>
    Array.from({ length: count }, () => ({
      workspaceId: raw('Workspace', on.workspaceId),
      guid: randomUUID(),
      event: 'push',
      status: 'PROCESSED' as const,
      payload: '{}',
      createdAt: new Date(Date.now() - days * day),
    }));
  await db().webhookDelivery.createMany({ data: [...aged(5000, 501), ...aged(0, 1)] });
  const [kept] = await db().webhookDelivery.createManyAndReturn({ data: aged(31, 1) });
  await expect(prune(AbortSignal.abort(new Error('enough')))).rejects.toThrow('enough');
  const { bodies, deliveries } = await prune(AbortSignal.timeout(livenessMs));
  expect([bodies, deliveries]).toEqual([1, 501]);
  expect(await db().webhookDelivery.findUnique({ where: { id: kept?.id ?? '' } })).toMatchObject({ payload: null });
  expect(await prune(AbortSignal.timeout(livenessMs))).toEqual({ bodies: 0, deliveries: 0 });
});

test('applications of one name on one repository have statuses of their own, which stay', async () => {
  const statuses = server.running.app.use(Statuses);
  const githubId = 424_242n;
  const others = await Promise.all([1, 2, 3].map(() => team(server.url)));
  const apps = await Promise.all(
    [on, ...others].map(async (one) => {
      const id = raw(
        'Application',
        await one.application({ name: 'twin', repositoryUrl: `${github.url}/octo/twin.git` }),
      );
      return db().application.findUniqueOrThrow({ where: { id }, include: { workspace: true } });
    }),
  );
  const ask = () => Promise.all(apps.map((one) => statuses.contextOf(one, githubId, null)));
  const [first, ...later] = [await ask(), await ask()];
  // All at once: one of them has the name alone.
  expect(later).toEqual([first]);
  expect(first?.filter((one) => one === 'switchyard/twin')).toHaveLength(1);
  const at = first?.indexOf('switchyard/twin') ?? -1;
  expect(first).toEqual(
    apps.map(({ workspace: { slug } }, n) => (n === at ? 'switchyard/twin' : `switchyard/twin@${slug}`)),
  );
  const [one, other] = [apps[at], apps.find((_, n) => n !== at)];
  if (!one || !other) throw new Error('there are not so many');
  expect(await statuses.contextOf(other, githubId, 7)).toBe(`switchyard/twin@${other.workspace.slug}/pr-7`);
  // Another repository, and a name that nobody else has: nothing is added. GitHub does not tell capital letters apart.
  const alone = { ...other, name: 'alone' };
  expect(await statuses.contextOf(alone, githubId, null)).toBe('switchyard/alone');
  expect(await statuses.contextOf({ ...one, name: 'Alone' }, githubId, null)).toBe(
    `switchyard/Alone@${one.workspace.slug}`,
  );
  // What the first one had is free, and those who have theirs keep them.
  const third = apps.find((_, n) => n !== at && apps[n] !== other);
  if (!third) throw new Error('there are not so many');
  await db().workspace.update({ where: { id: third.workspaceId }, data: { slug: `new-${third.workspace.slug}` } });
  expect(await statuses.contextOf({ ...third, workspace: { ...third.workspace, slug: 'new' } }, githubId, null)).toBe(`switchyard/twin@${third.workspace.slug}`); // prettier-ignore
  expect(await statuses.contextOf(third, 99n, null)).toBe('switchyard/twin');
});
