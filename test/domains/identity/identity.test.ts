import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { globalId, rowId } from '#kernel/graphql/global-id.ts';
import { graphql } from '../../generated/index.ts';
import { apiKey, join, member, person, workspace, type Person } from '../../support/actors.ts';
import { headersOf, type Auth } from '../../support/client.ts';
import { post } from '../../support/http.ts';
import { run } from '../../support/typed.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

let server: TestServer;
let ada: Person;
let home: { id: string };
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
  ada = await person(server.url);
  home = await workspace(server.url, ada);
});
afterAll(() => server.stop());

const password = 'correct horse battery staple';

const signUp = graphql(`
  mutation SignUp($input: SignUpInput!) {
    signUp(input: $input) {
      __typename
      ... on SignUpSuccess {
        token
        user {
          id
          email
          name
        }
      }
      ... on Error {
        code
        message
      }
      ... on ValidationError {
        issues {
          path
          message
        }
      }
    }
  }
`);
const signIn = graphql(`
  mutation SignIn($input: SignInInput!) {
    signIn(input: $input) {
      __typename
      ... on SignInSuccess {
        token
        user {
          id
        }
      }
      ... on Error {
        code
        message
      }
    }
  }
`);
const signOutEverywhere = graphql(`
  mutation SignOutEverywhere {
    signOutEverywhere {
      __typename
      ... on SignOutEverywhereSuccess {
        ok
      }
    }
  }
`);
const viewer = graphql(`
  query Viewer {
    viewer {
      id
    }
  }
`);
const createWorkspace = graphql(`
  mutation CreateWorkspace($input: CreateWorkspaceInput!) {
    createWorkspace(input: $input) {
      __typename
      ... on CreateWorkspaceSuccess {
        eventCursor
        workspace {
          id
          viewerRole
        }
      }
      ... on Error {
        message
      }
      ... on ValidationError {
        issues {
          path
        }
      }
    }
  }
`);
const changeMemberRole = graphql(`
  mutation ChangeMemberRole($input: ChangeMemberRoleInput!) {
    changeMemberRole(input: $input) {
      __typename
      ... on ChangeMemberRoleSuccess {
        membership {
          role
        }
      }
      ... on Forbidden {
        verb
      }
    }
  }
`);
const removeMember = graphql(`
  mutation RemoveMember($input: RemoveMemberInput!) {
    removeMember(input: $input) {
      __typename
      ... on RemoveMemberSuccess {
        membershipId
        eventCursor
      }
    }
  }
`);
const createApiKey = graphql(`
  mutation CreateApiKey($input: CreateApiKeyInput!) {
    createApiKey(input: $input) {
      __typename
      ... on CreateApiKeySuccess {
        key
        apiKey {
          id
          prefix
          role
        }
      }
      ... on Forbidden {
        verb
      }
      ... on ValidationError {
        issues {
          path
        }
      }
    }
  }
`);
const revokeApiKey = graphql(`
  mutation RevokeApiKey($input: RevokeApiKeyInput!) {
    revokeApiKey(input: $input) {
      __typename
      ... on RevokeApiKeySuccess {
        eventCursor
        apiKey {
          revokedAt
        }
      }
    }
  }
`);
const workspaces = graphql(`
  query Workspaces {
    workspaces {
      totalCount
      nodes {
        id
        viewerRole
      }
    }
  }
`);
const members = graphql(`
  query Members($id: ID!) {
    node(id: $id) {
      ... on Workspace {
        memberships {
          totalCount
          nodes {
            id
            role
            user {
              id
            }
          }
        }
        apiKeys {
          nodes {
            id
            revokedAt
          }
        }
      }
    }
  }
`);

const membersOf = async (workspaceId: string, auth: Auth) => {
  const { node } = await run(server.url, members, { id: workspaceId }, auth);
  if (!node || !('memberships' in node)) throw new Error('there is no such workspace');
  return node;
};
const membershipIn = async (workspaceId: string, who: Person, auth: Auth): Promise<string> => {
  const { memberships } = await membersOf(workspaceId, auth);
  return memberships.nodes.find((one) => one.user.id === who.id)?.id ?? '';
};
const refused = async (auth: Auth): Promise<unknown> =>
  (await post(server.url, { query: viewer.toString() }, headersOf(auth))).codes[0];

describe('signing up and in', () => {
  const fresh = () => `${Math.random().toString(36).slice(2)}@example.com`;

  test('makes an account with a lower-case address and signs its owner in', async () => {
    const email = fresh();
    const { signUp: made } = await run(server.url, signUp, {
      input: { email: email.toUpperCase(), password, name: '  Bob ' },
    });
    expect(made).toMatchObject({ __typename: 'SignUpSuccess', user: { email, name: 'Bob' } });
    if (made.__typename !== 'SignUpSuccess') return;
    expect((await run(server.url, viewer, {}, { token: made.token })).viewer?.id).toBe(made.user.id);
    const { signIn: again } = await run(server.url, signIn, { input: { email: email.toUpperCase(), password } });
    expect(again).toMatchObject({ __typename: 'SignInSuccess', user: { id: made.user.id } });
  });

  test.each([
    ['email', { email: 'nobody' }],
    ['email', { email: `${'x'.repeat(320)}@example.com` }],
    ['email', { email: '' }],
    ['password', { password: 'short' }],
    ['password', { password: 'x'.repeat(201) }],
    ['name', { name: '   ' }],
    ['name', { name: 'x'.repeat(121) }],
  ])('a wrong %s is told: %j', async (path, wrong) => {
    const { signUp: answer } = await run(server.url, signUp, {
      input: { email: fresh(), password, name: 'Bob', ...wrong },
    });
    expect(answer).toMatchObject({ __typename: 'ValidationError', code: 'VALIDATION_ERROR', issues: [{ path }] });
  });

  test('everything that is wrong is told at once', async () => {
    const { signUp: answer } = await run(server.url, signUp, { input: { email: 'x', password: 'x', name: '' } });
    expect(answer.__typename === 'ValidationError' && answer.issues.map(({ path }) => path)).toEqual([
      'email',
      'password',
      'name',
    ]);
  });

  test('an address is taken once, in any case, also when two come at once', async () => {
    const again = await run(server.url, signUp, { input: { email: ada.email.toUpperCase(), password, name: 'Eve' } });
    expect(again.signUp).toMatchObject({ __typename: 'Conflict', code: 'CONFLICT' });
    const input = { email: fresh(), password, name: 'Twin' };
    const twins = await Promise.all([run(server.url, signUp, { input }), run(server.url, signUp, { input })]);
    expect(twins.map((twin) => twin.signUp.__typename).toSorted()).toEqual(['Conflict', 'SignUpSuccess']);
  });

  test('an unknown address and a wrong password get the same answer', async () => {
    // Somebody who has no password at all, too.
    const email = fresh();
    await server.running.app.db.user.create({ data: { email, name: 'Without' } });
    const answers = await Promise.all(
      [ada.email, fresh(), email].map((one) =>
        run(server.url, signIn, { input: { email: one, password: 'a wrong password' } }),
      ),
    );
    for (const answer of answers) {
      expect(answer.signIn).toEqual({
        __typename: 'SignInRefused',
        code: 'SIGN_IN_REFUSED',
        message: 'The e-mail address or the password is wrong.',
      });
    }
  });

  test('what the schema does not name is refused, not ignored', async () => {
    const email = fresh();
    const input = {
      email,
      password,
      name: 'Mallory',
      id: globalId('User', '0190b6d0-0000-7000-8000-000000000001'),
      operator: true,
      role: 'OWNER',
    };
    const answer = await post(server.url, { query: signUp.toString(), variables: { input } });
    expect(answer.codes.every((code) => code === 'BAD_USER_INPUT')).toBe(true);
    expect(answer.codes.length).toBeGreaterThan(0);
    expect(await server.running.app.db.user.count({ where: { email } })).toBe(0);
    const change = { membershipId: await membershipIn(home.id, ada, ada), role: 'OWNER', workspaceId: home.id };
    const second = await post(
      server.url,
      { query: changeMemberRole.toString(), variables: { input: change } },
      headersOf(ada),
    );
    expect(second.codes).toEqual(['BAD_USER_INPUT']);
  });
});

describe('sessions', () => {
  test('signing out everywhere ends every session, not the keys, and nobody else', async () => {
    const bob = await person(server.url, 'Bob');
    const { id } = await workspace(server.url, bob);
    const key = await apiKey(server.url, bob, id, 'VIEWER');
    const { signIn: second } = await run(server.url, signIn, { input: { email: bob.email, password } });
    if (second.__typename !== 'SignInSuccess') throw new Error(second.__typename);
    expect((await run(server.url, signOutEverywhere, {}, bob)).signOutEverywhere).toEqual({
      __typename: 'SignOutEverywhereSuccess',
      ok: true,
    });
    expect([await refused(bob), await refused({ token: second.token })]).toEqual([
      'UNAUTHENTICATED',
      'UNAUTHENTICATED',
    ]);
    expect((await run(server.url, viewer, {}, key)).viewer?.id).toBe(bob.id);
    expect((await run(server.url, viewer, {}, ada)).viewer?.id).toBe(ada.id);
    const { signIn: third } = await run(server.url, signIn, { input: { email: bob.email, password } });
    expect(third.__typename).toBe('SignInSuccess');
  });

  test('a key signs nobody out and makes no workspace', async () => {
    const key = await apiKey(server.url, ada, home.id, 'OWNER');
    expect((await run(server.url, signOutEverywhere, {}, key)).signOutEverywhere.__typename).toBe('Forbidden');
    const made = await run(server.url, createWorkspace, { input: { name: 'x', slug: 'by-a-key' } }, key);
    expect(made.createWorkspace.__typename).toBe('Forbidden');
    expect(await refused(ada)).toBeUndefined();
  });
});

describe('workspaces', () => {
  test('belong to who makes them, from the very answer on', async () => {
    const bob = await person(server.url, 'Bob');
    const { createWorkspace: made } = await run(
      server.url,
      createWorkspace,
      { input: { name: 'Bob', slug: `b-${bob.email.slice(4, 12)}` } },
      bob,
    );
    expect(made).toMatchObject({
      __typename: 'CreateWorkspaceSuccess',
      workspace: { viewerRole: 'OWNER' },
      eventCursor: expect.any(String),
    });
    expect((await run(server.url, workspaces, {}, bob)).workspaces).toMatchObject({
      totalCount: 1,
      nodes: [{ viewerRole: 'OWNER' }],
    });
  });

  test('a short name is taken once', async () => {
    const input = { name: 'Twin', slug: `twin-${Date.now()}` };
    const twins = await Promise.all([
      run(server.url, createWorkspace, { input }, ada),
      run(server.url, createWorkspace, { input }, ada),
    ]);
    expect(twins.map((twin) => twin.createWorkspace.__typename).toSorted()).toEqual([
      'Conflict',
      'CreateWorkspaceSuccess',
    ]);
  });

  test.each(['', 'UPPER', 'a b', '-a', 'a-', 'x'.repeat(64), 'ä', 'a/b'])(
    'the short name %j is refused',
    async (slug) => {
      const { createWorkspace: answer } = await run(server.url, createWorkspace, { input: { name: 'x', slug } }, ada);
      expect(answer).toMatchObject({ __typename: 'ValidationError', issues: [{ path: 'slug' }] });
    },
  );

  test('people and programs see theirs only', async () => {
    const other = await workspace(server.url, ada);
    const key = await apiKey(server.url, ada, other.id, 'MEMBER');
    expect((await run(server.url, workspaces, {}, key)).workspaces).toEqual({
      totalCount: 1,
      nodes: [{ id: other.id, viewerRole: 'MEMBER' }],
    });
    const bob = await member(server.url, ada, other.id, 'VIEWER');
    const { memberships } = await membersOf(other.id, bob);
    expect(memberships.nodes.map(({ role }) => role)).toEqual(['VIEWER', 'OWNER']);
    await expect(run(server.url, workspaces, {}, {})).rejects.toThrow('UNAUTHENTICATED');
  });
});

describe('members', () => {
  test('nobody gives or takes a role above their own', async () => {
    const { id } = await workspace(server.url, ada);
    const admin = await member(server.url, ada, id, 'ADMIN');
    for (const [membershipId, role] of [
      [admin.membershipId, 'OWNER'],
      [await membershipIn(id, ada, ada), 'VIEWER'],
    ] as const) {
      const { changeMemberRole: answer } = await run(
        server.url,
        changeMemberRole,
        { input: { membershipId, role } },
        admin,
      );
      expect(answer).toEqual({ __typename: 'Forbidden', verb: 'identity.giveOWNER' });
    }
    const removed = await run(
      server.url,
      removeMember,
      { input: { membershipId: await membershipIn(id, ada, ada) } },
      admin,
    );
    expect(removed.removeMember.__typename).toBe('Forbidden');
    const key = await run(server.url, createApiKey, { input: { workspaceId: id, name: 'x', role: 'OWNER' } }, admin);
    expect(key.createApiKey).toEqual({ __typename: 'Forbidden', verb: 'identity.giveOWNER' });
  });

  test('a role that is changed counts at once', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await member(server.url, ada, id, 'ADMIN');
    const changed = await run(
      server.url,
      changeMemberRole,
      { input: { membershipId: bob.membershipId, role: 'VIEWER' } },
      ada,
    );
    expect(changed.changeMemberRole).toEqual({ __typename: 'ChangeMemberRoleSuccess', membership: { role: 'VIEWER' } });
    const key = await run(server.url, createApiKey, { input: { workspaceId: id, name: 'x', role: 'VIEWER' } }, bob);
    expect(key.createApiKey.__typename).toBe('Forbidden');
  });

  test('the last owner stays', async () => {
    const { id } = await workspace(server.url, ada);
    await member(server.url, ada, id, 'ADMIN');
    const membershipId = await membershipIn(id, ada, ada);
    expect((await run(server.url, removeMember, { input: { membershipId } }, ada)).removeMember.__typename).toBe(
      'LastOwner',
    );
    const demoted = await run(server.url, changeMemberRole, { input: { membershipId, role: 'ADMIN' } }, ada);
    expect(demoted.changeMemberRole.__typename).toBe('LastOwner');
    const second = await member(server.url, ada, id, 'OWNER');
    const left = await run(server.url, removeMember, { input: { membershipId } }, ada);
    expect(left.removeMember).toMatchObject({ __typename: 'RemoveMemberSuccess', membershipId });
    expect((await membersOf(id, second)).memberships.nodes.filter(({ role }) => role === 'OWNER')).toHaveLength(1);
  });

  test.each(['removeMember', 'changeMemberRole'] as const)(
    'of two owners who do it to each other at once by %s, one stays',
    async (verb) => {
      for (let round = 0; round < 5; round++) {
        const { id } = await workspace(server.url, ada);
        const bob = await member(server.url, ada, id, 'OWNER');
        const adas = await membershipIn(id, ada, ada);
        const end = async (membershipId: string, by: Person): Promise<string> => {
          if (verb === 'removeMember')
            return (await run(server.url, removeMember, { input: { membershipId } }, by)).removeMember.__typename;
          return (await run(server.url, changeMemberRole, { input: { membershipId, role: 'VIEWER' } }, by))
            .changeMemberRole.__typename;
        };
        const answers = await Promise.all([end(adas, bob), end(bob.membershipId, ada)]);
        expect(answers.filter((answer) => answer.endsWith('Success'))).toHaveLength(1);
        const owners = await server.running.app.db.membership.count({
          where: { workspaceId: rowId('Workspace', id), role: 'OWNER' },
        });
        expect(owners).toBe(1);
      }
    },
  );
});

describe('API keys', () => {
  test('are shown once, and only as a hash afterwards', async () => {
    const { createApiKey: made } = await run(
      server.url,
      createApiKey,
      { input: { workspaceId: home.id, name: 'once', role: 'VIEWER' } },
      ada,
    );
    if (made.__typename !== 'CreateApiKeySuccess') throw new Error(made.__typename);
    expect(made.key.startsWith(made.apiKey.prefix)).toBe(true);
    const row = await server.running.app.db.apiKey.findUniqueOrThrow({
      where: { id: rowId('ApiKey', made.apiKey.id) },
    });
    expect(JSON.stringify(row)).not.toContain(made.key);
  });

  test('act with the lower of their own and their maker’s role', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await member(server.url, ada, id, 'ADMIN');
    const key = await apiKey(server.url, bob, id, 'ADMIN');
    const roleOf = async () => (await run(server.url, workspaces, {}, key)).workspaces.nodes[0]?.viewerRole;
    expect(await roleOf()).toBe('ADMIN');
    const change = (role: 'OWNER' | 'VIEWER') =>
      run(server.url, changeMemberRole, { input: { membershipId: bob.membershipId, role } }, ada);
    await change('OWNER');
    expect(await roleOf()).toBe('ADMIN');
    await change('VIEWER');
    expect(await roleOf()).toBe('VIEWER');
  });

  test('end with their maker’s membership, and stay ended when the maker comes back', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await member(server.url, ada, id, 'ADMIN');
    const key = await apiKey(server.url, bob, id, 'VIEWER');
    const own = await workspace(server.url, bob);
    const other = await apiKey(server.url, bob, own.id, 'VIEWER');
    await run(server.url, removeMember, { input: { membershipId: bob.membershipId } }, ada);
    expect(await refused(key)).toBe('UNAUTHENTICATED');
    await join(server.url, ada, id, bob, 'ADMIN');
    expect(await refused(key)).toBe('UNAUTHENTICATED');
    const { apiKeys } = await membersOf(id, ada);
    expect(apiKeys.nodes).toEqual([{ id: key.id, revokedAt: expect.any(String) }]);
    // Those of other workspaces are not concerned.
    expect(await refused(other)).toBeUndefined();
  });

  test('are revoked once, for ever', async () => {
    const key = await apiKey(server.url, ada, home.id, 'VIEWER');
    const first = await run(server.url, revokeApiKey, { input: { id: key.id } }, ada);
    const again = await run(server.url, revokeApiKey, { input: { id: key.id } }, ada);
    expect(first.revokeApiKey).toMatchObject({ __typename: 'RevokeApiKeySuccess', eventCursor: expect.any(String) });
    // The second changed nothing: no event, and the time of the first.
    expect(again.revokeApiKey).toMatchObject({
      eventCursor: null,
      apiKey: first.revokeApiKey.__typename === 'RevokeApiKeySuccess' ? first.revokeApiKey.apiKey : null,
    });
    expect(await refused(key)).toBe('UNAUTHENTICATED');
  });

  test('expire', async () => {
    const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
    const { createApiKey: made } = await run(
      server.url,
      createApiKey,
      { input: { workspaceId: home.id, name: 'soon', role: 'VIEWER', expiresAt } },
      ada,
    );
    if (made.__typename !== 'CreateApiKeySuccess') throw new Error(made.__typename);
    expect(await refused({ apiKey: made.key })).toBeUndefined();
    await server.running.app.db.apiKey.update({
      where: { id: rowId('ApiKey', made.apiKey.id) },
      data: { expiresAt: new Date(Date.now() - 1000) },
    });
    expect(await refused({ apiKey: made.key })).toBe('UNAUTHENTICATED');
    const past = { workspaceId: home.id, name: 'past', role: 'VIEWER', expiresAt: '2020-01-01T00:00:00Z' } as const;
    expect((await run(server.url, createApiKey, { input: past }, ada)).createApiKey).toMatchObject({
      __typename: 'ValidationError',
      issues: [{ path: 'expiresAt' }],
    });
  });
});
