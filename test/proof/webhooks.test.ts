import { createHmac, randomBytes, randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import type { App } from '#kernel/app.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { globalId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { data, type Auth } from '../support/client.ts';
import { until } from '../support/embedded.ts';
import { deliver, push } from '../support/github.ts';
import { mutate } from '../support/mutate.ts';
import { startTestServer, type TestServer } from '../support/server.ts';
import { application, memberOf, someone, tenant, type Tenant } from '../support/world.ts';

// Its declarations are of a module with a default export, which it is not.
const examples = createRequire(import.meta.url)('@octokit/webhooks-examples') as readonly {
  readonly name: string;
  readonly examples: readonly Readonly<Record<string, unknown>>[];
}[];

const appSecret = randomBytes(32).toString('hex');
const formerAppSecret = randomBytes(32).toString('hex');
const octocat = { id: 186_853_002, fullName: 'Codertocat/Hello-World' };
const operatorEmail = 'operator@example.com';
const sha = (digit: string): string => digit.repeat(40);

let server: TestServer;
let app: App;
beforeAll(async () => {
  server = await startTestServer({
    // Applications stand on hosts that are not here: their deployments wait.
    SWITCHYARD_PROCESS_DRIVER: 'false',
    GITHUB_WEBHOOK_SECRETS: `${appSecret},${formerAppSecret}`,
    SWITCHYARD_OPERATORS: operatorEmail,
  });
  ({ app } = server.running);
});
afterAll(() => server.stop());

interface Connected {
  readonly of: Tenant;
  readonly id: string;
  readonly secret: string;
  readonly address: string;
  readonly applicationId: string;
}

const base = (): string => new URL('/webhooks/github', server.url).href;

/** A workspace that has connected a repository, with an application that deploys its branch `main`. */
async function connected(
  repository: { id: number; fullName: string },
  more: { installationId?: number; branch?: string; in?: Tenant } = {},
): Promise<Connected> {
  const of = more.in ?? (await tenant(app, 'hooked'));
  const id = newId();
  const secret = randomBytes(32).toString('hex');
  const cloneUrl = `https://github.com/${repository.fullName}.git`;
  await app.db.connectedRepository.create({
    data: {
      id,
      workspaceId: of.id,
      githubId: BigInt(repository.id),
      fullName: repository.fullName,
      cloneUrl,
      urlKey: cloneUrl.replace(/\.git$/, '').toLowerCase(),
      isPrivate: false,
      access: more.installationId === undefined ? 'TOKEN' : 'INSTALLATION',
      installationId: more.installationId === undefined ? null : BigInt(more.installationId),
      webhookSecret: await app.use(Sealing).seal(secret, `connected_repository.webhook_secret:${id}`),
    },
  });
  const applicationId = await deploying(of, repository.fullName, more.branch);
  return { of, id, secret, address: `${base()}/${id}`, applicationId };
}

async function deploying(of: Tenant, fullName: string, branch = 'main'): Promise<string> {
  const id = await application(app, of);
  // Written as people write it.
  await app.db.application.update({ where: { id }, data: { repositoryUrl: `https://GitHub.com/${fullName}`, branch } });
  return id;
}

const deployments = (applicationId: string) =>
  app.db.deployment.findMany({ where: { applicationId }, include: { run: true }, orderBy: { id: 'asc' } });

const deliveries = (workspaceId: string) =>
  app.db.webhookDelivery.findMany({ where: { workspaceId }, orderBy: { id: 'asc' } });

/** All that was received has been processed. */
const settled = () =>
  until(
    'every delivery is processed',
    async () => (await app.db.webhookDelivery.count({ where: { status: 'RECEIVED' } })) === 0,
    60_000,
  );

const outcome = async (of: Connected, guid: string) => {
  await settled();
  const { status, reason } = await app.db.webhookDelivery.findUniqueOrThrow({
    where: { workspaceId_guid: { workspaceId: of.of.id, guid } },
  });
  return [status, reason];
};

test('of the whole corpus, signed, nothing gives a 5xx, and only branch pushes of a known repository deploy', async () => {
  const mine = await connected(octocat, { branch: 'master' });
  const all = examples.flatMap(({ name, examples: some }) => some.map((payload) => ({ event: name, payload })));
  expect(all.length).toBeGreaterThan(300);
  const statuses = new Map<number, number>();
  for (const { event, payload } of all) {
    const status = await deliver(mine.address, mine.secret, payload, { event });
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
    if (event === 'push') await settled(); // in their order: a late one would give way to a newer one
  }
  expect([...statuses]).toEqual([[202, all.length]]);
  await settled();
  const rows = await deliveries(mine.of.id);
  expect(rows).toHaveLength(all.length);
  const branchPush = ({ ref, event }: { ref: string | null; event: string }) =>
    event === 'push' && ref === 'refs/heads/master';
  const wanted = all.filter(({ event, payload }) =>
    branchPush({ event, ref: 'ref' in payload ? String(payload.ref) : null }),
  );
  expect(wanted.length).toBeGreaterThan(0);
  expect(rows.filter(({ status }) => status === 'PROCESSED').every(branchPush)).toBe(true);
  expect(rows.filter(({ status }) => status === 'PROCESSED')).toHaveLength(wanted.length);
  expect(rows.filter(({ status }) => status === 'FAILED')).toEqual([]);
  // Only what it acts on is kept whole.
  const kept = new Set(['push', 'pull_request']);
  expect(rows.filter(({ event, payload }) => !kept.has(event) && payload !== null)).toEqual([]);
  const pulls = rows.filter(({ event }) => event === 'pull_request');
  expect(pulls.length).toBeGreaterThan(10);
  expect(new Set(pulls.map(({ status, reason }) => `${status} ${reason}`))).toEqual(
    new Set(['IGNORED No application has previews of this repository.']),
  );
  const made = await deployments(mine.applicationId);
  expect(made.map(({ ref, run }) => [ref, run.trigger, run.actorId])).toEqual(
    wanted.map(() => ['6113728f27ae82c7b1a177c8d03f9e96e0adf246', 'WEBHOOK', null]),
  );
  // A newer push supersedes what has not begun.
  expect(made.map(({ run }) => run.phase)).toEqual([...wanted.slice(1).map(() => 'SUPERSEDED'), 'PENDING']);
});

test('the pull requests of the corpus, in any order, give one preview, and with the last of them it is closed', async () => {
  const mine = await connected(octocat, { branch: 'master' });
  // The corpus is of 2019.
  await app.db.previewPolicy.create({ data: { applicationId: mine.applicationId, createdAt: new Date(0) } });
  const all = examples.find(({ name }) => name === 'pull_request')?.examples ?? [];
  const send = async (payload: object) => {
    expect(await deliver(mine.address, mine.secret, payload, { event: 'pull_request' })).toBe(202);
    await settled();
  };
  const previews = () => app.db.preview.findMany({ where: { ofId: mine.applicationId } });
  const [opened] = all.filter(({ action }) => action === 'opened');
  await send(opened ?? {});
  expect(await previews()).toMatchObject([{ number: 2, state: 'AWAITING_APPROVAL', applicationId: null }]);
  for (const payload of [...all.toReversed(), ...all]) await send(payload);
  expect(await previews()).toMatchObject([{ number: 2, state: 'CLOSED', applicationId: null }]);
  const rows = await deliveries(mine.of.id);
  expect(rows.filter(({ status }) => status === 'FAILED')).toEqual([]);
  expect(await app.db.inboxItem.count({ where: { workspaceId: mine.of.id, status: 'OPEN' } })).toBe(0);
});

test('a repeat of a delivery, in turn and at once, has no second effect', async () => {
  const mine = await connected({ id: 1, fullName: 'acme/repeat' });
  const guid = randomUUID();
  const message = push({ id: 1, fullName: 'acme/repeat' }, sha('a'));
  const send = () => deliver(mine.address, mine.secret, message, { guid });
  expect(await Promise.all([send(), send(), send()])).toEqual([202, 202, 202]);
  expect(await outcome(mine, guid)).toEqual(['PROCESSED', null]);
  expect(await send()).toBe(202);
  await settled();
  expect(await deployments(mine.applicationId)).toHaveLength(1);
  expect(await deliveries(mine.of.id)).toHaveLength(1);
});

test('what is not signed by a secret of the address is refused, and leaves nothing', async () => {
  const mine = await connected({ id: 2, fullName: 'acme/refused' });
  const other = await connected({ id: 2, fullName: 'acme/refused' });
  const message = push({ id: 2, fullName: 'acme/refused' }, sha('b'));
  const body = JSON.stringify(message);
  const sha1 = `sha1=${createHmac('sha1', mine.secret).update(body).digest('hex')}`;
  const good = `sha256=${createHmac('sha256', mine.secret).update(body).digest('hex')}`;
  const signature = 'x-hub-signature-256';
  const tries = [
    deliver(mine.address, 'another secret of somebody', message),
    deliver(mine.address, other.secret, message),
    deliver(mine.address, appSecret, message),
    deliver(base(), mine.secret, message),
    deliver(`${base()}/${newId()}`, mine.secret, message),
    deliver(`${base()}/nonsense`, mine.secret, message),
    deliver(mine.address, mine.secret, message, { headers: { [signature]: '' } }),
    deliver(mine.address, mine.secret, message, { headers: { [signature]: sha1 } }),
    deliver(mine.address, mine.secret, message, { headers: { [signature]: good.slice(0, -1) } }),
    deliver(mine.address, mine.secret, message, { headers: { [signature]: '', 'x-hub-signature': sha1 } }),
    // Signed, and then changed.
    deliver(mine.address, mine.secret, `${body} `, { headers: { [signature]: good } }),
  ];
  expect(new Set(await Promise.all(tries))).toEqual(new Set([401]));
  expect(await deliveries(mine.of.id)).toEqual([]);
  expect(await deliveries(other.of.id)).toEqual([]);
  expect(await deliver(mine.address, mine.secret, message)).toBe(202);
  await settled();
  expect(await deployments(mine.applicationId)).toHaveLength(1);
  // The same repository in another workspace, which did not vouch for it.
  expect(await deployments(other.applicationId)).toEqual([]);
});

test('huge, malformed and unknown messages are answered, and do nothing', async () => {
  const mine = await connected({ id: 3, fullName: 'acme/odd' });
  const at = (payload: object | string, more = {}) => deliver(mine.address, mine.secret, payload, more);
  const large = `{"a":"${'x'.repeat(25 * 2 ** 20)}"}`;
  expect(await at(large)).toBe(413);
  for (const text of ['{', '[]', 'null', '"text"', '1', '{"a":}']) expect(await at(text)).toBe(400);
  expect(await at('{}', { headers: { 'content-type': 'application/x-www-form-urlencoded' } })).toBe(415);
  expect(await at('{}', { guid: 'no guid' })).toBe(400);
  expect(await at('{}', { event: 'Push; drop table' })).toBe(400);
  expect((await fetch(mine.address)).status).toBe(405);
  const odd = [
    [{}, 'It is no push as GitHub sends them.'],
    [
      push({ id: 3, fullName: 'acme/odd' }, sha('c'), { ref: 'refs/heads/ma\0in' }),
      'It is no push as GitHub sends them.',
    ],
    [push({ id: 3, fullName: 'acme/odd' }, 'main'), 'It is no push as GitHub sends them.'],
    [{ ref: 7, repository: 'acme/odd', action: { a: 1 } }, 'It is no push as GitHub sends them.'],
    [{ ...push({ id: 3, fullName: 'acme/odd' }, sha('c')), action: 'a\0b' }, null],
    [push({ id: 4, fullName: 'acme/odd' }, sha('c')), 'It is of another repository.'],
    [push({ id: 4, fullName: 'mallory/odd', fork: true }, sha('c')), 'It is of a fork.'],
    [push({ id: 3, fullName: 'acme/odd' }, sha('c'), { ref: 'refs/tags/main' }), 'It is a tag.'],
    [push({ id: 3, fullName: 'acme/odd' }, sha('c'), { ref: 'refs/notes/main' }), 'It is no branch.'],
    [
      push({ id: 3, fullName: 'acme/odd' }, sha('c'), { ref: 'refs/heads/other/main' }),
      'No application deploys this branch.',
    ],
    [push({ id: 3, fullName: 'acme/odd' }, sha('0'), { deleted: true }), 'The branch was deleted.'],
  ] as const;
  for (const [message, reason] of odd) {
    const guid = randomUUID();
    expect(await at(message, { guid })).toBe(202);
    expect(await outcome(mine, guid)).toEqual([reason === null ? 'PROCESSED' : 'IGNORED', reason]);
  }
  expect(await deployments(mine.applicationId)).toHaveLength(1);
  const guid = randomUUID();
  expect(await at({ zen: 'Design for failure.' }, { event: 'ping', guid })).toBe(202);
  expect(await outcome(mine, guid)).toEqual(['IGNORED', 'GitHub reaches this server.']);
});

test("the App's secret deploys where its installation is trusted, and nowhere else", async () => {
  const repository = { id: 5, fullName: 'acme/installed' };
  const [first, second, byToken, otherInstallation] = await Promise.all([
    connected(repository, { installationId: 77 }),
    connected(repository, { installationId: 77 }),
    connected(repository),
    connected(repository, { installationId: 78 }),
  ]);
  const sent = async (secret: string, commit: string, more: object) =>
    deliver(base(), secret, push(repository, commit, more));
  expect(await sent(appSecret, sha('d'), { installation: { id: 77 } })).toBe(202);
  await settled();
  // While it is rotated, the secret before is good, too.
  expect(await sent(formerAppSecret, sha('e'), { installation: { id: 77 } })).toBe(202);
  expect(await sent(appSecret, sha('f'), {})).toBe(202);
  expect(await sent(appSecret, sha('f'), { installation: { id: 79 } })).toBe(202);
  await settled();
  const refs = async ({ applicationId }: Connected) =>
    (await deployments(applicationId)).map(({ ref }) => ref).toSorted();
  expect(await refs(first)).toEqual([sha('d'), sha('e')]);
  expect(await refs(second)).toEqual([sha('d'), sha('e')]);
  expect(await refs(byToken)).toEqual([]);
  expect(await refs(otherInstallation)).toEqual([]);

  // Each workspace sees its own; what matched none, operators see, and nothing of the others.
  const seen = async (who: Auth) =>
    (
      await data<{ webhookDeliveries: { totalCount: number; nodes: { reason: string | null }[] } }>(
        server.url,
        '{ webhookDeliveries(first: 100) { totalCount nodes { reason } } }',
        {},
        who,
      )
    ).webhookDeliveries;
  expect(await seen(first.of.owner)).toEqual({ totalCount: 2, nodes: [{ reason: null }, { reason: null }] });
  expect((await seen(byToken.of.owner)).totalCount).toBe(0);
  const operator = await someone(app);
  await app.db.user.update({ where: { id: operator.id }, data: { email: operatorEmail, emailVerifiedAt: new Date() } });
  const all = await seen(operator);
  expect(all.totalCount).toBe(await app.db.webhookDelivery.count({ where: { workspaceId: instanceWorkspaceId } }));
  expect(new Set(all.nodes.map(({ reason }) => reason))).toContain('No workspace has connected this repository.');
});

test('without a secret of the App its address is closed, and that is said loudly at the start', async () => {
  const lines: string[] = [];
  const log = pino({ level: 'warn' }, { write: (line: string) => void lines.push(line) });
  const closed = await startTestServer({ SWITCHYARD_ROLES: 'api' }, { log });
  onTestFinished(() => closed.stop());
  expect(lines.some((line) => line.includes('NO WEBHOOK SECRET'))).toBe(true);
  const address = new URL('/webhooks/github', closed.url).href;
  expect(await deliver(address, appSecret, push(octocat, sha('a')))).toBe(401);
  expect(await deliver(address, 'undefined', '{}')).toBe(401);
});

test('pushes deploy only what follows them; an older one does not undo a newer one', async () => {
  const repository = { id: 6, fullName: 'acme/order' };
  const mine = await connected(repository);
  const quiet = await deploying(mine.of, repository.fullName);
  await app.db.application.update({ where: { id: quiet }, data: { autoDeploy: false } });
  const stranger = await deploying(mine.of, 'acme/other');
  const [older, newer] = [randomUUID(), randomUUID()];
  expect(await deliver(mine.address, mine.secret, push(repository, sha('1')), { guid: older })).toBe(202);
  await settled();
  expect(await deliver(mine.address, mine.secret, push(repository, sha('2')), { guid: newer })).toBe(202);
  await settled();
  expect((await deployments(mine.applicationId)).map(({ ref, run }) => [ref, run.phase])).toEqual([
    [sha('1'), 'SUPERSEDED'],
    [sha('2'), 'PENDING'],
  ]);
  expect([await deployments(quiet), await deployments(stranger)]).toEqual([[], []]);

  const who = await memberOf(app, mine.of, 'MEMBER');
  const again = async (guid: string, force?: boolean) => {
    const { id } = await app.db.webhookDelivery.findUniqueOrThrow({
      where: { workspaceId_guid: { workspaceId: mine.of.id, guid } },
    });
    const said = await mutate(server.url, 'redeliverWebhook', { id: globalId('WebhookDelivery', id), force }, who);
    expect(said.__typename).toBe('RedeliverWebhookSuccess');
    return outcome(mine, guid);
  };
  // The older one was superseded, so it has no effect that stands; the newer one keeps it from having one.
  expect(await again(older)).toEqual(['IGNORED', expect.stringContaining('A newer push was deployed already.')]);
  expect(await again(newer)).toEqual(['IGNORED', expect.stringContaining('It was deployed already.')]);
  expect(await deployments(mine.applicationId)).toHaveLength(2);
  expect((await again(older, true))[0]).toBe('PROCESSED');
  expect((await deployments(mine.applicationId)).map(({ ref }) => ref)).toEqual([sha('1'), sha('2'), sha('1')]);
});

test('a delivery that failed is tried again by itself, and a host that comes back gets it', async () => {
  const repository = { id: 8, fullName: 'acme/late' };
  const mine = await connected(repository);
  // No host at all: nothing can be placed.
  await app.db.application.update({ where: { id: mine.applicationId }, data: { hostId: null } });
  await app.db.host.updateMany({ data: { lastSeenAt: new Date(0) } });
  const guid = randomUUID();
  expect(await deliver(mine.address, mine.secret, push(repository, sha('9')), { guid })).toBe(202);
  expect(await outcome(mine, guid)).toEqual(['FAILED', expect.stringContaining('No host')]);
  await app.db.host.updateMany({ data: { lastSeenAt: new Date(Date.now() + 3_600_000) } });
  await until('it was tried again', async () => (await outcome(mine, guid))[0] === 'PROCESSED', 60_000);
  expect((await deployments(mine.applicationId)).map(({ ref }) => ref)).toEqual([sha('9')]);
});
