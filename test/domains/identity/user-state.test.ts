import pg, { type PoolClient } from 'pg';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { anonymous } from '#kernel/auth/actor.ts';
import { newId } from '#kernel/ids.ts';
import { apiKey, workspace } from '../../support/actors.ts';
import { data, type Auth } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { random } from '../../support/random.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { someone } from '../../support/world.ts';
import { UserStates } from '../../../src/domains/identity/service/index.ts';
import {
  account,
  ask,
  mutate,
  patchAtOnce,
  refusal,
  userState,
  type Account,
  type Said,
  type UserState,
} from './support.ts';

let server: TestServer;
let ada: Account;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
  ada = await account(server);
});
afterAll(() => server.stop());

const pool = () => server.running.app.database.pool;
const fields = 'state { version value updatedAt }';
const stateOf = (auth: Auth) => userState(server, auth);
const save = (auth: { token: string }, value: unknown, expectedVersion: number) =>
  mutate(server, 'saveUserState', { value, expectedVersion }, auth, fields);
const patch = (auth: { token: string }, value: unknown) =>
  mutate(server, 'patchUserState', { patch: value }, auth, fields);
const written = (said: Said): UserState => {
  if (!said['state']) throw new Error(JSON.stringify(said));
  return said['state'] as UserState;
};

type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
const isObject = (value: Json | undefined): value is { [name: string]: Json } =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** The pseudo code of RFC 7396, section 2. */
function mergePatch(target: Json | undefined, change: Json): Json {
  if (!isObject(change)) return change;
  const merged = new Map<string, Json>(Object.entries(isObject(target) ? target : {}));
  for (const [name, value] of Object.entries(change)) {
    if (value === null) merged.delete(name);
    else merged.set(name, mergePatch(merged.get(name), value));
  }
  return Object.fromEntries(merged);
}

const inDatabase = async (target: Json, change: Json): Promise<Json> => {
  const { rows } = await pool().query<{ merged: Json }>('select json_merge_patch($1::jsonb, $2::jsonb) merged', [
    JSON.stringify(target),
    JSON.stringify(change),
  ]);
  return rows[0]?.merged ?? null;
};

/** RFC 7396, appendix A: original, patch, result. */
const appendix: readonly (readonly [Json, Json, Json])[] = [
  [{ a: 'b' }, { a: 'c' }, { a: 'c' }],
  [{ a: 'b' }, { b: 'c' }, { a: 'b', b: 'c' }],
  [{ a: 'b' }, { a: null }, {}],
  [{ a: 'b', b: 'c' }, { a: null }, { b: 'c' }],
  [{ a: ['b'] }, { a: 'c' }, { a: 'c' }],
  [{ a: 'c' }, { a: ['b'] }, { a: ['b'] }],
  [{ a: { b: 'c' } }, { a: { b: 'd', c: null } }, { a: { b: 'd' } }],
  [{ a: [{ b: 'c' }] }, { a: [1] }, { a: [1] }],
  [
    ['a', 'b'],
    ['c', 'd'],
    ['c', 'd'],
  ],
  [{ a: 'b' }, ['c'], ['c']],
  [{ a: 'foo' }, null, null],
  [{ a: 'foo' }, 'bar', 'bar'],
  [{ e: null }, { a: 1 }, { e: null, a: 1 }],
  [[1, 2], { a: 'b', c: null }, { a: 'b' }],
  [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
];

describe('the merge of patches', () => {
  test.each(appendix)('RFC 7396, appendix A: %j with %j', async (target, change, result) => {
    expect(await inDatabase(target, change)).toEqual(result);
    expect(mergePatch(target, change)).toEqual(result);
  });

  test('is that of the pseudo code, for 500 random documents', async () => {
    const number = random(7396);
    const pick = <T>(from: readonly T[]): T => from[Math.floor(number() * from.length)] as T;
    const names = ['a', 'b', 'ä', '', '__proto__x', 'toString', '\u{1f600}', 'q\'"\\'];
    const value = (depth: number): Json => {
      const kind = number();
      if (depth > 0 && kind < 0.5) {
        return Object.fromEntries(
          Array.from({ length: Math.floor(number() * 5) }, () => [pick(names), value(depth - 1)]),
        );
      }
      if (depth > 0 && kind < 0.6) return Array.from({ length: Math.floor(number() * 3) }, () => value(depth - 1));
      return pick<Json>([null, null, true, false, 0, -1.5, 1e21, '', 'text', 'ü\n\t']);
    };
    for (let i = 0; i < 500; i++) {
      const [target, change] = [value(4), value(4)];
      expect({ target, change, merged: await inDatabase(target, change) }).toEqual({
        target,
        change,
        merged: mergePatch(target, change),
      });
    }
  });
});

test('a connection whose rollback fails is closed, and the error is the first one', async () => {
  const connect = pool().connect.bind(pool()) as () => Promise<PoolClient>;
  const released: unknown[] = [];
  const broken = async (): Promise<PoolClient> => {
    const client = await connect();
    const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>;
    const answer = (...args: unknown[]): unknown =>
      args[0] === 'rollback' ? Promise.reject(new Error('no rollback')) : query(...args);
    const asked = vi.spyOn(client, 'query').mockImplementation(answer);
    const release = vi.spyOn(client, 'release').mockImplementation((error) => {
      released.push(error);
      asked.mockRestore();
      release.mockRestore();
      client.release(error);
    });
    return client;
  };
  const spy = vi.spyOn(pool(), 'connect').mockImplementation(broken as never);
  onTestFinished(() => spy.mockRestore());
  const nobody = { ...anonymous, kind: 'SESSION' as const, userId: newId() };
  const tried = server.running.app.use(UserStates).patchUserState(nobody, { patch: {} });
  // There is no such person.
  await expect(tried).rejects.toMatchObject({ code: '23503' });
  expect(released).toEqual([expect.objectContaining({ message: 'no rollback' })]);
});

describe('versions', () => {
  test('there is an empty document at version 0 before the first', async () => {
    expect(await stateOf(await someone(server.running.app))).toEqual({ version: 0, value: {}, updatedAt: null });
  });

  test('a document is put in place of the one that was read, and of no other', async () => {
    const bob = await account(server, 'Bob');
    expect(written(await save(bob, { a: 1 }, 0))).toMatchObject({ version: 1, value: { a: 1 } });
    expect(written(await save(bob, { a: 2 }, 1))).toMatchObject({ version: 2, value: { a: 2 } });
    expect(await save(bob, { a: 3 }, 1)).toMatchObject({ __typename: 'VersionConflict', currentVersion: 2 });
    expect(await save(bob, { a: 3 }, 0)).toMatchObject({ __typename: 'VersionConflict', currentVersion: 2 });
    expect(await save(bob, { a: 3 }, 3)).toMatchObject({ __typename: 'VersionConflict', currentVersion: 2 });
    expect(await stateOf(bob)).toMatchObject({ version: 2, value: { a: 2 } });
  });

  test('where there is none, only version 0 can be expected', async () => {
    const bob = await account(server, 'Bob');
    expect(await save(bob, {}, 1)).toMatchObject({ __typename: 'VersionConflict', currentVersion: 0 });
    expect((await stateOf(bob)).updatedAt).toBeNull();
  });

  test('a row without a version counts as version 0', async () => {
    for (const write of [save, async (auth: Account, value: unknown) => patch(auth, value)]) {
      const bob = await account(server, 'Bob');
      const { userId } = await userOf(bob);
      await pool().query(`insert into user_state (user_id, value) values ($1, '{"old": true}')`, [userId]);
      expect(await stateOf(bob)).toMatchObject({ version: 0, value: { old: true } });
      expect(written(await write(bob, { fresh: true }, 0))).toMatchObject({ version: 1 });
    }
  });

  test('of 16 who write on top of the same version, one does', async () => {
    const bob = await account(server, 'Bob');
    const answers = await Promise.all(Array.from({ length: 16 }, (_, i) => save(bob, { i }, 0)));
    expect(answers.filter(({ __typename }) => __typename === 'SaveUserStateSuccess')).toHaveLength(1);
    expect(answers.filter(({ __typename }) => __typename === 'VersionConflict')).toHaveLength(15);
    expect((await stateOf(bob)).version).toBe(1);
  });
});

const userOf = async (auth: Account): Promise<{ userId: string }> => {
  const { id } = await server.running.app.db.user.findUniqueOrThrow({ where: { email: auth.email } });
  return { userId: id };
};

describe('patches', () => {
  // With 200 each in test/proof/access.test.ts.
  test('16 writers with 25 patches each lose no field of each other', async () => {
    const { state, expected } = await patchAtOnce(server, await account(server, 'Bob'), 16, 25);
    expect(state).toEqual(expected);
  });

  test('names that mean something to JavaScript are names', async () => {
    const bob = await account(server, 'Bob');
    const odd = JSON.parse('{"__proto__": {"a": 1}, "constructor": {"prototype": {"b": 2}}, "toString": 3}') as Json;
    const { value } = written(await patch(bob, odd));
    expect(JSON.stringify(value)).toContain('"__proto__":{"a":1}');
    expect(Object.keys(value).toSorted()).toEqual(['__proto__', 'constructor', 'toString']);
    expect(({} as Record<string, unknown>)['a']).toBeUndefined();
  });

  test('null removes, also in the first patch', async () => {
    const bob = await account(server, 'Bob');
    expect(written(await patch(bob, { a: null, b: { c: null, d: 1 } })).value).toEqual({ b: { d: 1 } });
    expect(written(await patch(bob, { b: null })).value).toEqual({});
  });

  test('while somebody holds the row for too long, a writer tries four times, then says so', async () => {
    const bob = await account(server, 'Bob');
    await patch(bob, { a: 1 });
    const { userId } = await userOf(bob);
    // What the tries say how long they wait for the lock; the first four do not wait that long here.
    const waits: string[] = [];
    const query = pg.Client.prototype.query as (...args: unknown[]) => unknown;
    vi.spyOn(pg.Client.prototype, 'query').mockImplementation(function (this: pg.Client, ...args: unknown[]) {
      const [text] = args;
      if (typeof text !== 'string' || !text.startsWith('set local lock_timeout')) return query.apply(this, args);
      waits.push(text);
      return query.call(this, waits.length > 4 ? text : `set local lock_timeout = '50ms'`);
    });
    onTestFinished(() => void vi.restoreAllMocks());
    const holder = await pool().connect();
    try {
      await holder.query('begin');
      await holder.query('select 1 from user_state where user_id = $1 for update', [userId]);
      expect(await patch(bob, { a: 2 })).toMatchObject({ __typename: 'Conflict', code: 'CONFLICT' });
      expect(waits).toEqual(Array.from({ length: 4 }, () => `set local lock_timeout = '1s'`));
      const late = patch(bob, { b: 2 });
      await until('it tries a second time', async () => waits.length >= 6);
      await holder.query('rollback');
      expect(written(await late).value).toEqual({ a: 1, b: 2 });
    } finally {
      holder.release();
    }
  });
});

describe('what is refused', () => {
  const deep = (levels: number): Json => (levels === 0 ? {} : { a: deep(levels - 1) });

  test.each([
    ['no object', [1, 2], 'must be an object'],
    ['a text', 'text', 'must be an object'],
    ['U+0000', { a: { b: 'x\0' } }, 'U+0000'],
    ['U+0000 in a name', { 'a\0': 1 }, 'U+0000'],
    ['half a surrogate pair', { a: '\ud800' }, 'surrogate'],
    ['33 levels', deep(32), '32 levels'],
    ['more than 256 KiB', { a: 'x'.repeat(262_144) }, '262144 bytes'],
  ])('%s', async (_, value, message) => {
    // By the verbs themselves: some of it does not even get through the door of the API.
    const bob = await account(server, 'Bob');
    const { app } = server.running;
    const actor = await app.actors.authenticate({ session: bob.token });
    const states = app.use(UserStates);
    for (const [path, refused] of [
      ['value', () => states.saveUserState(actor, { value, expectedVersion: 0 })],
      ['patch', () => states.patchUserState(actor, { patch: value })],
    ] as const) {
      await expect(refused()).rejects.toMatchObject({
        code: 'VALIDATION_ERROR',
        issues: [{ path, message: expect.stringContaining(message) }],
      });
    }
    expect((await stateOf(bob)).version).toBe(0);
  });

  test('a document of 32 levels is taken', async () => {
    expect((await save(await account(server, 'Bob'), deep(31), 0)).__typename).toBe('SaveUserStateSuccess');
  });

  test('patches that would together make a document too large', async () => {
    const bob = await account(server, 'Bob');
    const half = 'x'.repeat(140_000);
    expect((await patch(bob, { a: half })).__typename).toBe('PatchUserStateSuccess');
    expect(await patch(bob, { b: half })).toMatchObject({ __typename: 'ValidationError', issues: [{ path: 'patch' }] });
    expect(Object.keys((await stateOf(bob)).value)).toEqual(['a']);
  });

  test('a negative version, and more than is asked for', async () => {
    for (const version of [-1, 2_147_483_647])
      expect((await save(ada, {}, version)).__typename).toBe('ValidationError');
    expect((await save(ada, {}, 2_147_483_646)).__typename).toBe('VersionConflict');
    const extra = await ask(server, 'saveUserState', { value: {}, expectedVersion: 0, version: 7, userId: 'x' }, ada);
    expect(extra.errors?.[0]?.message).toMatch(/not defined by type/);
  });

  test('strangers, and keys of the person', async () => {
    const home = await workspace(server.url, ada);
    const key = await apiKey(server.url, ada, home.id, 'ADMIN');
    expect(await refusal(server, 'patchUserState', { patch: {} })).toBe('UNAUTHENTICATED');
    expect(await refusal(server, 'patchUserState', { patch: {} }, key)).toBe('FORBIDDEN');
    expect(await refusal(server, 'saveUserState', { value: {}, expectedVersion: 0 }, key)).toBe('FORBIDDEN');
    const asked = `{ viewer { state { version } sessions { id } profile { locale } emailVerified } }`;
    expect(await data(server.url, asked, {}, key)).toEqual({
      viewer: { state: null, sessions: null, profile: null, emailVerified: null },
    });
  });
});
