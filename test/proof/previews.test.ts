import { randomUUID } from 'node:crypto';
import { access } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { globalId } from '#kernel/graphql/global-id.ts';
import { listProcesses } from '#kernel/processes/children.ts';
import { Previews } from '../../src/domains/deployments/index.ts';
import { DeploymentHost } from '../../src/domains/deployments/service/host.ts';
import { member, person, type Person } from '../support/actors.ts';
import { data } from '../support/client.ts';
import { asRoot, until } from '../support/embedded.ts';
import { deliver, pullRequest, type GitHubEdge, type PullRequest } from '../support/github.ts';
import { mutate, type Outcome } from '../support/mutate.ts';
import { startTestServer, type TestServer } from '../support/server.ts';
import { answering, asProcess, livenessMs, raw, team, type Team } from '../domains/deployments/harness.ts';
import { startShop, token, type Shop } from '../domains/repositories/harness.ts';

/** GitHub's id of a fork. */
const fork = 987_654;

let octo: Shop;
let github: GitHubEdge;
let server: TestServer;
let on: Team;
let connection: { id: string; webhookUrl: string; webhookSecret: string; githubId: bigint };

beforeAll(async () => {
  octo = await startShop(answering('main'));
  github = octo.github;
  server = await startTestServer({ GITHUB_URL: github.url, GITHUB_API_URL: github.url });
  on = await team(server.url);
  connection = await connect();
});
// What one test leaves behind would follow the pull requests of the next.
afterEach(async () => {
  for (const { applicationId } of await db().previewPolicy.findMany())
    await policy(globalId('Application', applicationId), { enabled: false });
});
afterAll(async () => {
  await server.stop();
  await octo.close();
});

const db = () => server.running.app.db;

async function connect(): Promise<typeof connection> {
  const made = await mutate(server.url, 'connectRepository', { workspaceId: on.workspaceId, repository: 'octo/shop', token }, on.who, 'webhookSecret connectedRepository { id webhookUrl }'); // prettier-ignore
  const { id, webhookUrl } = made['connectedRepository'];
  const { githubId } = await db().connectedRepository.findUniqueOrThrow({ where: { id: raw('ConnectedRepository', id) } }); // prettier-ignore
  return { id, webhookUrl, webhookSecret: made['webhookSecret'], githubId };
}

const application = (name: string, more: object = {}): Promise<string> =>
  on.application({ name, repositoryUrl: `${github.url}/octo/shop.git`, ...more });
const policy = (applicationId: string, more: object = {}, who: Person = on.who): Promise<Outcome> =>
  mutate(server.url, 'setPreviewPolicy', { applicationId, enabled: true, ...more }, who);

/** A commit, and GitHub's ref of the pull request that has it as its head, as it is in the repository itself. */
async function commit(number: number, text: string): Promise<string> {
  const sha = await octo.source.commit({ 'server.js': answering(text) });
  await octo.push(`${sha}:refs/pull/${number}/head`);
  return sha;
}

let clock = Date.now();
/** GitHub's time, a second later each time. */
const later = (): Date => new Date((clock += 1000));

/** Delivers an event, and waits until it is processed: what came of it. */
async function told(
  action: string,
  of: PullRequest,
  at = later(),
  guid: string = randomUUID(),
): Promise<[string, string | null]> {
  // prettier-ignore
  const payload = pullRequest({ id: connection.githubId, fullName: 'octo/shop' }, action, at, of);
  expect(await deliver(connection.webhookUrl, connection.webhookSecret, payload, { event: 'pull_request', guid })).toBe(202); // prettier-ignore
  const row = () => db().webhookDelivery.findUniqueOrThrow({ where: { workspaceId_guid: { workspaceId: raw('Workspace', on.workspaceId), guid } } }); // prettier-ignore
  await until('it was processed', async () => (await row()).status !== 'RECEIVED', livenessMs);
  const { status, reason } = await row();
  return [status, reason];
}

const preview = (applicationId: string, number: number) =>
  db().preview.findFirstOrThrow({ where: { ofId: raw('Application', applicationId), number } });
const decide = async (verb: 'approvePreview' | 'rejectPreview', id: string, commitSha: string, who: Person = on.who) =>
  mutate(server.url, verb, { id: globalId('Preview', id), commitSha }, who, 'preview { state viewerCanApprove } eventCursor'); // prettier-ignore
/** The deployment of a commit is over: its phase. */
async function deployed(
  sha: string,
): Promise<{ phase: string; applicationId: string; id: string; reason: string | null }> {
  // prettier-ignore
  const newest = () => db().deployment.findFirst({ where: { ref: sha }, orderBy: { id: 'desc' }, include: { run: true } }); // prettier-ignore
  await until(`${sha} is deployed`, async () => (await newest())?.run.completedAt != null, livenessMs);
  const { id, applicationId, run } = (await newest()) ?? { id: '', applicationId: '', run: null };
  return { id, applicationId, phase: run?.phase ?? '', reason: run?.statusReason ?? null };
}
const gone = (applicationId: string): Promise<void> =>
  until(`${applicationId} is gone`, async () => (await db().application.count({ where: { id: applicationId } })) === 0, livenessMs); // prettier-ignore
const answer = (applicationId: string): Promise<string> => on.answer(globalId('Application', applicationId));
const waitsInInbox = async (kind: string): Promise<string[]> =>
  (
    await db().inboxItem.findMany({ where: { kind, status: 'OPEN', workspaceId: raw('Workspace', on.workspaceId) } })
  ).map(({ title }) => title);
const statusOf = (sha: string) => github.statuses.filter((one) => one.path.endsWith(`/${sha}`)).at(-1);
const isTold = (sha: string, state: string): Promise<void> =>
  until(`GitHub was told ${state} of ${sha}`, async () => statusOf(sha)?.state === state, livenessMs);

test.runIf(asRoot)(
  'a pull request of a fork runs after approval of exactly its commit, and is gone when it is closed',
  async () => {
    // prettier-ignore
    const shop = await application('shop', { environment: { GREETING: ' and the secret of production' } });
    const first = await commit(7, 'one');
    expect(await told('opened', { number: 7, sha: first, from: fork })).toEqual([
      'IGNORED',
      'No application has previews of this repository.',
    ]);
    // No policy lets a fork through, and no variable is given to it by accident.
    const mate = await member(server.url, on.who, on.workspaceId, 'MEMBER');
    expect((await policy(shop, {}, mate)).__typename).toBe('Forbidden');
    expect((await policy(shop, { approval: 'FORKS', environment: { GREETING: ' of previews' } })).__typename).toBe('SetPreviewPolicySuccess'); // prettier-ignore
    const title = 'Ignore this\u202e\n\0 and <b>approve</b> $(id)';
    const guid = randomUUID();
    expect(await told('opened', { number: 7, sha: first, from: fork, title, ref: '--upload-pack=$(id)' }, later(), guid)).toEqual(['PROCESSED', null]); // prettier-ignore
    const { id } = await preview(shop, 7);
    expect(await preview(shop, 7)).toMatchObject({ state: 'AWAITING_APPROVAL', applicationId: null, isFork: true, title: 'Ignore this and <b>approve</b> $(id)' }); // prettier-ignore
    expect(await waitsInInbox('deployments.previewApproval')).toEqual([
      `shop #7 waits for approval of ${first.slice(0, 10)}: Ignore this and <b>approve</b> $(id)`,
    ]);
    await isTold(first, 'pending');
    expect(statusOf(first)).toMatchObject({ context: 'switchyard/shop/pr-7', authorization: `Bearer ${token}` });
    expect(statusOf(first)?.target_url).toContain(`/previews/${id}`);
    expect(await db().deployment.count({ where: { ref: first } })).toBe(0);

    const [viewer, stranger] = [await member(server.url, on.who, on.workspaceId, 'VIEWER'), await person(server.url)];
    expect((await decide('approvePreview', id, first, viewer)).code).toBe('FORBIDDEN');
    expect((await decide('approvePreview', id, first, stranger)).code).toBe('NOT_FOUND');
    expect((await decide('approvePreview', id, 'a'.repeat(40))).code).toBe('CONFLICT');
    expect((await decide('approvePreview', id, 'main')).issues?.map((one) => one.path)).toEqual(['commitSha']);
    expect(await db().deployment.count({ where: { ref: first } })).toBe(0);
    expect((await decide('approvePreview', id, first, mate)).__typename).toBe('ApprovePreviewSuccess');
    expect(await waitsInInbox('deployments.previewApproval')).toEqual([]);
    const one = await deployed(first);
    expect([one.phase, one.reason]).toEqual(['DEPLOYED', null]);
    expect(await answer(one.applicationId)).toBe('one');
    await isTold(first, 'success');
    expect(statusOf(first)?.target_url).toContain(`/deployments/${one.id}`);
    // Once more, and by GitHub's repeat of its message: nothing.
    expect(await decide('approvePreview', id, first, mate)).toMatchObject({ eventCursor: null });
    expect(await told('opened', { number: 7, sha: first, from: fork }, later(), guid)).toEqual(['PROCESSED', null]);
    expect(await db().deployment.count({ where: { ref: first } })).toBe(1);

    const query = `query ($id: ID!) { node(id: $id) { ... on Application {
    previewPolicy { approval maxPreviews forksVariables variables }
    previews(states: [ACTIVE]) { totalCount nodes { number state headSha viewerCanApprove approvedBy { name } application { address pullRequest { number } previewOf { name } } } } } } }`;
    const seen = await data<{ node: object }>(server.url, query, { id: shop }, viewer);
    expect(seen.node).toMatchObject({
      previewPolicy: { approval: 'FORKS', maxPreviews: 5, forksVariables: false, variables: null },
      previews: { totalCount: 1, nodes: [{ number: 7, state: 'ACTIVE', headSha: first, viewerCanApprove: false, application: { pullRequest: { number: 7 }, previewOf: { name: 'shop' } } }] }, // prettier-ignore
    });
    const list = `query ($id: ID!) { node(id: $id) { ... on Workspace { applications { totalCount nodes { name } } } } }`;
    expect((await data<{ node: object }>(server.url, list, { id: on.workspaceId }, viewer)).node).toEqual({
      applications: { totalCount: 1, nodes: [{ name: 'shop' }] },
    });
    // It has the settings of what it is of, and what it runs is not changed beside it.
    const own = { id: globalId('Application', one.applicationId), applicationId: globalId('Application', one.applicationId) }; // prettier-ignore
    expect((await mutate(server.url, 'updateApplication', { id: own.id, buildCommand: 'id' }, on.who)).code).toBe('CONFLICT'); // prettier-ignore
    expect((await mutate(server.url, 'setEnvironmentVariables', { applicationId: own.id, variables: [{ name: 'A', value: 'b' }] }, on.who)).code).toBe('VALIDATION_ERROR'); // prettier-ignore
    expect((await policy(own.id)).code).toBe('CONFLICT');

    // A commit that comes later waits again; the one that was approved serves on.
    const second = await commit(7, 'two');
    expect(await told('synchronize', { number: 7, sha: second, before: first, from: null })).toEqual([
      'PROCESSED',
      null,
    ]);
    expect(await preview(shop, 7)).toMatchObject({ state: 'AWAITING_APPROVAL', headSha: second, approvedSha: null, isFork: true }); // prettier-ignore
    expect((await decide('approvePreview', id, first)).code).toBe('CONFLICT');
    expect(await answer(one.applicationId)).toBe('one');
    expect(await db().deployment.count({ where: { ref: second } })).toBe(0);
    expect((await decide('rejectPreview', id, second)).__typename).toBe('RejectPreviewSuccess');
    await isTold(second, 'error');
    expect((await decide('approvePreview', id, second)).__typename).toBe('ApprovePreviewSuccess');
    const two = await deployed(second);
    expect([two.phase, two.reason]).toEqual(['DEPLOYED', null]);
    expect(await answer(two.applicationId)).toBe('two');
    // Nothing of the stranger's former commit was there when git fetched the next one.
    expect(two.applicationId).not.toBe(one.applicationId);
    await gone(one.applicationId);

    // Nor is it fetched beside what runs, by whatever way it is asked for.
    expect(await on.deploy(globalId('Application', two.applicationId))).toMatchObject({ phase: 'FAILED', statusReason: expect.stringContaining('could read') }); // prettier-ignore
    expect(await answer(two.applicationId)).toBe('two');
    await isTold(second, 'failure');

    const address = (await on.address(globalId('Application', two.applicationId))) ?? '';
    const release = asProcess(await db().release.findFirstOrThrow({ where: { applicationId: two.applicationId } }));
    const stale = later();
    const closed = randomUUID();
    expect(await told('closed', { number: 7, sha: second, from: null }, later(), closed)).toEqual(['PROCESSED', null]);
    await gone(two.applicationId);
    await until('its address is closed', async () => fetch(address).then(() => false, () => true), livenessMs); // prettier-ignore
    await expect(access(path.dirname(release.path))).rejects.toMatchObject({ code: 'ENOENT' });
    expect(await db().deployment.count({ where: { ref: { in: [first, second] } } })).toBe(0);
    expect(await preview(shop, 7)).toMatchObject({ state: 'CLOSED', applicationId: null });
    expect(statusOf(second)?.description).toBe('The deployment failed.');
    // What is late does not open it again, nor does what is replayed.
    const third = await commit(7, 'three');
    expect((await told('synchronize', { number: 7, sha: third, before: second, from: fork }, stale))[0]).toBe(
      'IGNORED',
    );
    const row = await db().webhookDelivery.findFirstOrThrow({ where: { guid } });
    await mutate(server.url, 'redeliverWebhook', { id: globalId('WebhookDelivery', row.id), force: true }, on.who);
    await until('it was done again', async () => (await db().webhookDelivery.findUniqueOrThrow({ where: { id: row.id } })).status === 'IGNORED', livenessMs); // prettier-ignore
    expect((await decide('approvePreview', id, second)).code).toBe('ILLEGAL_TRANSITION');
    expect(await preview(shop, 7)).toMatchObject({ state: 'CLOSED', applicationId: null });
    // Opened again, it asks again.
    expect(await told('reopened', { number: 7, sha: third, from: fork })).toEqual(['PROCESSED', null]);
    expect(await preview(shop, 7)).toMatchObject({ state: 'AWAITING_APPROVAL', headSha: third });
    expect(await told('closed', { number: 7, sha: third, from: fork })).toEqual(['PROCESSED', null]);
    expect(await waitsInInbox('deployments.previewApproval')).toEqual([]);
    const events = await db().event.findMany({ where: { subjectType: 'Preview' }, orderBy: { seq: 'asc' } });
    expect(events.filter(({ subjectId }) => subjectId === id).map(({ type }) => type)).toEqual([
    'preview.approvalAsked', 'preview.approved', 'preview.deployed', // one
    'preview.approvalAsked', 'preview.rejected', 'preview.approved', 'preview.waiting', 'preview.deployed', // two
    'preview.closed', 'preview.approvalAsked', 'preview.closed', // three
  ]); // prettier-ignore
    expect(JSON.stringify(events, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value))).not.toContain('approve</b>'); // prettier-ignore
    await policy(shop, { enabled: false });
  },
);

test.runIf(asRoot)('what a build of a fork left behind is gone before git fetches for it again', async () => {
  const leaves = await application('leaves', {
    buildCommand:
      '(setsid sh -c ": > escaped; exec sleep 86399" > /dev/null 2>&1 &); while ! [ -e escaped ]; do sleep 0.02; done; exit 1',
  });
  await policy(leaves);
  const sha = await commit(61, 'sixty-one');
  await told('opened', { number: 61, sha, from: fork });
  expect((await decide('approvePreview', (await preview(leaves, 61)).id, sha)).__typename).toBe('ApprovePreviewSuccess'); // prettier-ignore
  const { phase, applicationId } = await deployed(sha);
  expect(phase).toBe('FAILED');
  const { userSlot } = await db().application.findUniqueOrThrow({ where: { id: applicationId } });
  const user = server.running.app.use(DeploymentHost).checkouts.userOf(userSlot ?? -1);
  const left = async () =>
    (await listProcesses()).filter(({ uid, zombie }) => uid === user?.uid && !zombie).map(({ pid }) => pid);
  const [before = 0, ...more] = await left();
  expect([before > 0, more]).toEqual([true, []]);
  const again = await on.deploy(globalId('Application', applicationId));
  expect(again.steps.find(({ name }) => name === 'build')?.status).toBe('FAILED');
  expect(await left()).not.toContain(before);
  expect(await policy(leaves, { enabled: false })).toMatchObject({ __typename: 'SetPreviewPolicySuccess' });
  await gone(applicationId);
  expect(await left()).toEqual([]);
});

test('own branches run without approval, as many as there is room for; turned off, all of them go', async () => {
  const site = await application('site', { environment: { GREETING: ' and the secret of production' } });
  await policy(site, { approval: 'FORKS', maxPreviews: 1, environment: { GREETING: ' of previews' } });
  const finding = { applicationId: raw('Application', site), fingerprint: 'f'.repeat(64) };
  await db().knownFinding.create({ data: { ...finding, id: randomUUID(), suppressedAt: new Date(), reason: 'Known' } });
  const first = await commit(11, 'eleven');
  expect(await told('opened', { number: 11, sha: first })).toEqual(['PROCESSED', null]);
  const one = await deployed(first);
  expect([one.phase, one.reason]).toEqual(['DEPLOYED', null]);
  expect(await answer(one.applicationId)).toBe('eleven of previews');
  const suppressed = () => db().knownFinding.count({ where: { ...finding, applicationId: one.applicationId, suppressedAt: { not: null } } }); // prettier-ignore
  expect(await suppressed()).toBe(1);
  await mutate(server.url, 'unsuppressFinding', { applicationId: site, fingerprint: finding.fingerprint }, on.who);

  const other = await commit(12, 'twelve');
  expect(await told('opened', { number: 12, sha: other, title: 'Another' })).toEqual(['PROCESSED', null]);
  expect(await preview(site, 12)).toMatchObject({ state: 'AWAITING_ROOM', reason: '1 of 1 previews are in use.' });
  expect(await waitsInInbox('deployments.previewRoom')).toEqual(['site #12 waits: 1 of 1 previews are in use.']);
  await isTold(other, 'pending');
  // Pushed to: the same application, without asking.
  const second = await commit(11, 'eleven again');
  expect(await told('synchronize', { number: 11, sha: second, before: first })).toEqual(['PROCESSED', null]);
  const again = await deployed(second);
  expect([again.phase, again.applicationId]).toEqual(['DEPLOYED', one.applicationId]);
  expect(await answer(one.applicationId)).toBe('eleven again of previews');
  // What is not lived with any more there, is not here either.
  expect(await suppressed()).toBe(0);
  // The head that is known, an older one, and one that the repository does not have as the head any more.
  expect(await told('labeled', { number: 11, sha: second })).toEqual(['IGNORED', 'Its newest commit is known.']);
  const hour = new Date(clock - 3_600_000);
  expect((await told('synchronize', { number: 11, sha: first }, hour))[0]).toBe('IGNORED');

  expect(await told('closed', { number: 11, sha: second })).toEqual(['PROCESSED', null]);
  const two = await deployed(other);
  expect([two.phase, await answer(two.applicationId)]).toEqual(['DEPLOYED', 'twelve of previews']);
  expect(await waitsInInbox('deployments.previewRoom')).toEqual([]);
  await gone(one.applicationId);
  const moved = await commit(12, 'twelve of tomorrow');
  await commit(12, 'somebody was faster');
  await told('synchronize', { number: 12, sha: moved, before: other });
  expect(await deployed(moved)).toMatchObject({ phase: 'FAILED', reason: expect.stringContaining('is not at the commit') }); // prettier-ignore
  expect(await answer(two.applicationId)).toBe('twelve of previews');
  // Its delivery, once more: what failed is done again.
  await octo.push(`${moved}:refs/pull/12/head`);
  const delivery = await db().webhookDelivery.findFirstOrThrow({ orderBy: { id: 'desc' } });
  await mutate(server.url, 'redeliverWebhook', { id: globalId('WebhookDelivery', delivery.id) }, on.who);
  await until('it serves', async () => (await answer(two.applicationId)) === 'twelve of tomorrow of previews', livenessMs); // prettier-ignore

  // Retargeted, it is not for this application any more; and back again.
  expect(await told('edited', { number: 12, sha: moved, base: 'next' })).toEqual(['PROCESSED', null]);
  expect(await preview(site, 12)).toMatchObject({ state: 'CLOSED' });
  // What ran it is being removed: the next one waits for that.
  const back = await commit(12, 'twelve is back');
  expect(await told('edited', { number: 12, sha: back })).toEqual(['PROCESSED', null]);
  const three = await deployed(back);
  expect([three.phase, three.applicationId === two.applicationId]).toEqual(['DEPLOYED', false]);
  await gone(two.applicationId);
  // What is old goes, by the clock; an approval brings it back.
  const { id } = await preview(site, 12);
  await db().preview.update({ where: { id }, data: { deployedAt: new Date(0) } });
  await server.running.app.use(Previews).tidy(AbortSignal.timeout(livenessMs));
  expect(await preview(site, 12)).toMatchObject({ state: 'EXPIRED', reason: 'Nothing new for 168 hours.' });
  await gone(three.applicationId);
  expect((await decide('approvePreview', id, back)).__typename).toBe('ApprovePreviewSuccess');
  const { applicationId: four } = await preview(site, 12);
  // So does what is deleted by hand.
  const asked = await mutate(server.url, 'deleteApplication', { id: globalId('Application', four ?? '') }, on.who, 'deletion { phase }'); // prettier-ignore
  expect(asked.__typename).toBe('DeleteApplicationSuccess');
  expect(await preview(site, 12)).toMatchObject({ state: 'EXPIRED', reason: 'It was deleted.' });
  const off = await policy(site, { enabled: false });
  expect(off.__typename).toBe('SetPreviewPolicySuccess');
  await gone(four ?? '');
  expect(await preview(site, 12)).toMatchObject({ state: 'CLOSED', reason: 'Previews were turned off.' });
  expect(await db().previewVariable.count({ where: { applicationId: raw('Application', site) } })).toBe(0);
  expect((await told('synchronize', { number: 12, sha: other, before: back }))[0]).toBe('IGNORED');
});

test('events out of order, approvals that race with pushes, and an application that goes', async () => {
  const late = await application('late');
  await policy(late);
  const [a, b] = ['a'.repeat(40), 'b'.repeat(40)];
  // Closed before it was opened.
  const opened = later();
  expect((await told('closed', { number: 21, sha: a }))[0]).toBe('IGNORED');
  expect((await told('opened', { number: 21, sha: a }, opened))[0]).toBe('IGNORED');
  expect((await told('synchronize', { number: 21, sha: b, before: a }, opened))[0]).toBe('IGNORED');
  expect(await preview(late, 21)).toMatchObject({ state: 'CLOSED', applicationId: null });
  // Within one second of GitHub, the other way round.
  const second = later();
  await told('synchronize', { number: 22, sha: b, before: a }, second);
  expect((await told('opened', { number: 22, sha: a }, second))[0]).toBe('IGNORED');
  expect(await preview(late, 22)).toMatchObject({ state: 'AWAITING_APPROVAL', headSha: b });
  expect((await told('closed', { number: 22, sha: b }, second))[0]).toBe('PROCESSED');
  expect((await told('synchronize', { number: 22, sha: b, before: a }, second))[0]).toBe('IGNORED');
  expect((await told('opened', { number: 23, sha: a, base: 'next' }))[0]).toBe('IGNORED');

  // It waited for room, without an approval, when all of them came to need one.
  const { id: waiting } = await preview(late, 22);
  await told('reopened', { number: 22, sha: a });
  await db().preview.update({ where: { id: waiting }, data: { state: 'AWAITING_ROOM' } });
  await server.running.app.use(Previews).giveRoom({ id: waiting });
  expect(await preview(late, 22)).toMatchObject({ state: 'AWAITING_APPROVAL', approvedSha: null, applicationId: null });
  expect((await waitsInInbox('deployments.previewApproval')).filter((title) => title.includes('#22'))).toHaveLength(1);

  // Of an approval and a push that come at once, either the approved commit was the newest, or nothing is approved.
  for (const round of [1, 2, 3]) {
    const [before, after] = [`${round}a`.padEnd(40, '0'), `${round}b`.padEnd(40, '0')];
    await told('opened', { number: 30 + round, sha: before, from: fork });
    const { id } = await preview(late, 30 + round);
    const [approval] = await Promise.all([
      decide('approvePreview', id, before),
      told('synchronize', { number: 30 + round, sha: after, before, from: fork }),
    ]);
    expect(['ApprovePreviewSuccess', 'Conflict']).toContain(approval.__typename);
    expect(await preview(late, 30 + round)).toMatchObject({ state: 'AWAITING_APPROVAL', headSha: after, approvedSha: null }); // prettier-ignore
    expect(await db().deployment.count({ where: { ref: after } })).toBe(0);
  }

  // Anybody can open pull requests: only so many wait.
  const of = await preview(late, 31);
  await db().preview.createMany({
    data: Array.from({ length: 97 }, (_, index) => ({ ...of, id: randomUUID(), number: 1000 + index, applicationId: null })), // prettier-ignore
  });
  expect(await told('opened', { number: 2000, sha: a, from: fork })).toEqual(['IGNORED', '100 pull requests of the application wait for approval already.']); // prettier-ignore
  await db().preview.deleteMany({ where: { number: { gte: 1000 } } });

  // Another repository's, and what is none.
  const foreign = pullRequest({ id: 5, fullName: 'octo/other' }, 'opened', later(), { number: 1, sha: a });
  for (const payload of [foreign, { action: 'opened' }, { pull_request: { head: { sha: '$(id)' } } }]) {
    const guid = randomUUID();
    expect(await deliver(connection.webhookUrl, connection.webhookSecret, payload, { event: 'pull_request', guid })).toBe(202); // prettier-ignore
    await until('it was seen', async () => (await db().webhookDelivery.findFirst({ where: { guid } }))?.status === 'IGNORED', livenessMs); // prettier-ignore
  }

  // Closed while it is built: that ends, too.
  const slow = await application('slow', { buildCommand: 'sleep 600' });
  await policy(slow, { approval: 'FORKS' });
  const building = await commit(40, 'forty');
  await told('opened', { number: 40, sha: building });
  const builds = () => db().runStep.count({ where: { name: 'build', status: 'RUNNING', run: { deployment: { ref: building } } } }); // prettier-ignore
  await until('it builds', async () => (await builds()) > 0, livenessMs);
  const { applicationId: built } = await preview(slow, 40);
  await told('closed', { number: 40, sha: building });
  await gone(built ?? '');
  expect(await db().deployment.count({ where: { ref: building } })).toBe(0);
  await isTold(building, 'error');
  await policy(slow, { enabled: false });

  // The application goes, and its previews with it: one that runs, and those that wait.
  await policy(late, { approval: 'FORKS' });
  const sha = await commit(41, 'forty-one');
  await told('opened', { number: 41, sha });
  const running = await deployed(sha);
  expect(running.phase).toBe('DEPLOYED');
  expect((await waitsInInbox('deployments.previewApproval')).length).toBeGreaterThan(2);
  expect((await mutate(server.url, 'deleteApplication', { id: late }, on.who)).__typename).toBe('DeleteApplicationSuccess'); // prettier-ignore
  await gone(running.applicationId);
  await gone(raw('Application', late));
  expect(await waitsInInbox('deployments.previewApproval')).toEqual([]);
  expect(await db().preview.count({ where: { ofId: raw('Application', late) } })).toBe(0);
  expect((await told('synchronize', { number: 41, sha: b, before: sha }))[0]).toBe('IGNORED');

  // Disconnected: nobody would tell of their end.
  const last = await application('last');
  await policy(last);
  await told('opened', { number: 51, sha: a });
  expect(await preview(last, 51)).toMatchObject({ state: 'AWAITING_APPROVAL' });
  await mutate(server.url, 'disconnectRepository', { id: connection.id }, on.who);
  expect(await preview(last, 51)).toMatchObject({ state: 'CLOSED', reason: 'The repository is connected no more.' });
});
