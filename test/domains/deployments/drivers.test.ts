import { access, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import path from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { DeploymentHost } from '../../../src/domains/deployments/service/host.ts';
import { loadConfig } from '../../../src/config.ts';
import { start } from '../../../src/start.ts';
import { startTestServer, testFolder, type TestServer } from '../../support/server.ts';
import { startFakeSsm } from '../../support/ssm.ts';
import { until } from '../../support/embedded.ts';
import { retiredRelease, tenant } from '../../support/world.ts';
import { asProcess, raw, repository, serving, plain, team } from './harness.ts';

let server: TestServer;
let folder: string;
beforeAll(async () => {
  folder = await testFolder();
  server = await startTestServer();
});
afterAll(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

test('without an engine: what may be chosen is, what asks for Docker is refused, and limits are', async () => {
  const on = await team(server.url);
  const source = await repository(folder, 'chosen');
  await source.commit({ ...plain, 'server.js': serving('x') });
  const wants = await on.application({ name: 'wants-docker', repositoryUrl: source.url, driver: 'DOCKER' });
  expect(await on.createDeployment({ applicationId: wants })).toMatchObject({
    __typename: 'DriverNotOffered',
    code: 'DRIVER_NOT_OFFERED',
  });
  const far = await on.application({ name: 'wants-ec2', repositoryUrl: source.url, driver: 'EC2' });
  expect(await on.createDeployment({ applicationId: far })).toMatchObject({ code: 'DRIVER_NOT_OFFERED' });
  const any = await on.application({ name: 'any', repositoryUrl: source.url, memoryMb: 256, cpus: 0.5 });
  expect((await on.deploy(any)).phase).toBe('DEPLOYED');
  const row = await server.running.app.db.application.findFirstOrThrow({ where: { name: 'any' } });
  expect(row).toMatchObject({ driver: 'PROCESS', memoryMb: 256, milliCpus: 500 });
  const refused = await on.create({ name: 'greedy', repositoryUrl: source.url, memoryMb: 1_000_000, cpus: 1000 });
  expect(refused.issues?.map(({ path }) => path)).toEqual(['memoryMb', 'cpus']);
});

test('a build that failed says why, also when its folder cannot be removed', async () => {
  const on = await team(server.url);
  const source = await repository(folder, 'stuck');
  await source.commit({ ...plain, 'server.js': serving('x') });
  const { checkouts } = server.running.app.use(DeploymentHost);
  const before = checkouts.remove.bind(checkouts);
  const refused: string[] = [];
  const removing = vi.spyOn(checkouts, 'remove').mockImplementation(async (one) => {
    // What is prepared is removed before, where nothing is yet.
    if (await access(path.join(one, 'server.js')).then(() => false, () => true)) return before(one); // prettier-ignore
    refused.push(one);
    throw new Error('It cannot be emptied');
  });
  try {
    const id = await on.application({ name: 'stuck', repositoryUrl: source.url, buildCommand: 'exit 7' });
    expect(await on.deploy(id)).toMatchObject({
      phase: 'FAILED',
      statusReason: expect.stringMatching(/^The build .*\b7\b/),
    });
    expect(refused.length).toBeGreaterThan(0);
  } finally {
    removing.mockRestore();
  }
});

test('a worker that must have an engine does not start without one', async () => {
  const env = { ...server.env, SWITCHYARD_DOCKER: 'on', DOCKER_HOST: `unix://${folder}/no-such-socket` };
  await expect(start(loadConfig(env))).rejects.toThrow(
    /SWITCHYARD_DOCKER is on, but no Docker engine answers at unix:/,
  );
  expect(() => loadConfig({ ...env, DOCKER_HOST: 'tcp://192.0.2.1:2375' })).toThrow(/DOCKER_HOST/);
});

test('an engine that takes requests and answers none holds up nothing of another driver', async () => {
  const state = { silent: false, unanswered: 0 };
  const engine = createServer((request, response) => {
    if (state.silent) state.unanswered += 1;
    else response.setHeader('content-type', 'application/json').end(request.url?.endsWith('/_ping') ? 'OK' : '[]');
  });
  const socket = path.join(folder, 'engine');
  await new Promise<void>((resolve) => engine.listen(socket, resolve));
  const beside = await startTestServer({
    SWITCHYARD_DOCKER: 'on',
    DOCKER_HOST: `unix://${socket}`,
    SWITCHYARD_METRICS_INTERVAL_S: '1',
  });
  try {
    const on = await team(beside.url);
    const source = await repository(folder, 'beside');
    await source.commit({ ...plain, 'server.js': serving('beside') });
    const id = await on.application({ name: 'beside', repositoryUrl: source.url, driver: 'PROCESS' });
    expect((await on.deploy(id)).phase).toBe('DEPLOYED');
    const pid = async () => asProcess(await beside.running.app.db.release.findFirstOrThrow()).pid ?? 0;
    const before = await pid();
    state.silent = true;
    await until('the engine was asked', async () => state.unanswered > 0, 20_000);
    process.kill(-before, 'SIGKILL');
    // The engine is given up after 20 s, which is not waited for.
    await until('it was started again', async () => ![0, before].includes(await pid()), 10_000);
    await until('it serves', async () => (await on.answer(id).catch(() => '')) === 'beside', 10_000);
    // A container that serves, beside it: what is not known of it is told, and what is known of the other one as well.
    const { app } = beside.running;
    const { db } = app;
    const { hostId } = await db.application.findFirstOrThrow({ where: { name: 'beside' } });
    const retired = await retiredRelease(app, { ...(await tenant(app, 'container')), hostId: hostId ?? '' });
    const container = retired.applicationId;
    await db.release.update({
      where: { id: retired.id },
      data: { driver: 'DOCKER', status: 'ACTIVE', retiredAt: null, instance: { container: 'c' }, instancePort: 1 },
    });
    await db.application.update({ where: { id: container }, data: { driver: 'DOCKER', userSlot: 99, activeReleaseId: retired.id } }); // prettier-ignore
    const pointsOf = (applicationId: string) =>
      db.metricPoint.findMany({ where: { applicationId }, orderBy: { at: 'asc' } });
    await until('it is told that nothing is known', async () => (await pointsOf(container)).length >= 2, 15_000);
    const [unknown] = await pointsOf(container);
    expect(unknown).toMatchObject({ milliCpus: null, memoryBytes: null, probes: 0, healthy: 0, latencyMs: null });
    expect(unknown?.missing).toEqual(
      ['CPU', 'MEMORY', 'MEMORY_LIMIT', 'DISK', 'NETWORK', 'HEALTH'].map((one) => `${one}:NO_ANSWER`),
    );
    const since = async () => (await pointsOf(raw('Application', id))).filter(({ at, memoryBytes }) => unknown && at > unknown.at && (memoryBytes ?? 0) > 0); // prettier-ignore
    await until('the other one is looked at', async () => (await since()).length >= 2, 10_000);
  } finally {
    state.silent = false;
    engine.closeAllConnections();
    await beside.stop();
    engine.close();
  }
}, 60_000);

test('a worker whose EC2 instance is not there does not start, and says so', async () => {
  const ssm = await startFakeSsm();
  ssm.instance = null;
  for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY']) vi.stubEnv(name, 'of-the-stand-in');
  const env = {
    ...server.env,
    SWITCHYARD_EC2_INSTANCE_ID: ssm.instanceId,
    SWITCHYARD_EC2_REGION: 'eu-central-1',
    SWITCHYARD_EC2_BUCKET: 'transfer',
    SWITCHYARD_EC2_SSM_ENDPOINT: ssm.url,
  };
  try {
    await expect(start(loadConfig(env))).rejects.toThrow(/SSM in eu-central-1 does not know the instance i-/);
  } finally {
    vi.unstubAllEnvs();
    await ssm.close();
  }
});
