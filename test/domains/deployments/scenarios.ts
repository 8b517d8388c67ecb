import { Agent, request } from 'node:http';
import { expect, test, type TestContext } from 'vitest';
import { until } from '../../support/embedded.ts';
import { spawnServer, startTestServer, type ServerProcess, type TestServer } from '../../support/server.ts';
import { testDatabase } from '../../support/database.ts';
import { livenessMs, plain, raw, repository, serving, team, type Repository, type Team } from './harness.ts';

/** What whole deployments are tried on. */
export interface Ground {
  readonly driver: 'PROCESS' | 'DOCKER';
  readonly server: TestServer;
  readonly folder: string;
  /** Beside what every server of these tests is given. */
  readonly settings: Readonly<Record<string, string>>;
}

/** Asks again and again, each time on a connection of its own, until it is told to stop. */
export async function loop(
  address: string,
): Promise<() => Promise<{ answers: Set<string>; failures: string[]; count: number }>> {
  const [answers, failures] = [new Set<string>(), [] as string[]];
  const told = new AbortController();
  let count = 0;
  const agent = new Agent({ keepAlive: false });
  const once = () =>
    new Promise<void>((resolve) => {
      const sent = request(address, { agent, timeout: 10_000 }, (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
        response.once('end', () => {
          if (response.statusCode === 200) answers.add(text);
          else failures.push(`${response.statusCode} ${text}`);
          resolve();
        });
        response.once('error', (error) => (failures.push(error.message), resolve()));
      });
      sent.once('error', (error) => (failures.push(error.message), resolve()));
      sent.end();
    });
  const asking = Promise.all(
    [1, 2, 3].map(async () => {
      while (!told.signal.aborted) {
        await once();
        count += 1;
      }
    }),
  );
  return async () => {
    told.abort();
    await asking;
    agent.destroy();
    return { answers, failures, count };
  };
}

/** An application with a repository of its own. */
export async function fresh(
  on: Team,
  ground: Ground,
  name: string,
  files: Readonly<Record<string, string>>,
  input: object = {},
): Promise<{ id: string; source: Repository }> {
  const source = await repository(ground.folder, name);
  await source.commit({ ...plain, ...files });
  return { id: await on.application({ name, repositoryUrl: source.url, driver: ground.driver, ...input }), source };
}

/** The deployments that every driver must bring to their end. */
export function scenarios(ground: (context: TestContext) => Promise<Ground>): void {
  const serves = async ({ server }: Ground, applicationId: string) =>
    server.running.app.db.release.findFirstOrThrow({ where: { activeOf: { id: raw('Application', applicationId) } } });

  test('deployed, redeployed, rolled back to the very artifact', async (context) => {
    const place = await ground(context);
    const on = await team(place.server.url);
    const { id, source } = await fresh(on, place, 'there-and-back', { 'server.js': serving('one') });
    const one = await on.deploy(id);
    expect(one).toMatchObject({ phase: 'DEPLOYED', status: 'SUCCEEDED' });
    expect(await on.answer(id)).toBe('one');
    const first = await serves(place, id);
    expect(first.driver).toBe(place.driver);
    expect(one.logs.nodes.map(({ text }) => text)).toContain('listening for one');
    await source.commit({ 'server.js': serving('two') });
    expect((await on.deploy(id)).phase).toBe('DEPLOYED');
    expect(await on.answer(id)).toBe('two');
    const back = await on.rollback({ applicationId: id });
    expect(await on.over(back.deployment?.id ?? '')).toMatchObject({ phase: 'DEPLOYED', trigger: 'ROLLBACK', restores: { id: one.release?.id } }); // prettier-ignore
    expect(await on.answer(id)).toBe('one');
    const restored = await serves(place, id);
    expect(restored).toMatchObject({ id: first.id, artifact: first.artifact, imageId: first.imageId });
    expect(restored.instance).not.toEqual(first.instance);
    expect((await on.stopApplication(id)).__typename).toBe('StopApplicationSuccess');
  });

  test('one that does not become healthy is rolled back, and what served serves on', async (context) => {
    const place = await ground(context);
    const on = await team(place.server.url);
    const { id, source } = await fresh(on, place, 'unhealthy', { 'server.js': serving('good') }, { healthTimeoutS: 4 });
    expect((await on.deploy(id)).phase).toBe('DEPLOYED');
    const good = await serves(place, id);
    await source.commit({ 'server.js': serving('bad').replace('response.end(', 'response.writeHead(503).end(') });
    const bad = await on.deploy(id);
    expect(bad).toMatchObject({ phase: 'ROLLED_BACK', statusReason: '/ was not healthy within 4 s: it answered 503' });
    expect(bad.healthEvidence).toMatchObject({ lastResponse: { status: 503, bodyStart: 'bad' }, lastLines: ['listening for bad'] }); // prettier-ignore
    expect(await on.answer(id)).toBe('good');
    expect(await serves(place, id)).toMatchObject({ id: good.id, instance: good.instance });
    await source.commit({ 'server.js': 'console.error("no database"); process.exit(3)' });
    expect(await on.deploy(id)).toMatchObject({ phase: 'ROLLED_BACK', healthEvidence: { lastLines: ['no database'] } });
    expect(await on.answer(id)).toBe('good');
  });

  test('a client in a loop sees no failed request during five switches', async (context) => {
    const place = await ground(context);
    const on = await team(place.server.url);
    const { id, source } = await fresh(on, place, 'switched', { 'server.js': serving('v0') });
    expect((await on.deploy(id)).phase).toBe('DEPLOYED');
    const stop = await loop(`${await on.address(id)}/`);
    for (let version = 1; version <= 5; version += 1) {
      await source.commit({ 'server.js': serving(`v${version}`) });
      expect((await on.deploy(id)).phase).toBe('DEPLOYED');
    }
    await until('the last one answers', async () => (await on.answer(id)) === 'v5', livenessMs);
    const { answers, failures, count } = await stop();
    console.log(`MEASURED ${place.driver}: ${count} requests during 5 switches, ${failures.length} failed`);
    expect(failures).toEqual([]);
    expect([...answers].toSorted()).toEqual(['v0', 'v1', 'v2', 'v3', 'v4', 'v5']);
    expect(count).toBeGreaterThan(100);
  });

  test('a worker that is killed between start and health: another one takes over', async (context) => {
    const place = await ground(context);
    const database = await testDatabase();
    const server = await startTestServer(
      // Some ports below are such that fetch refuses them.
      { ...place.settings, SWITCHYARD_ROLES: 'api', SWITCHYARD_ADDRESS_PORTS: '7300-7399' },
      {},
      database,
    );
    const env = { ...server.env, SWITCHYARD_ROLES: 'worker', SWITCHYARD_RUN_LEASE_S: '5' };
    let worker: ServerProcess | null = await spawnServer(env);
    try {
      const on = await team(server.url);
      const { id } = await fresh(on, place, 'taken-over', { 'server.js': serving('slow start', 9_000) }, { healthTimeoutS: 60 }); // prettier-ignore
      const { db } = server.running.app;
      const asked = await on.createDeployment({ applicationId: id });
      const run = asked.deployment?.id ?? '';
      await until(
        'its health is checked',
        async () => (await on.deployment(run)).phase === 'HEALTH_CHECKING',
        livenessMs,
      );
      const before = await db.release.findFirstOrThrow();
      await worker.kill('SIGKILL');
      worker = await spawnServer(env);
      expect(await on.over(run)).toMatchObject({ phase: 'DEPLOYED', attempt: 2 });
      expect(await on.answer(id)).toBe('slow start');
      const after = await db.release.findFirstOrThrow();
      // The step that started it was complete: it was adopted, not started again.
      expect(after.instance).toEqual(before.instance);
      await on.stopApplication(id);
      await until(
        'nothing of it runs',
        async () => (await db.release.findFirstOrThrow()).instance === null,
        livenessMs,
      );
    } finally {
      await worker?.kill('SIGTERM');
      await server.stop();
      await database.drop();
    }
  });
}
