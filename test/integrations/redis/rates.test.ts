import { randomUUID } from 'node:crypto';
import { expect, onTestFinished, test, type TestContext } from 'vitest';
import { redisCounter } from '../../../src/integrations/redis/rates.ts';
import { RateLimited } from '#kernel/errors.ts';
import { Budgets } from '#kernel/rates/budgets.ts';
import { defineThrottle, Throttles } from '#kernel/rates/throttles.ts';
import { locate, redisServer, startRedis } from '../../support/counterparts.ts';
import { until } from '../../support/embedded.ts';
import { keptLog, post } from '../../support/http.ts';
import { startTestServer } from '../../support/server.ts';
import { headersOf } from '../../support/client.ts';
import { someone } from '../../support/world.ts';
import { conformance } from '../../kernel/rates/conformance.ts';

const two = defineThrottle({ name: 'test.redis', description: 'For tests', points: 2, durationS: 60 });

async function redis(context: TestContext) {
  const program = await locate(redisServer, context);
  const server = await startRedis(program);
  let running = server;
  onTestFinished(() => running.stop());
  return {
    url: `redis://127.0.0.1:${server.port}`,
    kill: () => running.stop(),
    async restart() {
      running = await startRedis(program, server.port);
    },
  };
}

test('counts as every store does, for all clients of one Redis', async (context) => {
  const { url } = await redis(context);
  const { log } = keptLog();
  const [one, other] = [redisCounter({ url, log }), redisCounter({ url, log })];
  onTestFinished(() => [one, other].forEach((counter) => counter.close()));
  await until('both are connected', async () =>
    Promise.all([one.get('any'), other.get('any')]).then(
      () => true,
      () => false,
    ),
  );
  for (const [what, holds] of conformance) await expect(holds(one, other).then(() => what)).resolves.toBe(what);
});

test('two servers share budgets and throttles through Redis; without it they serve on, and say so once', async (context) => {
  const { url, kill, restart } = await redis(context);
  const { log, lines } = keptLog('warn');
  const extra = {
    SWITCHYARD_ROLES: 'api',
    REDIS_URL: url,
    SESSION_SECRET: 'x'.repeat(43),
    SWITCHYARD_RATE_POINTS: '100',
  };
  const one = await startTestServer(extra, { log });
  onTestFinished(() => one.stop());
  const other = await startTestServer(extra, {}, one.database);
  onTestFinished(() => other.stop());
  const { id, ...auth } = await someone(one.running.app);
  const spend = (server: typeof one, cost: number) => server.running.app.use(Budgets).spend(`USER ${id}`, false, cost);

  await until('both count in Redis', async () => {
    await spend(one, 1);
    const before = (await spend(one, 0)).remaining;
    return (await spend(other, 0)).remaining === before;
  });
  const { remaining } = await spend(one, 10);
  expect((await spend(other, 10)).remaining).toBe(remaining - 10);
  const key = randomUUID();
  await one.running.app.use(Throttles).consume(two, key);
  await other.running.app.use(Throttles).consume(two, key);
  await expect(one.running.app.use(Throttles).consume(two, key)).rejects.toThrow(RateLimited);
  // Nothing of it is in PostgreSQL.
  const { rows } = await one.running.app.database.pool.query('select key from throttle');
  expect(rows).toEqual([]);
  expect((await spend(one, 100)).allowed).toBe(false);

  await kill();
  // Memory and PostgreSQL take over: nobody is refused for it, and throttles still hold for both.
  lines.length = 0;
  for (let i = 0; i < 5; i++) {
    const answer = await post(one.url, { query: '{ viewer { id } }' }, headersOf(auth));
    expect([answer.status, answer.codes]).toEqual([200, []]);
  }
  expect((await spend(one, 50)).allowed).toBe(true);
  await one.running.app.use(Throttles).consume(two, key);
  await other.running.app.use(Throttles).consume(two, key);
  await expect(other.running.app.use(Throttles).consume(two, key)).rejects.toThrow(RateLimited);
  expect(lines.filter(({ msg }) => msg === 'rates: Redis does not answer; counting without it').length).toBeLessThan(5);
  expect(lines.some(({ msg }) => msg === 'rates: Redis does not answer; counting without it')).toBe(true);

  await restart();
  await until('Redis counts again', async () => {
    const before = (await spend(one, 1)).remaining;
    return (await spend(other, 0)).remaining === before && before < 100;
  });
});
