import { execFile } from 'node:child_process';
import { access, chmod, chown, mkdir, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { isAlive } from '../../../src/kernel/processes/children.ts';
import { loadConfig } from '../../../src/config.ts';
import { start } from '../../../src/start.ts';
import { testDatabase } from '../../support/database.ts';
import { asRoot, until } from '../../support/embedded.ts';
import { environment, spawnServer, startTestServer, testFolder, type TestServer } from '../../support/server.ts';
import { answering, asProcess, livenessMs, plain, raw, repository, running, team } from './harness.ts';

let folder: string;
beforeAll(async () => {
  folder = await testFolder();
});
afterAll(() => rm(folder, { recursive: true, force: true }));
let server: TestServer | null = null;
afterEach(async () => {
  await server?.stop();
  server = null;
});

test('a server that starts again adopts what runs, and starts what has died', async () => {
  const database = await testDatabase();
  const first = await startTestServer({}, { endApplications: false }, database);
  const on = await team(first.url);
  const made = [];
  for (const name of ['lives', 'dies']) {
    const source = await repository(folder, name);
    await source.commit({ ...plain, 'server.js': answering(name) });
    const id = await on.application({ name, repositoryUrl: source.url });
    expect((await on.deploy(id)).phase).toBe('DEPLOYED');
    made.push(id);
  }
  const [lives = '', dies = ''] = made;
  const releaseOf = async (id: string) =>
    asProcess(await first.running.app.db.release.findFirstOrThrow({ where: { activeOf: { id: raw('Application', id) } } })); // prettier-ignore
  const [living, dead] = [await releaseOf(lives), await releaseOf(dies)];
  const address = await on.address(lives);
  await first.running.stop();
  // Nobody is there, and it answers.
  expect(await (await fetch(`${address}/`)).text()).toBe('lives');
  process.kill(-(dead.pid ?? 0), 'SIGKILL');
  await until('it is dead', async () => !(await isAlive({ pid: dead.pid ?? 0, startTime: dead.startTime ?? '' })), livenessMs); // prettier-ignore

  const again = await start(loadConfig({ ...first.env }), { endApplications: true });
  try {
    const now = async (id: string) =>
      asProcess(await again.app.db.release.findFirstOrThrow({ where: { activeOf: { id: raw('Application', id) } } }));
    const other = { ...on, url: `${again.url}/graphql` };
    await until(
      'the dead one answers again',
      async () => {
        const { pid, instancePort } = await now(dies);
        if (pid === dead.pid || instancePort === null) return false;
        const response = await fetch(`http://127.0.0.1:${instancePort}/`).catch(() => null);
        return response !== null && (await response.text()) === 'dies';
      },
      livenessMs,
    );
    expect(await now(lives)).toMatchObject({ id: living.id, pid: living.pid, startTime: living.startTime });
    expect(await isAlive({ pid: living.pid ?? 0, startTime: living.startTime ?? '' })).toBe(true);
    expect(await now(dies)).toMatchObject({ id: dead.id, path: dead.path });
    expect(other.url).not.toBe('');
    const restarted = await again.app.db.event.findMany({ where: { type: 'application.restarted' } });
    expect(restarted.map(({ subjectId }) => subjectId)).toEqual([raw('Application', dies)]);
  } finally {
    const left = (await again.app.db.release.findMany({ where: running })).map(asProcess);
    await again.stop();
    for (const { pid, startTime } of left)
      expect(await isAlive({ pid: pid ?? 0, startTime: startTime ?? '' })).toBe(false);
    await first.stop();
    await database.drop();
  }
});

/** Answers what a program of the application's user can do with each path that it is asked for. */
const spy = `
const fs = require('node:fs');
const { createServer } = require('node:http');
const attempt = (work) => { try { work(); return 'ok'; } catch (error) { return error.code; } };
createServer((request, response) => {
  const url = new URL(request.url, 'http://x');
  const paths = url.searchParams.getAll('path');
  response.end(JSON.stringify({
    uid: process.getuid(), groups: process.getgroups(), environment: process.env,
    read: paths.map((path) => attempt(() => fs.statSync(path).isDirectory() ? fs.readdirSync(path) : fs.readFileSync(path))),
    write: paths.map((path) => attempt(() => fs.writeFileSync(path + (fs.statSync(path).isDirectory() ? '/x' : ''), '', { flag: 'a' }))),
    kill: url.searchParams.getAll('pid').map((pid) => attempt(() => process.kill(Number(pid), 'SIGKILL'))),
  }));
}).listen(Number(process.env.PORT), '127.0.0.1');
`;

interface Report {
  readonly uid: number;
  readonly groups: readonly number[];
  readonly environment: Readonly<Record<string, string>>;
  readonly read: readonly string[];
  readonly write: readonly string[];
  readonly kill: readonly string[];
}

test.skipIf(!asRoot)('an application reaches neither the server nor another application', async () => {
  process.env['SWITCHYARD_TEST_CANARY'] = 'canary-of-the-server';
  server = await startTestServer();
  delete process.env['SWITCHYARD_TEST_CANARY'];
  const on = await team(server.url);
  const victim = await repository(folder, 'victim');
  await victim.commit({ ...plain, 'server.js': answering('victim'), 'secret.txt': 'mine' });
  const victimId = await on.application({ name: 'victim', repositoryUrl: victim.url, buildCommand: 'chmod -R 777 . || true; echo x > "$HOME/own"', startCommand: 'node server.js' }); // prettier-ignore
  await on.deploy(victimId);
  const release = asProcess(await server.running.app.db.release.findFirstOrThrow());
  const source = await repository(folder, 'spy');
  await source.commit({ ...plain, 'server.js': spy });
  const id = await on.application({ name: 'spy', repositoryUrl: source.url, environment: { MINE: 'yes' } });
  expect((await on.deploy(id)).phase).toBe('DEPLOYED');

  const host = path.join(server.env['SWITCHYARD_SHARED_DIR'] ?? '', 'host');
  const theirs = [
    server.stateDir,
    ...(await readdir(server.stateDir)).map((name) => path.join(server?.stateDir ?? '', name)),
    `/proc/${process.pid}/environ`,
    `/proc/${process.pid}/fd`,
    path.join(host, 'proxy'),
    path.join(host, 'proxy/database-url'),
    path.join(host, 'applications'),
    release.path,
    path.join(release.path, 'secret.txt'),
    `${release.path}.home`,
    `${release.path}.home/own`,
    `${release.path}.log`,
    path.join(path.dirname(release.path), 'cache'),
    `/proc/${release.pid}/environ`,
    `/proc/${release.pid}/cwd`,
  ];
  for (const one of theirs) await access(one);
  const query = new URLSearchParams([
    ...theirs.map((one): [string, string] => ['path', one]),
    ['pid', String(process.pid)],
    ['pid', String(release.pid)],
  ]);
  const report = JSON.parse(await on.answer(id, `/?${query}`)) as Report;
  expect(report.uid).toBeGreaterThan(1000);
  expect(report.groups).toEqual([report.uid]);
  const reached = theirs.flatMap((one, index) => {
    const [read = '', write = ''] = [report.read[index], report.write[index]];
    return read !== 'ok' && write !== 'ok' && ['EACCES', 'EPERM'].includes(read) ? [] : [`${one}: ${read} ${write}`];
  });
  expect(reached).toEqual([]);
  expect(report.kill).toEqual(['EPERM', 'EPERM']);
  expect(Object.keys(report.environment).toSorted()).toEqual(
    [
      'HOME', 'HOST', 'LANG', 'MINE', 'NODE_ENV', 'NODE_OPTIONS', 'PATH', 'PORT', 'PWD', 'TMPDIR',
      'npm_config_audit', 'npm_config_cache', 'npm_config_fund', 'npm_config_update_notifier',
    ].toSorted(), // prettier-ignore
  );
  expect(JSON.stringify(report.environment)).not.toContain('canary');
  // What is its own works.
  const own = asProcess(await server.running.app.db.release.findFirstOrThrow({ where: { activeOf: { name: 'spy' } } }));
  const mine = JSON.parse(await on.answer(id, `/?path=${own.path}&path=${own.path}.home`)) as Report;
  expect(mine.read).toEqual(['ok', 'ok']);
});

test.skipIf(!asRoot)('a server that is not root says that applications can read its secrets', async () => {
  const nobody = 65_534;
  const database = await testDatabase();
  const home = path.join(folder, 'nobody');
  await mkdir(path.join(home, 'state'), { recursive: true });
  await mkdir(path.join(home, 'shared'));
  for (const one of [home, path.join(home, 'state'), path.join(home, 'shared')]) {
    await chown(one, nobody, nobody);
    await chmod(one, 0o711);
  }
  // The checkout may be in a folder that only root can enter: then such a server cannot be started from here.
  const reachable = await promisify(execFile)(process.execPath, ['--version'], { uid: nobody, cwd: '/' })
    .then(() => promisify(execFile)('/bin/sh', ['-c', 'test -r src/main.ts'], { uid: nobody, gid: nobody }))
    .then(
      () => true,
      () => false,
    );
  if (!reachable) {
    await database.drop();
    console.log('SKIPPED IN PART: nobody cannot read this checkout; the driver says it in its own test');
    return;
  }
  const child = await spawnServer(environment(home, database.url, { SWITCHYARD_ROLES: 'worker' }), {
    uid: nobody,
    gid: nobody,
  });
  try {
    const warning = child.lines.find((line) => line.includes('can read its secrets'));
    expect(warning).toContain('"level":"warn"');
    expect(child.lines.some((line) => line.includes('"isolation":"none"'))).toBe(true);
  } finally {
    await child.kill('SIGTERM');
    await database.drop();
  }
});
