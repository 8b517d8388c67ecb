import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { rm, statfs } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test, type TestContext } from 'vitest';
import { livenessMs, plain, raw, repository, serving, team } from '../domains/deployments/harness.ts';
import { fresh, scenarios, switches, type Ground } from '../domains/deployments/scenarios.ts';
import type { DockerEngine } from '../support/docker-engine.ts';
import { until } from '../support/embedded.ts';
import { startTestServer, testFolder, type TestServer } from '../support/server.ts';
import { nodeImage, present, testEngine } from '../support/test-engine.ts';
import { dieInAll, dyingGround, measured, type DyingGround, type Place, type Runner } from './dying.ts';

const run = promisify(execFile);

/** Multiplies the size of the load; the time that it may take grows with it. */
const atOnce = 50 * Number(process.env['PROOF_SCALE'] ?? '1');

let engine: DockerEngine | { readonly missing: string };
let server: TestServer | null = null;
let folder: string;
let settings: Readonly<Record<string, string>>;
beforeAll(async () => {
  folder = await testFolder();
  engine = await testEngine();
  if ('missing' in engine) return;
  settings = {
    SWITCHYARD_DOCKER: 'on',
    DOCKER_HOST: `unix://${engine.socketPath}`,
    SWITCHYARD_DOCKER_NODE_IMAGE: nodeImage,
  };
  // What happens when a disk is full, not before.
  server = await startTestServer({
    ...settings,
    SWITCHYARD_METRICS_INTERVAL_S: '5',
    SWITCHYARD_MIN_FREE_DISK_MB: '0',
  });
});
afterAll(async () => {
  await server?.stop();
  if (!('missing' in engine)) await engine.stop();
  await rm(folder, { recursive: true, force: true });
});

async function ground(context: TestContext): Promise<Ground> {
  present(engine, context);
  return { driver: 'DOCKER', server: server as TestServer, folder, settings };
}

// Each has applications of its own, and much of it is waiting.
describe('containers', { concurrent: true }, () => {
  scenarios(ground);
});

test('workers that die in any step: another takes the run over, and no container, image or network is left over', async (context) => {
  const { docker, address } = present(engine, context);
  const list = async (...args: string[]) => (await docker(...args)).split('\n').filter((line) => line !== '');
  const hostOf = async ({ sql }: Place) => (await sql.query<{ id: string }>('select id from host')).rows[0]?.id ?? '-';
  const ofHost = async (place: Place) => `label=switchyard.host=${await hostOf(place)}`;
  const runner: Runner = {
    driver: 'DOCKER',
    settings: { ...settings, SWITCHYARD_RUN_LEASE_S: '6', SWITCHYARD_APP_MEMORY_MB: '64' },
    address: address ?? '',
    instances: async (place) => list('ps', '--quiet', '--filter', await ofHost(place)),
  };
  const begun = Date.now();
  /** What builds of this test leave has no label: containers of steps, and images that no name leads to. */
  const strays = async () => {
    const containers = await list('ps', '--all', '--format', '{{.ID}} {{.Label "switchyard.host"}}');
    const nameless = await list('images', '--quiet', '--no-trunc', '--filter', 'dangling=true');
    const made = nameless.length > 0 ? await list('inspect', '--format', '{{.Id}} {{.Created}}', ...nameless) : [];
    return [
      ...containers.filter((line) => line.trim().split(' ').length === 1),
      // Not what tests before this one have made.
      ...made.filter((line) => Date.parse(line.split(' ')[1] ?? '') >= begun),
    ];
  };
  const grounds: DyingGround[] = [];
  const takeOvers = await dieInAll(async (index) => {
    const made = await dyingGround(context, index, runner);
    grounds.push(made);
    return made;
  });
  measured('take-over after SIGKILL, containers, lease of 6 s', takeOvers, 's');
  expect(takeOvers.length).toBeGreaterThanOrEqual(6);
  for (const { place } of grounds) {
    const of = await ofHost(place);
    const known = async (sql: string) => (await place.sql.query<{ id: string }>(sql)).rows.map(({ id }) => id).toSorted(); // prettier-ignore
    const same = async (found: readonly string[], sql: string) => String(found.toSorted()) === String(await known(sql));
    await until('only what serves is there', async () => same(await list('ps', '--all', '--quiet', '--no-trunc', '--filter', of), `select instance->>'container' id from release where status = 'ACTIVE'`), livenessMs); // prettier-ignore
    await until('only images of releases are there', async () => same(await list('images', '--format', '{{.Repository}}:{{.Tag}}', '--filter', of), `select artifact->>'tag' id from release where pruned_at is null`), livenessMs); // prettier-ignore
    const networks = await list('network', 'ls', '--quiet', '--filter', `name=switchyard-${await hostOf(place)}`);
    expect(networks).toHaveLength(1);
  }
  // One may go between two of these questions.
  await until('no step and no layer of a build is left', async () => (await strays().catch(() => [''])).length === 0, livenessMs); // prettier-ignore
});

test('where an engine answers, it is the default, and the Dockerfile of a repository is what is built', async (context) => {
  const place = await ground(context);
  const on = await team(place.server.url);
  const source = await repository(folder, 'hello-docker', 'hello-docker');
  await source.commit({});
  const id = await on.application({ name: 'hello-docker', repositoryUrl: source.url, memoryMb: 200 });
  expect((await on.deploy(id)).phase).toBe('DEPLOYED');
  expect(await on.answer(id)).toBe('Hello from a container\n');
  const row = await place.server.running.app.db.application.findFirstOrThrow({ where: { name: 'hello-docker' } });
  expect(row).toMatchObject({ driver: 'DOCKER', memoryMb: 200 });
});

test('twenty releases of a container: no request fails; old images go, those that can be restored stay', async (context) => {
  const place = await ground(context);
  const { docker } = present(engine, context);
  const on = await team(place.server.url);
  const { id, failures } = await switches(place, on, 'twenty', 20);
  expect(failures).toEqual([]);
  const applicationId = raw('Application', id);
  const { db } = place.server.running.app;
  // Of 21 one serves, and five can be restored.
  await until('the old ones are pruned', async () => (await db.release.count({ where: { applicationId, prunedAt: { not: null } } })) === 15, livenessMs); // prettier-ignore
  const kept = await db.release.findMany({ where: { applicationId, prunedAt: null } });
  const images = async () => (await docker('images', '--no-trunc', '--format', '{{.Repository}} {{.ID}}')).split('\n').filter((line) => line.includes(applicationId)).map((line) => line.split(' ')[1]); // prettier-ignore
  await until('their images are gone', async () => (await images()).length === 6, livenessMs);
  expect(new Set(await images())).toEqual(new Set(kept.map(({ imageId }) => imageId)));
});

test(`${atOnce} containers at once: all are deployed, each answers as itself, and nothing is left of them`, async (context) => {
  const place = await ground(context);
  const real = present(engine, context);
  // No more than the quota of a workspace at a time.
  const on = await team(place.server.url);
  const source = await repository(folder, 'at-once');
  await source.commit({ ...plain, 'server.js': serving('x').replace('"x"', 'process.env.NAME') });
  const names = Array.from({ length: atOnce }, (_, index) => `one-${index}`);
  const ids: string[] = [];
  for (const name of names)
    ids.push(await on.application({ name, repositoryUrl: source.url, driver: 'DOCKER', healthTimeoutS: 120, memoryMb: 64, environment: { NAME: name } })); // prettier-ignore
  const begun = performance.now();
  const asked = await Promise.all(ids.map((applicationId) => on.createDeployment({ applicationId })));
  const runs = asked.map(({ deployment }) => raw('Run', deployment?.id ?? ''));
  const { db } = place.server.running.app;
  await until(
    'all are over',
    async () => (await db.run.count({ where: { id: { in: runs }, completedAt: { not: null } } })) === atOnce,
    540_000,
  );
  console.log(
    `MEASURED ${atOnce} deployments of containers at once: ${((performance.now() - begun) / 1000).toFixed(1)} s`,
  );
  const ended = await db.run.findMany({ where: { id: { in: runs } }, select: { phase: true, statusReason: true } });
  expect(ended).toEqual(ids.map(() => ({ phase: 'DEPLOYED', statusReason: null })));
  expect(await Promise.all(ids.map((id) => on.answer(id)))).toEqual(names);
  for (const id of ids) expect((await on.stopApplication(id)).__typename).toBe('StopApplicationSuccess');
  const running = async () => {
    const all = await real.docker('ps', '--quiet', '--format', '{{.Label "switchyard.application"}}');
    return all.split('\n').filter((one) => ids.some((id) => raw('Application', id) === one));
  };
  await until('none runs', async () => (await running()).length === 0, livenessMs);
});

test('a full disk of the engine: the deployment fails and says so, what serves serves on, and room helps', async (context) => {
  const place = await ground(context);
  const { dataDir } = present(engine, context);
  const on = await team(place.server.url);
  const { id, source } = await fresh(on, place, 'small', { 'server.js': serving('small') });
  expect((await on.deploy(id)).phase).toBe('DEPLOYED');
  const { blocks, bfree, bsize } = await statfs(dataDir);
  const room = 24 * 2 ** 20;
  const resize = (bytes: number) => run('mount', ['-o', `remount,size=${bytes}`, dataDir]);
  context.onTestFinished(async () => void (await resize(2 ** 32)));
  await resize((blocks - bfree) * bsize + room);
  // More than there is room for: as a commit, and as what a build writes.
  const noise = createHash('shake256', { outputLength: room }).update('1').digest('hex');
  await source.commit({ 'large.bin': noise });
  const sent = await on.deploy(id);
  expect([sent.phase, sent.statusReason]).toEqual([
    'FAILED',
    'There is no room left on the disk of the Docker engine.',
  ]);
  expect(await on.answer(id)).toBe('small');
  await rm(path.join(folder, 'small', 'large.bin'));
  await source.commit({ 'package.json': JSON.stringify({ main: 'server.js', scripts: { build: 'yes > filled' } }) });
  const built = await on.deploy(id);
  expect([built.phase, built.attempt]).toEqual(['FAILED', 1]);
  expect(built.logs.nodes.map(({ text }) => text).join('\n')).toMatch(/no space left on device/i);
  expect(await on.answer(id)).toBe('small');
  await source.commit({ ...plain, 'server.js': serving('room again') });
  expect(await on.deploy(id)).toMatchObject({ phase: 'DEPLOYED', statusReason: null });
  expect(await on.answer(id)).toBe('room again');
});

test('an engine that is restarted while it builds, and while health is checked: the run goes on', async (context) => {
  const place = await ground(context);
  const real = present(engine, context);
  const on = await team(place.server.url);
  const { id, source } = await fresh(on, place, 'restarted', { 'server.js': serving('before') });
  expect((await on.deploy(id)).phase).toBe('DEPLOYED');
  const said = async (run: string) => (await on.deployment(run)).logs.nodes.map(({ text }) => text).join('\n');
  const restart = async () => {
    await real.kill();
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    await real.again();
  };

  await source.commit({ 'server.js': serving('built'), 'package.json': JSON.stringify({ main: 'server.js', scripts: { build: 'echo begun; sleep 15' } }) }); // prettier-ignore
  let run = (await on.createDeployment({ applicationId: id })).deployment?.id ?? '';
  await until('it builds', async () => (await said(run)).includes('begun'), livenessMs);
  await restart();
  expect(await on.over(run)).toMatchObject({ phase: 'DEPLOYED', statusReason: null });
  expect(await said(run)).toMatch(/The Docker engine does not answer/);
  await until('it answers', async () => (await on.answer(id).catch(() => '')) === 'built', livenessMs);

  await source.commit({
    'server.js': serving('checked', 4_000),
    'package.json': JSON.stringify({ main: 'server.js' }),
  });
  run = (await on.createDeployment({ applicationId: id })).deployment?.id ?? '';
  await until('its health is checked', async () => (await on.deployment(run)).phase === 'HEALTH_CHECKING', livenessMs);
  await restart();
  expect(await on.over(run)).toMatchObject({ phase: 'DEPLOYED', statusReason: null });
  await until('it answers', async () => (await on.answer(id).catch(() => '')) === 'checked', livenessMs);
  // One instance for what serves, and nothing else of the application.
  const { db } = place.server.running.app;
  await until('the rest is ended', async () => (await db.release.count({ where: { applicationId: raw('Application', id), status: 'RETIRED', instancePort: { not: null } } })) === 0, livenessMs); // prettier-ignore
  const running = await real.docker('ps', '--all', '--quiet', '--filter', `label=switchyard.application=${raw('Application', id)}`); // prettier-ignore
  expect(running.split('\n')).toHaveLength(1);
});

test('an engine that stays away: the run fails and says why; processes serve on; what it ran comes back with it', async (context) => {
  const real = present(engine, context);
  const impatient = await startTestServer({ ...settings, SWITCHYARD_DOCKER_PATIENCE_S: '8' });
  context.onTestFinished(() => impatient.stop());
  const place: Ground = { driver: 'DOCKER', server: impatient, folder, settings };
  const on = await team(place.server.url);
  const { id } = await fresh(on, place, 'away', { 'server.js': serving('container') });
  const beside = await fresh(on, { ...place, driver: 'PROCESS' }, 'beside', { 'server.js': serving('process') });
  expect((await on.deploy(id)).phase).toBe('DEPLOYED');
  expect((await on.deploy(beside.id)).phase).toBe('DEPLOYED');
  await real.kill();
  const run = (await on.createDeployment({ applicationId: id })).deployment?.id ?? '';
  // The engine holds up nothing that is not its own.
  await beside.source.commit({ 'server.js': serving('process 2') });
  expect((await on.deploy(beside.id)).phase).toBe('DEPLOYED');
  expect(await on.answer(beside.id)).toBe('process 2');
  await until('it is over', async () => (await on.deployment(run)).status === 'FAILED', 150_000);
  expect((await on.deployment(run)).statusReason).toMatch(/^The Docker engine does not answer/);
  await real.again();
  await until('it serves again', async () => (await on.answer(id).catch(() => '')) === 'container', livenessMs);
});
