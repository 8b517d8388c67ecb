import '../../support/probe.ts';
import { createClient } from 'graphql-sse';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { memberRemoved } from '../../../src/domains/identity/events.ts';
import { system } from '../../../src/kernel/auth/actor.ts';
import { createSessionTokens } from '../../../src/kernel/auth/session-tokens.ts';
import { globalId, rowId } from '../../../src/kernel/graphql/global-id.ts';
import { ensureSecret } from '../../../src/kernel/secrets.ts';
import { apiKey, member, person, workspace, type Person } from '../../support/actors.ts';
import { data, headersOf, type Auth } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { append, documents, Follower, noted, upTo, type Item } from '../../support/live.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

let server: TestServer;
let ada: Person;

beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
  ada = await person(server.url);
});
afterAll(() => server.stop());

const app = () => server.running.app;

function follow(auth: Auth, id: string, after?: string | null, stream: keyof typeof documents = 'workspaceEvents') {
  const follower = new Follower(server.url, auth, stream, { id, after: after ?? null });
  onTestFinished(() => follower.close());
  return follower;
}
const started = (...followers: Follower[]) =>
  until('the streams have begun', async () => followers.every(({ items }) => items.length > 0));
/** Close code of the socket, once it is closed. */
const ended = async (follower: Follower): Promise<number | undefined> => {
  await until('the socket was closed', async () => follower.closed !== null);
  return follower.closed?.code;
};

const mutation = (name: string, input: string, selection = '') =>
  `mutation ($input: ${input}!) { answer: ${name}(input: $input) { __typename ${selection} ... on Error { message } } }`;
async function succeed(auth: Auth, document: string, input: object): Promise<void> {
  const { answer } = await data<{ answer: { __typename: string; message?: string } }>(
    server.url,
    document,
    { input },
    auth,
  );
  expect(answer).toEqual({ __typename: expect.stringMatching(/Success$/) });
}
const remove = (membershipId: string) => succeed(ada, mutation('removeMember', 'RemoveMemberInput'), { membershipId });

describe('what ends a right ends its streams', () => {
  test('a membership that is removed; the others go on', async () => {
    const { id } = await workspace(server.url, ada);
    const [bob, eve] = [await member(server.url, ada, id, 'MEMBER'), await member(server.url, ada, id, 'VIEWER')];
    const [his, hers, own] = [follow(bob, id), follow(eve, id), follow(ada, id)];
    await started(his, hers, own);
    await append(app(), id, 1);
    await until('all have it', async () => [his, hers, own].every(({ noted: got }) => got.length === 1));
    await remove(bob.membershipId);
    await append(app(), id, 1, noted, 2);
    expect(await ended(his)).toBe(4403);
    await until('the others have it', async () => [hers, own].every(({ noted: got }) => got.length === 2));
    // Neither the event that ended it nor anything after.
    expect(his.noted).toEqual([1]);
    expect(his.events.map((item) => item.type)).not.toContain(memberRemoved.name);
    expect(own.events.map((item) => item.type)).toContain(memberRemoved.name);
    expect([hers.closed, own.closed]).toEqual([null, null]);
    // And it cannot be opened again.
    const again = follow(bob, id, his.cursor);
    await until('refused', async () => again.errors.length > 0);
    expect(again.errors[0]?.extensions).toMatchObject({ code: 'NOT_FOUND' });
  });

  test('events after the end are not delivered even if they are read in one batch with it', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await member(server.url, ada, id, 'MEMBER');
    const his = follow(bob, id);
    await started(his);
    const workspaceId = rowId('Workspace', id);
    await app().transact(system, async (tx) => {
      const note = (n: number) => tx.append({ type: noted, workspaceId, subjectId: workspaceId, data: { n } });
      await tx.db.membership.delete({ where: { id: rowId('Membership', bob.membershipId) } });
      for (const n of upTo(10)) note(n);
      tx.append({
        type: memberRemoved,
        workspaceId,
        subjectId: rowId('Membership', bob.membershipId),
        data: { userId: rowId('User', bob.id) },
      });
      for (const n of upTo(300, 11)) note(n);
    });
    expect(await ended(his)).toBe(4403);
    expect(his.noted).toEqual(upTo(10));
  });

  test('a replay ends where it meets the end of the right', async () => {
    const { id, cursor } = await workspace(server.url, ada);
    const bob = await member(server.url, ada, id, 'ADMIN');
    await append(app(), id, 5);
    await remove(bob.membershipId);
    await append(app(), id, 5, noted, 6);
    const his = follow(bob, id, cursor);
    await until('refused', async () => his.errors.length > 0);
    expect(his.items).toEqual([]);
  });

  test('a role that changes ends nothing that the new one allows', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await member(server.url, ada, id, 'ADMIN');
    const his = follow(bob, id);
    await started(his);
    await succeed(ada, mutation('changeMemberRole', 'ChangeMemberRoleInput'), {
      membershipId: bob.membershipId,
      role: 'VIEWER',
    });
    await append(app(), id, 1);
    await until('it goes on', async () => his.noted.length === 1);
    expect(his.closed).toBeNull();
  });

  test('an API key that is revoked, and one whose maker is removed', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await member(server.url, ada, id, 'ADMIN');
    const [one, two] = [await apiKey(server.url, ada, id, 'VIEWER'), await apiKey(server.url, bob, id, 'VIEWER')];
    const [ofAda, ofBob] = [follow(one, id), follow(two, id)];
    await started(ofAda, ofBob);
    await succeed(ada, mutation('revokeApiKey', 'RevokeApiKeyInput'), { id: one.id });
    expect(await ended(ofAda)).toBe(4403);
    await append(app(), id, 1);
    await until('the other goes on', async () => ofBob.noted.length === 1);
    await remove(bob.membershipId);
    expect(await ended(ofBob)).toBe(4403);
  });

  test('signing out everywhere, in every workspace; API keys stay', async () => {
    const bob = await person(server.url, 'Bob');
    const [one, two] = [await workspace(server.url, bob), await workspace(server.url, bob)];
    const key = await apiKey(server.url, bob, one.id, 'VIEWER');
    const [first, second, byKey] = [follow(bob, one.id), follow(bob, two.id), follow(key, one.id)];
    await started(first, second, byKey);
    await data(server.url, `mutation { signOutEverywhere { __typename } }`, {}, bob);
    expect(await Promise.all([ended(first), ended(second)])).toEqual([4403, 4403]);
    await append(app(), one.id, 1);
    await until('the key goes on', async () => byKey.noted.length === 1);
  });

  test('streams of a run end too', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await member(server.url, ada, id, 'MEMBER');
    const { startProbe } = await data<{ startProbe: string }>(
      server.url,
      `mutation ($id: ID!) { startProbe(workspaceId: $id, lines: 0) }`,
      { id },
      bob,
    );
    const runId = globalId('Probe', startProbe);
    const streams = (['runEvents', 'runLogs', 'run'] as const).map((stream) => follow(bob, runId, null, stream));
    await until('they have begun', async () => {
      const { values } = await app().metrics.liveSubscribers.get();
      return (values[0]?.value ?? 0) >= 3 && streams.every(({ items }, index) => index === 1 || items.length > 0);
    });
    await remove(bob.membershipId);
    expect(await Promise.all(streams.map(ended))).toEqual([4403, 4403, 4403]);
  });

  test('a right that ends between the look at it and the place where the stream begins', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await member(server.url, ada, id, 'MEMBER');
    // The stream waits for its channel while the membership ends: its event is before the place where it begins.
    const { hub } = app();
    const watch = hub.watchEvents.bind(hub);
    let asked = 0;
    hub.watchEvents = async (workspaceId) => {
      if (asked++ === 0) await remove(bob.membershipId);
      return watch(workspaceId);
    };
    onTestFinished(() => {
      hub.watchEvents = watch;
    });
    const his = follow(bob, id);
    expect(await ended(his)).toBe(4403);
    await append(app(), id, 1);
    expect(his.items).toEqual([]);
  });

  test('over SSE the stream ends with the error', async () => {
    const { id } = await workspace(server.url, ada);
    const bob = await member(server.url, ada, id, 'MEMBER');
    const client = createClient({ url: server.url, headers: headersOf(bob), retryAttempts: 0 });
    const items: Item[] = [];
    const codes: unknown[] = [];
    const done = (async () => {
      for await (const result of client.iterate<{ item: Item }>({
        query: documents.workspaceEvents,
        variables: { id },
      })) {
        if (result.data?.item) items.push(result.data.item);
        codes.push(...(result.errors ?? []).map((error) => error.extensions?.['code']));
      }
    })();
    await until('it has begun', async () => items.length > 0);
    await remove(bob.membershipId);
    await append(app(), id, 1);
    await done;
    expect(codes).toEqual(['FORBIDDEN']);
    expect(items.filter((item) => item.__typename === 'Event')).toEqual([]);
  });
});

test('only those whom a change of rights may concern look at theirs again', async () => {
  const { id } = await workspace(server.url, ada);
  const [bob, eve] = [await member(server.url, ada, id, 'MEMBER'), await member(server.url, ada, id, 'VIEWER')];
  const streams = [follow(ada, id), follow(bob, id), follow(eve, id)];
  await started(...streams);
  const { actors } = app();
  const refresh = actors.refresh.bind(actors);
  const looked: (string | null)[] = [];
  actors.refresh = (actor) => {
    looked.push(actor.userId);
    return refresh(actor);
  };
  onTestFinished(() => {
    actors.refresh = refresh;
  });
  await succeed(ada, mutation('changeMemberRole', 'ChangeMemberRoleInput'), {
    membershipId: bob.membershipId,
    role: 'VIEWER',
  });
  await until('all were told', async () =>
    streams.every(({ events }) => events.some((item) => item.type === 'membership.roleChanged')),
  );
  expect(looked).toEqual([rowId('User', bob.id)]);
});

describe('a credential that expires', () => {
  const short = async (someone: Person, seconds: number): Promise<Auth> => {
    // As the server makes them, with a nearer end.
    const secret = await ensureSecret(server.stateDir, 'session');
    const tokens = createSessionTokens({ secret, ttlS: 3600, issuer: 'switchyard' });
    const { id: sessionId, userId } = await app().db.session.findFirstOrThrow({
      where: { userId: rowId('User', someone.id) },
    });
    return { token: await tokens.issue({ userId, sessionId, expiresAt: new Date(Date.now() + seconds * 1000) }) };
  };

  test('ends its socket with 4403', async () => {
    const bob = await person(server.url, 'Bob');
    const { id } = await workspace(server.url, bob);
    const his = follow(await short(bob, 2), id);
    await started(his);
    expect(await ended(his)).toBe(4403);
  });

  test('ends its stream over SSE', async () => {
    const bob = await person(server.url, 'Bob');
    const { id } = await workspace(server.url, bob);
    const client = createClient({ url: server.url, headers: headersOf(await short(bob, 2)), retryAttempts: 0 });
    const codes: unknown[] = [];
    for await (const result of client.iterate({ query: documents.workspaceEvents, variables: { id } }))
      codes.push(...(result.errors ?? []).map((error) => error.extensions?.['code']));
    expect(codes).toEqual(['FORBIDDEN']);
    await until('it is released', async () => app().hub.watched === 0);
  });
});
