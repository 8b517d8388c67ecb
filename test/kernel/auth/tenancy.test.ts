import { readFileSync } from 'node:fs';
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
import type { Client } from 'graphql-ws';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Role } from '#prisma';
import { anonymous, roles, atLeast, type Actor, type Way } from '#kernel/auth/actor.ts';
import { Actors, type Credentials } from '#kernel/auth/actors.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { createSessionTokens } from '#kernel/auth/session-tokens.ts';
import { Denials } from '#kernel/audit/denials.ts';
import { allPolicies } from '#kernel/auth/policy.ts';
import { ensureSecret } from '#kernel/secrets.ts';
import { Unauthenticated } from '#kernel/errors.ts';
import { accessOf, isPublic } from '#kernel/graphql/access.ts';
import { isConnection } from '#kernel/graphql/builder.ts';
import { globalId, rowId } from '#kernel/graphql/global-id.ts';
import { isId, newId } from '#kernel/ids.ts';
import { runKinds } from '../../../src/kernel/runs/kinds.ts';
import type { App } from '#kernel/app.ts';
import { Metrics } from '../../../src/domains/deployments/service/metrics.ts';
import { schema } from '../../../src/schema.ts';
import { data, send, socket, type Answer, type Auth } from '../../support/client.ts';
import { Selection } from '../../support/selection.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import {
  application,
  deployment,
  domainChallenge,
  invitationOf,
  keyOf,
  keysOf,
  memberOf,
  membersOf,
  nodeOf,
  password,
  people,
  retiredRelease,
  rowOf,
  someCommit,
  someFingerprint,
  someone,
  tenant,
  tenants,
  type SignedInBy,
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
  'SetAlertRuleInput.applicationId': 'Application',
  'DeleteAlertRuleInput.id': 'AlertRule',
  'DismissInboxItemInput.id': 'InboxItem',
  'SetScanPolicyInput.applicationId': 'Application',
  'SetPreviewPolicyInput.applicationId': 'Application',
  'ApprovePreviewInput.id': 'Preview',
  'RejectPreviewInput.id': 'Preview',
  'SuppressFindingInput.applicationId': 'Application',
  'UnsuppressFindingInput.applicationId': 'Application',
  'SetWorkspaceQuotaInput.workspaceId': 'Workspace',
  'SetModelAdviceInput.workspaceId': 'Workspace',
  'UpdateApplicationInput.id': 'Application',
  'UploadDocumentInput.artifactId': 'Artifact',
  'DeleteDocumentInput.id': 'Document',
  'SetDocumentRetentionInput.workspaceId': 'Workspace',
  'SetDocumentModelInput.workspaceId': 'Workspace',
  'CreateConfigurationInput.workspaceId': 'Workspace',
  'UpdateConfigurationInput.id': 'ExtractionConfiguration',
  'ArchiveConfigurationInput.id': 'ExtractionConfiguration',
  'PreviewExtractionInput.documentId': 'Document',
  'PreviewExtractionInput.configurationId': 'ExtractionConfiguration',
  'SubmitExtractionJobInput.documentId': 'Document',
  'SubmitExtractionJobInput.configurationId': 'ExtractionConfiguration',
  'CorrectCellInput.tableId': 'ExtractedTable',
  'ConfirmCellsInput.tableId': 'ExtractedTable',
  'CompleteReviewInput.jobId': 'ExtractionJob',
  'ExportTableInput.tableId': 'ExtractedTable',
  'ExportTablesInput.jobId': 'ExtractionJob',
  'DeleteApplicationInput.id': 'Application',
  'SetEnvironmentVariablesInput.applicationId': 'Application',
  'UnsetEnvironmentVariablesInput.applicationId': 'Application',
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
  'UploadPartsInput.artifactId': 'Artifact',
  'CompleteUploadInput.artifactId': 'Artifact',
  'AbortUploadInput.artifactId': 'Artifact',
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
  'SetPreviewPolicyInput.enabled': () => true,
  'ApprovePreviewInput.commitSha': () => someCommit,
  'RejectPreviewInput.commitSha': () => someCommit,
  'SetAlertRuleInput.condition': () => 'CPU',
  'SetModelAdviceInput.allowed': () => false,
  'SetDocumentModelInput.allowed': () => false,
  'SetAlertRuleInput.threshold': () => 50,
  'SetAlertRuleInput.windowS': () => 60,
  'SuppressFindingInput.fingerprint': () => someFingerprint,
  'SuppressFindingInput.reason': () => 'Why',
  'UnsuppressFindingInput.fingerprint': () => someFingerprint,
  'SetEnvironmentVariablesInput.variables': () => [{ name: 'NAME', value: 'value' }],
  'UnsetEnvironmentVariablesInput.names': () => ['NAME'],
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
  'CreateConfigurationInput.name': () => `configuration ${newId()}`,
  'CreateConfigurationInput.definition': () => ({}),
  'UpdateConfigurationInput.expectedVersion': () => 1,
  'CorrectCellInput.row': () => 0,
  'CorrectCellInput.column': () => 0,
  'CorrectCellInput.text': () => 'text',
  'CorrectCellInput.expectedVersion': () => 0,
  'ConfirmCellsInput.cells': () => [{ row: 0, column: 0, expectedVersion: 0 }],
  'ExportTableInput.format': () => 'CSV',
  'ExportTablesInput.format': () => 'CSV',
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
    return (await invitationOf(app, await (inviting ??= tenant(app, 'inviting')), 'VIEWER', email)).token;
  },
  'DeclineInvitationInput.token': async (of) => (await invitationOf(app, of)).token,
};

let inviting: Promise<Tenant> | null = null;

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
  // The artifact has arrived.
  uploadParts: /^Conflict$/,
  abortUpload: /^Conflict$/,
  connectRepository: /^ValidationError$/,
  createSsoConnection: /^SsoMisconfigured$/,
  // Their rows have no bytes, and say that all of them are the same ones.
  uploadDocument: /^(?:FileDamaged|DuplicateDocument)$/,
  previewExtraction: /^FileDamaged$/,
  // Their job is over.
  completeReview: /^IllegalTransition$/,
};

/** Verbs of the session that asks: a token of another issuer has none. */
const ofSessions = new Set(['beginIdentityLink', 'refreshSession']);

/** A token of another issuer, as the server of these tests takes it. */
const externalToken = (userId: string): string => `external.${userId}`;

/** A machine with these rights. There is no way in for machines yet: the test's server takes their word for it. */
const machineToken = (rights: { roles: Record<string, Role>; scopes: string[] }): string =>
  `machine.${Buffer.from(JSON.stringify({ id: newId(), ...rights })).toString('base64url')}`;

/** As many operators as tests may need: an address is one person's. */
const operatorEmails = Array.from({ length: 128 }, (_, i) => `operator-${i}@example.com`);
let operators = 0;
/** Makes somebody an operator. */
async function asOperator(id: string, verified = true): Promise<void> {
  const email = operatorEmails[operators++];
  if (!email) throw new Error('more operators than addresses');
  await app.db.user.update({ where: { id }, data: { email, emailVerifiedAt: verified ? new Date() : null } });
}

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
      SWITCHYARD_OPERATORS: operatorEmails.join(','),
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
  // The server's own workspace is no secret to its operators.
  secrets = (await allIds()).filter((id) => id !== instanceWorkspaceId);

  b = await tenant(app, 'own');
  nodesOfB = await oneOfEach(b);
  releaseOfB = await retiredRelease(app, b);
  // People whom one could mistake for members: one is in both workspaces and made a key of B, another left A.
  const both = await memberOf(app, a, 'ADMIN');
  await app.db.membership.create({ data: { id: newId(), workspaceId: b.id, userId: both.id, role: 'ADMIN' } });
  const former = await memberOf(app, b, 'MEMBER');
  secrets.push((await keyOf(app, a, former.id, 'ADMIN')).id, (await keyOf(app, a, both.id, 'ADMIN')).id);
  const operator = await someone(app);
  await asOperator(operator.id);
  outsiders = {
    anonymous: {},
    'a stranger': await someone(app),
    'the owner of B': b.owner,
    'a key of B': await keyOf(app, b, b.owner.id, 'OWNER'),
    'a key of B by a member of both': await keyOf(app, b, both.id, 'ADMIN'),
    'a former member': former,
    'an operator': operator,
    'a machine of B': { token: machineToken({ roles: { [b.id]: 'OWNER' }, scopes: ['*'] }) },
  };
  onlooker = await memberOf(app, a, 'VIEWER');
  newcomer = await app.db.user.findUniqueOrThrow({ where: { id: (await someone(app)).id } });
});
afterAll(() => server.stop());

/** The server's actors, with an issuer that it trusts, of tokens that name a person, and with machines. */
async function actorsWithIssuer(): Promise<Actors> {
  const secret = await ensureSecret(server.stateDir, 'session');
  class WithMachines extends Actors {
    override recall(given: Credentials, ...rest: [Actor['origin']?]): Actor | Promise<Actor> {
      // What it says is all that there is of it.
      const isMachine = given.authorization?.startsWith('Bearer machine.') ?? false;
      return isMachine ? this.authenticate(given, ...rest) : super.recall(given, ...rest);
    }

    override async authenticate(given: Credentials, ...rest: [Actor['origin']?]): Promise<Actor> {
      const [, token] = /^Bearer machine\.(.+)$/.exec(given.authorization ?? '') ?? [];
      if (token === undefined) return super.authenticate(given, ...rest);
      const {
        id,
        roles: reached,
        scopes,
      } = JSON.parse(Buffer.from(token, 'base64url').toString()) as {
        id: string;
        roles: Record<string, Role>;
        scopes: string[];
      };
      return {
        ...anonymous,
        kind: 'MACHINE',
        credentialId: id,
        roles: new Map(Object.entries(reached)),
        scopes: scopes.includes('*') ? null : new Set(scopes),
        origin: rest[0] ?? null,
      };
    }
  }
  return new WithMachines({
    pool: app.database.pool,
    tokens: createSessionTokens({ secret, ttlS: 3600, issuer: 'switchyard' }),
    log: app.log,
    operators: new Set(operatorEmails),
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
  'ExtractedTable.cell(row)': '0',
  'ExtractedTable.cell(column)': '0',
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
    const ofPreviews = ['PreviewTable', 'PreviewColumn', 'PreviewCell'];
    const ofKinds = runKinds().map(({ name }) => `${name}Update`);
    // Answers of mutations, and of an error, that are of no row.
    const ofUploads = ['PartUpload', 'StoredBytes'];
    const onlyStreamed = [
      'StreamCheckpoint',
      'StreamGap',
      'RunSnapshot',
      'ValidationIssue',
      'SignedUrl',
      ...ofKinds,
      ...ofPreviews,
      ...ofUploads,
    ];
    const left = all.filter(
      (field) => !selection.selected.has(field) && !onlyStreamed.includes(field.slice(0, field.indexOf('.'))),
    );
    expect(left).toEqual([]);
  });
});

describe('reading', () => {
  test('no outsider finds a node of A', async () => {
    const problems: unknown[] = [];
    const look = async ([who, auth]: [string, Auth]): Promise<void> => {
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
    };
    await Promise.all(Object.entries(outsiders).map(look));
    expect(problems).toEqual([]);
  });

  test('no root field, and nothing of their own, leads outsiders to A; no count counts it', async () => {
    const problems: unknown[] = [];
    const look = async ([who, auth]: [string, Auth]): Promise<void> => {
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
    };
    await Promise.all(Object.entries(outsiders).map(look));
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
  async function first(client: Client, field: (typeof fields)[number], id: string): Promise<string | null> {
    const args = idArgs(field).map(({ name }) => name);
    const text = `subscription (${args.map((name) => `$${name}: ID!`).join(', ')}) { ${field.name}(${args.map((name) => `${name}: $${name}`).join(', ')}) { __typename } }`;
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
    }
  }
  /** Does something with a connection of its own. */
  async function connected<T>(auth: Auth, fn: (client: Client) => Promise<T>): Promise<T> {
    const client = socket(server.url, auth, { lazyCloseTimeout: 10_000 });
    try {
      return await fn(client);
    } finally {
      await client.dispose();
    }
  }

  test.each(fields.map((field) => [field.name, field] as const))('%s refuses every outsider', async (_, field) => {
    const problems: unknown[] = [];
    await Promise.all(
      Object.entries(outsiders).map(([who, auth]) =>
        connected(auth, async (client) => {
          for (const [type, id] of Object.entries(nodesOfA)) {
            const code = await first(client, field, id);
            if (code !== (who === 'anonymous' ? 'UNAUTHENTICATED' : 'NOT_FOUND')) problems.push({ who, type, code });
          }
        }),
      ),
    );
    expect(problems).toEqual([]);
  });

  test.each(fields.map((field) => [field.name, field] as const))('%s serves a member', async (_, field) => {
    // Something must happen for a stream without history to say anything.
    const over = new AbortController();
    const happen = async () => {
      const applicationId = rowId('Application', String(nodesOfA['Application']));
      const look = { applicationId, milliCpus: null, memoryBytes: null, memoryLimitBytes: null, diskReadBytes: null, diskWrittenBytes: null, networkReceivedBytes: null, networkSentBytes: null, healthy: true, latencyMs: 1, missing: [] }; // prettier-ignore
      while (!over.signal.aborted) {
        await nodeOf(app, a, 'Deployment');
        await app.use(Metrics).add([look]);
      }
    };
    const happening = happen();
    const codes = await Promise.all(
      Object.values(nodesOfA).map(async (id) => {
        const own = ['Workspace', 'Deployment', 'Application'].map((type) => nodesOfA[type]).includes(id);
        // The audit log is for administrators.
        const member = field.name === 'auditLog' ? a.owner : onlooker;
        return own ? connected(member, (client) => first(client, field, id)) : 'other';
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

  describe('with ids of another workspace', () => {
    const forOperators = new Set(allPolicies().flatMap(({ domain, verbs }) => (domain === 'quotas' ? Object.keys(verbs) : []))); // prettier-ignore
    const asksAll = new Set(['the owner of B', 'a key of B', 'a machine of B']);
    let before: Record<string, string>;
    beforeAll(async () => {
      await app.use(Denials).flush();
      before = await everything();
    });

    test.each(withIds.map((field) => [field.name, field] as const))('%s refuses ids of A', async (_, field) => {
      const input = inputOf(field) as GraphQLInputObjectType;
      const problems: unknown[] = [];
      const refuse = async (who: string, auth: Auth, foreign: GraphQLInputField) => {
        const expected = who === 'anonymous' ? ['Unauthenticated'] : ['NotFound'];
        // Programs are refused what is for people, whatever they ask it of.
        const isProgram = auth.apiKey !== undefined || who === 'a machine of B';
        if (isProgram && leastOf(field.name) === 'user') expected.splice(0, 1, 'Forbidden');
        // What is for people is refused to programs whatever it is about.
        if (isProgram && accessLeast(field) === 'user') expected.splice(0, 1, 'Forbidden');
        // One's own workspace still asks for one's role.
        if (who === 'a former member') expected.push('Forbidden');
        // One id of A among one's own, of the right type and of every other.
        const right = inA(typeOfId(input, foreign));
        // Whoever asks, an id of another type is refused before anything is looked at: one of each kind of actor does.
        const others = asksAll.has(who) ? [...Object.values(nodesOfA), releaseOfA.id] : [];
        const inputs = (ids: (string | undefined)[]) =>
          ids.map((id) => inputFor(input, (type, at) => (at === foreign ? id : inB(type))));
        const answers = [
          ...(await mutateEach(field, inputs([right]), auth)),
          ...(others.length > 0 ? await mutateEach(field, inputs(others), auth) : []),
        ];
        answers.forEach((answer, i) => {
          const id = [right, ...others][i];
          if (!expected.includes(answer)) problems.push({ who, field: foreign.name, id, answer });
        });
      };
      await Promise.all(
        Object.entries(outsiders)
          // What operators say of workspaces is theirs to say of every one.
          .filter(([who]) => who !== 'an operator' || !forOperators.has(field.name))
          .flatMap(([who, auth]) => idFields(input).map((foreign) => refuse(who, auth, foreign))),
      );
      expect(problems).toEqual([]);
    });

    // The log only grows, so nothing can have happened and been undone.
    test('nothing of that changed anything', async () => {
      await app.use(Denials).flush();
      expect(await everything()).toEqual(before);
    });
  });

  describe('roles', () => {
    const verbs = allPolicies().flatMap(({ verbs: of }) => Object.keys(of));

    test('every mutation is a verb of the policy, and every verb a mutation', () => {
      expect(verbs.toSorted()).toEqual(fields.map(({ name }) => name).toSorted());
      expect(matrix.map(({ name }) => name).toSorted()).toEqual(verbs.toSorted());
    });

    /** An input of things that are only there for this one call. */
    async function fresh(
      input: GraphQLInputObjectType | null,
      of: Tenant,
      who: string | null = null,
    ): Promise<Record<string, unknown>> {
      if (!input) return {};
      const made: Record<string, string> = {};
      for (const field of idFields(input)) {
        const type = typeOfId(input, field);
        if (type === 'Release' || made[field.name]) continue;
        const owner = personal.has(type) && who ? { ...of.owner, id: who } : of.owner;
        made[field.name] =
          type === 'Deployment'
            ? globalId(type, await deployment(app, of, await application(app, of), undefined, 0))
            : await nodeOf(app, { ...of, owner }, type);
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

    /** A verb as the generated matrix tells of it. @see docs/policy.json, which `npm run check` compares with the code */
    interface Cell {
      readonly name: string;
      readonly verb: string;
      readonly authentication: 'none' | 'person' | 'credential';
      readonly least: Role | null;
    }
    const matrix = (
      JSON.parse(readFileSync('docs/policy.json', 'utf8')) as {
        fields: (Pick<Cell, 'name' | 'verb' | 'authentication'> & { leastRole: string | null })[];
      }
    ).fields
      .filter(({ name }) => name.startsWith('Mutation.'))
      .map(({ name, leastRole, ...cell }): Cell => ({
        ...cell,
        name: name.slice('Mutation.'.length),
        least: (leastRole?.toUpperCase() ?? null) as Role | null,
      }));
    /** Verbs of the server's own workspace, which has no members: operators have its roles. */
    const ofInstance = ({ verb }: Cell): boolean => /^(instance|quotas)\./.test(verb);

    /** Somebody who asks, and what they are. */
    interface Asker {
      readonly auth: Auth;
      readonly userId: string | null;
      readonly of: Tenant;
      /** The role that the credential gives in the workspace; null: it does not reach it. */
      readonly reached: Role | null;
      /** A person, and not a program. */
      readonly person: boolean;
      /** Of the server. */
      readonly operator?: boolean;
      readonly machine?: true;
      /** Names of the verbs that the credential is for; null: all. */
      readonly scopes: readonly string[] | null;
    }
    /** A workspace to ask in, and its provider, which nobody has to use. */
    interface Place {
      readonly of: Tenant;
      readonly ssoConnectionId: string;
      readonly role: Role;
      readonly scopes: readonly string[];
    }

    const byPeople =
      (how: (place: Place) => SignedInBy, enforced: 'through it' | 'around it' | null = null) =>
      async (places: readonly Place[]): Promise<Asker[]> => {
        if (enforced) await enforce(places);
        const all = await membersOf(
          app,
          places.map((place) => ({ of: place.of, role: place.role, ...how(place) })),
        );
        return places.map(({ of, role }, i) => {
          // Owners get in without their provider: it may be what has to be mended.
          const reached = enforced === 'around it' && role !== 'OWNER' ? null : role;
          return {
            of,
            reached,
            person: true,
            scopes: null,
            userId: idOf(all[i]),
            auth: { token: all[i]?.token ?? '' },
          };
        });
      };
    const idOf = (one: { id: string } | undefined): string => one?.id ?? '';
    const enforce = (places: readonly Place[]) =>
      app.db.workspace.updateMany({
        where: { id: { in: places.map(({ of }) => of.id) } },
        data: { ssoEnforced: true },
      });
    const byTokens = async (askers: Promise<Asker[]>): Promise<Asker[]> =>
      (await askers).map((asker) => ({ ...asker, auth: { token: externalToken(asker.userId ?? '') } }));
    /** Keys with a role of their own, whatever their maker's: each of a maker of its own, an owner. */
    const byKeys =
      (scopesOf: (place: Place) => readonly string[]) =>
      async (places: readonly Place[]): Promise<Asker[]> => {
        const makers = await membersOf(
          app,
          places.map(({ of }) => ({ of, role: 'OWNER' })),
        );
        const made = places.map((place, i) => ({
          of: place.of,
          createdById: idOf(makers[i]),
          role: place.role,
          scopes: [...scopesOf(place)],
        }));
        const keys = await keysOf(app, made);
        return made.map(({ of, role, createdById, scopes }, i) => ({
          of,
          reached: role,
          person: false,
          scopes: scopes.includes('*') ? null : scopes,
          userId: createdById,
          auth: { apiKey: keys[i]?.apiKey ?? '' },
        }));
      };
    const byMachines =
      (scopesOf: (place: Place) => readonly string[]) =>
      async (places: readonly Place[]): Promise<Asker[]> =>
        places.map((place) => {
          const { of, role } = place;
          const token = machineToken({ roles: { [of.id]: role }, scopes: [...scopesOf(place)] });
          return {
            of,
            reached: role,
            person: false,
            machine: true,
            scopes: scopesOf(place),
            userId: null,
            auth: { token },
          };
        });
    /** Operators who are no members: the workspace is as far from them as from everybody. */
    const strangers =
      (verified: boolean) =>
      async (places: readonly Place[]): Promise<Asker[]> => {
        const all = await people(
          app,
          places.map(() => ({})),
        );
        await Promise.all(all.map(({ id }) => asOperator(id, verified)));
        return places.map(({ of }, i) => ({
          of,
          reached: null,
          person: true,
          operator: verified,
          scopes: null,
          userId: idOf(all[i]),
          auth: { token: all[i]?.token ?? '' },
        }));
      };
    const allBut = ({ scopes }: Place): string[] =>
      matrix.map(({ verb }) => verb).filter((verb) => !scopes.includes(verb));

    type Make = (places: readonly Place[]) => Promise<Asker[]>;
    /** Kinds of good credentials by how one gets them: a new way in, or kind of actor, does not compile without. */
    const kinds = {
      // Asked below, for each verb alone.
      ANONYMOUS: {},
      SESSION_PASSWORD: {
        session: byPeople(() => ({})),
        'session around the provider': byPeople(() => ({}), 'around it'),
        operator: strangers(true),
        'operator whose address is not verified': strangers(false),
      },
      SESSION_GITHUB: { 'session by GitHub': byPeople(() => ({ method: 'GITHUB' })) },
      SESSION_SSO: {
        'session through the provider': byPeople(
          ({ ssoConnectionId }) => ({ method: 'SSO', ssoConnectionId }),
          'through it',
        ),
        'session through the provider of another workspace': byPeople(
          () => ({ method: 'SSO', ssoConnectionId: providerOfB }),
          'around it',
        ),
      },
      TOKEN: {
        'external token': (places) => byTokens(byPeople(() => ({}))(places)),
        'external token around the provider': (places) => byTokens(byPeople(() => ({}), 'around it')(places)),
        "operator's external token": async (places) => byTokens(strangers(true)(places)),
      },
      API_KEY: {
        "key of its maker's role": async (places) => {
          const makers = await byPeople(() => ({}))(places);
          const made = makers.map(({ of, userId }) => ({ of, createdById: userId ?? '', role: 'OWNER' as const }));
          const keys = await keysOf(app, made);
          return makers.map((maker, i) => ({ ...maker, person: false, auth: { apiKey: keys[i]?.apiKey ?? '' } }));
        },
        'key of its own role': byKeys(() => ['*']),
        'key for these verbs': byKeys(({ scopes }) => scopes),
        'key for all other verbs': byKeys(allBut),
        'key that reads': byKeys(() => []),
        // An operator's key is of one workspace, as everybody's.
        'key of an operator': async (places) => {
          const askers = await byKeys(() => ['*'])(places);
          await Promise.all(askers.map(({ userId }) => asOperator(userId ?? '')));
          return askers;
        },
      },
      MACHINE: {
        'machine for these verbs': byMachines(({ scopes }) => scopes),
        'machine for all other verbs': byMachines(allBut),
        'machine for nothing': byMachines(() => []),
      },
      // The server itself: it brings no credential, and none makes anybody it.
      SYSTEM: {},
    } as const satisfies Record<Way, Readonly<Record<string, Make>>>;
    let providerOfB: string;
    beforeAll(async () => {
      providerOfB = await (rowOf['SsoConnection'] as (typeof rowOf)[string])(app, b);
    });

    /** What the matrix says of a verb, as the name of the answer. */
    function outcome(cell: Cell, { reached, person, machine, operator = false, scopes }: Asker): string {
      if (cell.authentication === 'none') return 'allowed';
      if (cell.authentication === 'person') return person ? 'allowed' : 'Forbidden';
      if (scopes?.includes(cell.verb) === false) return 'Forbidden';
      if (ofInstance(cell)) return operator ? 'allowed' : 'NotFound';
      if (reached === null) return 'NotFound';
      // A machine administers nothing.
      if (machine && cell.least !== null && atLeast(cell.least, 'ADMIN')) return 'Forbidden';
      return cell.least !== null && atLeast(reached, cell.least) ? 'allowed' : 'Forbidden';
    }

    const keepsProvider = new Set(['disableSsoConnection', 'removeSsoDomain']);
    /** Operators, who have no role in the workspace, or have the highest. */
    const ofServer = /operator/;
    const rolesOf = (kind: string): readonly Role[] => (ofServer.test(kind) ? ['OWNER'] : roles);

    const notRefused = /^(?!Unauthenticated|Forbidden|NotFound|errors|undefined)/;
    /** What is answered where the verb is allowed. */
    const allowedAnswer = ({ name, authentication }: Cell, kind: string): RegExp => {
      if (authentication === 'none') return notRefused;
      if (kind.includes('external token') && ofSessions.has(name)) return /^Forbidden$/;
      // Whose workspace has to have a provider keeps the last one.
      if (kind.includes('the provider') && keepsProvider.has(name)) return /(Success|^SsoNotReady)$/;
      // An operator has nothing to leave.
      if (ofServer.test(kind) && name === 'leaveWorkspace') return /^NotFound$/;
      return unlike[name] ?? /Success$/;
    };

    const fieldOf = (name: string) => {
      const field = fields.find((one) => one.name === name);
      if (!field) throw new Error(`no mutation ${name}`);
      return field;
    };
    /** These verbs, one after the other in one request: what each is answered. */
    async function ask(
      cells: readonly Cell[],
      inputs: ReadonlyMap<string, object>,
      auth: Auth,
    ): Promise<Map<string, string>> {
      const asked = cells.map(({ name }) => ({ name, field: fieldOf(name), type: inputOf(fieldOf(name))?.name }));
      const head = asked.flatMap(({ name, type }) => (type ? `$${name}: ${type}!` : []));
      const body = asked.map(
        ({ name, type }) => `${name}${type ? `(input: $${name})` : ''} { __typename ... on Error { message } }`,
      );
      const answer = await send<Record<string, { __typename: string } | null>>(
        server.url,
        `mutation ${head.length > 0 ? `(${head.join(' ')})` : ''} { ${body.join(' ')} }`,
        Object.fromEntries(asked.flatMap(({ name, type }) => (type ? [[name, inputs.get(name)]] : []))),
        auth,
        { 'x-forwarded-for': elsewhere() },
      );
      const door = refusedAtTheDoor(answer);
      return new Map(
        cells.map(({ name }) => {
          const failed = answer.errors?.find(({ path }) => !path || path[0] === name);
          if (door) return [name, 'Unauthenticated'];
          return [name, failed ? `errors: ${failed.message}` : String(answer.data?.[name]?.__typename)];
        }),
      );
    }
    const inputsFor = async (cells: readonly Cell[], of: Tenant, who: string | null) =>
      new Map(
        await Promise.all(cells.map(async ({ name }) => [name, await fresh(inputOf(fieldOf(name)), of, who)] as const)),
      );

    /** Workspaces with a provider each; whoever asks in them makes what they ask for. */
    async function homes(count: number): Promise<Pick<Place, 'of' | 'ssoConnectionId'>[]> {
      const made = await tenants(app, Array<string>(count).fill('home'));
      const providers = made.map((of) => ({
        id: newId(),
        workspaceId: of.id,
        name: of.marker,
        issuer: `https://${of.marker}.example`,
        clientId: of.marker,
        clientSecret: null,
      }));
      await app.db.ssoConnection.createMany({ data: providers });
      return made.map((of, i) => ({ of, ssoConnectionId: idOf(providers[i]) }));
    }

    /** Where no role is asked for, the lowest and the highest do; where nothing is asked for, any. */
    const asksOf = (kind: string, role: Role, { authentication, least }: Cell): boolean => {
      const [lowest] = rolesOf(kind);
      return least !== null || role === lowest || (role === 'OWNER' && authentication === 'person');
    };

    /** Where everybody asks for what harms nobody else: one workspace, and one that wants its provider. */
    const homeOf = (enforced: boolean): Promise<Pick<Place, 'of' | 'ssoConnectionId'>> =>
      (sharedHomes[Number(enforced)] ??= homes(1).then(([home]) => home as Pick<Place, 'of' | 'ssoConnectionId'>));
    const sharedHomes: Promise<Pick<Place, 'of' | 'ssoConnectionId'>>[] = [];
    /** What is asked for by those who are refused, by workspace and verb: it stays as it is. */
    const given = new Map<string, Promise<object>>();

    /** Verbs after which who asks is not who they were, or the workspace not what it was: asked alone, each in its own. */
    const ending = new Set([
      'changePassword',
      'deleteMyAccount',
      'deleteWorkspace',
      'leaveWorkspace',
      'saveUserState',
      'setSsoEnforced',
      'signOut',
      'signOutEverywhere',
      'signUp',
      'transferOwnership',
    ]);

    const all = Object.entries<Readonly<Record<string, Make>>>(kinds).flatMap(([way, of]) =>
      Object.entries(of).map(([kind, make]) => ({ way, kind, make })),
    );
    test.each(all)('$way: $kind may what the policy says, in every role', async ({ kind, make }) => {
      const problems: unknown[] = [];
      const seen: string[] = [];
      const compare = (role: Role, cell: Cell, answer: string | undefined, expected: RegExp | string) => {
        seen.push(`${role} ${cell.name}`);
        const good = typeof expected === 'string' ? answer === expected : expected.test(answer ?? '');
        if (!good) problems.push({ role, verb: cell.verb, answer, expected: String(expected) });
      };
      // Each asks for one verb alone where the credential is for that verb, and where nobody can ask afterwards. A
      // credential for all but some verbs asks for those: for one half of them, and another one for the other half.
      const alone = kind.includes('these');
      const halves = kind.includes('other verbs') ? [0, 1] : null;
      const wanted = rolesOf(kind).flatMap((role) => {
        const own = matrix.filter((cell) => asksOf(kind, role, cell) && (alone || ending.has(cell.name)));
        const rest = matrix.filter((cell) => asksOf(kind, role, cell) && !own.includes(cell));
        return [
          ...own.map((cell) => ({ role, scopes: [cell.verb], cells: [cell] })),
          ...(halves
            ? halves.map((half) => {
                const cells = rest.filter((_, i) => i % 2 === half);
                return { role, scopes: cells.map(({ verb }) => verb), cells };
              })
            : [{ role, scopes: [], cells: rest }]),
        ].filter(({ cells }) => cells.length > 0);
      });
      const isEnding = wanted.map(({ cells }) => cells.some(({ name }) => ending.has(name)));
      const shared = await homeOf(kind.includes('the provider'));
      const more = await homes(isEnding.filter(Boolean).length);
      const askers = await make(wanted.map((one, i) => ({ ...one, ...((isEnding[i] ? more.pop() : null) ?? shared) })));
      const rows = wanted.map(({ role, cells }, i) => ({ role, cells, asker: askers[i] as Asker }));
      const parts = (isRefused: boolean) =>
        rows
          .map((row) => ({
            ...row,
            cells: row.cells.filter((cell) => (outcome(cell, row.asker) !== 'allowed') === isRefused),
          }))
          .filter(({ cells }) => cells.length > 0);

      // What is refused changes nothing: one input of a workspace does for everybody, and one look at all tables for all
      // of it. The log only grows, so nothing can have happened and been undone.
      const refused = parts(true);
      const givenTo = ({ of }: Asker, { name }: Cell): Promise<object> => {
        const made = given.get(`${of.id} ${name}`) ?? fresh(inputOf(fieldOf(name)), of, of.owner.id);
        given.set(`${of.id} ${name}`, made);
        return made;
      };
      const asked = await Promise.all(
        refused.map(async (row) => ({
          ...row,
          inputs: new Map(
            await Promise.all(row.cells.map(async (cell) => [cell.name, await givenTo(row.asker, cell)] as const)),
          ),
        })),
      );
      await app.use(Denials).flush();
      const before = await everything();
      await Promise.all(
        asked.map(async ({ role, asker, cells, inputs }) => {
          const answers = await ask(cells, inputs, asker.auth);
          for (const cell of cells) compare(role, cell, answers.get(cell.name), outcome(cell, asker));
        }),
      );
      await app.use(Denials).flush();
      expect(await everything()).toEqual(before);

      await Promise.all(
        parts(false).map(async ({ role, asker, cells }) => {
          const answers = await ask(cells, await inputsFor(cells, asker.of, asker.userId), asker.auth);
          for (const cell of cells) compare(role, cell, answers.get(cell.name), allowedAnswer(cell, kind));
        }),
      );
      expect(problems).toEqual([]);
      // Nothing of the walk was left out.
      expect(seen.toSorted()).toEqual(
        rolesOf(kind)
          .flatMap((role) => matrix.filter((cell) => asksOf(kind, role, cell)).map(({ name }) => `${role} ${name}`))
          .toSorted(),
      );
    });

    /** Credentials that are refused wherever they are brought, of an owner of A or an operator. */
    async function ended(): Promise<Record<string, Auth>> {
      const past = new Date(Date.now() - 1000);
      const ssoConnectionId = providerOfA;
      const owner = { of: a, role: 'OWNER' as const };
      const [password, expired, byGitHub, bySso, lateSso, operator, closed, former, good] = await membersOf(app, [
        { ...owner, endedAt: past },
        { ...owner, expiresAt: past },
        { ...owner, method: 'GITHUB', endedAt: past },
        { ...owner, method: 'SSO', ssoConnectionId, endedAt: past },
        { ...owner, method: 'SSO', ssoConnectionId, expiresAt: past },
        { ...owner, endedAt: past },
        owner,
        owner,
        owner,
      ]);
      await asOperator(idOf(operator));
      await app.db.user.update({ where: { id: idOf(closed) }, data: { closedAt: past } });
      const by = { of: a, createdById: a.owner.id, role: 'OWNER' as const };
      const [expiredKey, revokedKey, left, changed] = await keysOf(app, [
        { ...by, expiresAt: past },
        { ...by, revokedAt: past },
        { ...by, createdById: idOf(former) },
        by,
      ]);
      await app.db.membership.deleteMany({ where: { userId: idOf(former) } });
      const made: Record<string, Auth | undefined> = {
        'a session that was ended': password,
        'a session that expired': expired,
        'a session by GitHub that was ended': byGitHub,
        'a session by a provider that was ended': bySso,
        'a session by a provider that expired': lateSso,
        "an operator's session that was ended": operator,
        'a session of a closed account': closed,
        'a token that its issuer would not have': { token: `external.no.${a.owner.id}` },
        'a token of nobody': { token: externalToken(newId()) },
        'a token of a closed account': { token: externalToken(idOf(closed)) },
        'a session whose signature is wrong': { token: `${good?.token.slice(0, -4)}AAAA` },
        'a key that expired': expiredKey,
        'a key that was revoked': revokedKey,
        'a key whose maker has left': left,
        'a key with another letter': { apiKey: `${changed?.apiKey?.slice(0, -7)}_${changed?.apiKey?.slice(-6)}` },
        'no key': { apiKey: 'sy_nothing' },
      };
      return Object.fromEntries(
        Object.entries(made).map(([who, auth]) => {
          if (!auth) throw new Error(`${who} was not made`);
          return [who, auth];
        }),
      );
    }

    test('whoever is nobody, or is not any more, gets what is for everybody, or nothing', async () => {
      const problems: unknown[] = [];
      const of = a;
      const inputs = await inputsFor(matrix, of, of.owner.id);
      providerOfA = await (rowOf['SsoConnection'] as (typeof rowOf)[string])(app, a);
      const over = await ended();
      await app.use(Denials).flush();
      const before = await everything();
      const refuse = async (who: string, cells: readonly Cell[], auth: Auth): Promise<void> => {
        for (const [verb, answer] of await ask(cells, inputs, auth))
          if (answer !== 'Unauthenticated') problems.push({ who, verb, answer });
      };
      // Each alone for whoever brings nothing; a credential that is not good is refused for whatever it is brought.
      const forSome = matrix.filter(({ authentication }) => authentication !== 'none');
      await Promise.all([
        ...forSome.map((cell) => refuse('nobody', [cell], {})),
        ...Object.entries(over).flatMap(([who, auth]) =>
          ['none', 'person', 'credential'].map((kind) =>
            refuse(
              who,
              matrix.filter(({ authentication }) => authentication === kind),
              auth,
            ),
          ),
        ),
      ]);
      await app.use(Denials).flush();
      expect(problems).toEqual([]);
      expect(await everything()).toEqual(before);
      for (const cell of matrix.filter(({ authentication }) => authentication === 'none'))
        expect((await ask([cell], inputs, {})).get(cell.name)).toMatch(notRefused);
    });
    let providerOfA: string;

    test('a machine whose time is over has no rights any more', async () => {
      const machine: Actor = {
        ...anonymous,
        kind: 'MACHINE',
        credentialId: newId(),
        roles: new Map([[a.id, 'OWNER']]),
      };
      const at = (ms: number) => app.actors.refresh({ ...machine, expiresAt: new Date(Date.now() + ms) });
      expect(await at(-1)).toBeNull();
      expect(await at(60_000)).toMatchObject({ kind: 'MACHINE', userId: null });
    });

    test('what is of the server itself, operators stop and repeat, and nobody else', async () => {
      const operator = await someone(app);
      await asOperator(operator.id);
      const instance = { ...a, id: instanceWorkspaceId };
      const problems: unknown[] = [];
      for (const name of ['cancelRun', 'retryRun', 'replayDeadLetter']) {
        const field = fieldOf(name);
        for (const [who, auth, expected] of [
          ['the owner of A', a.owner, /^NotFound$/],
          ['a key of A', await keyOf(app, a, a.owner.id, 'OWNER'), /^NotFound$/],
          ['a machine of A', { token: machineToken({ roles: { [a.id]: 'OWNER' }, scopes: ['*'] }) }, /^NotFound$/],
          ['an operator', operator, unlike[name] ?? /Success$/],
        ] as const) {
          const id = globalId(
            name === 'replayDeadLetter' ? 'DeadLetter' : 'KeyRotation',
            await (rowOf[name === 'replayDeadLetter' ? 'DeadLetter' : 'KeyRotation'] as (typeof rowOf)[string])(
              app,
              instance,
            ),
          );
          const answer = await mutate(field, { id }, auth);
          if (!expected.test(answer)) problems.push({ name, who, answer });
        }
      }
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
