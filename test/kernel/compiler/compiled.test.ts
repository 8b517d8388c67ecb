import { setImmediate as nextTurn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Kind, parse, type DocumentNode } from 'graphql';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { anonymous, system, type Actor } from '#kernel/auth/actor.ts';
import { anyActor, rowsOf, ruledBy } from '#kernel/auth/policy.ts';
import { modelsOf } from '#kernel/compiler/models.ts';
import { isOrdinary } from '#kernel/compiler/ordinary.ts';
import { Plans, type Plan } from '#kernel/compiler/plans.ts';
import { compile } from '#kernel/compiler/select.ts';
import { globalId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { Audiences } from '#kernel/live/audiences.ts';
import type { Role } from '#prisma';
import { schema } from '../../../src/schema.ts';
import { until } from '../../support/embedded.ts';
import { noted, upTo } from '../../support/live.ts';
import { Operations } from '../../support/operations.ts';
import { random } from '../../support/random.ts';
import { RawSocket } from '../../support/raw-socket.ts';
import { roundTrips } from '../../support/statements.ts';
import { both, compiledFields, differ, hostile, type Both, type Outcome } from '../../support/compiled.ts';
import {
  application,
  deployment,
  invitationOf,
  keyOf,
  memberOf,
  rowOf,
  tenants,
  type Tenant,
} from '../../support/world.ts';

/* Queries as one statement: the same answers as without, and what that must never cost. */

let servers: Both;
let of: Tenant;
let other: Tenant;
let applicationId: string;

const actor = (tenant: Tenant, role: Role, userId: string | null = tenant.owner.id, kind: Actor['kind'] = 'SESSION') =>
  servers.as({ ...anonymous, kind, userId, credentialId: newId(), roles: new Map([[tenant.id, role]]) });

/** The answer, which must be the same both ways, and one statement where nothing else is said. */
async function ask(token: string | null, query: string, variables: object = {}, compiled = 1): Promise<unknown> {
  const asked = await servers.ask({ query, variables: { ...variables } }, token);
  expect(asked).toMatchObject({ compiled: asked.ordinary, statements: { compiled, all: compiled } });
  return JSON.parse(asked.compiled.slice(4));
}

beforeAll(async () => {
  servers = await both();
  const { app } = servers;
  const [one, two] = await tenants(app, ['mine', 'theirs']);
  if (!one || !two) throw new Error('no tenants');
  [of, other] = [one, two];
  applicationId = await application(app, of);
  for (let i = 0; i < 5; i++) await deployment(app, of, applicationId);
});
afterAll(() => servers.stop());

test('random operations are answered the same, compiled or not', async () => {
  const tally = await differ(servers, { seed: 1, count: 200 });
  expect(tally.wrong).toEqual([]);
  expect(tally.compiled + tally.refused).toBe(tally.planned);
  expect(tally.planned).toBeGreaterThan(tally.asked * 0.45);
});

test('most fields compile', () => {
  const fields = [...compiledFields(servers.app)];
  const not = fields.filter(([, reason]) => reason !== null);
  expect(not.length / fields.length).toBeLessThan(0.15);
  // A field that seems to compile and does not is told of by the statement count of the operations above.
  expect(not.map(([name]) => name)).not.toContain('Deployment.viewerCanCancel');
});

test('what is said not to compile by its fields alone does not', () => {
  const models = modelsOf(servers.app.db);
  const id = globalId('Application', applicationId);
  const all = new Operations({ schema, random: random(7), pool: { ids: [id], cursors: ['x'], slugs: ['x'] } });
  let ordinary = 0;
  for (let i = 0; i < 300; i++) {
    const { query, variables } = all.next();
    const { definitions } = parse(query, { noLocation: true });
    const fragments = new Map(
      definitions.flatMap((one) => (one.kind === Kind.FRAGMENT_DEFINITION ? [[one.name.value, one] as const] : [])),
    );
    for (const operation of definitions) {
      if (operation.kind !== Kind.OPERATION_DEFINITION || !isOrdinary(schema, operation, fragments)) continue;
      ordinary++;
      expect(() => compile({ schema, models, operation, fragments, variables })).toThrow(Error);
    }
  }
  expect(ordinary).toBeGreaterThan(50);
});

test('a row, nested lists, and a page with its count are one statement each', async () => {
  const token = actor(of, 'VIEWER');
  const row = await ask(token, 'query ($id: ID!) { node(id: $id) { ... on Application { id name branch createdAt driver memoryMb autoDeploy workspace { name } } } }', { id: globalId('Application', applicationId) }); // prettier-ignore
  expect(row).toMatchObject({ data: { node: { workspace: { name: of.marker }, branch: of.marker } } });
  const lists = await ask(token, 'query ($slug: String!) { workspace(slug: $slug) { viewerRole applications(first: 20) { nodes { name deployments(first: 3) { nodes { id ref status actor { name } steps { name } viewerCanCancel } } } } } }', { slug: of.slug }); // prettier-ignore
  expect(JSON.stringify(lists).match(/"ref":/g)).toHaveLength(3);
  const page = await ask(token, 'query ($id: ID!, $after: String) { node(id: $id) { ... on Application { deployments(first: 2, after: $after) { nodes { id } totalCount pageInfo { hasNextPage endCursor } } } } }', { id: globalId('Application', applicationId) }); // prettier-ignore
  expect(page).toMatchObject({ data: { node: { deployments: { totalCount: 5, pageInfo: { hasNextPage: true } } } } });
});

test('one plan serves all values: nothing is planned anew for each request', async () => {
  const token = actor(of, 'VIEWER');
  const lists = 'query ($slug: String!) { planned: workspace(slug: $slug) { runs(first: 5) { nodes { kind viewerCanCancel actor { name } steps { name } } } applications(first: 5) { nodes { deployments(first: 3) { nodes { id actor { name } } totalCount pageInfo { hasNextPage } } } } } }'; // prettier-ignore
  const nodes = 'query ($ids: [ID!]!) { planned: nodes(ids: $ids) { id ... on Application { name workspace { name viewerRole } } } }'; // prettier-ignore
  // Once without a name, then as often as PostgreSQL plans for values, and some more.
  for (let i = 0; i < 10; i++) {
    await ask(token, lists, { slug: of.slug });
    await ask(token, nodes, { ids: [globalId('Application', applicationId)] });
  }
  const { rows } = await servers.app.database.pool.query<{ generic: string; custom: string }>(
    `select generic_plans generic, custom_plans custom from pg_prepared_statements where statement like '%"planned"%'`,
  );
  expect(rows).toHaveLength(2);
  for (const { generic, custom } of rows) expect({ generic, custom }).toEqual({ generic: '4', custom: '5' });
});

test('nobody sees what the policy does not let them see', async () => {
  const { app } = servers;
  await invitationOf(app, of);
  const maker = await memberOf(app, of, 'VIEWER');
  const own = await keyOf(app, of, maker.id, 'VIEWER');
  await keyOf(app, of, of.owner.id, 'VIEWER');
  const node = 'query ($id: ID!) { node(id: $id) { id } }';
  for (const type of ['Workspace', 'Application']) {
    const id = globalId(type, type === 'Workspace' ? of.id : applicationId);
    expect(await ask(actor(other, 'OWNER'), node, { id })).toEqual({ data: { node: null } });
    expect(await ask(actor(of, 'VIEWER'), node, { id })).toEqual({ data: { node: { id } } });
  }
  // The kind of a run is a part of its id.
  const { id: runId } = await app.db.run.findFirstOrThrow({ where: { workspaceId: of.id, kind: 'Deployment' } });
  expect(await ask(actor(of, 'OWNER'), node, { id: globalId('ExtractionJob', runId) })).toEqual({
    data: { node: null },
  });
  const counts = 'query ($slug: String!) { workspace(slug: $slug) { invitations { totalCount nodes { id } } apiKeys { totalCount nodes { id } } } }'; // prettier-ignore
  const seen = async (token: string) => {
    const { data } = (await ask(token, counts, { slug: of.slug })) as { data: { workspace: Record<string, { totalCount: number; nodes: { id: string }[] }> } }; // prettier-ignore
    return data.workspace;
  };
  const administrator = await seen(actor(of, 'ADMIN', newId()));
  expect([administrator['invitations']?.totalCount, administrator['apiKeys']?.totalCount]).toEqual([1, 2]);
  const viewer = await seen(actor(of, 'VIEWER', maker.id));
  expect(viewer['invitations']?.nodes).toEqual([]);
  expect(viewer['apiKeys']?.nodes).toEqual([{ id: globalId('ApiKey', own.id) }]);
  expect(await ask(actor(other, 'OWNER'), counts, { slug: of.slug })).toEqual({ data: { workspace: null } });
  // The same document, prepared for one actor, is answered for another one by their own rights.
  expect((await seen(actor(of, 'OWNER')))['invitations']?.totalCount).toBe(1);
});

test('requests of one moment are answered each by its own rights, and one that fails spoils no other', async () => {
  const query = 'query ($id: ID!) { node(id: $id) { id ... on Application { name workspace { slug viewerRole } } } }';
  const id = globalId('Application', applicationId);
  const asked = [actor(of, 'OWNER'), actor(of, 'VIEWER'), actor(other, 'OWNER')].flatMap((token) =>
    [id, globalId('Workspace', other.id), globalId('Application', newId()), 'x'].map((one) => ({ token, id: one })),
  );
  const alone: Outcome[] = [];
  for (const { token, id } of asked) alone.push(await servers.ask({ query, variables: { id } }, token));
  const { reader } = servers.app.database;
  // A statement that PostgreSQL refuses, in the same turn as those of requests.
  const spoiling = setInterval(() => void reader.read({ name: undefined, text: 'select 1 / 0', values: [], isShort: true }).catch(() => undefined), 1); // prettier-ignore
  try {
    const together = await Promise.all(
      [...asked, ...asked, ...asked].map(({ token, id }) => servers.ask({ query, variables: { id } }, token)),
    );
    for (const [i, { compiled }] of together.entries()) expect(compiled).toBe(alone[i % asked.length]?.ordinary);
  } finally {
    clearInterval(spoiling);
  }
});

test('ids of many types, in their order, and too many of them', async () => {
  const token = actor(of, 'VIEWER');
  const query = 'query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id ... on Application { name } } }';
  const [workspace, mine] = [globalId('Workspace', of.id), globalId('Application', applicationId)];
  const ids = [mine, globalId('Workspace', other.id), workspace, 'x', mine, globalId('Run', newId()), ''];
  const { data } = (await ask(token, query, { ids })) as { data: { nodes: ({ id: string } | null)[] } };
  expect(data.nodes.map((node) => node?.id ?? null)).toEqual([mine, null, workspace, null, mine, null, null]);
  await ask(token, query, { ids: [] });
  await ask(token, query, { ids: Array.from({ length: 101 }, () => mine) }, 0);
});

test('what a row has that the actor may not see is an error, and told as without', async () => {
  const stranger = await memberOf(servers.app, other, 'VIEWER');
  await servers.app.db.membership.create({
    data: { id: newId(), workspaceId: of.id, userId: stranger.id, role: 'VIEWER' },
  });
  const query =
    'query ($id: ID!) { node(id: $id) { ... on Membership { user { memberships: email } workspace { name } } } }';
  const { id } = await servers.app.db.membership.findFirstOrThrow({
    where: { userId: stranger.id, workspaceId: of.id },
  });
  await ask(actor(of, 'VIEWER'), query, { id: globalId('Membership', id) });
  // A key whose maker is no member any more.
  const key = await keyOf(servers.app, of, other.owner.id, 'VIEWER');
  const maker = 'query ($id: ID!) { node(id: $id) { ... on ApiKey { id createdBy { name } } } }';
  const asked = await servers.ask({ query: maker, variables: { id: globalId('ApiKey', key.id) } }, actor(of, 'ADMIN'));
  expect(asked.compiled).toBe(asked.ordinary);
  expect(asked.compiled).toContain('NOT_FOUND');
  expect(asked.statements.compiled).toBe(1);
});

test('texts, numbers and instants are written as JavaScript writes them', async () => {
  const { app } = servers;
  const id = await application(app, of);
  const createdAt = new Date('1969-12-31T23:59:59.007Z');
  await app.db.application.update({ where: { id }, data: { branch: hostile, createdAt } });
  const token = actor(of, 'VIEWER');
  const query = 'query ($id: ID!) { node(id: $id) { ... on Application { branch createdAt memoryMb } } }';
  expect(await ask(token, query, { id: globalId('Application', id) })).toEqual({
    data: { node: { branch: hostile, createdAt: createdAt.toISOString(), memoryMb: null } },
  });
  const runId = await deployment(app, of, id);
  for (const progress of [0, 1, 0.1, 1e-7, 0.000_05, 1 / 3, 1e21, 123_456_789.125]) {
    await app.db.run.update({ where: { id: runId }, data: { progress } });
    const answer = await ask(token, 'query ($id: ID!) { node(id: $id) { ... on Run { progress } } }', { id: globalId('Deployment', runId) }); // prettier-ignore
    expect(answer).toEqual({ data: { node: { progress } } });
  }
  // What cannot be told is an error, and the same one.
  await app.db.application.update({ where: { id }, data: { createdAt: new Date('+010000-01-01T00:00:00Z') } });
  const late = await servers.ask({ query, variables: { id: globalId('Application', id) } }, token);
  expect(late.compiled).toBe(late.ordinary);
  expect(late.compiled).toContain('INTERNAL');
});

test('instants are of whole milliseconds: PostgreSQL writes no more digits than JavaScript', async () => {
  const { rows } = await servers.app.database.pool.query<{ column: string }>(
    `select table_name || '.' || column_name as column from information_schema.columns
     where table_schema = 'public' and data_type like 'timestamp%' and datetime_precision <> 3 and table_name <> '_prisma_migrations'`,
  );
  expect(rows).toEqual([]);
});

test('a list that is null is an empty one, and one with a null in it is an error', async () => {
  const { app } = servers;
  const id = (await rowOf['ExternalIdentity']?.(app, of)) ?? '';
  const { userId } = await app.db.externalIdentity.findUniqueOrThrow({ where: { id } });
  const query = '{ viewer { identities { scopes } } }';
  const scopes = async (value: string) => {
    await app.database.pool.query(`update external_identity set scopes = ${value} where user_id = $1`, [userId]);
    return servers.ask({ query, variables: {} }, actor(of, 'OWNER', userId));
  };
  for (const value of ['null', `'{}'`, `array['a', '']`, 'array[null]']) {
    const { compiled, ordinary, statements } = await scopes(value);
    expect(compiled).toBe(ordinary);
    expect(statements.compiled).toBe(1);
  }
  expect((await scopes('null')).compiled).toContain('"scopes":[]');
});

test('every transport tells the same: alone, in a batch, by GET, as events and over a WebSocket', async () => {
  const { app } = servers;
  const id = await application(app, of);
  await app.db.application.update({ where: { id }, data: { branch: hostile } });
  await app.db.run.update({ where: { id: await deployment(app, of, id) }, data: { progress: 1e21 } });
  const token = actor(of, 'OWNER');
  const query = `{ __proto__: viewer { id constructor: name } workspace(slug: "${of.slug}") { applications { nodes { branch deployments { nodes { progress } } } } } }`; // prettier-ignore
  const headers = {
    authorization: `Bearer ${token}`,
    'content-type': 'application/json',
    'x-request-id': 'transports',
  };
  const told = async ({ url }: { readonly url: string }): Promise<unknown[]> => {
    const post = async (body: object, accept = 'application/json') => {
      const answer = await fetch(url, { method: 'POST', headers: { ...headers, accept }, body: JSON.stringify(body) });
      return [answer.status, answer.headers.get('content-type'), await answer.text()];
    };
    const got = await fetch(`${url}?query=${encodeURIComponent(query)}`, { headers });
    const socket = await RawSocket.open(url, { token });
    socket.subscribe('a', query);
    await until('it is answered', async () => socket.completed.has('a'));
    socket.close();
    return [
      await post({ query }),
      await post([{ query }, { query: '{ nothing }' }, { query: '{ viewer { id } }' }]),
      await post({ query }, 'text/event-stream'),
      await got.text(),
      socket.of('a'),
    ];
  };
  const compiled = await told(servers.compiling);
  expect(compiled).toEqual(await told(servers.ordinary));
  for (const one of compiled) expect(JSON.stringify(one)).toContain('1e+21');
});

type Twice = { data: { node: { more: { nodes: object[] } } } };
test('pages: none, one, the last, before and after rows of others, and too many', async () => {
  const token = actor(of, 'OWNER');
  const id = globalId('Application', applicationId);
  const rows = await servers.app.db.deployment.findMany({ where: { applicationId }, orderBy: { id: 'desc' } });
  const cursor = (row: string) => Buffer.from(`GPC:S:${row}`).toString('base64');
  const foreign = await deployment(servers.app, other, await application(servers.app, other));
  expect(rows).toHaveLength(5);
  const page = (args: string) => `query ($id: ID!, $at: String) { node(id: $id) { ... on Application { releases(first: 1) { nodes { id } } deployments(${args}) { edges { cursor node { id } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } } } }`; // prettier-ignore
  for (const args of ['first: 0', 'first: 1', 'last: 0', 'last: 2', 'first: 5', 'first: 100', 'first: 1000'])
    await ask(token, page(`${args}, after: null`).replace(', $at: String', ''), { id });
  for (const at of [...rows.map((row) => row.id), foreign, newId()]) {
    await ask(token, page('first: 2, after: $at'), { id, at: cursor(at) });
    await ask(token, page('last: 2, before: $at'), { id, at: cursor(at) });
  }
  for (const args of ['first: -1, after: $at', 'last: 1, after: $at', 'first: 1, after: "x", before: $at'])
    await ask(token, page(args), { id, at: cursor(newId()) }, 0);
  // Of a list that is asked for twice the ordinary way loads the second one by itself, and finds rows behind one of others.
  const twice = `query ($id: ID!, $at: String) { node(id: $id) { ... on Application { deployments(first: 1) { nodes { id } } more: deployments(first: 2, after: $at) { nodes { id } } } } }`; // prettier-ignore
  const asked = await servers.ask({ query: twice, variables: { id, at: cursor(foreign) } }, token);
  expect([asked.compiled, asked.statements.compiled]).toEqual([asked.ordinary, 0]);
  expect((JSON.parse(asked.compiled.slice(4)) as Twice).data.node.more.nodes).toHaveLength(2);
});

test('a statement that was prepared holds on after a migration', async () => {
  const token = actor(of, 'VIEWER');
  const query = 'query ($id: ID!) { node(id: $id) { ... on Application { name healthTimeoutS } } }';
  const variables = { id: globalId('Application', applicationId) };
  // It has a name from its second time on.
  const before = await ask(token, query, variables);
  for (let i = 0; i < 3; i++) expect(await ask(token, query, variables)).toEqual(before);
  const { pool } = servers.app.database;
  await pool.query('alter table application add column later text, alter column health_timeout_s type bigint');
  const { compiled, statements } = await servers.ask({ query, variables }, token);
  expect(JSON.parse(compiled.slice(4))).toEqual(before);
  expect(statements).toEqual({ compiled: 1, all: 1 });
  await pool.query('alter table application drop column later, alter column health_timeout_s type integer');
});

test('a statement that fails is answered in the ordinary way', async () => {
  const { app } = servers;
  const token = actor(of, 'VIEWER');
  const operation = { query: 'query Failing ($id: ID!) { node(id: $id) { id __typename } }', variables: { id: globalId('Application', applicationId) } }; // prettier-ignore
  for (const code of ['42P01', '57P01']) {
    servers.fail(code);
    const { compiled, ordinary } = await servers.ask(operation, token);
    expect(compiled).toBe(ordinary);
    expect(compiled).toContain('"Application"');
  }
  servers.fail(null);
  const outcomes = (await app.metrics.graphqlCompiled.get()).values.filter(
    ({ labels }) => labels['outcome'] === 'failed',
  );
  expect(outcomes.map(({ value }) => value)).toEqual([2]);
});

test('a small document does not become a large statement, whatever it may turn out to be', async () => {
  const { app } = servers;
  const runId = globalId('Deployment', await deployment(app, of, applicationId));
  const deep = (leaf: string, depth: number) =>
    `query ($id: ID!) { node(id: $id) { ... on Run { ${'parent { id '.repeat(depth)} ${leaf} ${'}'.repeat(depth)} } } }`;
  await ask(actor(of, 'VIEWER'), deep('steps { name }', 2), { id: runId });
  // A parent is one of seven types, and so is its own, and so on: seven to the ninth.
  for (const leaf of ['id', 'steps { name }'])
    await servers.ask({ query: deep(leaf, 9), variables: { id: runId } }, actor(of, 'VIEWER')).then((asked) => {
      expect(asked.compiled).toBe(asked.ordinary);
      expect(asked.statements.compiled).toBe(0);
    });
});

test('what is remembered of a document holds neither it nor what it was asked with', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const plans = new Plans({ schema, models: modelsOf(servers.app.db), named: true });
  const made: Plan[] = [];
  const gone: WeakRef<DocumentNode | object>[] = [];
  const id = globalId('Application', applicationId);
  const plan = (query: string, variables: Record<string, unknown>) => {
    const document = parse(query);
    const operation = plans.operation(document, null);
    const found = operation && plans.plan(operation, variables);
    if (!found) throw new Error(`not compiled: ${query}`);
    made.push(found);
    gone.push(new WeakRef(document), new WeakRef(document.loc?.startToken ?? {}), new WeakRef(variables));
  };
  plan('query ($id: ID!) { node(id: $id) { id } }', { id });
  plan(`{ node(id: "${id}") { id } }`, {});
  plan('query ($ids: [ID!]!, $after: String) { nodes(ids: $ids) { ... on Application { deployments(first: 2, after: $after) { nodes { id } } } } }', { ids: [id], after: null }); // prettier-ignore
  plan('query ($slug: String!) { workspace(slug: $slug) { applications(first: 3) { totalCount } } }', { slug: 'x' });
  // What a reference was made to in this turn is kept for all of it.
  await nextTurn();
  collect();
  expect(gone.map((one) => one.deref() === undefined)).toEqual(gone.map(() => true));
  expect(made.map(({ parameters }) => parameters.length).every((count) => count > 0)).toBe(true);
});

test('others wait only for what looks up a few rows by their keys', () => {
  const plans = new Plans({ schema, models: modelsOf(servers.app.db), named: true });
  const isShort = (fields: string) => {
    const operation = plans.operation(parse(`query ($id: ID!) { ${fields} }`), null);
    return operation && plans.plan(operation, { id: globalId('Application', applicationId) })?.isShort;
  };
  const app = (fields: string) => `node(id: $id) { ... on Application { ${fields} } }`;
  const row = app('id name workspace { slug viewerRole } activeRelease { id deployment { id actor { name } } }');
  expect([row, `one: ${row} other: ${row}`].map(isShort)).toEqual([true, true]);
  const many = upTo(20).map((n) => `a${n}: ${row}`).join(' '); // prettier-ignore
  const long = [
    'deployments(first: 1) { nodes { id } }',
    'deployments { totalCount }',
    'deployments { pageInfo { hasNextPage } }',
  ];
  expect([many, 'workspaces { totalCount }', ...long.map(app)].map(isShort)).toEqual(
    long.concat('', '').map(() => false),
  );
});

test('nothing of one actor can get into what others use', () => {
  expect(rowsOf('Application', anyActor)).toEqual({ [ruledBy]: 'Application' });
  expect(() => anyActor.userId).toThrow('Nobody asks yet');
  expect(() => anyActor.roles).toThrow('Nobody asks yet');
});

test('SWITCHYARD_COMPILE=false compiles nothing', async () => {
  const { app } = servers.ordinary.running;
  await servers.ask({ query: '{ workspaces { nodes { id } } }', variables: {} }, actor(of, 'VIEWER'));
  expect((await app.metrics.graphqlCompiled.get()).values).toEqual([]);
  // Nor rows beside the events of a stream.
  const runId = await deployment(servers.app, of, applicationId);
  const told: Record<string, unknown> = {};
  const asked: Record<string, number> = {};
  for (const [name, { url, running }] of Object.entries({ on: servers.compiling, off: servers.ordinary })) {
    const socket = await RawSocket.open(url, { token: actor(of, 'VIEWER') });
    const query = `subscription ($id: ID!) { workspaceEvents(workspaceId: $id) { ... on Event { run { id status } } } }`;
    socket.subscribe('a', query, { id: globalId('Workspace', of.id) });
    await until('it follows', async () => running.app.use(Audiences).size.members === 1);
    const { statements } = await roundTrips(async () => {
      await servers.app.transact(system, async (tx) => {
        tx.append({ type: noted, workspaceId: of.id, subjectId: runId, run: { id: runId, kind: 'Deployment' }, data: { n: 1 } }); // prettier-ignore
      });
      await until('it is told', async () => socket.of('a').some((text) => text.includes('"run":')));
    });
    told[name] = socket.of('a').at(-1);
    asked[name] = statements.filter((text) => text.includes('n(id, place)')).length;
    socket.close();
  }
  expect(told['off']).toBe(told['on']);
  expect(told['on']).toContain('"status":');
  expect(asked).toEqual({ on: 1, off: 0 });
});

test('names that JavaScript knows are names like others, compiled or not', async () => {
  const token = actor(of, 'VIEWER');
  const id = globalId('Application', applicationId);
  const names = [
    '__proto__',
    'constructor',
    'hasOwnProperty',
    'toString',
    'valueOf',
    '__defineSetter__',
    'toJSON',
    'then',
  ];
  const own = (name: string, value: unknown) => Object.fromEntries([[name, value]]);
  for (const name of names) {
    const operations: readonly (readonly [query: string, variables: object])[] = [
      [`query ${name} { ${name}: viewer { ${name}: id } }`, {}],
      [
        `{ workspace(slug: "${of.slug}") { ${name}: applications(first: 2) { ${name}: nodes { ${name}: workspace { ${name}: name } } } } }`,
        {},
      ],
      [
        `{ node(id: "${id}") { ...${name} } } fragment ${name} on Application { ${name}: id deployments { ${name}: totalCount } }`,
        {},
      ],
    ];
    const variables: typeof operations = [
      [`query ($${name}: ID!) { node(id: $${name}) { id } }`, own(name, id)],
      [`query ($${name}: [ID!] = ["${id}"]) { nodes(ids: $${name}) { id } }`, {}],
      [`query ($${name}: Boolean!) { viewer { id name @include(if: $${name}) } }`, own(name, false)],
    ];
    for (const [query, given] of operations) {
      const answer = await ask(token, query, given);
      expect(answer).not.toHaveProperty('errors');
      expect(JSON.stringify(answer)).toContain(`"${name}":`);
    }
    for (const [query, given] of variables) {
      // The one that the libraries lose.
      const isLost = name === '__proto__';
      const answer = await ask(token, query, given, isLost ? 0 : 1);
      const { errors = [] } = answer as { errors?: { extensions: { code: string } }[] };
      expect(errors.map(({ extensions }) => extensions.code)).toEqual(isLost ? ['GRAPHQL_VALIDATION_FAILED'] : []);
    }
  }
  expect(Object.keys(Object.prototype)).toEqual([]);
});
