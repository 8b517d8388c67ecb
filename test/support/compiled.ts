import {
  getNamedType,
  getVariableValues,
  isCompositeType,
  isLeafType,
  isObjectType,
  Kind,
  parse,
  type GraphQLObjectType,
} from 'graphql';
import { DatabaseError } from 'pg';
import { vi } from 'vitest';
import type { Role } from '#prisma';
import { anonymous, type Actor } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import type { App } from '#kernel/app.ts';
import { modelsOf } from '#kernel/compiler/models.ts';
import { Plans } from '#kernel/compiler/plans.ts';
import { compile } from '#kernel/compiler/select.ts';
import { accessOf, admit, rootFieldsOf } from '#kernel/graphql/access.ts';
import type { Database } from '#kernel/db/client.ts';
import { globalId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { schema } from '../../src/schema.ts';
import { startTestServer, type TestServer } from './server.ts';
import { deployment, memberOf, retiredRelease, rowOf, tenants, type Tenant } from './world.ts';
import { Operations, type Operation, type Pool } from './operations.ts';
import { random } from './random.ts';
import { spoil } from './spoil.ts';

/** Two servers on one database: one compiles, the other one does not. */
export interface Both {
  readonly compiling: TestServer;
  readonly ordinary: TestServer;
  readonly app: App;
  /** Lets somebody in with the bearer token that it gives. @param recalled as they are remembered, with a stamp */
  as(actor: Actor, recalled?: Actor): string;
  /** Who that is taken for at first. */
  recalled(token: string | null): Actor;
  ask(operation: Operation, token: string | null): Promise<Outcome>;
  /** Has compiled statements fail with this code of PostgreSQL; null: no more. */
  fail(code: string | null): void;
  stop(): Promise<void>;
}

export interface Outcome {
  readonly compiled: string;
  readonly ordinary: string;
  /** Statements of the server that compiles: the compiled ones, and these with Prisma's. */
  readonly statements: { readonly compiled: number; readonly all: number };
}

export async function both(): Promise<Both> {
  const env = {
    SWITCHYARD_ROLES: 'api',
    SWITCHYARD_MAX_COST: '1000000',
    SWITCHYARD_MAX_DEPTH: '30',
    SWITCHYARD_MAX_ALIASES: '1000',
  };
  const compiling = await startTestServer(env, { hubPollMs: 3_600_000 });
  const ordinary = await startTestServer(
    { ...env, SWITCHYARD_COMPILE: 'false' },
    { hubPollMs: 3_600_000 },
    compiling.database,
  );
  const actors: Readonly<Record<'authenticate' | 'recall', Actor>>[] = [];
  const actorOf = (how: 'authenticate' | 'recall', token: string | null | undefined): Actor =>
    actors[Number(/actor-(\d+)$/.exec(token ?? '')?.[1] ?? -1)]?.[how] ?? anonymous;
  for (const { running } of [compiling, ordinary])
    for (const how of ['authenticate', 'recall'] as const)
      vi.spyOn(running.app.actors, how).mockImplementation(({ authorization }) =>
        Promise.resolve(actorOf(how, authorization)),
      );
  for (const { running } of [compiling, ordinary])
    vi.spyOn(running.app.actors, 'refresh').mockImplementation((actor) => Promise.resolve(actor));
  const { app } = compiling.running;
  let counted = { compiled: 0, all: 0 };
  let failing: string | null = null;
  count(app.database, (text) => {
    const isCompiled = /^select (?:concat\(|\('\{)/.test(text);
    counted = {
      compiled: counted.compiled + Number(isCompiled),
      all: counted.all + Number(isCompiled || text.startsWith('SELECT ')),
    };
    return isCompiled ? failing : null;
  });
  const text = async (server: TestServer, operation: Operation, token: string | null): Promise<string> => {
    const answer = await fetch(server.url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'x-request-id': 'differential',
        ...(token === null ? {} : { authorization: `Bearer ${token}` }),
      },
      body: JSON.stringify(operation),
    });
    return `${answer.status} ${await answer.text()}`;
  };
  return {
    compiling,
    ordinary,
    app,
    fail(code) {
      failing = code;
    },
    recalled: (token) => actorOf('recall', token),
    as: (authenticate, recall = authenticate) => `actor-${actors.push({ authenticate, recall }) - 1}`,
    async ask(operation, token) {
      counted = { compiled: 0, all: 0 };
      const compiled = await text(compiling, operation, token);
      return { compiled, statements: counted, ordinary: await text(ordinary, operation, token) };
    },
    async stop() {
      vi.restoreAllMocks();
      await ordinary.stop();
      await compiling.stop();
    },
  };
}

function count({ pool, reader }: Database, tell: (text: string) => string | null): void {
  const told = <T>(text: string, go: () => T): T | Promise<never> => {
    const code = tell(text);
    return code === null ? go() : Promise.reject(Object.assign(new DatabaseError('it failed', 0, 'error'), { code }));
  };
  const query = pool.query.bind(pool) as (...args: unknown[]) => unknown;
  vi.spyOn(pool, 'query').mockImplementation((...args: unknown[]) => {
    const [statement] = args;
    return told(typeof statement === 'string' ? statement : (statement as { text: string }).text, () => query(...args));
  });
  const read = reader.read.bind(reader);
  vi.spyOn(reader, 'read').mockImplementation((reading) => told(reading.text, () => read(reading)));
}

/** Texts that are written otherwise in JSON. */
export const hostile = `"q" \\ / \b\f\n\r\t \u0001\u001f\u007f \u2028\u2029 é 漢 😀 </script> ' $1 {"a":1}`;

/** Two workspaces with some of everything, and people of both. */
export async function world({ app, as }: Both): Promise<{
  pool: Pool;
  tokens: (string | null)[];
  /** Of those who are remembered, most with rights that they have no more, or not yet. */
  stale: ReadonlySet<string>;
  of: Tenant;
  other: Tenant;
}> {
  const [of, other] = await tenants(app, ['one', 'two']);
  if (!of || !other) throw new Error('no tenants');
  // A seed means the same rows each time.
  const orderBy = { id: 'asc' } as const;
  const ids: string[] = [];
  for (const tenant of [of, other])
    for (const [type, make] of Object.entries(rowOf))
      for (let i = 0; i < (tenant === of ? 3 : 1); i++) ids.push(globalId(type, await make(app, tenant)));
  const applications = await app.db.application.findMany({ where: { workspaceId: of.id }, orderBy });
  for (const { id } of applications.slice(0, 3))
    for (let i = 0; i < 4; i++) ids.push(globalId('Deployment', await deployment(app, of, id)));
  const released = await retiredRelease(app, of);
  await app.db.application.update({ where: { id: released.applicationId }, data: { activeReleaseId: released.id } });
  const [strange, ...more] = applications;
  await app.db.application.update({
    where: { id: strange?.id ?? '' },
    data: { branch: hostile, createdAt: new Date('1969-12-31T23:59:59.001Z') },
  });
  // Of one instant: only their ids tell them apart.
  await app.db.application.updateMany({
    where: { id: { in: more.map(({ id }) => id) } },
    data: { createdAt: new Date('2026-01-01T00:00:00Z') },
  });
  const runs = await app.db.run.findMany({ where: { workspaceId: of.id }, orderBy });
  const progress = [0, -0, 1, 0.1, 1e-7, 0.00001, 1 / 3, 123_456.789, 1e21, 5e-324];
  for (const [i, { id }] of runs.entries())
    await app.db.run.update({
      where: { id },
      data: {
        progress: progress[i % progress.length] ?? 0,
        statusReason: i % 3 ? hostile : null,
        startedAt: i % 2 ? new Date(i * 1e9 - 1e12) : null,
      },
    });
  for (const [i, { id }] of runs.entries())
    if (i > 0 && i % 4 === 0)
      await app.db.run.update({
        where: { id },
        data: { parentId: runs[0]?.id ?? null, retryOfId: runs[i - 1]?.id ?? null },
      });
  for (const [i, name] of ['fetch', 'build', 'deploy'].entries())
    await app.db.runStep.create({
      data: { id: newId(), runId: runs[0]?.id ?? '', name, position: i, error: i ? null : hostile },
    });
  const items = await app.db.inboxItem.findMany({ where: { workspaceId: of.id }, orderBy });
  const data = [{ b: 1, a: [1.5, 1e21, -0, null, hostile], 10: 'ten', 2: { z: {}, y: [] } }, [], 'text'];
  for (const [i, { id }] of items.entries())
    await app.db.inboxItem.update({ where: { id }, data: { data: data[i % 3] ?? {} } });
  const documents = await app.db.document.findMany({ where: { workspaceId: of.id }, orderBy });
  for (const [i, { id }] of documents.entries())
    await app.db.document.update({
      where: { id },
      data: { sizeBytes: [0n, 9_007_199_254_740_991n, 9_007_199_254_740_992n][i % 3] ?? 0n, name: `${hostile} ${i}` },
    });

  const person = await memberOf(app, of, 'VIEWER');
  const soon = new Date(Date.now() + 3_600_000);
  const base = { ...anonymous, credentialId: newId(), expiresAt: soon };
  const tokens: (string | null)[] = [null];
  const stale = new Set<string>();
  for (const role of ['VIEWER', 'MEMBER', 'ADMIN', 'OWNER'] as const) {
    const roles = new Map([[of.id, role]]);
    const userId = role === 'OWNER' ? of.owner.id : person.id;
    tokens.push(
      as({ ...base, kind: 'SESSION', userId, roles }),
      as({ ...base, kind: 'API_KEY', userId, roles, scopes: new Set() }),
    );
    tokens.push(as({ ...base, kind: 'TOKEN', userId, roles }), as({ ...base, kind: 'MACHINE', userId: null, roles }));
  }
  tokens.push(as({ ...base, kind: 'SESSION', userId: other.owner.id, roles: new Map([[other.id, 'OWNER']]) }));
  tokens.push(as({ ...base, kind: 'SESSION', userId: of.owner.id, roles: new Map([[of.id, 'OWNER'], [other.id, 'VIEWER']]) })); // prettier-ignore
  tokens.push(as({ ...base, kind: 'SESSION', userId: person.id, roles: new Map() }));
  const two = new Map<string, Role>([[of.id, 'MEMBER'], [other.id, 'ADMIN']]); // prettier-ignore
  const scopes = new Set(['runs.cancelRun', 'deployments.createDeployment']);
  tokens.push(
    as({ ...base, kind: 'API_KEY', userId: person.id, roles: new Map([[of.id, 'MEMBER']]), scopes }),
    as({ ...base, kind: 'TOKEN', userId: person.id, roles: two }),
    as({ ...base, kind: 'MACHINE', userId: null, roles: two, scopes }),
    as({ ...base, kind: 'SESSION', userId: of.owner.id, roles: new Map([[instanceWorkspaceId, 'OWNER']]) }),
    as({ ...base, kind: 'SESSION', userId: of.owner.id, roles: new Map([...two, [instanceWorkspaceId, 'OWNER']]) }),
    as({ ...base, kind: 'SESSION', userId: newId(), roles: two }),
  );
  // Those who are remembered: as they are now, and with rights that they had once, or now have, or do not have any more.
  const { rows: versions } = await app.database.pool.query<{ user_id: string; version: string }>(
    'select user_id, version from user_rights',
  );
  const versionOf = (userId: string) => versions.find((one) => one.user_id === userId)?.version ?? '';
  const session = { ...base, kind: 'SESSION', userId: person.id } as const;
  const holding = { userId: person.id, version: versionOf(person.id), endsAt: soon };
  const none = new Map<string, Role>();
  const all = new Map<string, Role>([[of.id, 'OWNER'], [other.id, 'OWNER'], [instanceWorkspaceId, 'OWNER']]); // prettier-ignore
  const remember = (roles: Actor['roles'], once: Actor['roles'], stamp: Actor['stamp']) => {
    const token = as({ ...session, roles }, { ...session, roles: once, ...(stamp ? { stamp } : {}) });
    tokens.push(token);
    stale.add(token);
  };
  // Good until a change of what it stands for.
  remember(two, two, holding);
  for (const stamp of [
    { ...holding, version: newId() },
    { ...holding, userId: of.owner.id },
    { ...holding, endsAt: new Date(0) },
  ]) {
    remember(none, all, stamp);
    remember(two, all, stamp);
    remember(two, none, stamp);
  }

  const rows = [
    ...runs,
    ...applications,
    ...documents,
    ...items,
    ...(await app.db.deployment.findMany({ take: 10, orderBy })),
    ...(await app.db.membership.findMany({ orderBy })),
  ];
  const cursors = rows.map(({ id }) => Buffer.from(`GPC:S:${id}`).toString('base64'));
  return {
    of,
    other,
    tokens,
    stale,
    pool: {
      ids: [
        ...ids,
        ...Array.from({ length: 8 }, () => globalId('Workspace', of.id)),
        globalId('Workspace', other.id),
        globalId('Application', newId()),
        globalId('Nothing', newId()),
        globalId('Application', 'x'),
        globalId('Run', newId()),
        'x',
        '',
      ],
      cursors: [
        ...cursors,
        Buffer.from(`GPC:S:${newId()}`).toString('base64'),
        Buffer.from('GPC:S:x').toString('base64'),
        'x',
        '',
      ],
      slugs: [of.slug, of.slug, other.slug, 'nothing', hostile],
    },
  };
}

/** Fields of the types that are reached from Query, as `Type.field`, and why they do not compile; null: they do. */
export function compiledFields(app: App): Map<string, string | null> {
  const models = modelsOf(app.db);
  const found = new Map<string, string | null>();
  const fails = (text: string, variables: Record<string, unknown>): string | null => {
    const [operation] = parse(text, { noLocation: true }).definitions;
    if (operation?.kind !== Kind.OPERATION_DEFINITION) return 'no operation';
    try {
      compile({ schema, models, operation, fragments: new Map(), variables });
      return null;
    } catch (error) {
      return String(error);
    }
  };
  const values: Readonly<Record<string, string>> = { ids: '$ids', id: '$id', slug: '"x"' };
  const todo: { type: GraphQLObjectType; wrap: (inner: string) => string; variables: Record<string, unknown> }[] = [];
  const seen = new Set<string>();
  const add = (type: GraphQLObjectType, wrap: (inner: string) => string, variables: Record<string, unknown>) => {
    if (seen.has(type.name)) return;
    seen.add(type.name);
    todo.push({ type, wrap, variables });
  };
  const query = schema.getQueryType();
  if (!query) throw new Error('no queries');
  const id = { id: globalId('Application', newId()), ids: [] };
  add(query, (inner) => `query($id: ID!, $ids: [ID!]!) { ${inner} }`, id);
  for (const type of Object.values(schema.getTypeMap()))
    if (isObjectType(type) && type.getInterfaces().some(({ name }) => name === 'Node'))
      add(type, (inner) => `query($id: ID!) { node(id: $id) { ... on ${type.name} { ${inner} } } }`, {
        id: globalId(type.name, newId()),
      });
  for (const { type, wrap, variables } of todo)
    for (const field of Object.values(type.getFields())) {
      const named = getNamedType(field.type);
      const args = field.args.flatMap(({ name, type: of }) =>
        String(of).endsWith('!') ? [`${name}: ${values[name] ?? '0'}`] : [],
      );
      const head = `${field.name}${args.length > 0 ? `(${args.join(', ')})` : ''}`;
      const reason = fails(wrap(isLeafType(named) ? head : `${head} { __typename }`), variables);
      found.set(`${type.name}.${field.name}`, reason);
      if (reason !== null || !isCompositeType(named)) continue;
      const possible = isObjectType(named) ? [named] : [];
      for (const one of possible) add(one, (inner) => wrap(`${head} { ${inner} }`), variables);
    }
  return found;
}

/** What came of many random operations. */
export interface Tally {
  readonly asked: number;
  /** Those that a plan was made for: each has to be one statement, unless that comes upon an error. */
  readonly planned: number;
  /** Those that were one statement. */
  readonly compiled: number;
  /** Those that were to be one, and have errors, which the ordinary way told. */
  readonly refused: number;
  /** Those that answered with errors, both ways. */
  readonly errors: number;
  /** Those of somebody whose rights had changed since they were read, which their statement found out. */
  readonly stale: number;
  /** Columns in which something was put that is seldom there. */
  readonly spoilt: number;
  /** The first that were answered otherwise, or not by one statement. */
  readonly wrong: readonly string[];
}

/** Whether two answers are the same text, but for the order of errors. */
function isSame(one: string, other: string): boolean {
  if (one === other) return true;
  const [a, b] = [one, other].map((text) => {
    const { errors = [], ...rest } = JSON.parse(text.slice(4)) as { errors?: unknown[] };
    return [text.slice(0, 3), JSON.stringify(rest), ...errors.map((error) => JSON.stringify(error)).toSorted()].join(
      '\n',
    );
  });
  return a === b && one.includes('"errors":');
}

/** Tells whether an operation has to be one statement: by making its plan, as the server does. */
function planning(app: App): (operation: Operation, actor: Actor) => boolean {
  const plans = new Plans({ schema, models: modelsOf(app.db), named: false });
  return ({ query, variables: given, operationName }, actor) => {
    const document = parse(query, { noLocation: true });
    const operation = plans.operation(document, operationName);
    if (!operation || actor.kind === 'ANONYMOUS') return false;
    const variables = getVariableValues(schema, operation.node.variableDefinitions ?? [], { ...given }).coerced;
    const plan = variables && plans.plan(operation, variables);
    if (!plan) return false;
    try {
      for (const field of rootFieldsOf(schema, document, operationName))
        admit(actor, accessOf(field), { kind: 'Query', name: field.name });
    } catch {
      return false; // who may not ask is told so in the ordinary way
    }
    try {
      for (const parameter of plan.parameters) parameter({ actor, variables });
      return true;
    } catch {
      return false; // what is wrong with a value is told in the ordinary way
    }
  };
}

/** Asks random operations of random actors both ways. Most have only fields that compile. */
export async function differ(servers: Both, { seed, count: asked }: { seed: number; count: number }): Promise<Tally> {
  const { pool, tokens, stale } = await world(servers);
  const next = random(seed);
  const fields = compiledFields(servers.app);
  const all = new Operations({ schema, random: next, pool });
  const some = new Operations({ schema, random: next, pool, fields: (name) => (fields.get(name) ?? null) === null });
  const isPlanned = planning(servers.app);
  const tally = { planned: 0, compiled: 0, refused: 0, errors: 0, stale: 0, spoilt: 0 };
  const wrong: string[] = [];
  for (let i = 0; i < asked && wrong.length < 3; i++) {
    // First as rows usually are, then with more and more that is seldom there.
    if (i % 100 === 50) tally.spoilt += await spoil(servers.app.database.pool, next, 40);
    const operation = (next() < 0.85 ? some : all).next();
    const token = tokens[Math.floor(next() * tokens.length)] ?? null;
    // Some again with other ids and cursors, which are parameters of the same statement.
    const other = (value: unknown): unknown =>
      Array.isArray(value)
        ? value.map(other)
        : ([pool.ids, pool.cursors, pool.slugs].find((all) => all.includes(value as string))?.at(next() * 10) ?? value);
    if (next() < 0.4) {
      const variables = Object.fromEntries(
        Object.entries(operation.variables).map(([name, value]) => [name, other(value)]),
      );
      await servers.ask({ ...operation, variables }, tokens[Math.floor(next() * tokens.length)] ?? null);
    }
    let { compiled, ordinary, statements } = await servers.ask(operation, token);
    // An answer with an error does not wait for its other fields: their statements may have come in the time of this one.
    if (statements.compiled === 1 && statements.all > 1 && !stale.has(token ?? '')) ({ compiled, ordinary, statements } = await servers.ask(operation, token)); // prettier-ignore
    // Fields beside each other fail in whichever order: where there are errors both ways, they are the same in one of three.
    for (let more = 0; more < 2 && !isSame(compiled, ordinary) && ordinary.includes('"errors":'); more++)
      ({ compiled, ordinary, statements } = await servers.ask(operation, token));
    // Who is not who they were is told so by the one statement, and answered by others.
    const isOne = statements.compiled === 1 && (statements.all === 1 || stale.has(token ?? ''));
    const hasErrors = ordinary.includes('"errors":');
    // What GraphQL or its limits refuse is not executed, and has no data.
    const planned = ordinary.includes('"data":') && isPlanned(operation, servers.recalled(token));
    tally.planned += Number(planned);
    tally.compiled += Number(isOne);
    tally.refused += Number(planned && !isOne && hasErrors);
    tally.stale += Number(statements.compiled === 1 && stale.has(token ?? ''));
    tally.errors += Number(hasErrors);
    // What has a plan is one statement, and no other; what that does not answer has to be an error.
    if (isSame(compiled, ordinary) && statements.compiled === Number(planned) && (!planned || isOne || hasErrors))
      continue;
    const at = compiled.split('').findIndex((one, j) => one !== ordinary[j]);
    const part = (text: string) => text.slice(Math.max(0, at - 80), at + 200);
    wrong.push([`seed ${seed}, operation ${i}, ${token ?? 'nobody'}, statements ${JSON.stringify(statements)}`, operation.operationName ?? '', operation.query, JSON.stringify(operation.variables), part(compiled), part(ordinary)].join('\n')); // prettier-ignore
  }
  return { asked, ...tally, wrong };
}
