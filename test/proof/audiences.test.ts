import { getNamedType, isCompositeType, parse, validate } from 'graphql';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import type { Role } from '#prisma';
import { anonymous, atLeast, roles, type Actor } from '#kernel/auth/actor.ts';
import { eventTypes, type EventType } from '#kernel/events/define.ts';
import { globalId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { Audiences } from '#kernel/live/audiences.ts';
import { encodeCursor } from '#kernel/live/cursor.ts';
import { schema } from '../../src/schema.ts';
import type { Auth } from '../support/client.ts';
import { freePort } from '../support/counterparts.ts';
import { until } from '../support/embedded.ts';
import { noted, upTo } from '../support/live.ts';
import { random } from '../support/random.ts';
import { definitionsFor, RandomSelection } from '../support/random-selection.ts';
import { RawSocket } from '../support/raw-socket.ts';
import { startTestServer, type TestServer } from '../support/server.ts';
import { application, deployment, keyOf, memberOf, rowOf, tenant, type Tenant } from '../support/world.ts';

/** Two servers on one database: one shares executions, the other executes for each subscriber. */
let sharing: TestServer;
let single: TestServer;
let of: Tenant;
const seed = Number(process.env['PROOF_SEED'] ?? '20260');

beforeAll(async () => {
  const settings = {
    SWITCHYARD_ROLES: 'api',
    // Sessions of the one are good at the other.
    PUBLIC_URL: 'http://switchyard.test',
    SESSION_SECRET: 'a secret of the proof, the same for both servers',
    SWITCHYARD_MAX_SUBSCRIPTIONS_PER_SOCKET: '1000',
    SWITCHYARD_MAX_MESSAGES_PER_S: '100000',
    SWITCHYARD_MAX_SOCKETS_PER_ACTOR: '10000',
    SWITCHYARD_MAX_COST: '1000000',
    SWITCHYARD_MAX_DEPTH: '30',
    SWITCHYARD_MAX_ALIASES: '500',
  };
  const ports = [String(await freePort()), String(await freePort())] as const;
  const at = (server: TestServer, port: string) => ({ ...server, url: `http://127.0.0.1:${port}/graphql` });
  sharing = at(await startTestServer({ ...settings, PORT: ports[0] }), ports[0]);
  const apart = { ...settings, PORT: ports[1], SWITCHYARD_SHARED_EXECUTION: 'false' };
  single = at(await startTestServer(apart, {}, sharing.database), ports[1]);
  of = await tenant(app(), 'audiences');
});
afterAll(async () => {
  vi.restoreAllMocks();
  await single.stop();
  await sharing.stop();
});

/** Lets actors in by bearer tokens of their own, for as long as the test runs: those of other issuers, and machines. */
function letIn(): (actor: Actor) => Auth {
  const known: Actor[] = [];
  for (const { actors } of [sharing.running.app, single.running.app]) {
    const authenticate = actors.authenticate.bind(actors);
    const refresh = actors.refresh.bind(actors);
    vi.spyOn(actors, 'authenticate').mockImplementation(async (credentials, origin) => {
      const found = known[Number(/actor-(\d+)$/.exec(credentials.authorization ?? '')?.[1] ?? -1)];
      return found ? { ...found, origin: origin ?? null } : authenticate(credentials, origin);
    });
    vi.spyOn(actors, 'refresh').mockImplementation(async (actor) =>
      known.some(({ kind }) => kind === actor.kind) ? actor : refresh(actor),
    );
  }
  return (actor) => ({ token: `actor-${known.push(actor) - 1}` });
}

const app = () => sharing.running.app;
const size = () => app().use(Audiences).size;
async function open(server: TestServer, auth: Auth): Promise<RawSocket> {
  const socket = await RawSocket.open(server.url, auth);
  onTestFinished(() => socket.close());
  return socket;
}
const now = async (workspaceId: string): Promise<string> => {
  const { epoch, seq } = await app().db.eventHead.findUniqueOrThrow({ where: { workspaceId } });
  return encodeCursor({ stream: workspaceId, epoch, seq });
};
const typeNamed = (name: string): EventType => {
  const type = eventTypes().get(name);
  if (!type) throw new Error(`no event ${name}`);
  return type;
};

test('payloads are those of an execution for each, byte for byte, for every field, role and credential', async () => {
  const appId = await application(app(), of);
  const runId = await deployment(app(), of, appId, { status: 'RUNNING', phase: 'BUILDING' });
  const jobId = await rowOf['ExtractionJob']?.(app(), of);
  const itemId = await rowOf['InboxItem']?.(app(), of);
  if (!jobId || !itemId) throw new Error('the world has them');
  const W = globalId('Workspace', of.id);
  /** Arguments by field, and which of the events below it tells. */
  const fields: Record<string, { readonly argument: string; readonly id: string; readonly tells: RegExp }> = {
    workspaceEvents: { argument: 'workspaceId', id: W, tells: /./ },
    inboxUpdated: { argument: 'workspaceId', id: W, tells: /^inbox/ },
    auditLog: { argument: 'workspaceId', id: W, tells: /./ },
    runEvents: { argument: 'id', id: globalId('Deployment', runId), tells: /^deployment/ },
    deploymentUpdated: { argument: 'of', id: globalId('Application', appId), tells: /^deployment/ },
    run: { argument: 'id', id: globalId('Deployment', runId), tells: /^deployment/ },
    extractionJobUpdated: { argument: 'of', id: W, tells: /^extractionJob/ },
  };
  const next = random(seed);
  const subscription = schema.getSubscriptionType();
  if (!subscription) throw new Error('there are subscriptions');
  const documents: { readonly field: string; readonly text: string; readonly tells: RegExp }[] = [];
  for (const [name, { argument, tells }] of Object.entries(fields)) {
    const field = subscription.getFields()[name];
    const type = field && getNamedType(field.type);
    if (!isCompositeType(type)) throw new Error(`no subscription ${name}`);
    // A snapshot has no place to begin at: it begins with how the run is.
    const places = field?.args.some((one) => one.name === 'after')
      ? { variable: ', $after: String', argument: ', after: $after' }
      : { variable: '', argument: '' };
    for (let made = 0; made < 8;) {
      const { selection, fragments } = new RandomSelection(schema, next).of(type, 2 + (made % 2));
      const text = `subscription S($id: ID!${places.variable}${definitionsFor(selection + fragments)}) { item: ${name}(${argument}: $id${places.argument}) { kind: __typename it: __typename ...on ${type.name} ${selection} } }\n${fragments}`;
      if (validate(schema, parse(text)).length > 0) continue;
      made++;
      documents.push({ field: name, text, tells });
    }
  }

  // One of the runs is of somebody whom only one of them may see, by another workspace.
  const other = await tenant(app(), 'other');
  await app().db.run.update({ where: { id: jobId }, data: { actorId: other.owner.id } });

  const actors: { readonly name: string; readonly auth: Auth; readonly role: Role }[] = [];
  const as = letIn();
  for (const role of roles) {
    const person = await memberOf(app(), of, role);
    // Who is a member elsewhere too.
    const both = await memberOf(app(), of, role);
    const elsewhere = { id: newId(), workspaceId: other.id, userId: both.id, role: 'ADMIN' } as const;
    await app().db.membership.create({ data: elsewhere });
    actors.push({ name: `${role} SESSION of two workspaces`, auth: both, role });
    const reached = new Map<string, Role>([[of.id, role]]);
    const token = {
      ...anonymous,
      kind: 'TOKEN',
      userId: person.id,
      expiresAt: new Date(Date.now() + 3_600_000),
    } as const;
    actors.push({ name: `${role} TOKEN`, auth: as({ ...token, roles: reached }), role });
    actors.push({
      name: `${role} TOKEN of two workspaces`,
      auth: as({ ...token, userId: both.id, roles: new Map([...reached, [other.id, 'ADMIN']]) }),
      role,
    });
    const machine = { ...anonymous, kind: 'MACHINE', credentialId: newId(), roles: reached } as const;
    actors.push({ name: `${role} MACHINE`, auth: as(machine), role });
    if (role === 'MEMBER')
      await app().db.membership.create({ data: { id: newId(), workspaceId: other.id, userId: person.id, role } });
    actors.push({ name: `${role} SESSION`, auth: person, role });
    actors.push({ name: `${role} SESSION of another`, auth: await memberOf(app(), of, role), role });
    actors.push({ name: `${role} API_KEY`, auth: await keyOf(app(), of, person.id, role), role });
    actors.push({
      name: `${role} API_KEY without verbs`,
      auth: await keyOf(app(), of, person.id, role, { scopes: [] }),
      role,
    });
  }

  const after = await now(of.id);
  const sockets = await Promise.all(
    actors.map(async (actor) => ({
      ...actor,
      shared: [await open(sharing, actor.auth), await open(sharing, actor.auth)] as const,
      alone: await open(single, actor.auth),
    })),
  );
  // Who may not read it is refused before there is anything to share, and the refusals would be entries of it.
  const mayAsk = (role: Role, field: string) => field !== 'auditLog' || atLeast(role, 'ADMIN');
  let asked = 0;
  for (const [index, { field, text }] of documents.entries())
    for (const { shared, alone } of sockets.filter((one) => mayAsk(one.role, field))) {
      for (const socket of [...shared, alone]) socket.subscribe(String(index), text, { id: fields[field]?.id, after });
      asked += shared.length;
    }
  await until('all have joined', async () => size().members === asked, 60_000);
  const { audiences, members } = size();
  console.log(
    `MEASURED audiences: seed ${seed}, ${documents.length} documents, ${members} subscribers, ${audiences} audiences`,
  );
  expect(audiences).toBeLessThan(members / 2);

  const actor: Actor = { ...anonymous, kind: 'SESSION', userId: of.owner.id };
  const told: string[] = [];
  const append = (name: string, subjectId: string, run?: { id: string; kind: string }, more: object = {}) =>
    app().transact(actor, async (tx) => {
      const type = typeNamed(name);
      tx.append({ type, workspaceId: of.id, subjectId, ...(run ? { run } : {}), ...more, data: { n: told.length } });
      told.push(name);
    });
  const run = { id: runId, kind: 'Deployment' };
  const job = { id: jobId, kind: 'ExtractionJob' };
  const entries = (socket: RawSocket, index: number) =>
    socket.of(String(index)).filter((text) => !text.includes('"kind":"StreamCheckpoint"'));
  /** Whom something was not told yet. */
  const lacking = () =>
    sockets.flatMap(({ name, role, shared, alone }) =>
      documents.flatMap(({ field, tells }, index) => {
        const expected = mayAsk(role, field)
          ? Number(field === 'run') + told.filter((one) => tells.test(one)).length
          : 0;
        const got = [...shared, alone].map((socket) => entries(socket, index).length);
        return got.every((count) => count === expected) ? [] : [`${field} ${name}: ${got.join(', ')} of ${expected}`];
      }),
    );
  await append('deployment.stepStarted', runId, run, { from: 'PENDING', to: 'RUNNING' });
  // What comes while a snapshot is made would be merged into the next.
  await until('snapshots are made', async () => !lacking().some((text) => text.startsWith('run ')), 60_000);
  await append('inbox.opened', itemId);
  await append(noted.name, of.id);
  await append('extractionJob.stepStarted', jobId, job, { to: 'RUNNING' });
  await append('deployment.stepSucceeded', runId, run, { from: 'RUNNING', to: 'SUCCEEDED' });
  await append('inbox.closed', itemId);
  await until('all were told', async () => lacking().length === 0, 60_000).catch(() => undefined);
  expect(lacking()).toEqual([]);
  // Addresses of files are signed for so long from now, by the second.
  const timeless = (text: string) =>
    text
      .replaceAll(/"requestId":"[\w-]+"/g, '"requestId":""')
      .replaceAll(/\?expires=[^"]*|"[\d-]{10}T[\d:]{8}\.000Z"/g, '');
  let compared = 0;
  for (const { name, shared, alone } of sockets)
    for (const [index, { text }] of documents.entries())
      for (const socket of shared) {
        const [got, expected] = [entries(socket, index), entries(alone, index)];
        expect({ name, text, got: got.map(timeless) }).toEqual({ name, text, got: expected.map(timeless) });
        expect(socket.errors.get(String(index))).toEqual(alone.errors.get(String(index)));
        // What is masked would be one that reads an actor where there is none.
        expect(got.join('')).not.toContain('INTERNAL');
        compared += got.length;
      }
  expect(compared).toBeGreaterThan(1000);
}, 120_000);

describe('an audience', () => {
  /** Of a workspace where nothing happens, from the beginning. */
  let quiet: RawSocket;
  beforeAll(async () => {
    const own = await tenant(app(), 'quiet');
    quiet = await RawSocket.open(sharing.url, own.owner);
    quiet.subscribe('a', document, { id: globalId('Workspace', own.id) });
    await until('it has joined', async () => size().members === 1);
  });
  const document = `subscription ($id: ID!, $after: String) { item: workspaceEvents(workspaceId: $id, after: $after) { __typename ... on Event { seq data } ... on StreamGap { reason } } }`;
  const numbers = (texts: readonly string[]): number[] =>
    texts.flatMap((text) => {
      const { item } = (JSON.parse(text) as { data: { item: { data?: { n?: number } } } }).data;
      return item.data?.n === undefined ? [] : [item.data.n];
    });
  const note = (workspaceId: string, ...all: number[]) =>
    app().transact({ ...anonymous, kind: 'SYSTEM' }, async (tx) => {
      for (const n of all) tx.append({ type: noted, workspaceId, subjectId: workspaceId, data: { n } });
    });

  test('of two thousand, of which one leaves at each event, tells each what came while it was there', async () => {
    const many = 2000;
    const own = await tenant(app(), 'many');
    const id = globalId('Workspace', own.id);
    const sockets = await Promise.all(upTo(20).map(() => open(sharing, own.owner)));
    for (const index of upTo(many)) sockets[index % 20]?.subscribe(String(index), document, { id });
    await until('all have joined', async () => size().members === many + 1 && size().audiences === 2);
    const leavers = 100;
    for (const n of upTo(leavers)) {
      await note(own.id, n);
      const socket = sockets[n % 20];
      await until('it came', async () => numbers(socket?.of(String(n)) ?? []).at(-1) === n);
      socket?.complete(String(n));
    }
    await until('they have left', async () => size().members === many - leavers + 1);
    await note(own.id, leavers + 1);
    await until('the others have all', async () =>
      upTo(many - leavers, leavers + 1).every(
        (index) => numbers(sockets[index % 20]?.of(String(index)) ?? []).length === leavers + 1,
      ),
    );
    for (const index of upTo(many)) {
      const got = numbers(sockets[index % 20]?.of(String(index)) ?? []);
      expect(got.slice(0, index)).toEqual(upTo(Math.min(index, leavers + 1)));
    }
    for (const socket of sockets) socket.close();
    await until('nothing is held', async () => size().members === 1 && size().audiences === 1);
  });

  test('in which nothing happens is told where it stands', async () => {
    await until('a second checkpoint came', async () => quiet.of('a').length >= 2, 60_000);
    expect(quiet.of('a').every((text) => text.includes('"__typename":"StreamCheckpoint"'))).toBe(true);
    quiet.close();
    await until('it is gone', async () => size().members === 0);
  });

  test('meets another history with a gap for each, and a member that resumes goes on', async () => {
    const own = await tenant(app(), 'epoch');
    const id = globalId('Workspace', own.id);
    const sockets = await Promise.all(upTo(3).map(() => open(sharing, own.owner)));
    for (const socket of sockets) socket.subscribe('a', document, { id });
    await until('all have joined', async () => size().members === 3);
    await app().database.pool.query('update event_head set epoch = 2 where workspace_id = $1', [own.id]);
    await until('all have ended', async () => sockets.every((socket) => socket.completed.has('a')));
    for (const socket of sockets) expect(socket.of('a').at(-1)).toContain('"reason":"EPOCH_CHANGED"');
    for (const socket of sockets) socket.subscribe('b', document, { id });
    await until('they share again', async () => size().members === 3 && size().audiences === 1);
    await note(own.id, 1);
    await until('it came', async () => sockets.every((socket) => numbers(socket.of('b')).length === 1));
  });

  test('whose execution fails in a field tells each the same; the next event is told again', async () => {
    const own = await tenant(app(), 'failing');
    const id = globalId('Workspace', own.id);
    const selecting = `subscription ($id: ID!) { item: workspaceEvents(workspaceId: $id) { __typename ... on Event { seq data run { id } } } }`;
    const sockets = await Promise.all(upTo(2).map(() => open(sharing, own.owner)));
    for (const socket of sockets) socket.subscribe('a', selecting, { id });
    await until('they share', async () => size().members === 2 && size().audiences === 1);
    // A run that cannot be looked up, because its id is none.
    const { pool } = app().database;
    const runId = await deployment(app(), own, await application(app(), own));
    await app().transact({ ...anonymous, kind: 'SYSTEM' }, async (tx) => {
      tx.append({
        type: typeNamed('deployment.stepStarted'),
        workspaceId: own.id,
        subjectId: runId,
        run: { id: runId, kind: 'Deployment' },
        data: {},
      });
      await tx.db.$executeRawUnsafe('alter table run rename to run_away');
    });
    try {
      await until('the error came', async () => sockets.every((socket) => socket.of('a').at(-1)?.includes('INTERNAL')));
    } finally {
      await pool.query('alter table run_away rename to run');
    }
    const [one, two] = sockets.map((socket) => socket.of('a').at(-1));
    expect(one).toEqual(two);
    expect(one).toMatch(/"requestId":"[\w-]{36}"/);
    await note(own.id, 7);
    await until('it goes on', async () => sockets.every((socket) => numbers(socket.of('a')).at(-1) === 7));
  });

  test('whose last member leaves while it executes, ends', async () => {
    const own = await tenant(app(), 'leaving');
    const id = globalId('Workspace', own.id);
    const selecting = `subscription ($id: ID!) { item: workspaceEvents(workspaceId: $id) { __typename ... on Event { seq data run { id workspace { name } } } } }`;
    const socket = await open(sharing, own.owner);
    const runId = await deployment(app(), own, await application(app(), own));
    socket.subscribe('a', selecting, { id });
    await until('it has joined', async () => size().members === 1);
    const client = await app().database.pool.connect();
    await client.query('begin; lock table run in access exclusive mode');
    const appended = app().transact({ ...anonymous, kind: 'SYSTEM' }, async (tx) => {
      for (const _ of upTo(5))
        tx.append({
          type: typeNamed('deployment.stepStarted'),
          workspaceId: own.id,
          subjectId: newId(),
          run: { id: runId, kind: 'Deployment' },
          data: {},
        });
    });
    await appended;
    await until('it is being executed', async () => {
      const { rows } = await sharing.running.app.database.pool.query<{ n: number }>(
        `select count(*)::int n from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
      );
      return (rows[0]?.n ?? 0) > 0;
    });
    const before = socket.of('a').length;
    socket.close();
    await until('it is gone', async () => size().members === 0 && size().audiences === 0);
    await client.query('rollback');
    client.release();
    expect(socket.of('a')).toHaveLength(before);
    await until('nothing is held', async () => app().hub.watched === 0);
  });
});
