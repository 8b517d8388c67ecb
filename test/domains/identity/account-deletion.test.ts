import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { globalId, rowId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { apiKey, workspace } from '../../support/actors.ts';
import { data, send, type Auth } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { Follower } from '../../support/live.ts';
import { spawnServer, startTestServer, type ServerProcess, type TestServer } from '../../support/server.ts';
import { rowOf, someone } from '../../support/world.ts';
import {
  account,
  accountDeleted,
  accountReceipt,
  from,
  mail,
  mutate,
  password,
  refusal,
  type Account,
} from './support.ts';

const operatorEmail = 'operator@example.com';
/** What is promised within a second: a test gives up after several times that, milliseconds. */
const withinASecondMs = 10_000;

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api', TRUST_PROXY: '1', SWITCHYARD_OPERATORS: operatorEmail });
});
afterAll(() => server.stop());

const app = () => server.running.app;
const pool = () => server.running.app.database.pool;

async function worker(): Promise<ServerProcess> {
  const started = await spawnServer({ ...server.env, SWITCHYARD_ROLES: 'worker', SWITCHYARD_RUN_LEASE_S: '4' });
  onTestFinished(() => started.kill('SIGKILL'));
  return started;
}

const join = (auth: Account, workspaceId: string, role: 'OWNER' | 'MEMBER') =>
  app().db.membership.create({
    data: { id: newId(), userId: rowId('User', auth.id), workspaceId: rowId('Workspace', workspaceId), role },
  });
const remove = (auth: Auth, input: object = { password }, headers = {}) =>
  mutate(server, 'deleteMyAccount', input, auth, 'receipt', headers);

const receiptOf = (receipt: string) => accountReceipt(server.url, receipt);
const over = (receipt: string) => accountDeleted(server.url, receipt);
const codeOf = async (auth: Auth): Promise<unknown> =>
  (await send(server.url, '{ viewer { id } }', {}, auth)).errors?.[0]?.extensions?.['code'];

/** Every row of every table of every schema, as text, by table. */
async function everything(): Promise<Map<string, string[]>> {
  const { rows: tables } = await pool().query<{ name: string }>(
    `select format('%I.%I', table_schema, table_name) as name from information_schema.tables
     where table_schema in ('public', 'pgboss') and table_type = 'BASE TABLE' order by 1`,
  );
  const found = new Map<string, string[]>();
  for (const { name } of tables) {
    const { rows } = await pool().query<{ row: string }>(`select to_jsonb(t)::text as row from ${name} t`);
    found.set(
      name,
      rows.map(({ row }) => row),
    );
  }
  return found;
}
async function tablesWith(text: string): Promise<string[]> {
  return [...(await everything())].filter(([, rows]) => rows.some((row) => row.includes(text))).map(([name]) => name);
}

describe('who may', () => {
  test('only somebody who proves once more who they are', async () => {
    const ada = await account(server);
    expect(await remove(ada, {})).toMatchObject({ __typename: 'ReauthenticationRequired', proof: 'PASSWORD' });
    expect(await remove(ada, { password: 'wrong' })).toMatchObject({ __typename: 'ReauthenticationRequired' });
    await app().db.user.update({ where: { email: ada.email }, data: { passwordHash: null } });
    await app().db.session.updateMany({
      where: { userId: rowId('User', ada.id) },
      data: { signedInAt: new Date(Date.now() - 11 * 60_000) },
    });
    expect(await remove(ada, {})).toMatchObject({ __typename: 'ReauthenticationRequired', proof: 'SIGN_IN' });
    expect(await codeOf(ada)).toBeUndefined();
  });

  test('not the last owner of workspaces, which are named; nothing happens', async () => {
    const [ada, bob] = [await account(server), await account(server, 'Bob')];
    const [one, two, shared] = [
      await workspace(server.url, ada),
      await workspace(server.url, ada),
      await workspace(server.url, ada),
    ];
    await join(bob, shared.id, 'OWNER');
    await join(bob, two.id, 'MEMBER');
    const refused = await remove(ada);
    expect(refused.__typename).toBe('LastOwnerOf');
    const named = (refused['workspaces'] as { id: string }[]).map(({ id }) => id);
    expect(named.toSorted()).toEqual([one.id, two.id].toSorted());
    expect(await codeOf(ada)).toBeUndefined();
    expect(await app().db.accountDeletion.count()).toBe(0);
  });

  test('of two owners who go at once, one; and not the other afterwards', async () => {
    for (let round = 0; round < 5; round++) {
      const [ada, bob] = [await account(server), await account(server, 'Bob')];
      const { id } = await workspace(server.url, ada);
      await join(bob, id, 'OWNER');
      const answers = await Promise.all([remove(ada), remove(bob)]);
      expect(answers.map(({ __typename }) => __typename).toSorted()).toEqual(['DeleteMyAccountSuccess', 'LastOwnerOf']);
      const left = answers[0]?.__typename === 'LastOwnerOf' ? ada : bob;
      // Whose account is being deleted is no owner any more who could stay.
      const asked = { workspaceId: id };
      expect((await mutate(server, 'leaveWorkspace', asked, left)).__typename).toBe('LastOwner');
    }
  });
});

describe('a deletion', () => {
  test('ends everything at once: sessions, keys, streams', async () => {
    const [ada, bob] = [await account(server), await account(server, 'Bob')];
    const { id } = await workspace(server.url, bob);
    await join(ada, id, 'OWNER');
    const key = await apiKey(server.url, ada, id, 'ADMIN');
    const second = await mutate(server, 'signIn', { email: ada.email, password }, {}, 'token');
    const followers = [ada, key, bob].map(
      (auth) => new Follower(server.url, auth, 'workspaceEvents', { id, after: null }),
    );
    onTestFinished(async () => void (await Promise.all(followers.map((follower) => follower.close()))));
    await until('they follow', async () => followers.every(({ items }) => items.length > 0));
    expect((await remove(ada)).__typename).toBe('DeleteMyAccountSuccess');
    await until(
      'the streams have ended',
      async () => followers.slice(0, 2).every(({ closed }) => closed !== null),
      withinASecondMs,
    );
    expect(followers.map(({ closed }) => closed?.code)).toEqual([4403, 4403, undefined]);
    for (const auth of [ada, key, { token: String(second['token']) }])
      expect(await codeOf(auth)).toBe('UNAUTHENTICATED');
    expect((await mutate(server, 'signIn', { email: ada.email, password })).__typename).toBe('SignInRefused');
    // A link that was mailed before does not open it again.
    expect((await mutate(server, 'signUp', { email: ada.email, password, name: 'Ada' })).__typename).toBe('Conflict');
  });

  test('leaves nothing of the person in any table, says what it did, and rewrites no event', async () => {
    const name = 'Philomena Quackenbush';
    const address = '203.0.113.77';
    const agent = 'Quackenbrowser/7';
    const there = { ...from(address), 'user-agent': agent };
    const ada = await account(server, name, there);
    const bob = await account(server, 'Bob');
    const userId = rowId('User', ada.id);
    const { id } = await workspace(server.url, bob);
    const workspaceId = rowId('Workspace', id);
    await join(ada, id, 'MEMBER');
    await mutate(server, 'updateProfile', { locale: 'de-AT', timeZone: 'Europe/Vienna' }, ada, '', there);
    await mutate(server, 'saveUserState', { value: { nickname: name }, expectedVersion: 0 }, ada, '', there);
    await mutate(server, 'requestPasswordReset', { email: ada.email }, {}, '', there);
    await mutate(server, 'signIn', { email: ada.email, password }, {}, '', there);
    await app().db.externalIdentity.create({
      data: { id: newId(), userId, provider: 'github', subject: 'quackenbush-4711' },
    });
    const artifact = await app().db.artifact.create({
      data: {
        id: newId(),
        workspaceId,
        createdById: userId,
        name: 'report.txt',
        contentType: 'text/plain',
        sizeBytes: 1n,
        sha256: '0'.repeat(64),
      },
    });
    await mutate(server, 'inviteMember', { workspaceId: id, email: ada.email, role: 'VIEWER' }, bob);
    // A run that she asked for.
    await rowOf['AccountDeletion']?.(app(), {
      id: workspaceId,
      slug: '',
      marker: '',
      hostId: '',
      owner: { ...ada, id: userId },
    });
    // Now it is all over the place.
    expect(await tablesWith(ada.email)).toContain('public.app_user');
    expect(await tablesWith(address)).toEqual(expect.arrayContaining(['public.origin', 'public.session']));
    const eventsBefore = (await everything()).get('public.event') ?? [];

    const { receipt } = (await remove(ada, { password }, there)) as unknown as { receipt: string };
    expect(await receiptOf(receipt)).toMatchObject({ status: 'QUEUED', completedAt: null, report: [] });
    await worker();
    const done = await over(receipt);
    expect(done.status).toBe('SUCCEEDED');
    const counts = Object.fromEntries(done.report.map(({ name: what, count }) => [what, count]));
    expect(counts).toMatchObject({
      memberships: 1,
      sessions: 2,
      externalIdentities: 1,
      profiles: 1,
      states: 1,
      artifactsAnonymised: 1,
      accounts: 1,
    });
    expect(counts['origins']).toBeGreaterThan(0);

    for (const trace of [ada.email, name, 'Quackenbush', address, agent, 'quackenbush-4711', receipt])
      expect([trace, await tablesWith(trace)]).toEqual([trace, []]);
    const after = await everything();
    expect(after.get('public.event')).toEqual(expect.arrayContaining(eventsBefore));
    expect((await app().db.artifact.findUniqueOrThrow({ where: { id: artifact.id } })).createdById).toBeNull();
    // The last mail said so.
    expect((await mail(server, ada.email, /was deleted/)).text).toContain(name);

    // What refers to the person is read without error, and tells nobody.
    const asked = `query ($id: ID!, $user: ID!) { node(id: $user) { id } workspace: node(id: $id) { ... on Workspace {
      memberships { nodes { user { id } } } runs(first: 3) { nodes { actor { id } events(first: 5) { nodes { actorId } } } } } } }`;
    const seen = await data<{
      node: null;
      workspace: { memberships: { nodes: { user: { id: string } }[] }; runs: { nodes: { actor: object | null }[] } };
    }>(server.url, asked, { id, user: ada.id }, bob);
    expect(seen.node).toBeNull();
    expect(seen.workspace.runs.nodes).toMatchObject([{ actor: null }]);
    expect(seen.workspace.memberships.nodes.map(({ user }) => user.id)).toEqual([bob.id]);
    const { rows } = await pool().query<{ type: string }>(
      `select type from event where workspace_id = $1 and data->>'userId' = $2 order by seq`,
      [workspaceId, userId],
    );
    expect(rows.map(({ type }) => type)).toEqual(expect.arrayContaining(['user.closed', 'membership.removed']));

    const audit = `query ($id: ID!, $user: ID!) { auditLog(workspaceId: $id, filter: { actorId: $user }) {
      nodes { action actorId actor { name } origin { address } } } }`;
    const { auditLog } = await data<{ auditLog: { nodes: object[] } }>(server.url, audit, { id, user: ada.id }, bob);
    expect(auditLog.nodes).toContainEqual({ action: 'user.closed', actorId: ada.id, actor: null, origin: null });

    // And the address is free.
    expect((await account(server, 'Ada')).email).not.toBe(ada.email);
    const again = await mutate(server, 'signUp', { email: ada.email, password, name: 'Somebody else' });
    expect(again.__typename).toBe('SignUpSuccess');
  });
});

describe('a receipt', () => {
  test('follows the deletion when an operator stops it and does it again', async () => {
    const ada = await account(server);
    const ops = await someone(app());
    await app().db.user.update({ where: { id: ops.id }, data: { email: operatorEmail, emailVerifiedAt: new Date() } });
    const { receipt } = (await remove(ada)) as unknown as { receipt: string };
    const run = await app().db.run.findFirstOrThrow({ where: { actorId: rowId('User', ada.id) } });
    const input = { id: globalId('AccountDeletion', run.id) };
    expect(await refusal(server, 'cancelRun', input, await someone(app()))).toBe('NOT_FOUND');
    expect((await mutate(server, 'cancelRun', input, ops)).__typename).toBe('CancelRunSuccess');
    expect(await receiptOf(receipt)).toMatchObject({ status: 'CANCELED' });
    // Stopped or not, it is closed.
    expect(await codeOf(ada)).toBe('UNAUTHENTICATED');
    expect((await mutate(server, 'retryRun', input, ops)).__typename).toBe('RetryRunSuccess');
    expect(await receiptOf(receipt)).toMatchObject({ status: 'QUEUED' });
    await worker();
    expect((await over(receipt)).status).toBe('SUCCEEDED');
    expect(await app().db.user.count({ where: { email: ada.email } })).toBe(0);
  });

  test('is kept as a hash, and any other text gets nothing', async () => {
    const ada = await account(server);
    const { receipt } = (await remove(ada)) as unknown as { receipt: string };
    expect(await tablesWith(receipt)).toEqual([]);
    for (const wrong of ['', 'x', receipt.slice(1), `${receipt}x`, receipt.toLowerCase(), 'x'.repeat(5000)])
      expect(await receiptOf(wrong)).toBeNull();
  });

  test('the run is for operators alone', async () => {
    const run = await app().db.run.findFirstOrThrow({ where: { kind: 'AccountDeletion' } });
    const id = Buffer.from(`AccountDeletion:${run.id}`).toString('base64');
    const asked = `query ($id: ID!) { node(id: $id) { id } }`;
    expect(await data(server.url, asked, { id }, await someone(app()))).toEqual({ node: null });
  });
});

test('two requests at once with one key: one deletion, one receipt', async () => {
  const ada = await account(server);
  const input = { password, idempotencyKey: 'leave' };
  // Both are under way before either is done: afterwards nobody is signed in.
  const held = await pool().connect();
  await held.query('begin');
  await held.query('select 1 from app_user where id = $1 for update', [rowId('User', ada.id)]);
  const asked = [0, 1].map(() => mutate(server, 'deleteMyAccount', input, ada, 'receipt eventCursor'));
  await until('both wait', async () => {
    const { rows } = await pool().query(`select 1 from pg_stat_activity where wait_event_type = 'Lock'`);
    return rows.length >= 2;
  });
  await held.query('rollback');
  held.release();
  const [one, other] = await Promise.all(asked);
  expect([one?.__typename, other?.__typename]).toEqual(['DeleteMyAccountSuccess', 'DeleteMyAccountSuccess']);
  expect(other?.['receipt']).toBe(one?.['receipt']);
  expect([one?.['eventCursor'], other?.['eventCursor']].filter((cursor) => cursor === null)).toHaveLength(1);
  expect(await receiptOf(one?.['receipt'] as string)).not.toBeNull();
  expect(await app().db.run.count({ where: { input: { path: ['userId'], equals: rowId('User', ada.id) } } })).toBe(1);
});
