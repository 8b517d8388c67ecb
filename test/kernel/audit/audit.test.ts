import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { App } from '#kernel/app.ts';
import { Denials } from '#kernel/audit/denials.ts';
import { anonymous, system } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { globalId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { data, send, socket, type Auth } from '../../support/client.ts';
import { noted } from '../../support/live.ts';
import { until } from '../../support/embedded.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { statements } from '../../support/statements.ts';
import { keyOf, memberOf, someone, tenant, type Someone, type Tenant } from '../../support/world.ts';

let server: TestServer;
/** Of nobody: documentation addresses (RFC 5737). */
const origin = { address: '203.0.113.9', userAgent: 'guesser' };
let app: App;
let operator: Someone;

beforeAll(async () => {
  server = await startTestServer(
    { SWITCHYARD_ROLES: 'api', SWITCHYARD_OPERATORS: 'Ops@example.com' },
    { hubPollMs: 60_000 },
  );
  ({ app } = server.running);
  operator = await someone(app, 'Operator');
  await app.db.user.update({
    where: { id: operator.id },
    data: { email: 'ops@example.com', emailVerifiedAt: new Date() },
  });
});
afterAll(() => server.stop());

interface Entry {
  readonly cursor: string;
  readonly action: string;
  readonly outcome: string;
  readonly verb: string | null;
  readonly count: number;
  readonly actor: { readonly id: string } | null;
  readonly actorId: string | null;
  readonly credential: string;
  readonly credentialId: string | null;
  readonly origin: { readonly address: string; readonly userAgent: string } | null;
  readonly subjectType: string;
  readonly subjectId: string;
  readonly data: Record<string, unknown>;
}

const fields = `cursor action outcome verb count actor { id } actorId credential credentialId origin { address userAgent } subjectType subjectId data`;
const document = `query ($workspaceId: ID!, $filter: AuditFilter, $first: Int, $after: String, $last: Int, $before: String) {
  auditLog(workspaceId: $workspaceId, filter: $filter, first: $first, after: $after, last: $last, before: $before) {
    totalCount nodes { ${fields} } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }`;

interface Page {
  readonly totalCount: number;
  readonly nodes: readonly Entry[];
  readonly pageInfo: {
    readonly hasNextPage: boolean;
    readonly hasPreviousPage: boolean;
    readonly startCursor: string | null;
    readonly endCursor: string | null;
  };
}

async function page(of: string, auth: Auth, args: object = {}): Promise<Page> {
  const variables = { workspaceId: globalId('Workspace', of), first: 100, ...args };
  return (await data<{ auditLog: Page }>(server.url, document, variables, auth)).auditLog;
}

const createKey = `mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { __typename ... on CreateApiKeySuccess { apiKey { id } } } }`;
const makeKey = async (of: string, auth: Auth, headers: Record<string, string> = {}): Promise<string> => {
  const input = { workspaceId: globalId('Workspace', of), name: 'made', role: 'VIEWER' };
  const answer = await send<{ createApiKey: { __typename: string; apiKey?: { id: string } } }>(
    server.url,
    createKey,
    { input },
    auth,
    headers,
  );
  return answer.data?.createApiKey.apiKey?.id ?? String(answer.data?.createApiKey.__typename);
};

describe('what was done', () => {
  test('is told with who, from where, by which credential, on what', async () => {
    const of = await tenant(app, 'done');
    const made = await makeKey(of.id, of.owner, { 'user-agent': 'dashboard/1.0' });
    const key = await keyOf(app, of, of.owner.id, 'ADMIN');
    await makeKey(of.id, key);
    const { nodes } = await page(of.id, of.owner, { filter: { actions: ['apiKey.created'] } });
    const session = await app.db.session.findFirstOrThrow({ where: { userId: of.owner.id } });
    expect(nodes[1]).toEqual({
      cursor: expect.any(String),
      action: 'apiKey.created',
      outcome: 'SUCCEEDED',
      verb: null,
      count: 1,
      actor: { id: globalId('User', of.owner.id) },
      actorId: globalId('User', of.owner.id),
      credential: 'SESSION',
      credentialId: globalId('Session', session.id),
      origin: { address: expect.stringMatching(/127\.0\.0\.1$/), userAgent: 'dashboard/1.0' },
      subjectType: 'ApiKey',
      subjectId: made,
      data: expect.objectContaining({ role: 'VIEWER' }),
    });
    expect(nodes[0]).toMatchObject({ credential: 'API_KEY', credentialId: globalId('ApiKey', key.id) });
  });

  test('leaves out what the server does by itself', async () => {
    const of = await tenant(app, 'itself');
    await app.transact(system, async (tx) => {
      tx.append({ type: noted, workspaceId: of.id, subjectId: of.id, data: { n: 1 } });
    });
    expect(await page(of.id, of.owner)).toMatchObject({ totalCount: 0, nodes: [] });
  });

  test('the same place is one row; when it is forgotten, the entry stays as it was', async () => {
    const of = await tenant(app, 'forgotten');
    for (let i = 0; i < 3; i++) await makeKey(of.id, of.owner);
    const [origin] = await app.db.origin.findMany({ where: { userId: of.owner.id } });
    expect(await app.db.origin.count({ where: { userId: of.owner.id } })).toBe(1);
    expect(origin?.id).not.toContain('127');
    const before = (await page(of.id, of.owner)).nodes;
    await app.db.origin.deleteMany({ where: { userId: of.owner.id } });
    const after = (await page(of.id, of.owner)).nodes;
    expect(after).toEqual(before.map((entry) => ({ ...entry, origin: null })));
  });
});

describe('what was refused', () => {
  test('is written at once, and a flood of it is one more event a minute', async () => {
    const of = await tenant(app, 'flood');
    const viewer = await memberOf(app, of, 'VIEWER');
    expect(await makeKey(of.id, viewer)).toBe('Forbidden');
    await until('the first is there', async () => (await page(of.id, of.owner)).totalCount === 1);
    for (let i = 0; i < 40; i++) await makeKey(of.id, viewer);
    const { seq } = await app.db.eventHead.findUniqueOrThrow({ where: { workspaceId: of.id } });
    expect(seq).toBe(1n);
    await app.use(Denials).flush();
    const { nodes } = await page(of.id, of.owner, { filter: { outcome: 'REFUSED' } });
    expect(nodes.map(({ count }) => count)).toEqual([40, 1]);
    expect(nodes[0]).toMatchObject({
      action: 'access.denied',
      outcome: 'REFUSED',
      verb: 'identity.createApiKey',
      actorId: globalId('User', viewer.id),
      credential: 'SESSION',
      subjectType: 'Workspace',
    });
  });

  test('to a stranger is told to operators, and not in the log of those who were asked for', async () => {
    const of = await tenant(app, 'asked');
    const stranger = await someone(app);
    expect(await makeKey(of.id, stranger)).toBe('NotFound');
    await app.use(Denials).flush();
    expect((await page(of.id, of.owner)).totalCount).toBe(0);
    const filter = { actorId: globalId('User', stranger.id) };
    const { nodes } = await page(instanceWorkspaceId, operator, { filter });
    expect(nodes.map(({ action, verb }) => [action, verb])).toEqual([['access.denied', 'identity.createApiKey']]);
  });

  test('a thing that is not there is no refusal', async () => {
    const of = await tenant(app, 'nothing');
    const revoke = `mutation ($input: RevokeApiKeyInput!) { revokeApiKey(input: $input) { __typename } }`;
    const answer = await data<{ revokeApiKey: { __typename: string } }>(
      server.url,
      revoke,
      { input: { id: globalId('ApiKey', newId()) } },
      of.owner,
    );
    expect(answer.revokeApiKey.__typename).toBe('NotFound');
    await app.use(Denials).flush();
    const filter = { actorId: globalId('User', of.owner.id), outcome: 'REFUSED' };
    expect((await page(instanceWorkspaceId, operator, { filter })).totalCount).toBe(0);
    expect((await page(of.id, of.owner)).totalCount).toBe(0);
  });

  test('too many different ones are told together', async () => {
    const of = await tenant(app, 'many');
    const viewers = await Promise.all(Array.from({ length: 210 }, () => memberOf(app, of, 'VIEWER')));
    await app.use(Denials).flush();
    for (const viewer of viewers) await makeKey(of.id, viewer);
    await app.use(Denials).flush();
    const { nodes, totalCount } = await page(of.id, of.owner);
    expect(totalCount).toBe(201);
    expect(nodes[0]).toMatchObject({ verb: '*', count: 10, credential: 'SYSTEM', actorId: null });
    expect(nodes[1]).toMatchObject({ verb: 'identity.createApiKey', count: 1 });
  });

  test('of one source are told together beyond ten, so that it hides nobody else', async () => {
    const guess = (agent: string) =>
      send(server.url, '{ viewer { id } }', {}, { apiKey: `sy_${agent}` }, { 'user-agent': agent });
    await app.use(Denials).flush();
    for (let n = 0; n < 30; n++) await guess(`scanner-${n}`);
    for (let n = 0; n < 30; n++) app.use(Denials).signIn({ ...anonymous, origin }, `METHOD-${n}`, 'REASON');
    app.use(Denials).signIn({ ...anonymous, origin: { ...origin, address: '198.51.100.7' } }, 'PASSWORD', 'SEEN');
    await app.use(Denials).flush();
    const { nodes } = await page(instanceWorkspaceId, operator, { filter: { actions: ['signIn.refused'] } });
    // However the client calls itself, guesses of keys are one kind.
    expect(nodes.filter(({ data: { method } }) => method === 'API_KEY').map(({ count }) => count)).toEqual([29, 1]);
    expect(nodes.filter(({ data: { method } }) => String(method).startsWith('METHOD-'))).toHaveLength(10);
    expect(nodes.find(({ data: { method } }) => method === '*')).toMatchObject({
      count: 20,
      credential: 'ANONYMOUS',
      origin: { address: origin.address },
    });
    expect(nodes.find(({ data: { reason } }) => reason === 'SEEN')).toMatchObject({ count: 1 });
  });

  test('of a workspace that has gone meanwhile costs nobody anything', async () => {
    const of = await tenant(app, 'gone');
    const viewer = await memberOf(app, of, 'VIEWER');
    await makeKey(of.id, viewer);
    await makeKey(of.id, viewer);
    await app.db.eventHead.delete({ where: { workspaceId: of.id } });
    await app.use(Denials).flush();
    expect(await makeKey(of.id, viewer)).toBe('Forbidden');
  });
});

describe('the log is for administrators', () => {
  let of: Tenant;
  beforeAll(async () => {
    of = await tenant(app, 'readers');
    await makeKey(of.id, of.owner);
  });
  const codes = async (auth: Auth) => {
    const answer = await send(server.url, document, { workspaceId: globalId('Workspace', of.id) }, auth);
    return answer.errors?.map(({ extensions }) => extensions?.['code']) ?? [];
  };

  test('of its workspace, their keys included', async () => {
    expect(await codes(await memberOf(app, of, 'ADMIN'))).toEqual([]);
    expect(await codes(await keyOf(app, of, of.owner.id, 'ADMIN'))).toEqual([]);
  });
  test('not for others', async () => {
    expect(await codes(await memberOf(app, of, 'MEMBER'))).toEqual(['FORBIDDEN']);
    expect(await codes(await keyOf(app, of, of.owner.id, 'MEMBER'))).toEqual(['FORBIDDEN']);
    expect(await codes(await someone(app))).toEqual(['NOT_FOUND']);
    expect(await codes(operator)).toEqual(['NOT_FOUND']);
    expect(await codes({})).toEqual(['UNAUTHENTICATED']);
  });
  test('the instance’s own is for operators, and only with a verified address', async () => {
    const read = (auth: Auth) =>
      send(server.url, document, { workspaceId: globalId('Workspace', instanceWorkspaceId) }, auth);
    expect((await read(operator)).errors).toBeUndefined();
    expect((await read(of.owner)).errors?.[0]?.extensions?.['code']).toBe('NOT_FOUND');
    await app.db.user.update({ where: { id: operator.id }, data: { emailVerifiedAt: null } });
    expect((await read(operator)).errors?.[0]?.extensions?.['code']).toBe('NOT_FOUND');
    await app.db.user.update({ where: { id: operator.id }, data: { emailVerifiedAt: new Date() } });
  });
  test('a stream of the workspace tells refusals to administrators only', async () => {
    const viewer = await memberOf(app, of, 'VIEWER');
    await makeKey(of.id, viewer);
    await app.use(Denials).flush();
    await app.transact(system, async (tx) => {
      tx.append({ type: noted, workspaceId: of.id, subjectId: of.id, data: { n: 7 } });
    });
    const first = (await page(of.id, of.owner, { last: 1, first: null })).nodes[0]?.cursor;
    const heard = async (auth: Auth): Promise<string[]> => {
      const client = socket(server.url, auth);
      const types: string[] = [];
      const query = `subscription ($id: ID!, $after: String) { item: workspaceEvents(workspaceId: $id, after: $after) { __typename ... on Event { type } } }`;
      const variables = { id: globalId('Workspace', of.id), after: first };
      for await (const { data: told } of client.iterate<{ item: { type?: string } }>({ query, variables })) {
        if (told?.item.type) types.push(told.item.type);
        if (told?.item.type === 'test.noted') break;
      }
      await client.dispose();
      return types;
    };
    expect(await heard(of.owner)).toContain('access.denied');
    expect(await heard(viewer)).toEqual(['test.noted']);
  });
});

describe('reading', () => {
  let of: Tenant;
  let all: readonly Entry[];
  beforeAll(async () => {
    of = await tenant(app, 'pages');
    for (let i = 0; i < 12; i++) await makeKey(of.id, of.owner);
    await makeKey(of.id, await memberOf(app, of, 'VIEWER'));
    await app.use(Denials).flush();
    all = (await page(of.id, of.owner)).nodes;
  });
  const ids = (entries: readonly Entry[]) => entries.map(({ cursor }) => cursor);

  test('pages forwards and backwards meet without gap or overlap', async () => {
    expect(all).toHaveLength(13);
    const forwards: string[] = [];
    for (let after: string | null = null; ;) {
      const { nodes, pageInfo, totalCount } = await page(of.id, of.owner, { first: 5, after });
      expect(totalCount).toBe(13);
      forwards.push(...ids(nodes));
      after = pageInfo.endCursor;
      if (!pageInfo.hasNextPage) break;
    }
    expect(forwards).toEqual(ids(all));
    const backwards: string[] = [];
    for (let before: string | null = null; ;) {
      const { nodes, pageInfo } = await page(of.id, of.owner, { first: null, last: 5, before });
      backwards.unshift(...ids(nodes));
      before = pageInfo.startCursor;
      if (!pageInfo.hasPreviousPage) break;
    }
    expect(backwards).toEqual(ids(all));
  });

  test('every filter narrows', async () => {
    const total = async (filter: object) => (await page(of.id, of.owner, { filter })).totalCount;
    expect(await total({ actorId: globalId('User', of.owner.id) })).toBe(12);
    expect(await total({ outcome: 'REFUSED' })).toBe(1);
    expect(await total({ outcome: 'SUCCEEDED' })).toBe(12);
    expect(await total({ subjectId: all[3]?.subjectId })).toBe(1);
    expect(await total({ credentialId: all.at(-1)?.credentialId })).toBe(12);
    expect(await total({ since: new Date(Date.now() + 60_000) })).toBe(0);
    expect(await total({ until: new Date(Date.now() + 60_000) })).toBe(13);
    expect(await total({ actions: [] })).toBe(0);
  });

  test('what is no cursor of this log is refused', async () => {
    const { nodes } = await page(instanceWorkspaceId, operator);
    for (const after of ['x', nodes[0]?.cursor]) {
      const answer = await send(server.url, document, { workspaceId: globalId('Workspace', of.id), after }, of.owner);
      expect(answer.errors?.[0]?.extensions?.['code']).toMatch(/BAD_USER_INPUT|VALIDATION_ERROR/);
    }
  });

  test('costs the same number of statements for 2 entries and for 13', async () => {
    await page(of.id, of.owner);
    const few = await statements(app.database.pool, () => page(of.id, of.owner, { first: 2 }));
    const many = await statements(app.database.pool, () => page(of.id, of.owner, { first: 100 }));
    expect(many).toHaveLength(few.length);
  });
});

test('the stream replays, follows, and ends with the role', async () => {
  const of = await tenant(app, 'stream');
  const admin = await memberOf(app, of, 'ADMIN');
  await makeKey(of.id, of.owner);
  const start = (await page(of.id, of.owner)).nodes.at(-1)?.cursor;
  await makeKey(of.id, of.owner);
  const client = socket(server.url, admin);
  const query = `subscription ($id: ID!, $after: String) { item: auditLog(workspaceId: $id, after: $after) { __typename ... on AuditEntry { action actorId } ... on StreamCheckpoint { cursor } } }`;
  const actions: string[] = [];
  let ended: unknown = null;
  const following = (async () => {
    const variables = { id: globalId('Workspace', of.id), after: start };
    for await (const { data: told, errors } of client.iterate<{ item: { action?: string } }>({ query, variables })) {
      if (errors) ended = errors[0]?.extensions?.['code'];
      if (told?.item.action) actions.push(told.item.action);
    }
  })().catch((error: unknown) => {
    // graphql-ws rejects with the errors that the server answered, or with the socket's end.
    ended = Array.isArray(error) ? error[0]?.extensions?.code : (error as { code: number }).code;
  });
  await until('the replay is there', async () => actions.length === 1);
  await makeKey(of.id, of.owner);
  await until('what followed is there', async () => actions.length === 2);
  const membership = await app.db.membership.findFirstOrThrow({ where: { workspaceId: of.id, userId: admin.id } });
  const demote = `mutation ($input: ChangeMemberRoleInput!) { changeMemberRole(input: $input) { __typename } }`;
  const input = { membershipId: globalId('Membership', membership.id), role: 'MEMBER' };
  await data(server.url, demote, { input }, of.owner);
  await until('it ended', async () => ended !== null);
  await following;
  expect([4403, 'FORBIDDEN']).toContain(ended);
  expect(actions).toEqual(['apiKey.created', 'apiKey.created']);
});
