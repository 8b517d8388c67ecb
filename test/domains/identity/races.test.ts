import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { system } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { Sessions, sessionsEnded } from '#kernel/auth/sessions.ts';
import { hashPassword } from '#kernel/crypto.ts';
import { globalId, rowId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { send, type Auth } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { Follower } from '../../support/live.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { account, change, mail, mutate, other, password, refusal, tokenIn, type Account } from './support.ts';

/*
 * Two things at once, one of which takes a right away. A lock that the test holds makes both wait at the decisive place,
 * so that the order in which they go on is all that is left to chance.
 */

const operatorEmail = 'ops@example.com';

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api', SWITCHYARD_OPERATORS: operatorEmail });
});
afterAll(() => server.stop());

const app = () => server.running.app;

/** Holds what a statement locks. `waiting` resolves when so many others wait for a lock. */
async function holding(sql: string, id: string) {
  const client: pg.PoolClient = await app().database.pool.connect();
  await client.query('begin');
  await client.query(sql, [id]);
  return {
    client,
    waiting: (count: number) =>
      until(`${count} wait`, async () => {
        const { rows } = await app().database.pool.query<{ count: string }>(
          `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
        );
        return Number(rows[0]?.count) >= count;
      }),
    async release() {
      await client.query('commit');
      client.release();
    },
  };
}

const personRow = 'select 1 from app_user where id = $1 for update';
const workspaceRow = 'select 1 from workspace where id = $1 for update';

async function home(owner: Account, ...others: (readonly [Account, 'OWNER' | 'ADMIN' | 'MEMBER'])[]) {
  const id = newId();
  await app().db.workspace.create({ data: { id, slug: `w-${id}`, name: 'Home' } });
  await app().db.eventHead.create({ data: { workspaceId: id } });
  const memberships: string[] = [];
  for (const [{ id: userId }, role] of [[owner, 'OWNER'] as const, ...others]) {
    const membership = { id: newId(), workspaceId: id, userId: rowId('User', userId), role };
    await app().db.membership.create({ data: membership });
    memberships.push(globalId('Membership', membership.id));
  }
  return { id, memberships };
}

const goodSessions = (userId: string) =>
  app().db.session.count({ where: { userId: rowId('User', userId), endedAt: null, expiresAt: { gt: new Date() } } });

test.each([
  ['transferOwnership', {}, { given: 'LastOwner', gone: 'LastOwnerOf' }],
  // The owner of before stays one.
  ['changeMemberRole', { role: 'OWNER' }, { given: 'ChangeMemberRoleSuccess', gone: 'DeleteMyAccountSuccess' }],
] as const)(
  'whoever becomes the owner by %s while their account goes: an owner is left',
  async (change, more, late) => {
    for (const first of ['given', 'gone'] as const) {
      const ada = await account(server);
      const bob = await account(server);
      const { id, memberships } = await home(ada, [bob, 'MEMBER']);
      const held = await holding(workspaceRow, id);
      const given = () => mutate(server, change, { membershipId: memberships[1], ...more }, ada);
      const gone = () => mutate(server, 'deleteMyAccount', { password }, bob);
      const told = { given: first === 'given' ? given() : null, gone: first === 'gone' ? gone() : null };
      await held.waiting(1);
      told.given ??= given();
      told.gone ??= gone();
      await held.waiting(2);
      await held.release();
      const answers = { given: (await told.given).__typename, gone: (await told.gone).__typename };
      // Whoever comes second is told what the other has done; a lock is given in the order in which it was asked for.
      const second = first === 'given' ? 'gone' : 'given';
      const successes = {
        given: `${change.charAt(0).toUpperCase()}${change.slice(1)}Success`,
        gone: 'DeleteMyAccountSuccess',
      };
      expect({ first, ...answers }).toEqual({ first, [first]: successes[first], [second]: late[second] });
      const owners = await app().db.membership.count({
        where: { workspaceId: id, role: 'OWNER', user: { closedAt: null } },
      });
      expect(owners).toBeGreaterThan(0);
    }
  },
);

describe('ending every session', () => {
  test('ends also the one that is being renewed', async () => {
    for (let i = 0; i < 3; i++) {
      const ada = await account(server);
      const held = await holding(personRow, rowId('User', ada.id));
      const renewed = refusal(server, 'refreshSession', null, ada);
      const ended = refusal(server, 'signOutEverywhere', null, ada);
      await held.waiting(2);
      await held.release();
      expect(['RefreshSessionSuccess', 'UNAUTHENTICATED']).toContain(await renewed);
      expect(await ended).toBe('SignOutEverywhereSuccess');
      expect(await goodSessions(ada.id)).toBe(0);
    }
  });

  test('a password that is changed while it is typed opens nothing', async () => {
    const ada = await account(server);
    const before = await goodSessions(ada.id);
    const held = await holding(personRow, rowId('User', ada.id));
    const signedIn = mutate(server, 'signIn', { email: ada.email, password });
    await held.waiting(1);
    await held.client.query('update app_user set password_hash = $2 where id = $1', [
      rowId('User', ada.id),
      await hashPassword(other),
    ]);
    await held.release();
    expect((await signedIn).__typename).toBe('SignInRefused');
    expect(await goodSessions(ada.id)).toBe(before);
  });

  test('an account that closes while somebody signs in opens nothing', async () => {
    const ada = await account(server);
    const before = await goodSessions(ada.id);
    const held = await holding(personRow, rowId('User', ada.id));
    const signedIn = mutate(server, 'signIn', { email: ada.email, password });
    await held.waiting(1);
    await held.client.query('update app_user set closed_at = now() where id = $1', [rowId('User', ada.id)]);
    await held.release();
    expect((await signedIn).__typename).toBe('SignInRefused');
    expect(await goodSessions(ada.id)).toBe(before);
  });

  test("ends an operator's streams of the instance, and so does another address", async () => {
    const events = (auth: Auth) => {
      const id = globalId('Workspace', instanceWorkspaceId);
      const follower = new Follower(server.url, auth, 'workspaceEvents', { id, after: null });
      onTestFinished(() => follower.close());
      return follower;
    };
    const ops = await account(server);
    const data = { email: operatorEmail, emailVerifiedAt: new Date() };
    await app().db.user.update({ where: { id: rowId('User', ops.id) }, data });
    const follower = events(ops);
    await until('it follows', async () => follower.items.length > 0);
    expect(await refusal(server, 'signOutEverywhere', null, ops)).toBe('SignOutEverywhereSuccess');
    await until('it ended', async () => follower.closed !== null);
    expect(follower.closed?.code).toBe(4403);
  });
});

test('a stream ends when its session does, also when that end was brought forward', async () => {
  const ada = await account(server);
  const { id } = await home(ada);
  const follower = new Follower(server.url, ada, 'workspaceEvents', { id: globalId('Workspace', id), after: null });
  onTestFinished(() => follower.close());
  await until('it follows', async () => follower.items.length > 0);
  const userId = rowId('User', ada.id);
  // What a renewal does, with less time.
  await app().transact(system, async (tx) => {
    await tx.db.session.updateMany({ where: { userId }, data: { expiresAt: new Date(Date.now() + 1500) } });
    tx.append({ type: sessionsEnded, workspaceId: id, subjectId: userId, data: { userId } });
  });
  await until('it ended', async () => follower.closed !== null);
  expect(follower.closed?.code).toBe(4403);
});

test('renewing a session gives a new id, a grace to the old one, and no time beyond the sign-in’s', async () => {
  const ada = await account(server);
  const userId = rowId('User', ada.id);
  const signedInAt = new Date(Date.now() - 29.9 * 24 * 3600 * 1000);
  await app().db.session.updateMany({ where: { userId }, data: { signedInAt } });
  const renewed = await mutate(server, 'refreshSession', null, ada, 'token expiresAt');
  expect(renewed.__typename).toBe('RefreshSessionSuccess');
  const [old, made] = await app().db.session.findMany({ where: { userId }, orderBy: { createdAt: 'asc' } });
  expect(made?.id).not.toBe(old?.id);
  expect(made?.signedInAt).toEqual(signedInAt);
  // 30 days after the sign-in, which is sooner than twelve hours from now.
  expect(made?.expiresAt.getTime()).toBeLessThanOrEqual(signedInAt.getTime() + 30 * 24 * 3600 * 1000);
  expect(old?.expiresAt.getTime()).toBeLessThan(Date.now() + 31_000);
  for (const token of [ada.token, String(renewed['token'])])
    expect(await refusal(server, 'resendVerification', null, { token })).not.toBe('UNAUTHENTICATED');
  await app().transact(system, (tx) => app().use(Sessions).endAll(tx, userId));
  for (const token of [ada.token, String(renewed['token'])])
    expect(await refusal(server, 'resendVerification', null, { token })).toBe('UNAUTHENTICATED');
});

test('somebody who is removed while they ask makes no key, no member and no invitation', async () => {
  const asks: readonly (readonly [string, (of: Awaited<ReturnType<typeof home>>) => object])[] = [
    ['createApiKey', ({ id }) => ({ workspaceId: globalId('Workspace', id), name: 'mine', role: 'ADMIN' })],
    ['inviteMember', ({ id }) => ({ workspaceId: globalId('Workspace', id), email: 'x@example.com', role: 'ADMIN' })],
    ['changeMemberRole', ({ memberships }) => ({ membershipId: memberships[2], role: 'ADMIN' })],
    ['removeMember', ({ memberships }) => ({ membershipId: memberships[2] })],
  ];
  for (const [name, input] of asks) {
    const ada = await account(server);
    const bob = await account(server);
    const eve = await account(server);
    const of = await home(ada, [bob, 'ADMIN'], [eve, 'MEMBER']);
    const held = await holding(workspaceRow, of.id);
    const asked = refusal(server, name, input(of), bob);
    await held.waiting(1);
    await held.client.query('delete from membership where id = $1', [rowId('Membership', of.memberships[1] ?? '')]);
    await held.release();
    expect([name, await asked]).toEqual([name, 'FORBIDDEN']);
  }
  expect(await app().db.apiKey.count({ where: { name: 'mine' } })).toBe(0);
});

describe('mutations of one operation', () => {
  const both = (document: string, variables: object, auth: Auth) =>
    send<Record<string, { __typename: string }>>(server.url, document, variables, auth);

  test('have each the rights of its own moment', async () => {
    const ada = await account(server);
    const bob = await account(server);
    const { id } = await home(ada, [bob, 'OWNER']);
    const workspaceId = globalId('Workspace', id);
    const answer = await both(
      `mutation ($leave: LeaveWorkspaceInput!, $update: UpdateWorkspaceInput!) {
        leaveWorkspace(input: $leave) { __typename } updateWorkspace(input: $update) { __typename } }`,
      { leave: { workspaceId }, update: { id: workspaceId, name: 'Mine' } },
      bob,
    );
    expect(answer.data?.['leaveWorkspace']?.__typename).toBe('LeaveWorkspaceSuccess');
    expect(answer.data?.['updateWorkspace']?.__typename).toBe('NotFound');
  });

  test('nothing follows the end of the account', async () => {
    const ada = await account(server);
    const slug = `late-${newId()}`;
    const answer = await both(
      `mutation ($end: DeleteMyAccountInput!, $make: CreateWorkspaceInput!) {
        deleteMyAccount(input: $end) { __typename } createWorkspace(input: $make) { __typename } }`,
      { end: { password }, make: { name: 'Late', slug } },
      ada,
    );
    expect(JSON.stringify(answer)).toContain('Unauthenticated');
    expect(await app().db.workspace.count({ where: { slug } })).toBe(0);
  });
});

test('a change of address that somebody else asked for dies with the password that they knew', async () => {
  const ends: readonly (readonly [string, object | null])[] = [
    ['changePassword', { currentPassword: password, newPassword: other }],
    ['signOutEverywhere', null],
  ];
  for (const [end, input] of ends) {
    const ada = await account(server);
    const newEmail = `${newId()}@example.com`;
    expect(await refusal(server, 'changeEmail', { newEmail, password }, ada)).toBe('ChangeEmailSuccess');
    expect((await mail(server, ada.email, /another e-mail address/)).text).toContain(newEmail);
    const token = tokenIn(await mail(server, newEmail, change));
    expect(await refusal(server, end, input, ada)).toBe(`${end.charAt(0).toUpperCase()}${end.slice(1)}Success`);
    expect(await refusal(server, 'verifyEmail', { token })).toBe('TOKEN_REFUSED');
  }
});

test('what a key made in its own place is revoked with it', async () => {
  const ada = await account(server);
  const { id } = await home(ada);
  const made = await mutate(
    server,
    'createApiKey',
    { workspaceId: globalId('Workspace', id), name: 'leaked', role: 'ADMIN' },
    ada,
    'key apiKey { id }',
  );
  const leaked = { apiKey: String(made['key']) };
  const keyId = (made['apiKey'] as { id: string }).id;
  const successor = await mutate(server, 'rotateApiKey', { id: keyId, graceS: 600 }, leaked, 'key');
  expect(successor.__typename).toBe('RotateApiKeySuccess');
  expect(await refusal(server, 'revokeApiKey', { id: keyId }, ada)).toBe('RevokeApiKeySuccess');
  for (const apiKey of [leaked.apiKey, String(successor['key'])]) {
    const answer = await send(server.url, '{ workspaces { totalCount } }', {}, { apiKey });
    expect(answer.errors?.[0]?.extensions?.['code']).toBe('UNAUTHENTICATED');
  }
});

test('operators make nothing of the product in the workspace of the server', async () => {
  const ops = await account(server);
  await app().db.user.updateMany({ where: { email: operatorEmail }, data: { email: `${newId()}@example.com` } });
  const data = { email: operatorEmail, emailVerifiedAt: new Date() };
  await app().db.user.update({ where: { id: rowId('User', ops.id) }, data });
  const workspaceId = globalId('Workspace', instanceWorkspaceId);
  const asks: readonly (readonly [string, object])[] = [
    ['createApplication', { workspaceId, name: 'x', repositoryUrl: 'https://example.com/x.git' }],
    ['createUpload', { workspaceId, name: 'x', contentType: 'text/plain', sizeBytes: 1, sha256: '0'.repeat(64) }],
    ['createApiKey', { workspaceId, name: 'x', role: 'VIEWER' }],
    ['inviteMember', { workspaceId, email: 'x@example.com', role: 'VIEWER' }],
    ['updateWorkspace', { id: workspaceId, name: 'x' }],
    ['deleteWorkspace', { id: workspaceId, slug: 'instance' }],
  ];
  for (const [name, input] of asks)
    expect([name, await refusal(server, name, input, ops)]).toEqual([name, 'FORBIDDEN']);
});
