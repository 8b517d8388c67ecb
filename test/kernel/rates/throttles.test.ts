import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { App } from '#kernel/app.ts';
import { anonymous } from '#kernel/auth/actor.ts';
import { RateLimited } from '#kernel/errors.ts';
import { allRoutes } from '#kernel/http/routes.ts';
import { cleanUp } from '#kernel/maintenance.ts';
import { clientOf, networkOf } from '#kernel/rates/address.ts';
import { Budgets } from '#kernel/rates/budgets.ts';
import { Counters, memoryCounter, postgresCounter, withFallback, type Counter } from '#kernel/rates/counters.ts';
import { allThrottles, defineThrottle, Throttles } from '#kernel/rates/throttles.ts';
import { boundBy, throttlesOf } from '../../../tools/docs-throttles.ts';
import { keptLog } from '../../support/http.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { conformance } from './conformance.ts';

const three = defineThrottle({ name: 'test.three', description: 'For tests', points: 3, durationS: 60 });
const short = defineThrottle({ name: 'test.short', description: 'For tests', points: 1, durationS: 1 });

let one: TestServer;
let two: TestServer;

beforeAll(async () => {
  const shared = { SWITCHYARD_ROLES: 'api', SESSION_SECRET: 'x'.repeat(43), SWITCHYARD_RATES: 'postgresql' };
  one = await startTestServer(shared);
  two = await startTestServer(shared, {}, one.database);
});
afterAll(async () => {
  await two.stop();
  await one.stop();
});

const of = (server: TestServer) => server.running.app.use(Throttles);
const refused = async (promise: Promise<unknown>): Promise<RateLimited> => {
  const error: unknown = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (!(error instanceof RateLimited)) throw new Error(`not refused: ${String(error)}`);
  return error;
};

describe('a throttle', () => {
  test('is one for all processes, through PostgreSQL', async () => {
    const key = randomUUID();
    const begun = Date.now();
    await of(one).consume(three, key);
    await of(two).consume(three, key);
    expect((await of(one).consume(three, key)).remaining).toBe(0);
    const { resetAt, code } = await refused(of(two).consume(three, key));
    expect(code).toBe('RATE_LIMITED');
    // A minute from the first try.
    expect(resetAt.getTime()).toBeGreaterThanOrEqual(begun + 60_000);
    expect(resetAt.getTime()).toBeLessThanOrEqual(Date.now() + 60_000);
    // Another key, and another rule with the same key, are not concerned.
    await of(one).consume(three, randomUUID());
    await of(one).consume(short, key);
  });

  test('of many at once lets exactly as many through as it says', async () => {
    const key = randomUUID();
    const tries = Array.from({ length: 40 }, (_, i) => of(i % 2 ? one : two).consume(three, key));
    const outcomes = await Promise.allSettled(tries);
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(3);
  });

  test('forgets when its window ends', async () => {
    const key = randomUUID();
    await of(one).consume(short, key);
    await refused(of(one).consume(short, key));
    const again = await vi.waitFor(() => of(one).consume(short, key), { timeout: 5000, interval: 100 });
    expect(again.remaining).toBe(0);
  });

  test('can be looked at without a try, and forgives', async () => {
    const key = randomUUID();
    expect(await of(one).peek(three, key)).toEqual({ remaining: 3, resetAt: null });
    await of(one).consume(three, key, 3);
    expect(await of(two).peek(three, key)).toEqual({ remaining: 0, resetAt: expect.any(Date) });
    await of(two).forgive(three, key);
    expect((await of(one).consume(three, key)).remaining).toBe(2);
  });

  test('stores no name and no address', async () => {
    await of(one).consume(three, 'ada@example.com 203.0.113.7');
    const { rows } = await one.running.app.database.pool.query<{ all: string }>(
      `select string_agg(t::text, ' ') as all from throttle t`,
    );
    expect(rows[0]?.all).not.toMatch(/ada|203\.0|test\./);
  });

  test('is removed by the clean-up once it is over', async () => {
    const { app } = one.running;
    const { pool } = app.database;
    await pool.query(`insert into throttle (key, points, expire) values ('old', 1, $1), ('new', 1, $2)`, [
      Date.now() - 3_700_000,
      Date.now(),
    ]);
    await cleanUp.handle({}, { app } as { app: App } & Parameters<typeof cleanUp.handle>[1]);
    const { rows } = await pool.query<{ key: string }>(`select key from throttle where key in ('old', 'new')`);
    expect(rows).toEqual([{ key: 'new' }]);
    await pool.query(`delete from throttle where key = 'new'`);
  });

  test('has a name that no other has', () => {
    expect(() => defineThrottle(three)).toThrow('Two throttles are named test.three');
    expect(allThrottles().map(({ name }) => name)).toContain('http.badCredentials');
  });

  test('names verbs, or is named by a route: else the reference is refused', () => {
    const routes = allRoutes();
    const verbs = new Set(['identity.signIn']);
    const signIn = { ...three, verbs: ['identity.signIn'] };
    const door = { ...three, name: 'http.badCredentials' };
    expect(Object.fromEntries(boundBy([signIn, door], verbs, routes))).toEqual({
      'test.three': ['identity.signIn'],
      'http.badCredentials': ['/graphql'],
    });
    expect(throttlesOf([signIn, door], 'identity.signIn')).toEqual(['test.three']);
    expect(() => boundBy([three], verbs, routes)).toThrow('test.three names no verb');
    expect(() => boundBy([{ ...three, verbs: ['identity.signin'] }], verbs, routes)).toThrow('identity.signin');
  });
});

describe('counters', () => {
  const broken: Counter = {
    add: () => Promise.reject(new Error('away')),
    get: () => Promise.reject(new Error('away')),
    remove: () => Promise.reject(new Error('away')),
  };

  const shared = (counter: Counter) => [counter, counter] as const;
  const stores: readonly (readonly [string, () => readonly [Counter, Counter]])[] = [
    ['memory', () => shared(memoryCounter())],
    [
      'PostgreSQL',
      () => [postgresCounter(one.running.app.database.pool), postgresCounter(two.running.app.database.pool)],
    ],
    ['the second of two', () => shared(withFallback(broken, memoryCounter(), keptLog().log))],
  ];
  describe.each(stores)('in %s', (_, make) => {
    test.each(conformance)('%s', async (_what, holds) => expect(holds(...make())).resolves.toBeUndefined());
  });

  test('of operations hold for all processes in PostgreSQL, outside its log', async () => {
    const spend = (server: TestServer, cost: number) => server.running.app.use(Budgets).spend('USER ada', false, cost);
    const { remaining } = await spend(one, 10);
    expect((await spend(two, 5)).remaining).toBe(remaining - 5);
    expect((await spend(two, remaining)).allowed).toBe(false);
    // What was refused was given back, for both.
    expect((await spend(one, 0)).remaining).toBe(remaining - 5);
    const { rows } = await one.running.app.database.pool.query<{ kind: string }>(
      `select relpersistence as kind from pg_class where oid = 'throttle'::regclass`,
    );
    expect(rows).toEqual([{ kind: 'u' }]);
  });

  test('give back to a window that has ended what the next one lost, and no more', async () => {
    const memory = memoryCounter();
    const adds: number[] = [];
    // The window ends between the look and the giving back.
    const ending: Counter = {
      ...memory,
      async add(key, points, windowS) {
        adds.push(points);
        if (adds.length === 2) await memory.remove(key);
        return memory.add(key, points, windowS);
      },
    };
    const app = {
      use: (of: unknown) =>
        of === Counters
          ? { budgets: ending, throttles: ending, hash: (key: string) => key }
          : { points: 10, anonymousPoints: 10 },
    } as unknown as App;
    const budgets = Budgets.make(app);
    expect((await budgets.spend('ada', false, 11)).allowed).toBe(false);
    expect(adds).toEqual([11, -11, 11]);
    expect(await budgets.spend('ada', false, 4)).toMatchObject({ allowed: true, remaining: 6 });
    expect((await budgets.spend('ada', false, 7)).allowed).toBe(false);
    expect(await budgets.spend('ada', false, 6)).toMatchObject({ allowed: true, remaining: 0 });
  });

  test('warn once for many failures of a store', async () => {
    const { log, lines } = keptLog();
    const counter = withFallback(broken, memoryCounter(), log);
    for (let i = 1; i <= 20; i++) expect((await counter.add('key', 1, 60)).points).toBe(i);
    expect(lines.filter(({ level }) => level === 40)).toHaveLength(1);
  });
});

describe('who is one client', () => {
  test.each([
    ['203.0.113.7', '203.0.113.7'],
    ['::ffff:203.0.113.7', '203.0.113.7'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['2001:0DB8:1:2::1', '2001:db8:1:2::/64'],
    ['2001:db8::1', '2001:db8:0:0::/64'],
    ['::1', '0:0:0:0::/64'],
    ['fe80::1%eth0', 'fe80:0:0:0::/64'],
    ['unknown', 'unknown'],
    ['', ''],
  ])('%s is of %s', (address, network) => expect(networkOf(address)).toBe(network));

  test('a key is not its maker, and a person is not their address', () => {
    const person = { ...anonymous, kind: 'SESSION' as const, userId: 'u', credentialId: 's' };
    const key = { ...person, kind: 'API_KEY' as const, credentialId: 'k' };
    const all = [anonymous, person, key].map((actor) => clientOf(actor, '203.0.113.7'));
    expect(new Set(all).size).toBe(3);
    expect(clientOf(person, '198.51.100.1')).toBe(all[1]);
  });
});
