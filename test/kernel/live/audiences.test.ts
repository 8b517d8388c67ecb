import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { Socket } from 'node:net';
import { execute, parse, visit, type SelectionNode } from 'graphql';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { memberRemoved } from '../../../src/domains/identity/events.ts';
import { anonymous, system } from '../../../src/kernel/auth/actor.ts';
import { eventTypes } from '../../../src/kernel/events/define.ts';
import { globalId, rowId } from '../../../src/kernel/graphql/global-id.ts';
import { newId } from '../../../src/kernel/ids.ts';
import { Audiences } from '../../../src/kernel/live/audiences.ts';
import { encodeCursor } from '../../../src/kernel/live/cursor.ts';
import { operationOf } from '../../../src/kernel/live/operation.ts';
import { SharedContext } from '../../../src/kernel/live/shared-context.ts';
import { writerOf } from '../../../src/kernel/live/writer.ts';
import { schema } from '../../../src/schema.ts';
import { member, person, workspace, type Person } from '../../support/actors.ts';
import type { Auth } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { append, documents, noted, upTo } from '../../support/live.ts';
import { RawSocket } from '../../support/raw-socket.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { statements } from '../../support/statements.ts';
import { application, deployment, invitationOf, keyOf, memberOf, tenant } from '../../support/world.ts';

let server: TestServer;
let ada: Person;
let bob: Person;
let eve: Person;
let id: string;

beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
  ada = await person(server.url);
  ({ id } = await workspace(server.url, ada));
  [bob, eve] = [await member(server.url, ada, id, 'VIEWER'), await member(server.url, ada, id, 'VIEWER')];
});
afterAll(() => server.stop());

const app = () => server.running.app;
const size = () => app().use(Audiences).size;
async function open(auth: Auth): Promise<RawSocket> {
  const socket = await RawSocket.open(server.url, auth);
  onTestFinished(() => socket.close());
  return socket;
}
const shared = (audiences: number, members: number) =>
  until('they share', async () => size().audiences === audiences && size().members === members);
const selecting = (selection: string) =>
  `subscription ($id: ID!, $after: String) { item: workspaceEvents(workspaceId: $id, after: $after) { __typename ... on Event { ${selection} } } }`;
const notedIn = (texts: readonly string[]): number[] =>
  texts.flatMap((text) => {
    const { item } = (JSON.parse(text) as { data: { item: { data?: { n?: number } } } }).data;
    return item.data?.n === undefined ? [] : [item.data.n];
  });

test('those with the same document, variables and rights share one execution and its bytes, whoever they are', async () => {
  const [one, two] = [await open(bob), await open(eve)];
  one.subscribe('a', documents.workspaceEvents, { id });
  two.subscribe('"\\é', documents.workspaceEvents, { id });
  await shared(1, 2);
  // Another role, another document, other variables: each an audience of its own.
  const hers = await open(ada);
  hers.subscribe('b', documents.workspaceEvents, { id });
  one.subscribe('c', selecting('seq'), { id });
  one.subscribe('d', documents.workspaceEvents, { id, filter: { types: ['test.*'] } });
  await shared(4, 5);
  await append(app(), id, 3);
  await until('all have them', async () => notedIn(hers.of('b')).length === 3 && notedIn(two.of('"\\é')).length === 3);
  expect(two.of('"\\é').slice(1)).toEqual(one.of('a').slice(1));
  // The last one leaves: its execution ends.
  for (const socket of [one, two, hers]) socket.close();
  await shared(0, 0);
  await until('nothing is held', async () => app().hub.watched === 0);
});

test('a document that tells of the person, or of the credential, is shared with nobody else', async () => {
  const [one, two] = [await open(bob), await open(eve)];
  for (const socket of [one, two]) {
    socket.subscribe('person', selecting('seq run { actor { id } }'), { id });
    socket.subscribe('credential', selecting('seq run { viewerCanCancel }'), { id });
    socket.subscribe('role', selecting('seq run { id status }'), { id });
  }
  await shared(5, 6);
  expect([one.errors.size, two.errors.size]).toEqual([0, 0]);
});

test('what a document depends on is found in one walk, whatever its rows may turn out to be', () => {
  const document = parse(selecting(`run { ${'parent { '.repeat(5)} viewerCanCancel ${'}'.repeat(5)} }`));
  let walked = 0;
  visit(document, {
    SelectionSet(set) {
      const selections: readonly SelectionNode[] = set.selections;
      Object.defineProperty(set, 'selections', { get: () => (walked++, selections) });
    },
  });
  expect(operationOf(schema, document, null).dependence).toBe('CREDENTIAL');
  // A parent is one of seven types or the interface itself, and so is its own, and so on: eight to the fifth.
  expect(walked).toBeLessThan(100);
});

test('rows beside an event are one statement for all documents and people, where all may see the same', async () => {
  const [of, other] = [await tenant(app(), 'rows'), await tenant(app(), 'other')];
  const [his, hers] = [await memberOf(app(), of, 'VIEWER', 'His'), await memberOf(app(), of, 'ADMIN', 'Hers')];
  // He shares a workspace with somebody who is no member of this one; she and his key do not.
  await app().db.membership.create({ data: { id: newId(), workspaceId: other.id, userId: his.id, role: 'VIEWER' } });
  const applicationId = await application(app(), of);
  const [ours, theirs] = [await deployment(app(), of, applicationId), await deployment(app(), of, applicationId)];
  await app().db.run.update({ where: { id: theirs }, data: { actorId: other.owner.id } });
  const sockets = await Promise.all([his, hers, await keyOf(app(), of, his.id, 'VIEWER')].map(open));
  const documents = [
    selecting('seq run { id status ... on Deployment { application { name } } }'),
    selecting('type run { actor { name } steps { name } } again: run { kind }'),
    `subscription ($id: ID!) { item: deploymentUpdated(of: $id) { ... on DeploymentUpdate { deployment { actor { id name } } } } }`,
  ];
  for (const socket of sockets)
    for (const [index, document] of documents.entries())
      socket.subscribe(String(index), document, { id: globalId('Workspace', of.id) });
  await shared(2 + 3 + 3, 9);
  const type = [...eventTypes().values()].find(({ name }) => name === 'deployment.stepStarted');
  if (!type) throw new Error('no such event');
  const happens = async (runId: string): Promise<{ told: string[][]; asked: string[] }> => {
    const before = sockets.map((socket) => documents.map((_, index) => socket.of(String(index)).length));
    // Where a stream stands may be told at any time.
    const isEvent = (text: string) => !text.includes('StreamCheckpoint') && text !== '{"data":{"item":{}}}';
    const since = () =>
      sockets.map((socket, at) =>
        documents.flatMap((_, index) => socket.of(String(index)).slice(before[at]?.[index]).filter(isEvent)),
      );
    const asked = await statements(app().database.pool, async () => {
      await app().transact(system, async (tx) => {
        tx.append({ type, workspaceId: of.id, subjectId: runId, run: { id: runId, kind: 'Deployment' }, data: {} });
      });
      await until('all have it', async () => since().every((told) => told.length === documents.length));
    });
    return { told: since(), asked: asked.filter((text) => text.includes('n(id, place)')) };
  };

  const first = await happens(ours);
  expect(first.asked).toHaveLength(1);
  expect(first.told[0]?.join()).toContain(`"actor":{"name":"${of.marker}"}`);
  expect(first.told[1]).toEqual(first.told[0]);
  expect(first.told[2]).toEqual(first.told[0]);
  // Whom only some of them may see: each is told what it may.
  const second = await happens(theirs);
  const [toHim, toHer, toKey] = second.told.map((told) => told.join());
  expect(toHim).toContain(`"actor":{"name":"${other.marker}"}`);
  expect(toHer).toContain('"actor":null');
  expect(toHer).not.toContain(other.marker);
  expect(toKey).toBe(toHer);
  expect(second.asked.length).toBeGreaterThan(1);
  // Lists of what administrators, or makers, see: none is told the list of another.
  await invitationOf(app(), of);
  await keyOf(app(), of, hers.id, 'ADMIN');
  for (const socket of sockets)
    socket.subscribe(
      'lists',
      selecting('run { workspace { invitations { totalCount } apiKeys { totalCount } memberships { totalCount } } }'),
      { id: globalId('Workspace', of.id) },
    );
  await shared(2 + 3 + 3 + 3, 12);
  await happens(ours);
  const lists = () => sockets.map((socket) => /{"invitations".*?}}/.exec(socket.of('lists').join())?.[0]);
  await until('all have them', async () => lists().every((one) => one !== undefined));
  const counts = (invitations: number, apiKeys: number) =>
    `{"invitations":{"totalCount":${invitations}},"apiKeys":{"totalCount":${apiKeys}},"memberships":{"totalCount":3}}`;
  expect(lists()).toEqual([counts(0, 1), counts(1, 2), counts(0, 1)]);
});

test('where they began does not keep them apart, and nothing is left out or told twice', async () => {
  const { id: own, cursor } = await workspace(server.url, ada);
  await append(app(), own, 5);
  const sockets = await Promise.all(upTo(4).map(() => open(ada)));
  for (const [index, socket] of sockets.entries())
    socket.subscribe('a', documents.workspaceEvents, { id: own, after: index < 2 ? cursor : null });
  await shared(1, 4);
  await append(app(), own, 5, noted, 6);
  await until('all have all', async () => sockets.every((socket) => notedIn(socket.of('a')).at(-1) === 10));
  for (const [index, socket] of sockets.entries())
    expect(notedIn(socket.of('a'))).toEqual(index < 2 ? upTo(10) : upTo(5, 6));
});

test('whose right ends goes between two events of one transaction; the others are told both', async () => {
  const { id: own } = await workspace(server.url, ada);
  const [leaves, stays] = [await member(server.url, ada, own, 'VIEWER'), await member(server.url, ada, own, 'VIEWER')];
  const [his, hers] = [await open(leaves), await open(stays)];
  for (const socket of [his, hers]) socket.subscribe('a', documents.workspaceEvents, { id: own });
  await shared(1, 2);
  const workspaceId = rowId('Workspace', own);
  await app().transact(system, async (tx) => {
    const note = (n: number) => tx.append({ type: noted, workspaceId, subjectId: workspaceId, data: { n } });
    await tx.db.membership.delete({ where: { id: rowId('Membership', leaves.membershipId) } });
    note(1);
    tx.append({
      type: memberRemoved,
      workspaceId,
      subjectId: rowId('Membership', leaves.membershipId),
      data: { userId: rowId('User', leaves.id) },
    });
    note(2);
  });
  await until('his socket is closed', async () => his.closed !== null);
  expect(his.closed).toBe(4403);
  expect(notedIn(his.of('a'))).toEqual([1]);
  await until('the other has both', async () => notedIn(hers.of('a')).length === 2);
  expect(hers.closed).toBeNull();
});

test('what is at hand is written at once, as the ordinary execution would; what is not, is left to that', () => {
  const item = {
    kind: 'entry' as const,
    cursor: 'c',
    entry: { workspaceId: newId(), seq: 7n, type: 'é"', version: 1, from: null, to: 'X', subjectType: 'Workspace', subjectId: newId(), runId: null, runKind: null, actorId: null, actorKind: 'SYSTEM', credentialId: null, originId: null, data: { n: 1, text: '\u2028' }, at: new Date(0), traceparent: null }, // prettier-ignore
  };
  const line = { kind: 'entry' as const, cursor: 'c', entry: { runId: newId(), seq: 2n ** 60n, at: new Date(1), stream: 'STDERR', level: 'WARN', step: null, text: 'a\u0000"' } }; // prettier-ignore
  const written = (query: string, variableValues: Record<string, unknown>, told: object = item) => {
    const args = { schema, document: parse(query), variableValues };
    const context = new SharedContext(app(), anonymous);
    const expected = execute({ ...args, rootValue: told, contextValue: context });
    const write = writerOf(args, app().use(Audiences).rows);
    return { text: write?.(told, context, { actor: anonymous }) ?? null, expected };
  };
  const all = `subscription ($id: ID!, $yes: Boolean!) { it: workspaceEvents(workspaceId: $id) { kind: __typename ...E ... on Event @include(if: $yes) { at seq } ... on StreamGap { reason } } }
    fragment E on Event { cursor seq type from to subjectId data version runId @skip(if: $yes) actorKind seq }`;
  for (const yes of [true, false]) {
    const { text, expected } = written(all, { id, yes });
    expect(text).toBe(JSON.stringify(expected));
  }
  const logs = `subscription ($id: ID!) { runLogs(id: $id) { __typename ... on LogLine { cursor seq at stream level step text } } }`;
  const { text, expected } = written(logs, { id }, line);
  expect(text).toBe(JSON.stringify(expected));
  expect(written(selecting('seq run { queuePosition }'), { id }).text).toBeNull();
});

test('snapshots of a run are shared, and those that come while one is made are merged', async () => {
  const of = await tenant(app(), 'snapshots');
  const runId = await deployment(app(), of, await application(app(), of), { status: 'RUNNING', phase: 'BUILDING' });
  const people = [await memberOf(app(), of, 'VIEWER', 'One'), await memberOf(app(), of, 'VIEWER', 'Two'), of.owner];
  const sockets = await Promise.all(people.map(open));
  for (const socket of sockets)
    socket.subscribe('a', `subscription ($id: ID!) { run(id: $id) { cursor run { id status } } }`, { id: globalId('Deployment', runId) }); // prettier-ignore
  await shared(2, 3);
  const type = eventTypes().get('deployment.stepStarted');
  if (!type) throw new Error('no such event');
  const run = { id: runId, kind: 'Deployment' };
  const asked = await statements(app().database.pool, async () => {
    await app().transact(system, async (tx) => {
      for (const _ of upTo(50)) tx.append({ type, workspaceId: of.id, subjectId: runId, run, data: {} });
    });
    const { seq, epoch } = await app().db.eventHead.findUniqueOrThrow({ where: { workspaceId: of.id } });
    const newest = encodeCursor({ stream: of.id, epoch, seq });
    await until('all have the newest', async () => sockets.every((socket) => socket.of('a').at(-1)?.includes(newest)));
  });
  // As it was at first, after the first event, and after all that came meanwhile.
  for (const socket of sockets) expect(socket.of('a')).toHaveLength(3);
  expect(asked.filter((text) => text.includes('n(id, place)'))).toHaveLength(2);
  // A new history begins with how it is now.
  await app().database.pool.query('update event_head set epoch = epoch + 1 where workspace_id = $1', [of.id]);
  await until('all are told', async () => sockets.every((socket) => socket.of('a').length === 4));
  await shared(2, 3);
  for (const socket of sockets)
    expect([socket.errors.size, socket.completed.size, socket.closed]).toEqual([0, 0, null]);
  for (const socket of sockets) socket.close();
  await shared(0, 0);
});

test('server-sent events are the same text, which is written once for all who read them', async () => {
  const of = await tenant(app(), 'sse');
  const runId = await deployment(app(), of, await application(app(), of));
  const query = selecting('seq data run { id status }');
  const variables = { id: globalId('Workspace', of.id) };
  const socket = await open(of.owner);
  socket.subscribe('a', query, variables);
  const stop = new AbortController();
  const readers = await Promise.all(
    [of.owner, await memberOf(app(), of, 'VIEWER', 'Reader')].map(async ({ token }) => {
      const { body } = await fetch(server.url, {
        method: 'POST',
        headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', accept: 'text/event-stream' },
        body: JSON.stringify({ query, variables }),
        signal: stop.signal,
      });
      const told: string[] = [];
      const read = async (): Promise<void> => {
        let text = '';
        for await (const part of body as unknown as AsyncIterable<Uint8Array>) {
          text += Buffer.from(part).toString();
          told.splice(0, told.length, ...[...text.matchAll(/^data: (.*)$/gm)].map(([, one = '']) => one));
        }
      };
      return { told, ended: read().catch(() => 'stopped') };
    }),
  );
  await until('all follow', async () => size().members === 1 && readers.every(({ told }) => told.length === 1));
  const type = eventTypes().get('deployment.stepStarted');
  if (!type) throw new Error('no such event');
  const asked = await statements(app().database.pool, async () => {
    await app().transact(system, async (tx) => {
      tx.append({
        type,
        workspaceId: of.id,
        subjectId: runId,
        run: { id: runId, kind: 'Deployment' },
        data: { text: 'é' },
      });
    });
    await until('all are told', async () => [socket.of('a'), ...readers.map(({ told }) => told)].every((one) => one.length === 2)); // prettier-ignore
  });
  for (const { told } of readers) expect(told[1]).toBe(socket.of('a')[1]);
  expect(socket.of('a')[1]).toContain('"text":"é"');
  // For all sockets, and for all who read events.
  expect(asked.filter((text) => text.includes('n(id, place)'))).toHaveLength(2);
  stop.abort();
  for (const { ended } of readers) await ended;
  socket.close();
  await shared(0, 0);
});

test('who does not read is left to its own pace with little unsent, misses nothing, and comes back', async () => {
  const { id: own } = await workspace(server.url, ada);
  /** The server's side of the connection. */
  const accepted: Socket[] = [];
  const accept = (message: unknown) => void accepted.push((message as { socket: Socket }).socket);
  subscribe('net.server.socket', accept);
  const slow = await open(ada);
  unsubscribe('net.server.socket', accept);
  const quick = await open(ada);
  for (const socket of [slow, quick]) socket.subscribe('a', documents.workspaceEvents, { id: own });
  await shared(1, 2);
  slow.ws.pause();
  const text = 'x'.repeat(30_000);
  const workspaceId = rowId('Workspace', own);
  const events = 400;
  for (let n = 0; n < events; n += 20)
    await app().transact(system, async (tx) => {
      for (const m of upTo(20, n + 1))
        tx.append({ type: noted, workspaceId, subjectId: workspaceId, data: { n: m, text } });
    });
  await until('the other one has all', async () => notedIn(quick.of('a')).length === events);
  expect(size()).toEqual({ audiences: 1, members: 1 });
  // Of twelve million bytes: what it is given before it is left behind, and what was on its way then.
  const unsent = accepted.map(({ writableLength }) => writableLength);
  expect(Math.max(...unsent)).toBeGreaterThan(0);
  expect(Math.max(...unsent)).toBeLessThan(65_536 + 2 * text.length);
  slow.ws.resume();
  await until('it has all, too', async () => notedIn(slow.of('a')).length === events);
  expect(notedIn(slow.of('a'))).toEqual(upTo(events));
  await shared(1, 2);
});

test('an operation that shares is one of the protocol: its id is taken, it can be completed, and counts as long as it lasts', async () => {
  const { id: own } = await workspace(server.url, ada);
  const socket = await open(ada);
  for (const name of ['a', '"\\é']) socket.subscribe(name, documents.workspaceEvents, { id: own });
  await shared(1, 2);
  socket.complete('"\\é');
  await shared(1, 1);
  socket.subscribe('"\\é', documents.workspaceEvents, { id: own });
  await shared(1, 2);
  await append(app(), own, 1);
  await until('both are told', async () => ['a', '"\\é'].every((name) => notedIn(socket.of(name)).length === 1));
  expect([...socket.completed, ...socket.errors]).toEqual([]);
  socket.subscribe('a', documents.workspaceEvents, { id: own });
  await until('it is closed', async () => socket.closed !== null);
  expect(socket.closed).toBe(4409);
  await shared(0, 0);
  // Completed in the same packet, before it is known what it is.
  const hasty = await open(ada);
  hasty.subscribe('a', documents.workspaceEvents, { id: own });
  hasty.complete('a');
  hasty.subscribe('b', documents.workspaceEvents, { id: own });
  await shared(1, 1);
  await append(app(), own, 1);
  await until('the other is told', async () => notedIn(hasty.of('b')).length === 1);
  expect(hasty.of('a')).toEqual([]);
});
