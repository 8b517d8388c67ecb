import { Agent, request } from 'node:http';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { access, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { isAlive } from '../../../src/kernel/processes/children.ts';
import { until } from '../../support/embedded.ts';
import { startTestServer, testFolder, type TestServer } from '../../support/server.ts';
import {
  answering,
  asProcess,
  livenessMs,
  plain,
  raw,
  repository,
  running,
  team,
  type Repository,
  type Team,
} from './harness.ts';

let server: TestServer;
let folder: string;
let on: Team;
let source: Repository;
beforeAll(async () => {
  folder = await testFolder();
  server = await startTestServer();
  on = await team(server.url);
  source = await repository(folder);
});
afterAll(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

const db = () => server.running.app.db;
let made = 0;
/** An application of a repository of its own. */
async function fresh(
  files: Readonly<Record<string, string>>,
  input: object = {},
): Promise<{ id: string; source: Repository; sha: string }> {
  const name = `app-${++made}`;
  const own = await repository(folder, name);
  const sha = await own.commit(files);
  return { id: await on.application({ name, repositoryUrl: own.url, ...input }), source: own, sha };
}
/** Addresses that the proxy opens. */
async function routedPorts(): Promise<number[]> {
  const file = path.join(server.env['SWITCHYARD_SHARED_DIR'] ?? '', 'host/proxy/routes.json');
  return (JSON.parse(await readFile(file, 'utf8')) as { routes: { port: number }[] }).routes.map(({ port }) => port);
}
const releaseOf = async (applicationId: string) => {
  const release = await db().release.findFirst({ where: { activeOf: { id: raw('Application', applicationId) } } });
  return release && asProcess(release);
};

test('a Node project is detected, its exact commit deployed; environment, build output and health path count', async () => {
  const sha = await source.commit(
    {
      'package.json': JSON.stringify({
        name: 'built',
        type: 'module',
        scripts: { start: 'node server.js', build: 'node build.js' },
      }),
      'build.js': `console.log('building with ' + process.env.MESSAGE + ', token ' + process.env.API_TOKEN);
        console.error('a warning');`,
    },
    'Say hello\n\nThe body.',
  );
  const id = await on.application({
    name: 'hello',
    repositoryUrl: source.url,
    healthCheckPath: '/health',
    environment: { MESSAGE: 'Good evening', API_TOKEN: 'do-not-tell-me' },
  });
  const done = await on.deploy(id);
  expect(done).toMatchObject({ phase: 'DEPLOYED', status: 'SUCCEEDED', commitSha: sha, commitSubject: 'Say hello' });
  expect(done.release?.status).toBe('ACTIVE');
  const lines = done.logs.nodes.map(({ step, stream, text }) => `${step} ${stream} ${text}`);
  expect(lines).toContain('build SYSTEM $ npm run build');
  expect(lines).toContain('build STDOUT building with [redacted], token [redacted]');
  expect(lines).toContain('build STDERR a warning');
  expect(lines.some((line) => /^health STDOUT .*listens on port/.test(line))).toBe(true);
  expect(lines.some((line) => line.startsWith('activate SYSTEM Serving on http://127.0.0.1:'))).toBe(true);
  expect(JSON.parse(await on.answer(id))).toMatchObject({ message: 'Good evening' });
  // The commit that was deployed, not what the branch is by now.
  await source.commit({ 'build.js': 'process.exit(9)' });
  const again = await on.deploy(id, { ref: sha });
  expect(again).toMatchObject({ phase: 'DEPLOYED', commitSha: sha });
  expect(again.release?.id).not.toBe(done.release?.id);
});

test('a build that fails tells why, and leaves no folder; the retry builds the same commit', async () => {
  const {
    id,
    source: own,
    sha,
  } = await fresh(
    { ...plain, 'server.js': answering('never') },
    {
      buildCommand: 'echo half way; exit 3',
    },
  );
  const failed = await on.deploy(id);
  expect(failed).toMatchObject({
    phase: 'FAILED',
    status: 'FAILED',
    statusReason: 'The build ended with exit code 3.',
    release: null,
  });
  expect(failed.logs.nodes.map(({ text }) => text)).toContain('half way');
  const releases = path.join(server.env['SWITCHYARD_SHARED_DIR'] ?? '', 'host', 'applications', raw('Application', id));
  await until(
    'its folder is gone',
    async () => !(await readdir(releases)).some((name) => name.startsWith(raw('Run', failed.id))),
    livenessMs,
  );
  await own.commit({ 'later.txt': 'x' });
  const retried = await on.retry(failed.id);
  const second = await on.over(retried.run?.id ?? '');
  expect(second).toMatchObject({ phase: 'FAILED', commitSha: sha, trigger: 'RETRY' });
});

test('an instance that crashes fails the first deployment, and rolls a later one back, with evidence', async () => {
  const crash = `console.error('no database, password is geheim-geheim'); process.exit(1);`;
  const { id, source: own } = await fresh(
    { ...plain, 'server.js': crash },
    { healthTimeoutS: 3, environment: { DB_PASSWORD: 'geheim-geheim' } },
  );
  const first = await on.deploy(id);
  expect(first).toMatchObject({
    phase: 'FAILED',
    statusReason: 'The instance ended before it was healthy.',
    release: { status: 'RETIRED' },
  });
  expect(first.healthEvidence?.lastLines).toEqual(['no database, password is [redacted]']);
  expect(await on.address(id)).toBeNull();

  await own.commit({ 'server.js': answering('good') });
  const good = await on.deploy(id);
  expect(good.phase).toBe('DEPLOYED');
  const serving = await releaseOf(id);

  await own.commit({
    'server.js': answering('bad').replace('response.end(', 'response.writeHead(503).end("geheim-geheim" + '),
  });
  const bad = await on.deploy(id, {});
  expect(bad).toMatchObject({
    phase: 'ROLLED_BACK',
    status: 'FAILED',
    statusReason: '/ was not healthy within 3 s: it answered 503',
  });
  expect(bad.healthEvidence).toMatchObject({
    path: '/',
    lastResponse: { status: 503, bodyStart: '[redacted]bad' },
    lastLines: ['listening for bad'],
  });
  expect(await on.answer(id)).toBe('good');
  expect(await releaseOf(id)).toMatchObject({ id: serving?.id, instance: serving?.instance });
  // Nothing of the failed one runs on.
  await until('its instance is gone', async () => (await db().release.count({ where: { status: 'RETIRED', ...running } })) === 0, livenessMs); // prettier-ignore
  // The default is the release that served before, never one that did not become healthy.
  expect((await on.rollback({ applicationId: id })).__typename).toBe('NothingToRestore');
});

test('a rollback brings back the very folder; asked twice, it is done once', async () => {
  const { id, source: own } = await fresh({ ...plain, 'server.js': answering('one') });
  const one = await on.deploy(id);
  const folderOfOne = (await releaseOf(id))?.path;
  await own.commit({ 'server.js': answering('two') });
  const two = await on.deploy(id);
  expect(await on.answer(id)).toBe('two');
  expect((await on.deployment(one.id)).release?.status).toBe('RETIRED');

  const asked = await Promise.all([
    on.rollback({ applicationId: id, releaseId: one.release?.id, idempotencyKey: 'same' }),
    on.rollback({ applicationId: id, releaseId: one.release?.id, idempotencyKey: 'same' }),
  ]);
  expect(asked[0].deployment?.id).toBe(asked[1].deployment?.id);
  const back = await on.over(asked[0].deployment?.id ?? '');
  expect(back).toMatchObject({
    phase: 'DEPLOYED',
    trigger: 'ROLLBACK',
    commitSha: one.commitSha,
    release: null,
    restores: { id: one.release?.id, status: 'ACTIVE' },
  });
  expect(back.steps.map(({ name }) => name)).toEqual(['start', 'health', 'activate', 'rollback']);
  expect(await on.answer(id)).toBe('one');
  const restored = await releaseOf(id);
  expect(restored?.path).toBe(folderOfOne);
  expect((await on.deployment(two.id)).release?.status).toBe('RETIRED');
  // Queued once more while it serves by now: nothing is started, nothing is lost.
  await db().run.update({ where: { id: raw('Run', back.id) }, data: { status: 'FAILED' } });
  const again = await on.over((await on.retry(back.id)).run?.id ?? '');
  expect(again.phase).toBe('DEPLOYED');
  expect(again.logs.nodes.map(({ text }) => text)).toContain('This release serves already.');
  expect(await releaseOf(id)).toMatchObject({ id: restored?.id, instance: restored?.instance, status: 'ACTIVE' });
  expect((await on.rollback({ applicationId: id, releaseId: one.release?.id })).__typename).toBe('NothingToRestore');
  expect((await on.rollback({ applicationId: id, releaseId: 'no such thing' })).__typename).toBe('NotFound');
});

test('a canceled rollback leaves no process, and the release can be restored still', async () => {
  const slow = `setTimeout(() => {}, 1e9); if (require('node:fs').existsSync(process.env.HOME + '/slow')) return;
    require('node:fs').writeFileSync(process.env.HOME + '/slow', ''); ${answering('one')}`;
  // Healthy at its first start only: the rollback to it waits for its health until it is canceled.
  const { id, source: own } = await fresh({ ...plain, 'server.js': `(() => { ${slow} })();` }, { healthTimeoutS: 100 });
  const one = await on.deploy(id);
  await own.commit({ 'server.js': answering('two') });
  await on.deploy(id);
  const asked = await on.rollback({ applicationId: id });
  const runId = asked.deployment?.id ?? '';
  await until(
    'its health is checked',
    async () => (await on.deployment(runId)).phase === 'HEALTH_CHECKING',
    livenessMs,
  );
  const candidate = asProcess(await db().release.findUniqueOrThrow({ where: { id: one.release?.id ?? '' } }));
  expect(candidate).toMatchObject({ status: 'CANDIDATE' });
  const identity = { pid: candidate.pid ?? 0, startTime: candidate.startTime ?? '' };
  expect(await isAlive(identity)).toBe(true);
  expect((await on.cancel(runId)).__typename).toBe('CancelRunSuccess');
  expect(await on.over(runId)).toMatchObject({ phase: 'CANCELED', restores: { status: 'RETIRED' } });
  await until('its instance is gone', async () => !(await isAlive(identity)), livenessMs);
  expect(await on.answer(id)).toBe('two');
});

test('stopping an application ends its process and takes it off its address; a rollback starts it again', async () => {
  const { id } = await fresh({ ...plain, 'server.js': answering('here') });
  await on.deploy(id);
  const address = await on.address(id);
  const release = await releaseOf(id);
  expect((await on.stopApplication(id)).__typename).toBe('StopApplicationSuccess');
  expect(await on.address(id)).toBeNull();
  await until(
    'its process has ended',
    async () => !(await isAlive({ pid: release?.pid ?? 0, startTime: release?.startTime ?? '' })),
    livenessMs,
  );
  expect((await fetch(`${address}/`)).status).toBe(503);
  expect((await on.stopApplication(id)).__typename).toBe('StopApplicationSuccess');
  const asked = await on.rollback({ applicationId: id });
  expect(await on.over(asked.deployment?.id ?? '')).toMatchObject({ phase: 'DEPLOYED' });
  expect(await on.address(id)).toBe(address);
  expect(await on.answer(id)).toBe('here');
});

test('of deployments that wait the last one counts, and one runs at a time', async () => {
  const { id, source: own } = await fresh(
    { ...plain, 'server.js': answering('v0') },
    { buildCommand: 'while ! [ -e "$GATE" ]; do sleep 0.05; done', environment: { GATE: path.join(folder, 'gate') } },
  );
  const first = await on.createDeployment({ applicationId: id });
  await until('the first builds', async () => (await on.deployment(first.deployment?.id ?? '')).phase === 'BUILDING', livenessMs); // prettier-ignore
  const later: string[] = [];
  for (let n = 1; n <= 3; n++) {
    await own.commit({ 'server.js': answering(`v${n}`) });
    later.push((await on.createDeployment({ applicationId: id })).deployment?.id ?? '');
  }
  expect((await on.deployment(later[2] ?? '')).status).toBe('QUEUED');
  await writeFile(path.join(folder, 'gate'), '');
  expect((await on.over(first.deployment?.id ?? '')).phase).toBe('DEPLOYED');
  expect((await on.over(later[2] ?? '')).phase).toBe('DEPLOYED');
  expect((await on.deployment(later[0] ?? '')).phase).toBe('SUPERSEDED');
  expect((await on.deployment(later[1] ?? '')).phase).toBe('SUPERSEDED');
  expect(await on.answer(id)).toBe('v3');
  const runs = await db().run.findMany({
    where: { deployment: { applicationId: raw('Application', id) }, status: 'SUCCEEDED' },
    orderBy: { startedAt: 'asc' },
  });
  expect(runs).toHaveLength(2);
  expect(runs[1]?.startedAt?.getTime()).toBeGreaterThanOrEqual(runs[0]?.completedAt?.getTime() ?? Infinity);
});

test('a keep-alive client sees no failed request over deployments', async () => {
  const { id, source: own } = await fresh({ ...plain, 'server.js': answering('v0') });
  await on.deploy(id);
  const address = await on.address(id);
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const seen = new Map<string, number>();
  const failures: string[] = [];
  const over = new AbortController();
  const get = () =>
    new Promise<void>((resolve) => {
      request(`${address}/`, { agent }, (response) => {
        let body = '';
        response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
        response.on('end', () => {
          if (response.statusCode === 200) seen.set(body, (seen.get(body) ?? 0) + 1);
          else failures.push(`${response.statusCode} ${body}`);
          resolve();
        });
        response.on('error', (error) => {
          failures.push(error.message);
          resolve();
        });
      })
        .on('error', (error) => {
          failures.push(error.message);
          resolve();
        })
        .end();
    });
  const client = (async () => {
    while (!over.signal.aborted) {
      await get();
      // Something is deployed beside it, on the same processors.
      await delay(2);
    }
  })();
  for (let n = 1; n <= 2; n++) {
    await own.commit({ 'server.js': answering(`v${n}`) });
    expect((await on.deploy(id)).phase).toBe('DEPLOYED');
  }
  await until('the last one answers', async () => (seen.get('v2') ?? 0) > 20, livenessMs);
  over.abort();
  await client;
  agent.destroy();
  expect(failures).toEqual([]);
  expect([...seen.keys()]).toEqual(['v0', 'v1', 'v2']);
});

test('a port that was asked for is the address; one that is taken is told, one that another program has, too', async () => {
  const [low = '0'] = (server.env['SWITCHYARD_ADDRESS_PORTS'] ?? '').split('-');
  const port = Number(low) + 90;
  const { id } = await fresh({ ...plain, 'server.js': answering('at my port') }, { port });
  await on.deploy(id);
  expect(await on.address(id)).toBe(`http://127.0.0.1:${port}`);
  const second = await fresh({ ...plain, 'server.js': answering('x') }, { port });
  expect(await on.createDeployment({ applicationId: second.id })).toMatchObject({ code: 'CONFLICT' });

  const other = createServer().listen(port + 1, '127.0.0.1');
  await once(other, 'listening');
  const third = await fresh({ ...plain, 'server.js': answering('third') }, { port: port + 1 });
  const refused = await on.deploy(third.id);
  expect(refused).toMatchObject({
    phase: 'FAILED',
    statusReason: `The application's port ${port + 1} cannot be opened: EADDRINUSE`,
  });
  // The proxy does not wait for it to become free.
  expect(await db().application.findUnique({ where: { id: raw('Application', third.id) } })).toMatchObject({
    port: port + 1,
    addressRunId: null,
  });
  await until('the proxy has let go of it', async () => !(await routedPorts()).includes(port + 1), livenessMs);
  other.close();
  await once(other, 'close');
  // Whatever a row says, no other port is opened for an application that does not serve.
  const fourth = await fresh({ ...plain, 'server.js': answering('fourth') });
  const outside = Number(low) - 1;
  await db().application.update({
    where: { id: raw('Application', fourth.id) },
    data: { port: outside, portAsked: true },
  });
  const [, high = ''] = (server.env['SWITCHYARD_ADDRESS_PORTS'] ?? '').split('-');
  expect(await on.deploy(fourth.id)).toMatchObject({
    phase: 'FAILED',
    statusReason: `The application's port ${outside} is not from ${low} to ${high}: it cannot be opened.`,
  });
  expect((await on.deploy(third.id)).phase).toBe('DEPLOYED');
  expect(await on.answer(third.id)).toBe('third');
});

test('a first deployment that fails leaves no address behind', async () => {
  const { id } = await fresh({ ...plain, 'server.js': answering('x') });
  const row = () => db().application.findUniqueOrThrow({ where: { id: raw('Application', id) } });
  const file = path.join(server.env['SWITCHYARD_SHARED_DIR'] ?? '', 'host/proxy/proxy.json');
  const proxy = JSON.parse(await readFile(file, 'utf8')) as { pid: number };
  // Its address is reserved, and the proxy does not tell whether it is open.
  process.kill(proxy.pid, 'SIGSTOP');
  const asked = await on.createDeployment({ applicationId: id });
  const runId = asked.deployment?.id ?? '';
  try {
    await until('its address is reserved', async () => (await row()).addressRunId === raw('Run', runId), livenessMs);
    expect((await row()).port).not.toBeNull();
    await db().run.update({ where: { id: raw('Run', runId) }, data: { status: 'CANCELING' } });
  } finally {
    process.kill(proxy.pid, 'SIGCONT');
  }
  expect((await on.over(runId)).phase).toBe('CANCELED');
  expect(await row()).toMatchObject({ port: null, addressRunId: null, activeReleaseId: null });
  expect((await on.deploy(id)).phase).toBe('DEPLOYED');
  expect(await row()).toMatchObject({ addressRunId: null, portAsked: false });
  expect(await on.answer(id)).toBe('x');
});

test('an application gets the lowest free user of its host when it is first deployed, and no other', async () => {
  const slotOf = async (id: string) =>
    (await db().application.findUniqueOrThrow({ where: { id: raw('Application', id) } })).userSlot;
  const first = await fresh({ ...plain, 'server.js': answering('x') }, { buildCommand: 'exit 1' });
  expect(await slotOf(first.id)).toBeNull();
  const taken = await db().application.count({ where: { hostId: { not: null } } });
  const asked = await Promise.all([first, await fresh(plain), await fresh(plain)].map(async ({ id }) => ({ id, run: await on.createDeployment({ applicationId: id }) }))); // prettier-ignore
  const slots = await Promise.all(asked.map(({ id }) => slotOf(id)));
  expect(slots.toSorted((a, b) => Number(a) - Number(b))).toEqual([taken, taken + 1, taken + 2]);
  for (const { run } of asked) await on.over(run.deployment?.id ?? '');

  const { workspaceId, hostId } = await db().application.findUniqueOrThrow({
    where: { id: raw('Application', first.id) },
  });
  const { pool } = server.running.app.database;
  try {
    await pool.query(
      `insert into application (id, workspace_id, name, repository_url, branch, host_id, user_slot, updated_at)
       select gen_random_uuid(), $1, 'filler-' || slot, 'https://example.com', 'main', $2, slot, now() from generate_series(0, 3999) slot
       where not exists (select 1 from application where host_id = $2 and user_slot = slot)`,
      [workspaceId, hostId],
    );
    const last = await fresh({ ...plain, 'server.js': answering('last') });
    expect(await on.createDeployment({ applicationId: last.id })).toMatchObject({
      __typename: 'NoFreeUser',
      code: 'NO_FREE_USER',
    });
    expect(await slotOf(last.id)).toBeNull();
    await pool.query(`delete from application where name = 'filler-1234'`);
    expect((await on.deploy(last.id)).phase).toBe('DEPLOYED');
    expect(await slotOf(last.id)).toBe(1234);
  } finally {
    await pool.query(`delete from application where name like 'filler-%'`);
  }
});

test('a variable that looks like a URL with a broken password does no harm', async () => {
  const environment = { DATABASE_URL: 'postgres://u:%zz@example.com/x' };
  const { id } = await fresh({ ...plain, 'server.js': answering('here') }, { environment });
  expect((await on.deploy(id)).phase).toBe('DEPLOYED');
});

test('a port of the range that another program has is passed over', async () => {
  const [low = '0', high = '0'] = (server.env['SWITCHYARD_ADDRESS_PORTS'] ?? '').split('-');
  const taken = new Set((await db().application.findMany({ select: { port: true } })).map(({ port }) => port));
  let next = Number(low);
  while (taken.has(next) && next < Number(high)) next++;
  const other = createServer().listen(next, '127.0.0.1');
  await once(other, 'listening');
  const { id } = await fresh({ ...plain, 'server.js': answering('beside') });
  expect((await on.deploy(id)).phase).toBe('DEPLOYED');
  expect(await on.answer(id)).toBe('beside');
  expect(await on.address(id)).not.toBe(`http://127.0.0.1:${next}`);
  other.close();
  await once(other, 'close');
});

test('a cancel during the build ends the build, and nothing is left of it', async () => {
  const { id } = await fresh(
    { ...plain, 'server.js': answering('x') },
    { buildCommand: 'echo $$; sleep 600 & sleep 600' },
  );
  const asked = await on.createDeployment({ applicationId: id });
  const runId = asked.deployment?.id ?? '';
  let pid = 0;
  await until(
    'the build runs',
    async () => {
      const line = (await on.deployment(runId)).logs.nodes.find(({ stream }) => stream === 'STDOUT');
      pid = Number(line?.text ?? 0);
      return pid > 0;
    },
    livenessMs,
  );
  await on.cancel(runId);
  expect(await on.over(runId)).toMatchObject({ phase: 'CANCELED', status: 'CANCELED' });
  await expect(access(`/proc/${pid}`)).rejects.toThrow(/ENOENT/);
  expect((await on.cancel(runId)).code).toBe('ILLEGAL_TRANSITION');
  expect(await db().runChild.count()).toBe(0);
});

/** Healthy once a file is there. */
const gated = (text: string): string =>
  answering(text).replace(
    'response.end(',
    "!require('node:fs').existsSync(process.env.HEALTHY) ? response.writeHead(503).end() : response.end(",
  );

test('a cancel before the switch does not switch, a cancel after it comes too late', async () => {
  const healthy = path.join(folder, 'healthy');
  const { id, source: own } = await fresh(
    { ...plain, 'server.js': gated('one') },
    { healthTimeoutS: 100, environment: { HEALTHY: healthy } },
  );
  const checking = async () => {
    const asked = await on.createDeployment({ applicationId: id });
    const runId = asked.deployment?.id ?? '';
    await until('its health is checked', async () => (await on.deployment(runId)).phase === 'HEALTH_CHECKING', livenessMs); // prettier-ignore
    return runId;
  };
  const early = await checking();
  // As if the message of the cancel were slow: only the row tells.
  await db().run.update({ where: { id: raw('Run', early) }, data: { status: 'CANCELING' } });
  await writeFile(healthy, '');
  expect((await on.over(early)).phase).toBe('CANCELED');
  expect(await on.address(id)).toBeNull();

  await rm(healthy);
  const first = await checking();
  await writeFile(healthy, '');
  expect((await on.over(first)).phase).toBe('DEPLOYED');

  await rm(healthy);
  await own.commit({ 'server.js': gated('two') });
  const late = await checking();
  const before = await releaseOf(id);
  const proxy = JSON.parse(
    await readFile(path.join(server.env['SWITCHYARD_SHARED_DIR'] ?? '', 'host/proxy/proxy.json'), 'utf8'),
  ) as { pid: number };
  // The address cannot follow: the step is between the switch and its end.
  const switched = until('it is switched', async () => (await releaseOf(id))?.id !== before?.id, livenessMs);
  const { rows } = await server.running.app.database.pool.query<{ port: number }>(
    `select port from application where id = $1`,
    [raw('Application', id)],
  );
  expect(rows[0]?.port).toBeGreaterThan(0);
  await writeFile(healthy, '');
  await switched;
  process.kill(proxy.pid, 'SIGSTOP');
  const canceled = await on.cancel(late);
  process.kill(proxy.pid, 'SIGCONT');
  // It was heard, or it was over already; it is deployed either way.
  expect(['CancelRunSuccess', 'IllegalTransition']).toContain(canceled.__typename);
  expect((await on.over(late)).phase).toBe('DEPLOYED');
  expect(await on.answer(id)).toBe('two');
});

test('a repository at a private address is refused when it is fetched', async () => {
  const id = await on.application({ name: 'private', repositoryUrl: 'http://10.1.2.3/a.git' });
  const refused = await on.deploy(id);
  expect(refused).toMatchObject({ phase: 'FAILED', release: null });
  expect(refused.statusReason).not.toMatch(/internal error/);
});

test('the same key deploys once, another input under it is told', async () => {
  const { id } = await fresh({ ...plain, 'server.js': answering('once') });
  const asked = await Promise.all(
    Array.from({ length: 4 }, () => on.createDeployment({ applicationId: id, idempotencyKey: 'one' })),
  );
  expect(new Set(asked.map(({ deployment }) => deployment?.id)).size).toBe(1);
  expect(await on.createDeployment({ applicationId: id, idempotencyKey: 'one', ref: 'other' })).toMatchObject({
    code: 'IDEMPOTENCY_CONFLICT',
  });
  expect((await on.over(asked[0]?.deployment?.id ?? '')).phase).toBe('DEPLOYED');
});
