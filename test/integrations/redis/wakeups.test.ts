import { expect, onTestFinished, test, type TestContext } from 'vitest';
import { RedisWakeUps } from '../../../src/integrations/redis/wakeups.ts';
import { createLogger } from '../../../src/kernel/log.ts';
import { person, workspace } from '../../support/actors.ts';
import { freePort, locate, redisServer, startRedis } from '../../support/counterparts.ts';
import { until } from '../../support/embedded.ts';
import { append, Follower, noted, upTo } from '../../support/live.ts';
import { startTestServer } from '../../support/server.ts';

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

async function listener(url: string) {
  const wakeUps = new RedisWakeUps({ url, log: createLogger('silent') });
  const heard: string[] = [];
  let resets = 0;
  await wakeUps.start(
    (key, source) => heard.push(`${source} ${key}`),
    () => resets++,
  );
  onTestFinished(() => wakeUps.close());
  return { wakeUps, heard, resets: () => resets };
}

test('keys reach every other process, and the own one at once', async (context) => {
  const { url } = await redis(context);
  const [one, two] = [await listener(url), await listener(url)];
  expect([one.resets(), two.resets()]).toEqual([1, 1]);
  for (const n of upTo(200)) one.wakeUps.publish(`w:${n}`);
  expect(one.heard).toHaveLength(200);
  await until('the other heard them', async () => two.heard.length === 200);
  two.wakeUps.publish('c:1');
  await until('it is heard back', async () => one.heard.length === 201);
  expect(two.heard).toEqual([...upTo(200).map((n) => `redis w:${n}`), 'local c:1']);
  // Nothing of its own comes back to it.
  expect(one.heard).toEqual([...upTo(200).map((n) => `local w:${n}`), 'redis c:1']);
});

test('while Redis is away nothing waits for it, and afterwards keys come again', async (context) => {
  const { url, kill, restart } = await redis(context);
  const [one, two] = [await listener(url), await listener(url)];
  await kill();
  one.wakeUps.publish('w:lost');
  await restart();
  await until('both are told that they may have missed some', async () => one.resets() === 2 && two.resets() === 2);
  await until('keys come again', async () => {
    one.wakeUps.publish('w:found');
    return two.heard.includes('redis w:found');
  });
  expect(two.heard).not.toContain('redis w:lost');
});

test('a Redis that is not there is an error at start, and is not tried again', async (context) => {
  await locate(redisServer, context);
  const wakeUps = new RedisWakeUps({
    url: `redis://127.0.0.1:${await freePort()}`,
    log: createLogger('silent'),
  });
  await expect(
    wakeUps.start(
      () => undefined,
      () => undefined,
    ),
  ).rejects.toThrow('Connection is closed');
});

test('two servers on one database follow each other through Redis, and by polling while it is away', async (context) => {
  const { url, kill } = await redis(context);
  const extra = { SWITCHYARD_ROLES: 'api', REDIS_URL: url, SESSION_SECRET: 'x'.repeat(43) };
  const one = await startTestServer(extra, { hubPollMs: 600_000 });
  onTestFinished(() => one.stop());
  const two = await startTestServer(extra, { hubPollMs: 200 }, one.database);
  const three = await startTestServer(extra, { hubPollMs: 600_000 }, one.database);
  try {
    const ada = await person(two.url);
    const { id, cursor } = await workspace(two.url, ada);
    const polling = new Follower(two.url, ada, 'workspaceEvents', { id, after: cursor });
    const waiting = new Follower(three.url, ada, 'workspaceEvents', { id });
    await until('it has begun', async () => waiting.items.length === 1);
    await append(one.running.app, id, 1);
    await until('it came', async () => polling.noted.length === 1 && waiting.noted.length === 1);
    await waiting.close();
    await kill();
    await append(one.running.app, id, 1, noted, 2);
    await append(three.running.app, id, 1, noted, 3);
    await until('the rest came', async () => polling.noted.length === 3);
    expect(polling.noted).toEqual([1, 2, 3]);
    await polling.close();
  } finally {
    await two.stop();
    await three.stop();
  }
});
