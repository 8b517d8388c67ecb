import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { rowId } from '#kernel/graphql/global-id.ts';
import {
  apiKey,
  invitationToken,
  invite,
  join,
  mailsTo,
  member,
  person,
  workspace,
  type Person,
} from '../../support/actors.ts';
import { data, type Auth } from '../../support/client.ts';
import { mutate as mutateAt } from '../../support/mutate.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

let server: TestServer;
let ada: Person;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
  ada = await person(server.url);
});
afterAll(() => server.stop());

const db = () => server.running.app.db;
const mutate = (verb: string, input: object, auth?: Auth, fields?: string) =>
  mutateAt(server.url, verb, input, auth, fields);
const accept = (token: string, auth: Auth) =>
  mutate('acceptInvitation', { token }, auth, 'membership { id role workspace { id } }');
let made = 0;
const address = () => `invited-${++made}-${Date.now()}@example.com`;
const invitationsOf = async (id: string, auth: Auth) =>
  (
    await data<{ node: { invitations: { totalCount: number; nodes: { id: string; email: string; role: string }[] } } }>(
      server.url,
      `query ($id: ID!) { node(id: $id) { ... on Workspace { invitations { totalCount nodes { id email role } } } } }`,
      { id },
      auth,
    )
  ).node.invitations;
const preview = async (token: string) =>
  (
    await data<{ invitation: object | null }>(
      server.url,
      `query ($token: String!) { invitation(token: $token) { workspaceName email role } }`,
      { token },
    )
  ).invitation;
const expire = (id: string) =>
  db().invitation.update({ where: { id: rowId('Invitation', id) }, data: { expiresAt: new Date(Date.now() - 1000) } });

describe('asking', () => {
  test('makes a member only when they agree, and proves their address', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await person(server.url, 'Bob');
    const sent = await invite(server.url, ada, id, bob.email.toUpperCase(), 'MEMBER');
    expect(await db().membership.count({ where: { workspaceId: rowId('Workspace', id) } })).toBe(1);
    expect(await invitationsOf(id, ada)).toEqual({
      totalCount: 1,
      nodes: [{ id: sent, email: bob.email, role: 'MEMBER' }],
    });
    const token = await invitationToken(server.url, bob.email);
    expect(await preview(token)).toEqual({ workspaceName: expect.any(String), email: bob.email, role: 'MEMBER' });
    const before = await db().user.update({
      where: { email: bob.email },
      data: { emailVerifiedAt: null },
    });
    expect(before.emailVerifiedAt).toBeNull();
    // The rest of the operation has the rights that it gained.
    expect(await accept(token, bob)).toMatchObject({ membership: { role: 'MEMBER', workspace: { id } } });
    const after = await db().user.findUniqueOrThrow({ where: { email: bob.email } });
    expect(after.emailVerifiedAt).toBeInstanceOf(Date);
    expect((await invitationsOf(id, ada)).totalCount).toBe(0);
    expect(await preview(token)).toBeNull();
  });

  test('answers the same for an address with an account and for one without', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await person(server.url, 'Bob');
    const fields = 'invitation { email role invitedBy { id } }';
    const [known, unknown] = [bob.email, address()];
    const answers = [];
    for (const email of [known, unknown])
      answers.push(await mutate('inviteMember', { workspaceId: id, email, role: 'VIEWER' }, ada, fields));
    const [first, second] = answers.map((answer) => JSON.stringify(answer));
    expect(first?.replace(known, '')).toBe(second?.replace(unknown, ''));
    expect(await mailsTo(server.url, unknown)).toHaveLength(1);
  });

  test('the token is in the mail, and nowhere in the database', async () => {
    const { id } = await workspace(server.url, ada);
    const email = address();
    await invite(server.url, ada, id, email, 'VIEWER');
    const token = await invitationToken(server.url, email);
    expect(token).toMatch(/^[\w-]{43}$/);
    for (const table of ['invitation', 'mail', 'event', 'pgboss.job']) {
      const { rows } = await server.running.app.database.pool.query<{ text: string }>(
        `select to_jsonb(t)::text as text from ${table} t`,
      );
      expect(rows.filter(({ text }) => text.includes(token))).toEqual([]);
    }
  });

  test('nobody asks to more than they are, and nobody but administrators asks or sees whom', async () => {
    const { id } = await workspace(server.url, ada);
    const [admin, viewer] = [await member(server.url, ada, id, 'ADMIN'), await member(server.url, ada, id, 'VIEWER')];
    const to = (role: string, auth: Auth, email = address()) =>
      mutate('inviteMember', { workspaceId: id, email, role }, auth);
    expect(await to('OWNER', admin)).toMatchObject({ __typename: 'Forbidden', verb: 'identity.giveOWNER' });
    expect(await to('VIEWER', viewer)).toMatchObject({ __typename: 'Forbidden', verb: 'identity.inviteMember' });
    expect((await to('VIEWER', await person(server.url))).__typename).toBe('NotFound');
    // An owner's invitation is out of an administrator's reach.
    const email = address();
    const owners = await invite(server.url, ada, id, email, 'OWNER');
    expect((await to('VIEWER', admin, email)).__typename).toBe('Forbidden');
    for (const verb of ['resendInvitation', 'revokeInvitation'])
      expect((await mutate(verb, { invitationId: owners }, admin)).__typename).toBe('Forbidden');
    expect((await invitationsOf(id, admin)).totalCount).toBe(1);
    expect(await invitationsOf(id, viewer)).toEqual({ totalCount: 0, nodes: [] });
    // A key of an administrator's role is one; it is no way around.
    const key = await apiKey(server.url, ada, id, 'ADMIN');
    expect((await to('ADMIN', key)).__typename).toBe('InviteMemberSuccess');
    expect((await to('OWNER', key)).__typename).toBe('Forbidden');
  });

  test('a member is not asked again', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await member(server.url, ada, id, 'VIEWER');
    const again = await mutate('inviteMember', { workspaceId: id, email: bob.email, role: 'ADMIN' }, ada);
    expect(again).toMatchObject({ __typename: 'AlreadyMember', code: 'ALREADY_MEMBER' });
  });

  test.each(['', 'nobody', 'a@b', 'a@example.com\r\nBcc: b@example.com', `${'a'.repeat(320)}@example.com`])(
    'the address %j is refused',
    async (email) => {
      const { id } = await workspace(server.url, ada);
      expect(await mutate('inviteMember', { workspaceId: id, email, role: 'VIEWER' }, ada)).toMatchObject({
        __typename: 'ValidationError',
        issues: [{ path: 'email' }],
      });
    },
  );

  test('a name with line ends gets into no header', async () => {
    const { id } = await workspace(server.url, ada);
    await db().workspace.update({ where: { id: rowId('Workspace', id) }, data: { name: 'a\r\nBcc: b@example.com' } });
    const email = address();
    await invite(server.url, ada, id, email, 'VIEWER');
    expect((await mailsTo(server.url, email))[0]?.subject).toBe('Invitation to a Bcc: b@example.com');
  });

  test('the same address is not asked without end', async () => {
    const { id } = await workspace(server.url, ada);
    const email = address();
    const sent = await invite(server.url, ada, id, email, 'VIEWER');
    const answers = [];
    for (let i = 0; i < 5; i++)
      answers.push((await mutate('resendInvitation', { invitationId: sent }, ada)).__typename);
    expect(answers).toEqual([...Array<string>(4).fill('ResendInvitationSuccess'), 'RateLimited']);
    expect(await mailsTo(server.url, email)).toHaveLength(5);
    // Another address is not concerned.
    await invite(server.url, ada, id, address(), 'VIEWER');
  });
});

describe('answering', () => {
  test('a token is good once, also when two come at once', async () => {
    for (let round = 0; round < 5; round++) {
      const { id } = await workspace(server.url, ada);
      const bob = await person(server.url, 'Bob');
      await invite(server.url, ada, id, bob.email, 'VIEWER');
      const token = await invitationToken(server.url, bob.email);
      const twins = await Promise.all([accept(token, bob), accept(token, bob), accept(token, bob)]);
      expect(twins.map(({ __typename }) => __typename).toSorted()).toEqual([
        'AcceptInvitationSuccess',
        'InvitationInvalid',
        'InvitationInvalid',
      ]);
      expect(await db().membership.count({ where: { userId: rowId('User', bob.id) } })).toBe(1);
      // Removed, they do not come back with it.
      await db().membership.deleteMany({ where: { userId: rowId('User', bob.id) } });
      expect((await accept(token, bob)).__typename).toBe('InvitationInvalid');
    }
  });

  test('of an acceptance and a revocation at once, one counts', async () => {
    for (let round = 0; round < 5; round++) {
      const { id } = await workspace(server.url, ada);
      const bob = await person(server.url, 'Bob');
      const invitationId = await invite(server.url, ada, id, bob.email, 'VIEWER');
      const token = await invitationToken(server.url, bob.email);
      const [accepted, revoked] = await Promise.all([
        accept(token, bob),
        mutate('revokeInvitation', { invitationId }, ada),
      ]);
      const belongs = await db().membership.count({ where: { userId: rowId('User', bob.id) } });
      expect([accepted.__typename, revoked.__typename, belongs]).toEqual(
        belongs === 1
          ? ['AcceptInvitationSuccess', 'NotFound', 1]
          : ['InvitationInvalid', 'RevokeInvitationSuccess', 0],
      );
    }
  });

  test('only the account of the address accepts', async () => {
    const { id } = await workspace(server.url, ada);
    const [bob, eve] = [await person(server.url, 'Bob'), await person(server.url, 'Eve')];
    await invite(server.url, ada, id, bob.email, 'ADMIN');
    const token = await invitationToken(server.url, bob.email);
    expect(await accept(token, eve)).toMatchObject({
      __typename: 'InvitationForSomebodyElse',
      code: 'INVITATION_FOR_SOMEBODY_ELSE',
    });
    expect((await accept(token, {})).__typename).toBe('Unauthenticated');
    // No program of theirs accepts for them.
    const own = await workspace(server.url, bob);
    expect((await accept(token, await apiKey(server.url, bob, own.id, 'OWNER'))).__typename).toBe('Forbidden');
    expect((await accept(token, bob)).__typename).toBe('AcceptInvitationSuccess');
  });

  test('an expired one is refused as such, and can be sent again: the older token stays void', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await person(server.url, 'Bob');
    const invitationId = await invite(server.url, ada, id, bob.email, 'VIEWER');
    const old = await invitationToken(server.url, bob.email);
    await expire(invitationId);
    expect(await preview(old)).toBeNull();
    expect(await accept(old, bob)).toMatchObject({ __typename: 'InvitationExpired', code: 'INVITATION_EXPIRED' });
    expect((await mutate('resendInvitation', { invitationId }, ada)).__typename).toBe('ResendInvitationSuccess');
    const token = await invitationToken(server.url, bob.email);
    expect(token).not.toBe(old);
    expect((await accept(old, bob)).__typename).toBe('InvitationInvalid');
    expect((await accept(token, bob)).__typename).toBe('AcceptInvitationSuccess');
  });

  test('asking an address anew replaces what was asked before', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await person(server.url, 'Bob');
    const first = await invite(server.url, ada, id, bob.email, 'ADMIN');
    const old = await invitationToken(server.url, bob.email);
    expect(await invite(server.url, ada, id, bob.email, 'VIEWER')).toBe(first);
    expect((await accept(old, bob)).__typename).toBe('InvitationInvalid');
    const token = await invitationToken(server.url, bob.email);
    expect(await accept(token, bob)).toMatchObject({ membership: { role: 'VIEWER' } });
  });

  test('the right of who asked is looked at when it is accepted', async () => {
    const { id } = await workspace(server.url, ada);
    const removed = await member(server.url, ada, id, 'ADMIN');
    const demoted = await member(server.url, ada, id, 'OWNER');
    const [bob, eve, joe] = [await person(server.url), await person(server.url), await person(server.url)];
    await invite(server.url, removed, id, bob.email, 'VIEWER');
    await invite(server.url, demoted, id, eve.email, 'OWNER');
    await invite(server.url, demoted, id, joe.email, 'ADMIN');
    await mutate('removeMember', { membershipId: removed.membershipId }, ada);
    await mutate('changeMemberRole', { membershipId: demoted.membershipId, role: 'ADMIN' }, ada);
    // The list tells the truth too.
    expect((await invitationsOf(id, ada)).nodes.map(({ email }) => email)).toEqual([joe.email]);
    for (const one of [bob, eve])
      expect((await accept(await invitationToken(server.url, one.email), one)).__typename).toBe('InvitationInvalid');
    expect(await accept(await invitationToken(server.url, joe.email), joe)).toMatchObject({
      membership: { role: 'ADMIN' },
    });
    // And when it ended in another way.
    const third = await member(server.url, ada, id, 'ADMIN');
    const sue = await person(server.url);
    await invite(server.url, third, id, sue.email, 'ADMIN');
    await db().membership.update({
      where: { id: rowId('Membership', third.membershipId) },
      data: { role: 'MEMBER' },
    });
    const token = await invitationToken(server.url, sue.email);
    expect(await preview(token)).toBeNull();
    expect((await accept(token, sue)).__typename).toBe('InvitationInvalid');
  });

  test('declining needs the token only, and ends it', async () => {
    const { id } = await workspace(server.url, ada);
    const email = address();
    await invite(server.url, ada, id, email, 'VIEWER');
    const token = await invitationToken(server.url, email);
    expect((await mutate('declineInvitation', { token })).__typename).toBe('DeclineInvitationSuccess');
    expect((await mutate('declineInvitation', { token })).__typename).toBe('InvitationInvalid');
    expect((await invitationsOf(id, ada)).totalCount).toBe(0);
  });

  test.each(['', 'x', 'ä', 'x'.repeat(201), "' or 1=1 --"])('the token %j is none', async (token) => {
    expect(await preview(token)).toBeNull();
    const answer = (await accept(token, ada)).__typename;
    expect(answer).toMatch(/^(InvitationInvalid|ValidationError)$/);
  });

  test('what was sent by a workspace that is gone is void', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await person(server.url, 'Bob');
    await invite(server.url, ada, id, bob.email, 'VIEWER');
    const token = await invitationToken(server.url, bob.email);
    await db().workspace.update({ where: { id: rowId('Workspace', id) }, data: { deletedAt: new Date() } });
    expect(await preview(token)).toBeNull();
    expect((await accept(token, bob)).__typename).toBe('InvitationInvalid');
  });
});

describe('owners', () => {
  const membershipIn = async (id: string, of: Person): Promise<string> => {
    const { node } = await data<{ node: { memberships: { nodes: { id: string; user: { id: string } }[] } } }>(
      server.url,
      `query ($id: ID!) { node(id: $id) { ... on Workspace { memberships { nodes { id user { id } } } } } }`,
      { id },
      of,
    );
    const found = node.memberships.nodes.find(({ user }) => user.id === of.id);
    if (!found) throw new Error('no membership');
    return found.id;
  };
  const ownersOf = (id: string) =>
    db().membership.count({ where: { workspaceId: rowId('Workspace', id), role: 'OWNER' } });

  test('give their place to a member, in one go', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await member(server.url, ada, id, 'VIEWER');
    const own = await membershipIn(id, ada);
    const given = await mutate('transferOwnership', { membershipId: bob.membershipId }, ada, 'membership { role }');
    expect(given).toEqual({ __typename: 'TransferOwnershipSuccess', membership: { role: 'OWNER' } });
    const row = await db().membership.findUniqueOrThrow({ where: { id: rowId('Membership', own) } });
    expect([row.role, await ownersOf(id)]).toEqual(['ADMIN', 1]);
    // It is no longer theirs to give.
    expect((await mutate('transferOwnership', { membershipId: own }, ada)).__typename).toBe('Forbidden');
    const self = await mutate('transferOwnership', { membershipId: bob.membershipId }, bob);
    expect(self).toMatchObject({ __typename: 'ValidationError', issues: [{ path: 'membershipId' }] });
  });

  test('leave only while another is there', async () => {
    const { id } = await workspace(server.url, ada);
    expect((await mutate('leaveWorkspace', { workspaceId: id }, ada)).__typename).toBe('LastOwner');
    const bob = await member(server.url, ada, id, 'OWNER');
    const key = await apiKey(server.url, ada, id, 'VIEWER');
    // No program leaves for its maker.
    expect((await mutate('leaveWorkspace', { workspaceId: id }, key)).__typename).toBe('Forbidden');
    const own = await membershipIn(id, ada);
    expect(await mutate('leaveWorkspace', { workspaceId: id }, ada, 'membershipId')).toEqual({
      __typename: 'LeaveWorkspaceSuccess',
      membershipId: own,
    });
    expect((await mutate('leaveWorkspace', { workspaceId: id }, ada)).__typename).toBe('NotFound');
    expect((await mutate('leaveWorkspace', { workspaceId: id }, bob)).__typename).toBe('LastOwner');
    // The keys of who left stay ended when they come back.
    await join(server.url, bob, id, ada, 'OWNER');
    const row = await db().apiKey.findUniqueOrThrow({ where: { id: rowId('ApiKey', key.id) } });
    expect(row.revokedAt).toBeInstanceOf(Date);
  });

  test.each([
    ['leave', 'leave'],
    ['leave', 'transfer'],
    ['transfer', 'transfer'],
    ['leave', 'demote'],
    ['transfer', 'remove'],
  ] as const)('of two who %s and %s at once, an owner stays', async (first, second) => {
    for (let round = 0; round < 6; round++) {
      const { id } = await workspace(server.url, ada);
      const bob = await member(server.url, ada, id, 'OWNER');
      const adas = await membershipIn(id, ada);
      const act = (what: string, by: Person, other: string) =>
        what === 'leave'
          ? mutate('leaveWorkspace', { workspaceId: id }, by)
          : what === 'transfer'
            ? mutate('transferOwnership', { membershipId: other }, by)
            : what === 'remove'
              ? mutate('removeMember', { membershipId: other }, by)
              : mutate('changeMemberRole', { membershipId: other, role: 'VIEWER' }, by);
      const answers = await Promise.all([act(first, ada, bob.membershipId), act(second, bob, adas)]);
      expect(answers.some(({ __typename }) => __typename.endsWith('Success'))).toBe(true);
      expect(await ownersOf(id)).toBeGreaterThan(0);
    }
  });
});
