import {
  getNamedType,
  getNullableType,
  isEnumType,
  isInputObjectType,
  isInterfaceType,
  isListType,
  isNonNullType,
  isObjectType,
  type GraphQLInputField,
  type GraphQLInputObjectType,
} from 'graphql';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Role } from '#prisma';
import { roles, atLeast } from '#kernel/auth/actor.ts';
import { Actors } from '#kernel/auth/actors.ts';
import { createSessionTokens } from '#kernel/auth/session-tokens.ts';
import { Denials } from '#kernel/audit/denials.ts';
import { allPolicies, type Verb } from '#kernel/auth/policy.ts';
import { ensureSecret } from '#kernel/secrets.ts';
import { Unauthenticated } from '#kernel/errors.ts';
import { accessOf, isPublic } from '#kernel/graphql/access.ts';
import { isConnection } from '#kernel/graphql/builder.ts';
import { globalId } from '#kernel/graphql/global-id.ts';
import { isId, newId } from '#kernel/ids.ts';
import type { App } from '#kernel/app.ts';
import { schema } from '../../../src/schema.ts';
import { data, send, socket, type Answer, type Auth } from '../../support/client.ts';
import { Selection } from '../../support/selection.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import {
  domainChallenge,
  invitationOf,
  keyOf,
  memberOf,
  nodeOf,
  password,
  retiredRelease,
  rowOf,
  someone,
  tenant,
  type Someone,
  type Tenant,
} from '../../support/world.ts';

/*
 * Nothing is reachable across workspaces, proved by a walk over the schema itself: every node, connection,
 * subscription, mutation and verb that there is, or will be. What the walk needs to know and cannot find out stands in
 * the tables below (and in rowOf of test/support/world.ts); whatever has no entry there fails.
 */

/** What an input field that holds an id is an id of: a type with a row in rowOf, or `Release`. */
const idInputs: Readonly<Record<string, string>> = {
  'AddSsoDomainInput.workspaceId': 'Workspace',
  'CancelRunInput.id': 'Deployment',
  'ConnectRepositoryInput.workspaceId': 'Workspace',
  'DisconnectRepositoryInput.id': 'ConnectedRepository',
  'RotateWebhookSecretInput.id': 'ConnectedRepository',
  'RedeliverWebhookInput.id': 'WebhookDelivery',
  'SetAutoDeployInput.id': 'Application',
  'ChangeMemberRoleInput.membershipId': 'Membership',
  'CreateApiKeyInput.workspaceId': 'Workspace',
  'CreateApplicationInput.workspaceId': 'Workspace',
  'CreateDeploymentInput.applicationId': 'Application',
  'CreateSsoConnectionInput.workspaceId': 'Workspace',
  'CreateUploadInput.workspaceId': 'Workspace',
  'DisableSsoConnectionInput.id': 'SsoConnection',
  'RemoveSsoDomainInput.id': 'SsoDomain',
  'SetSsoEnforcedInput.workspaceId': 'Workspace',
  'UnlinkIdentityInput.id': 'ExternalIdentity',
  'UpdateSsoConnectionInput.id': 'SsoConnection',
  'VerifySsoDomainInput.id': 'SsoDomain',
  'DeleteWorkspaceInput.id': 'Workspace',
  'EndSessionInput.id': 'Session',
  'InviteMemberInput.workspaceId': 'Workspace',
  'LeaveWorkspaceInput.workspaceId': 'Workspace',
  'RemoveMemberInput.membershipId': 'Membership',
  'ResendInvitationInput.invitationId': 'Invitation',
  'RevokeInvitationInput.invitationId': 'Invitation',
  'RotateApiKeyInput.id': 'ApiKey',
  'TransferOwnershipInput.membershipId': 'Membership',
  'UpdateApiKeyInput.id': 'ApiKey',
  'UpdateWorkspaceInput.id': 'Workspace',
  'ReplayDeadLetterInput.id': 'DeadLetter',
  'RetryRunInput.id': 'Deployment',
  'RevokeApiKeyInput.id': 'ApiKey',
  'RollbackDeploymentInput.applicationId': 'Application',
  'RollbackDeploymentInput.releaseId': 'Release',
  'StopApplicationInput.id': 'Application',
};

/** Values of the required input fields that are no ids; `*` stands for every input. */
const values: Readonly<Record<string, (of: Tenant) => unknown>> = {
  // None: a key that is for one verb gives no other.
  'CreateApiKeyInput.scopes': () => [],
  'AddSsoDomainInput.domain': () => `${newId()}.example`,
  'CreateSsoConnectionInput.clientId': () => 'client',
  // Nobody answers there.
  'CreateSsoConnectionInput.issuer': () => 'http://127.0.0.1:1',
  'SetSsoEnforcedInput.enforced': () => false,
  'ChangeEmailInput.newEmail': () => `${newId()}@example.com`,
  'ChangeEmailInput.password': () => password,
  'ChangePasswordInput.currentPassword': () => password,
  'ChangePasswordInput.newPassword': () => 'another password that is good',
  'DeleteMyAccountInput.password': () => password,
  'BeginIdentityLinkInput.password': () => password,
  'BeginIdentityLinkInput.provider': () => 'GITHUB',
  'UnlinkIdentityInput.password': () => password,
  // No name of a repository: GitHub is not asked.
  'ConnectRepositoryInput.repository': () => 'nonsense',
  'SetAutoDeployInput.autoDeploy': () => false,
  'CreateApplicationInput.name': () => `app-${newId()}`,
  'CreateApplicationInput.repositoryUrl': () => 'https://example.com/repository.git',
  'CreateUploadInput.contentType': () => 'text/plain',
  'CreateUploadInput.sha256': () => '0'.repeat(64),
  'CreateUploadInput.sizeBytes': () => 1,
  'CreateWorkspaceInput.slug': () => `w-${newId()}`,
  'DeleteWorkspaceInput.slug': ({ slug }) => slug,
  'InviteMemberInput.email': () => `${newId()}@example.com`,
  'UpdateWorkspaceInput.name': () => 'Name',
  'PatchUserStateInput.patch': () => ({}),
  'RequestPasswordResetInput.email': () => `${newId()}@example.com`,
  'ResetPasswordInput.newPassword': () => 'another password that is good',
  'ResetPasswordInput.token': () => 'no token',
  'SaveUserStateInput.expectedVersion': () => 0,
  'SaveUserStateInput.value': () => ({}),
  'SignInInput.email': () => newcomer.email,
  'SignInInput.password': () => 'a password that is wrong',
  'SignUpInput.email': () => `${newId()}@example.com`,
  'SignUpInput.password': () => 'a password that is good',
  'VerifyEmailInput.token': () => 'no token',
  '*.name': () => 'Name',
  '*.role': () => 'VIEWER',
};

/** Values that have to be made for who asks; null: somebody who is not signed in. */
const prepared: Readonly<Record<string, (of: Tenant, who: string | null) => Promise<unknown>>> = {
  'AcceptInvitationInput.token': async (_, who) => {
    const { email } = who ? await app.db.user.findUniqueOrThrow({ where: { id: who } }) : { email: undefined };
    // Of a workspace that they are no member of.
    return (await invitationOf(app, await tenant(app, 'inviting'), 'VIEWER', email)).token;
  },
  'DeclineInvitationInput.token': async (of) => (await invitationOf(app, of)).token,
};

let calls = 0;
/** An address that no other call comes from. */
const elsewhere = (): string => `10.${++calls >> 16}.${(calls >> 8) & 255}.${calls & 255}`;

/** Root fields that tell of no workspace, or only to whoever has a secret. */
const ofNoWorkspace = new Set([
  'accountDeletion',
  'invitation',
  'rateLimit',
  'repositories',
  'signInMethods',
  'workspaceDeletion',
]);

/** Types whose rows are somebody's own: they are made for who asks. */
const personal = new Set(['Session', 'ExternalIdentity']);

/** What a verb answers that is allowed and, with the inputs of the walk, does not succeed. */
const unlike: Readonly<Record<string, RegExp>> = {
  cancelRun: /^IllegalTransition$/,
  connectRepository: /^ValidationError$/,
  createSsoConnection: /^SsoMisconfigured$/,
};

/** Verbs of the session that asks: a token of another issuer has none. */
const ofSessions = new Set(['beginIdentityLink', 'refreshSession']);

/** A token of another issuer, as the server of these tests takes it. */
const externalToken = (userId: string): string => `external.${userId}`;

const operatorEmail = 'operator@example.com';

let server: TestServer;
let app: App;
let a: Tenant;
let b: Tenant;
let newcomer: { email: string };
/** A row of every node type in each workspace, by type; global ids. */
let nodesOfA: Record<string, string>;
let nodesOfB: Record<string, string>;
let releaseOfA: { applicationId: string; id: string };
let releaseOfB: { applicationId: string; id: string };
/** Row ids of everything in A. */
let secrets: string[];
let outsiders: Record<string, Auth>;
let onlooker: Someone;

const nodeTypes = (() => {
  const node = schema.getType('Node');
  if (!isInterfaceType(node)) throw new Error('there is no Node');
  return schema.getPossibleTypes(node).map(({ name }) => name);
})();

beforeAll(async () => {
  server = await startTestServer(
    {
      SWITCHYARD_ROLES: 'api',
      // The walk's documents are larger than any client's.
      SWITCHYARD_MAX_COST: '1000000000',
      SWITCHYARD_MAX_DEPTH: '100',
      SWITCHYARD_MAX_ALIASES: '10000',
      SWITCHYARD_MAX_TOKENS: '20000',
      SWITCHYARD_OPERATORS: operatorEmail,
      // Each call comes from elsewhere: what is limited by address is not what is asked here.
      TRUST_PROXY: '1',
    },
    { outside: { resolveTxt: async () => [domainChallenge] } },
  );
  ({ app } = server.running);
  Object.assign(app, { actors: await actorsWithIssuer() });
  a = await tenant(app, 'secret');
  nodesOfA = await oneOfEach(a);
  releaseOfA = await retiredRelease(app, a);
  await keyOf(app, a, a.owner.id, 'ADMIN');
  secrets = await allIds();

  b = await tenant(app, 'own');
  nodesOfB = await oneOfEach(b);
  releaseOfB = await retiredRelease(app, b);
  // People whom one could mistake for members: one is in both workspaces and made a key of B, another left A.
  const both = await memberOf(app, a, 'ADMIN');
  await app.db.membership.create({ data: { id: newId(), workspaceId: b.id, userId: both.id, role: 'ADMIN' } });
  const former = await memberOf(app, b, 'MEMBER');
  secrets.push((await keyOf(app, a, former.id, 'ADMIN')).id, (await keyOf(app, a, both.id, 'ADMIN')).id);
  outsiders = {
    anonymous: {},
    'a stranger': await someone(app),
    'the owner of B': b.owner,
    'a key of B': await keyOf(app, b, b.owner.id, 'OWNER'),
    'a key of B by a member of both': await keyOf(app, b, both.id, 'ADMIN'),
    'a former member': former,
  };
  onlooker = await memberOf(app, a, 'VIEWER');
  newcomer = await app.db.user.findUniqueOrThrow({ where: { id: (await someone(app)).id } });
});
afterAll(() => server.stop());

/** The server's actors, and an issuer that it trusts: of tokens that name a person. */
async function actorsWithIssuer(): Promise<Actors> {
  const secret = await ensureSecret(server.stateDir, 'session');
  return new Actors({
    pool: app.database.pool,
    tokens: createSessionTokens({ secret, ttlS: 3600, issuer: 'switchyard' }),
    log: app.log,
    operators: new Set([operatorEmail]),
    external: {
      claims: (token) => token.startsWith('external.'),
      async verify(token) {
        const userId = token.slice('external.'.length);
        if (!isId(userId)) throw new Unauthenticated('The token is not good.');
        return { userId, expiresAt: new Date(Date.now() + 3_600_000) };
      },
    },
  });
}

async function oneOfEach(of: Tenant): Promise<Record<string, string>> {
  const made: Record<string, string> = {};
  for (const type of nodeTypes) made[type] = await nodeOf(app, of, type);
  return made;
}

/** Tables, but for the counts of tries, which every try changes and which tell of nobody. */
async function tables(): Promise<string[]> {
  const { rows } = await app.database.pool.query<{ name: string }>(
    `select table_name as name from information_schema.tables where table_schema = 'public' and table_type = 'BASE TABLE'
     and table_name not in ('_prisma_migrations', 'throttle') order by 1`,
  );
  return rows.map(({ name }) => name);
}

async function allIds(): Promise<string[]> {
  const each = (await tables()).map((table) => `select to_jsonb(t)->>'id' as id from "${table}" t`);
  const { rows } = await app.database.pool.query<{ id: string | null }>(each.join(' union all '));
  return rows.flatMap(({ id }) => id ?? []);
}

/** What is written of a refused call itself: that it was refused, and from where. */
const ofRefusals = new Set(['event_head', 'origin']);

/**
 * Of each table the number of its rows and the sum of their hashes: all rows, but for the note of a credential's last
 * use, which reading changes, and for the notes of refusals. One statement, since it is asked for some hundred times.
 */
async function everything(): Promise<Record<string, string>> {
  everythingSql ??= (await tables())
    .filter((table) => !ofRefusals.has(table))
    .map((table) => {
      const row = table === 'session' || table === 'api_key' ? `(to_jsonb(t) - 'last_seen_at')` : 't';
      const rows = table === 'event' ? `where t.type not in ('access.denied', 'signIn.refused')` : '';
      return `select '${table}' as name, count(*) || ' ' || coalesce(sum(hashtextextended(${row}::text, 0)), 0) as sum
        from "${table}" t ${rows}`;
    })
    .join(' union all ');
  const { rows } = await app.database.pool.query<{ name: string; sum: string }>(everythingSql);
  return Object.fromEntries(rows.map(({ name, sum }) => [name, sum]));
}
let everythingSql: string | null = null;

/** Every text in an answer, also as what it is the base64 of: global ids and cursors carry row ids. */
function* texts(value: unknown): Generator<string> {
  if (typeof value === 'string') {
    yield value;
    yield Buffer.from(value, 'base64').toString();
  } else if (typeof value === 'object' && value !== null) for (const part of Object.values(value)) yield* texts(part);
}

const leaks = (answer: Answer<unknown>): string[] =>
  [...texts({ data: answer.data, errors: answer.errors })].filter(
    (text) => text.includes(a.marker) || secrets.some((id) => text.includes(id)),
  );

/** Whether a whole request was refused because nobody is signed in: no field of it was executed. */
const refusedAtTheDoor = ({ status, data: nothing, errors }: Answer<unknown>): boolean =>
  status === 401 && nothing === null && errors?.length === 1 && errors[0]?.extensions?.['code'] === 'UNAUTHENTICATED';

const accessLeast = (field: Parameters<typeof accessOf>[0]): string => {
  const declared = accessOf(field);
  return typeof declared === 'string' ? declared : declared.least;
};

const codesOf = ({ errors }: Answer<unknown>): unknown[] =>
  (errors ?? []).map(({ extensions }) => extensions?.['code']);

/** Connections in an answer, by type. */
function* connections(value: unknown): Generator<{ type: string; totalCount: number; length: number }> {
  if (typeof value !== 'object' || value === null) return;
  const object = value as Record<string, unknown>;
  const type = object['__typename'];
  if (typeof type === 'string' && type.endsWith('Connection') && 'nodes' in object) {
    yield { type, totalCount: object['totalCount'] as number, length: (object['nodes'] as unknown[]).length };
  }
  for (const part of Object.values(object)) yield* connections(part);
}

const objectType = (name: string) => {
  const type = schema.getType(name);
  if (!isObjectType(type)) throw new Error(`${name} is no object type`);
  return type;
};
const query = objectType('Query');
const selection = new Selection(schema, {
  'Query.auditLog(workspaceId)': '$id',
  'Query.node(id)': '$id',
  'Query.nodes(ids)': '$ids',
  'Query.accountDeletion(receipt)': '$slug',
  'Query.workspace(slug)': '$slug',
  'Query.workspaceDeletion(receipt)': '$slug',
  'Query.invitation(token)': '$slug',
  'Query.signInMethods(email)': '$slug',
});
const nodeQuery = (type: string) =>
  `query ($id: ID!) { node(id: $id) { ... on ${type} ${selection.all(objectType(type))} } }`;
const headOf: Readonly<Record<string, string>> = {
  auditLog: 'query ($id: ID!)',
  node: 'query ($id: ID!)',
  nodes: 'query ($ids: [ID!]!)',
  workspace: 'query ($slug: String!)',
  workspaceDeletion: 'query ($slug: String!)',
  invitation: 'query ($slug: String!)',
  signInMethods: 'query ($slug: String!)',
  accountDeletion: 'query ($slug: String!)',
};

describe('the walk sees everything', () => {
  test('there is a row for every node type, and for no other', () => {
    expect(Object.keys(rowOf).toSorted()).toEqual(nodeTypes.toSorted());
  });

  test('the owner sees all of it', async () => {
    const counted = new Map<string, number>();
    const answers: Answer<unknown>[] = [];
    for (const type of nodeTypes)
      answers.push(await send(server.url, nodeQuery(type), { id: nodesOfA[type] }, a.owner));
    for (const name of Object.keys(query.getFields())) {
      const text = `${headOf[name] ?? 'query'} { ${selection.field(query, name)} }`;
      const variables = { id: nodesOfA['Workspace'], ids: Object.values(nodesOfA), slug: a.slug };
      const answer = await send(server.url, text, variables, a.owner);
      expect(answer.errors).toBeUndefined();
      if (!ofNoWorkspace.has(name)) answers.push(answer);
    }
    // An application whose releases and deployments are there.
    const id = globalId('Application', releaseOfA.applicationId);
    answers.push(await send(server.url, nodeQuery('Application'), { id }, a.owner));
    for (const answer of answers) {
      expect(answer.errors).toBeUndefined();
      expect(leaks(answer)).not.toEqual([]);
      for (const { type, totalCount, length } of connections(answer.data)) {
        expect([type, totalCount]).toEqual([type, length]);
        counted.set(type, Math.max(counted.get(type) ?? 0, totalCount));
      }
    }
    const known = Object.values(schema.getTypeMap())
      .filter(isConnection)
      .map(({ name }) => name);
    expect(
      [...counted]
        .filter(([, count]) => count > 0)
        .map(([type]) => type)
        .toSorted(),
    ).toEqual(known.toSorted());
  });

  test('no field that gives objects is left out', () => {
    const all = Object.values(schema.getTypeMap())
      .filter(isObjectType)
      // What mutations and subscriptions answer with is looked at below.
      .filter(({ name }) => !name.startsWith('__') && name !== 'Mutation' && name !== 'Subscription')
      .filter(
        (type) => !/(Success|Result)$/.test(type.name) && !type.getInterfaces().some(({ name }) => name === 'Error'),
      )
      .flatMap((type) => Object.keys(type.getFields()).map((field) => `${type.name}.${field}`));
    const onlyStreamed = ['StreamCheckpoint', 'StreamGap', 'RunSnapshot', 'ValidationIssue', 'SignedUrl'];
    const left = all.filter(
      (field) => !selection.selected.has(field) && !onlyStreamed.includes(field.slice(0, field.indexOf('.'))),
    );
    expect(left).toEqual([]);
  });
});

describe('reading', () => {
  test('no outsider finds a node of A', async () => {
    const problems: unknown[] = [];
    for (const [who, auth] of Object.entries(outsiders)) {
      for (const type of nodeTypes) {
        const one = await send<{ node: unknown }>(server.url, nodeQuery(type), { id: nodesOfA[type] }, auth);
        const hidden = who === 'anonymous' ? refusedAtTheDoor(one) : !one.errors && one.data?.node === null;
        if (!hidden) problems.push({ who, type, one });
      }
      // Every row of A there is, under every type: what is not an outsider's by its own type is not by another.
      const ids = secrets.flatMap((id) => nodeTypes.map((type) => globalId(type, id)));
      for (let from = 0; from < ids.length; from += 100) {
        const text = `query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }`;
        const many = await send<{ nodes: unknown[] }>(server.url, text, { ids: ids.slice(from, from + 100) }, auth);
        const found = many.data?.nodes.filter((node) => node !== null);
        const hidden = who === 'anonymous' ? refusedAtTheDoor(many) : !many.errors && found?.length === 0;
        if (!hidden) problems.push({ who, found, errors: many.errors });
      }
    }
    expect(problems).toEqual([]);
  });

  test('no root field, and nothing of their own, leads outsiders to A; no count counts it', async () => {
    const problems: unknown[] = [];
    for (const [who, auth] of Object.entries(outsiders)) {
      const answers: [string, Answer<unknown>][] = [];
      for (const name of Object.keys(query.getFields())) {
        const text = `${headOf[name] ?? 'query'} { ${selection.field(query, name)} }`;
        const variables = { id: nodesOfA['Workspace'], ids: Object.values(nodesOfA), slug: a.slug };
        answers.push([name, await send(server.url, text, variables, auth)]);
      }
      for (const type of nodeTypes)
        answers.push([type, await send(server.url, nodeQuery(type), { id: nodesOfB[type] }, auth)]);
      for (const [what, answer] of answers) {
        const field = query.getFields()[what];
        const isServed = who !== 'anonymous' || (field !== undefined && isPublic(accessOf(field)));
        // Named by an id of A, which is not there for them; the other fields find nothing.
        const isNamed = what === 'auditLog' && isServed;
        if (isNamed && codesOf(answer).join() !== 'NOT_FOUND') problems.push({ who, what, answer });
        if (isServed ? !isNamed && answer.errors : !refusedAtTheDoor(answer)) problems.push({ who, what, answer });
        if (leaks(answer).length > 0) problems.push({ who, what, errors: answer.errors, leaks: leaks(answer) });
        for (const { type, totalCount, length } of connections(answer.data))
          if (totalCount !== length) problems.push({ who, what, type, totalCount, length });
      }
    }
    expect(problems).toEqual([]);
  });

  test('the owner of B sees all of B, so that the walk above was no walk through nothing', async () => {
    for (const type of nodeTypes) {
      const answer = await send(server.url, nodeQuery(type), { id: nodesOfB[type] }, b.owner);
      expect(JSON.stringify(answer.data)).toContain(b.marker);
    }
  });

  test("an id names its type: another type's row is not found under it", async () => {
    const wrong = nodeTypes.flatMap((type) =>
      nodeTypes
        .filter((other) => other !== type)
        .map((other) =>
          globalId(
            other,
            Buffer.from(nodesOfA[type] ?? '', 'base64')
              .toString()
              .split(':')[1] ?? '',
          ),
        ),
    );
    for (let from = 0; from < wrong.length; from += 100) {
      const { nodes } = await data<{ nodes: unknown[] }>(
        server.url,
        `query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }`,
        { ids: wrong.slice(from, from + 100) },
        a.owner,
      );
      expect(nodes.filter((node) => node !== null)).toEqual([]);
    }
  });
});

describe('subscriptions', () => {
  const fields = Object.values(schema.getSubscriptionType()?.getFields() ?? {});
  const idArgs = (field: (typeof fields)[number]) =>
    field.args.filter((arg) => getNamedType(arg.type).name === 'ID' && isNonNullType(arg.type));

  test('each is of something: it has a required id', () => {
    expect(fields.filter((field) => idArgs(field).length === 0).map(({ name }) => name)).toEqual([]);
  });

  /** Codes of the first answer; null for an answer without errors, or an end without any. */
  async function first(auth: Auth, field: (typeof fields)[number], id: string): Promise<string | null> {
    const args = idArgs(field).map(({ name }) => name);
    const text = `subscription (${args.map((name) => `$${name}: ID!`).join(', ')}) { ${field.name}(${args.map((name) => `${name}: $${name}`).join(', ')}) { __typename } }`;
    const client = socket(server.url, auth);
    try {
      const results = client.iterate({ query: text, variables: Object.fromEntries(args.map((name) => [name, id])) });
      for await (const result of results) {
        return result.errors ? String(result.errors[0]?.extensions?.['code']) : null;
      }
      return null;
    } catch (error) {
      // graphql-ws rejects with the errors that the server answered.
      const [refused] = error as { extensions?: { code?: unknown } }[];
      return String(refused?.extensions?.code);
    } finally {
      await client.dispose();
    }
  }

  test.each(fields.map((field) => [field.name, field] as const))('%s refuses every outsider', async (_, field) => {
    const problems: unknown[] = [];
    for (const [who, auth] of Object.entries(outsiders)) {
      for (const [type, id] of Object.entries(nodesOfA)) {
        const code = await first(auth, field, id);
        const expected = who === 'anonymous' ? ['UNAUTHENTICATED'] : ['NOT_FOUND'];
        if (code === null || !expected.includes(code)) problems.push({ who, type, code });
      }
    }
    expect(problems).toEqual([]);
  });

  test.each(fields.map((field) => [field.name, field] as const))('%s serves a member', async (_, field) => {
    // Something must happen for a stream without history to say anything.
    const over = new AbortController();
    const happen = async () => {
      while (!over.signal.aborted) await nodeOf(app, a, 'Deployment');
    };
    const happening = happen();
    const codes = await Promise.all(
      Object.values(nodesOfA).map(async (id) => {
        const own = ['Workspace', 'Deployment'].map((type) => nodesOfA[type]).includes(id);
        // The audit log is for administrators.
        return own ? first(field.name === 'auditLog' ? a.owner : onlooker, field, id) : 'other';
      }),
    ).finally(() => over.abort());
    await happening;
    expect(codes).toContain(null);
  });
});

describe('mutations', () => {
  const fields = Object.values(schema.getMutationType()?.getFields() ?? {});
  const inputOf = (field: (typeof fields)[number]): GraphQLInputObjectType | null => {
    const type = field.args[0] && getNamedType(field.args[0].type);
    return isInputObjectType(type) ? type : null;
  };
  /** Ids that other systems gave. */
  const foreignIds = new Set(['clientId']);
  /** Fields that hold an id, whatever their type. */
  const isIdField = (field: GraphQLInputField): boolean =>
    getNamedType(field.type).name === 'ID' || (/(^id|Ids?)$/.test(field.name) && !foreignIds.has(field.name));
  const idFields = (input: GraphQLInputObjectType) => Object.values(input.getFields()).filter(isIdField);
  const typeOfId = (input: GraphQLInputObjectType, field: GraphQLInputField): string => {
    const type = idInputs[`${input.name}.${field.name}`];
    if (!type) throw new Error(`Which type has the id ${input.name}.${field.name}? Add it to idInputs`);
    return type;
  };

  /** A valid input whose ids are given. */
  function inputFor(
    input: GraphQLInputObjectType,
    idOf: (type: string, field: GraphQLInputField) => string | undefined,
    of = b,
  ) {
    const made: Record<string, unknown> = {};
    for (const field of Object.values(input.getFields())) {
      if (isIdField(field)) {
        const id = idOf(typeOfId(input, field), field);
        if (id !== undefined) made[field.name] = isListType(getNullableType(field.type)) ? [id] : id;
      } else if (
        !prepared[`${input.name}.${field.name}`] &&
        (values[`${input.name}.${field.name}`] || (isNonNullType(field.type) && field.defaultValue === undefined))
      ) {
        const value = values[`${input.name}.${field.name}`] ?? values[`*.${field.name}`];
        if (!value) throw new Error(`What is a valid ${input.name}.${field.name}? Add it to values`);
        made[field.name] = value(of);
      }
    }
    return made;
  }

  /** One mutation with each of these inputs, one after the other in one request: what each is answered. */
  const mutateEach = async (field: (typeof fields)[number], inputs: readonly object[], auth: Auth) => {
    const name = inputOf(field)?.name;
    const head = inputs.map((_, i) => `$i${i}: ${name}!`).join(' ');
    const body = inputs.map(
      (_, i) => `m${i}: ${field.name}${name ? `(input: $i${i})` : ''} { __typename ... on Error { message } }`,
    );
    const answer = await send<Record<string, { __typename: string }>>(
      server.url,
      `mutation ${name ? `(${head})` : ''} { ${body.join(' ')} }`,
      name ? Object.fromEntries(inputs.map((input, i) => [`i${i}`, input])) : {},
      auth,
      { 'x-forwarded-for': elsewhere() },
    );
    if (leaks(answer).some((text) => text.includes(a.marker))) throw new Error(`${field.name} tells of A`);
    return inputs.map((_, i) => {
      // Refused before anything was executed: there is no union to answer with.
      if (refusedAtTheDoor(answer)) return 'Unauthenticated';
      return answer.errors ? `errors: ${JSON.stringify(answer.errors)}` : String(answer.data?.[`m${i}`]?.__typename);
    });
  };
  const mutate = async (field: (typeof fields)[number], input: object | null, auth: Auth): Promise<string> =>
    String((await mutateEach(field, [input ?? {}], auth))[0]);

  const leastOf = (name: string) => allPolicies().flatMap(({ verbs }) => Object.entries(verbs)).find(([verb]) => verb === name)?.[1].least; // prettier-ignore

  const inA = (type: string) => (type === 'Release' ? releaseOfA.id : nodesOfA[type]);
  const inB = (type: string) =>
    type === 'Release'
      ? releaseOfB.id
      : type === 'Application'
        ? globalId('Application', releaseOfB.applicationId)
        : nodesOfB[type];

  const withIds = fields.filter((field) => {
    const input = inputOf(field);
    return input !== null && idFields(input).length > 0;
  });

  test.each(withIds.map((field) => [field.name, field] as const))(
    '%s refuses ids of A, and changes nothing',
    async (_, field) => {
      const input = inputOf(field) as GraphQLInputObjectType;
      const before = await everything();
      const problems: unknown[] = [];
      const refuse = async (who: string, auth: Auth, foreign: GraphQLInputField) => {
        const expected = who === 'anonymous' ? ['Unauthenticated'] : ['NotFound'];
        // Programs are refused what is for people, whatever they ask it of.
        if (auth.apiKey && leastOf(field.name) === 'user') expected.splice(0, 1, 'Forbidden');
        // What is for people is refused to programs whatever it is about.
        if (auth.apiKey && accessLeast(field) === 'user') expected.splice(0, 1, 'Forbidden');
        // One's own workspace still asks for one's role.
        if (who === 'a former member') expected.push('Forbidden');
        // One id of A among one's own, of the right type and of every other.
        const right = inA(typeOfId(input, foreign));
        const others = [...Object.values(nodesOfA), releaseOfA.id];
        const inputs = (ids: (string | undefined)[]) =>
          ids.map((id) => inputFor(input, (type, at) => (at === foreign ? id : inB(type))));
        const answers = [
          ...(await mutateEach(field, inputs([right]), auth)),
          ...(await mutateEach(field, inputs(others), auth)),
        ];
        answers.forEach((answer, i) => {
          const id = [right, ...others][i];
          if (!expected.includes(answer)) problems.push({ who, field: foreign.name, id, answer });
        });
      };
      await Promise.all(
        Object.entries(outsiders).flatMap(([who, auth]) =>
          idFields(input).map((foreign) => refuse(who, auth, foreign)),
        ),
      );
      expect(problems).toEqual([]);
      expect(await everything()).toEqual(before);
    },
  );

  describe('roles', () => {
    const verbs = allPolicies().flatMap((policy) =>
      Object.entries(policy.verbs).map(([name, verb]) => [name, verb.least] as const),
    );

    test('every mutation is a verb of the policy, and every verb a mutation', () => {
      expect(verbs.map(([name]) => name).toSorted()).toEqual(fields.map(({ name }) => name).toSorted());
    });

    /** An input of things that are only there for this one call. */
    async function fresh(
      input: GraphQLInputObjectType | null,
      of: Tenant,
      who: string | null = null,
    ): Promise<object | null> {
      if (!input) return null;
      const made: Record<string, string> = {};
      for (const field of idFields(input)) {
        const type = typeOfId(input, field);
        if (type === 'Release' || made[field.name]) continue;
        const owner = personal.has(type) && who ? { ...of.owner, id: who } : of.owner;
        made[field.name] = await nodeOf(app, { ...of, owner }, type);
      }
      if (idFields(input).some((field) => typeOfId(input, field) === 'Release')) {
        const release = await retiredRelease(app, of);
        for (const field of idFields(input))
          made[field.name] =
            typeOfId(input, field) === 'Release' ? release.id : globalId('Application', release.applicationId);
      }
      const whole = inputFor(input, (_, field) => made[field.name], of);
      for (const { name } of Object.values(input.getFields())) {
        const prepare = prepared[`${input.name}.${name}`];
        if (prepare) whole[name] = await prepare(of, who);
      }
      return whole;
    }

    const called = (name: string) => {
      const field = fields.find((one) => one.name === name);
      if (!field) throw new Error(`no mutation ${name}`);
      return { field, input: inputOf(field) };
    };
    const verbsFor = (wanted: (least: string) => boolean) => verbs.filter(([, least]) => wanted(least));

    test.each(verbsFor((least) => least === 'public'))('%s is for everybody', async (name) => {
      const { field, input } = called(name);
      expect(await mutate(field, await fresh(input, b), {})).not.toMatch(/Unauthenticated|Forbidden|NotFound|errors/);
    });

    /** Verbs of the server's own workspace, which has no members: operators have its roles. */
    const ofInstance = Object.keys(allPolicies().find(({ domain }) => domain === 'instance')?.verbs ?? {});

    test.each(ofInstance)('%s is for operators whose address is verified', async (name) => {
      const { field, input } = called(name);
      expect(await mutate(field, await fresh(input, a), {})).toBe('Unauthenticated');
      const operator = await memberOf(app, a, 'OWNER');
      await app.db.user.update({ where: { id: operator.id }, data: { email: operatorEmail } });
      const key = await keyOf(app, a, operator.id, 'OWNER');
      for (const auth of [a.owner, await memberOf(app, a, 'ADMIN'), operator, key])
        expect(await mutate(field, await fresh(input, a), auth)).toBe('NotFound');
      await app.db.user.update({ where: { id: operator.id }, data: { emailVerifiedAt: new Date() } });
      expect(await mutate(field, await fresh(input, a), operator)).toMatch(/Success$/);
      expect(await mutate(field, await fresh(input, a), key)).toBe('NotFound');
    });

    /** Credentials that are refused wherever they are brought, of an owner of A. */
    async function ended(): Promise<Record<string, Auth>> {
      const past = new Date(Date.now() - 1000);
      const over = async (how: object): Promise<Auth> => {
        const who = await memberOf(app, a, 'OWNER');
        await app.db.session.updateMany({ where: { userId: who.id }, data: how });
        return who;
      };
      const closed = await memberOf(app, a, 'OWNER');
      await app.db.user.update({ where: { id: closed.id }, data: { closedAt: past } });
      const former = await memberOf(app, a, 'OWNER');
      const left = await keyOf(app, a, former.id, 'OWNER');
      await app.db.membership.deleteMany({ where: { userId: former.id } });
      const owner = await memberOf(app, a, 'OWNER');
      const good = await keyOf(app, a, a.owner.id, 'OWNER');
      return {
        'a session that was ended': await over({ endedAt: past }),
        'a session that expired': await over({ expiresAt: past }),
        'a session of a closed account': closed,
        'a token that its issuer would not have': { token: `external.no.${a.owner.id}` },
        'a token of nobody': { token: externalToken(newId()) },
        'a session whose signature is wrong': { token: `${owner.token.slice(0, -4)}AAAA` },
        'a key that expired': await keyOf(app, a, a.owner.id, 'OWNER', { expiresAt: past }),
        'a key that was revoked': await keyOf(app, a, a.owner.id, 'OWNER', { revokedAt: past }),
        'a key whose maker has left': left,
        'a key with another letter': { apiKey: `${good.apiKey?.slice(0, -7)}_${good.apiKey?.slice(-6)}` },
        'no key': { apiKey: 'sy_nothing' },
      };
    }

    /** Every verb that a key could be for, but this one. */
    const allBut = (verb: Verb): string[] =>
      allPolicies()
        .flatMap((policy) => Object.values<Verb>(policy.verbs))
        .map(({ name }) => name)
        .filter((name) => name !== verb.name);

    interface Asker {
      readonly auth: Auth;
      readonly userId: string;
      /** A person, and not a program for them. */
      readonly person: boolean;
      /** Whether the credential is for the verb at all. */
      readonly scoped: boolean;
    }

    /** A key with a role of its own, whatever its maker's. */
    const keyWith = async (of: Tenant, role: Role, scopes: string[], scoped: boolean): Promise<Asker> => ({
      auth: await keyOf(app, of, of.owner.id, role, { scopes }),
      userId: of.owner.id,
      person: false,
      scoped,
    });

    /** Every kind of credential that is good, with a role in a workspace. */
    const kinds: Readonly<Record<string, (of: Tenant, role: Role, verb: Verb) => Promise<Asker>>> = {
      async session(of, role) {
        const { id: userId, token } = await memberOf(app, of, role);
        return { auth: { token }, userId, person: true, scoped: true };
      },
      async 'external token'(of, role) {
        const { id: userId } = await memberOf(app, of, role);
        return { auth: { token: externalToken(userId) }, userId, person: true, scoped: true };
      },
      async "key of its maker's role"(of, role) {
        const { id: userId } = await memberOf(app, of, role);
        return { auth: await keyOf(app, of, userId, 'OWNER'), userId, person: false, scoped: true };
      },
      'key of its own role': (of, role) => keyWith(of, role, ['*'], true),
      'key for this verb': (of, role, { name }) => keyWith(of, role, [name], true),
      'key for all other verbs': (of, role, verb) => keyWith(of, role, allBut(verb), false),
      'key that reads': (of, role) => keyWith(of, role, [], false),
    };

    const roleNames: ReadonlySet<string> = new Set(roles);
    const notRefused = /^(?!Unauthenticated|Forbidden|NotFound|errors)/;
    let bad: Promise<Record<string, Auth>> | null = null;

    /** What the policy says. */
    const allowed = ({ least }: Verb, role: Role, { person, scoped }: Asker): boolean =>
      least === 'public' || (least === 'user' ? person : scoped && atLeast(role, least));

    const matrix = allPolicies()
      .filter(({ domain }) => domain !== 'instance')
      .flatMap(({ verbs: of }) => Object.entries<Verb>(of).map(([name, verb]) => ({ name, verb, least: verb.least })));

    test.each(matrix)('$name is for $least, whatever the credential', async ({ name, verb }) => {
      const { field, input } = called(name);
      const problems: unknown[] = [];
      const compare = (who: string, answer: string, expected: RegExp) => {
        if (!expected.test(answer)) problems.push({ who, answer, expected: String(expected) });
      };
      // Where no role is asked for, the lowest and the highest do.
      const among = roles.filter((role) => roleNames.has(verb.least) || role === 'VIEWER' || role === 'OWNER');
      const all = await Promise.all(
        among.flatMap((role) =>
          Object.entries(kinds).map(async ([kind, make]) => {
            const asker = await make(a, role, verb);
            return { who: `${role}: ${kind}`, kind, role, make, asker, may: allowed(verb, role, asker) };
          }),
        ),
      );
      const over = await (bad ??= ended());
      // What is refused changes nothing: one input does for all of it.
      const given = await fresh(input, a, a.owner.id);
      await app.use(Denials).flush();
      const before = await everything();
      await Promise.all([
        ...Object.entries(over).map(async ([who, auth]) =>
          compare(who, await mutate(field, given, auth), /^Unauthenticated$/),
        ),
        ...(verb.least === 'public'
          ? []
          : [mutate(field, given, {}).then((answer) => compare('nobody', answer, /^Unauthenticated$/))]),
        ...all
          .filter(({ may }) => !may)
          .map(async ({ who, asker }) => compare(who, await mutate(field, given, asker.auth), /^Forbidden$/)),
      ]);
      await app.use(Denials).flush();
      expect(await everything()).toEqual(before);
      // What is allowed may end the workspace, the credential or the person: each has its own.
      await Promise.all(
        all
          .filter(({ may }) => may)
          .map(async ({ who, kind, role, make }) => {
            const own = await tenant(app, 'fresh');
            const asker = await make(own, role, verb);
            const answer = await mutate(field, await fresh(input, own, asker.userId), asker.auth);
            const expected = kind === 'external token' && ofSessions.has(name) ? /^Forbidden$/ : unlike[name];
            compare(who, answer, expected ?? (verb.least === 'public' ? notRefused : /Success$/));
          }),
      );
      expect(problems).toEqual([]);
    });

    test('the roles of the schema are those of the policy', () => {
      const type = schema.getType('Role');
      expect(
        isEnumType(type) &&
          type
            .getValues()
            .map(({ name }) => name)
            .toSorted(),
      ).toEqual(roles.toSorted());
    });
  });
});
