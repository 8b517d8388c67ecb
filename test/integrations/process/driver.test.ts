import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { chmod, cp, lstat, mkdir, open, readdir, readFile, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { createLogger } from '#kernel/log.ts';
import { endProcess, isAlive, type ProcessIdentity } from '../../../src/kernel/processes/children.ts';
import {
  BuildFailed,
  createProcessDriver,
  EnvironmentRefused,
  type ProcessDriver,
  type ProcessDriverOptions,
} from '../../../src/integrations/process/index.ts';
import { rotateLog, rotateLogs } from '../../../src/integrations/process/logs.ts';
import { detectProject, UnknownProject } from '../../../src/integrations/process/projects.ts';
import { asRoot, temporaryFolder, until } from '../../support/embedded.ts';

vi.setConfig({ testTimeout: 20_000, hookTimeout: 20_000 });
// What root makes here, an application's user reads.
process.umask(0o022);

const example = fileURLToPath(new URL('../../../examples/hello-node', import.meta.url));
const record = (): Promise<void> => Promise.resolve();
const userSlot = 7;

const optionsFor = (hostDir: string): ProcessDriverOptions => ({
  hostDir,
  nodeBinary: process.execPath,
  pathDirs: ['/usr/local/bin', '/usr/bin', '/bin'],
  limits: { memoryMb: 512, maxOpenFiles: 1024, maxProcesses: 200 },
  log: createLogger('silent'),
});

async function setUp(options: Partial<ProcessDriverOptions> = {}) {
  const folder = await temporaryFolder();
  const hostDir = join(folder, 'host');
  const driver = await createProcessDriver({ ...optionsFor(hostDir), ...options });
  const applicationId = randomUUID();
  const { path } = await driver.prepare({ applicationId, name: `${randomUUID()}.1`, userSlot });
  return { folder, hostDir, driver, applicationId, path };
}

/** Files of a release, as git would leave them. */
async function fill(path: string, files: Record<string, string>): Promise<void> {
  for (const [name, text] of Object.entries(files)) await writeFile(join(path, name), text, { mode: 0o644 });
}

async function build(
  driver: ProcessDriver,
  path: string,
  command: string,
  more: Partial<Parameters<ProcessDriver['build']>[0]> = {},
) {
  const lines: string[] = [];
  const base = {
    path,
    command,
    environment: {},
    userSlot,
    record,
    signal: AbortSignal.timeout(30_000),
    timeoutMs: 30_000,
  };
  const done = driver.build({ ...base, onOutput: (stream, line) => void lines.push(`${stream} ${line}`), ...more });
  return { lines, done };
}

async function start(
  driver: ProcessDriver,
  path: string,
  startCommand: string,
  environment: Record<string, string> = {},
) {
  const instance = await driver.start({ path, startCommand, environment, userSlot, record });
  onTestFinished(async () => {
    await endProcess(instance, { graceMs: 0 });
  });
  return instance;
}

async function healthy(driver: ProcessDriver, port: number, path = '/health') {
  let last = await driver.probe({ port, path, timeoutMs: 1_000, signal: AbortSignal.timeout(20_000), userSlot });
  await until(`port ${port} is healthy`, async () => {
    last = await driver.probe({ port, path, timeoutMs: 1_000, signal: AbortSignal.timeout(20_000), userSlot });
    return last.ok;
  });
  return last;
}

describe('build', () => {
  test('streams what the command says, in a place of its own', async () => {
    const { driver, path } = await setUp();
    const script =
      'echo one; echo two >&2; printf "\\033[31mred\\033[0m\\a"; echo "$HOME $TMPDIR $A $NODE_ENV" > env; id -u > user; pwd > pwd';
    const { lines, done } = await build(driver, path, script, { environment: { A: 'b c' } });
    await done;
    expect(lines.toSorted()).toEqual(['STDERR two', 'STDOUT one', 'STDOUT red']);
    expect(await readFile(join(path, 'env'), 'utf8')).toBe(`${path}.home ${path}.home/tmp b c production\n`);
    expect((await readFile(join(path, 'pwd'), 'utf8')).trim()).toBe(path);
    const uid = driver.userOf(userSlot)?.uid ?? process.getuid?.();
    expect(Number(await readFile(join(path, 'user'), 'utf8'))).toBe(uid);
  });

  test("runs npm, with its cache in the application's folder", async () => {
    const { driver, path } = await setUp();
    await fill(path, {
      'package.json': JSON.stringify({ name: 'a', version: '1.0.0', scripts: { build: 'node -p process.version > built', start: 'node a.js' } }),
      'package-lock.json': JSON.stringify({
        name: 'a', version: '1.0.0', lockfileVersion: 3, requires: true, packages: { '': { name: 'a', version: '1.0.0' } },
      }),
    }); // prettier-ignore
    const { buildCommand } = await driver.detectProject(path);
    const { done } = await build(driver, path, buildCommand ?? '');
    await done;
    expect((await readFile(join(path, 'built'), 'utf8')).trim()).toBe(process.version);
    expect(await readdir(join(path, '..', 'cache'))).not.toEqual([]);
  });

  test('tells how it failed', async () => {
    const { driver, path } = await setUp();
    await expect((await build(driver, path, 'exit 7')).done).rejects.toMatchObject({
      code: 'BUILD_FAILED',
      exitCode: 7,
      signal: null,
    });
    await expect((await build(driver, path, 'kill -9 $$')).done).rejects.toMatchObject({
      exitCode: null,
      signal: 'SIGKILL',
    });
    const late = await build(driver, path, 'sleep 60', { timeoutMs: 100 });
    await expect(late.done).rejects.toMatchObject({ timedOut: true });
    await expect(late.done).rejects.toThrow(BuildFailed);
  });

  test('leaves nothing running: aborted, or done', async () => {
    const { driver, path } = await setUp();
    const children: ProcessIdentity[] = [];
    const controller = new AbortController();
    const { done, lines } = await build(driver, path, 'sh -c "sleep 61 & sleep 61 & echo up; wait"', {
      signal: controller.signal,
      record: (child) => Promise.resolve(void children.push(child)),
    });
    await until('it says that it is up', () => Promise.resolve(lines.includes('STDOUT up')));
    controller.abort(new Error('canceled'));
    await expect(done).rejects.toThrow('canceled');
    for (const child of children) expect(await endProcess(child, { graceMs: 0 })).toBe('GONE');

    const left: ProcessIdentity[] = [];
    const quick = await build(driver, path, `sleep 61 & echo "$$"`, {
      record: (child) => Promise.resolve(void left.push(child)),
    });
    await quick.done;
    for (const child of left) expect(await endProcess(child, { graceMs: 0 })).toBe('GONE');
  });

  test('ends when its reader fails', async () => {
    const { driver, path } = await setUp();
    const { done } = await build(driver, path, 'echo one; sleep 60', {
      onOutput: () => {
        throw new Error('the log is full');
      },
    });
    await expect(done).rejects.toThrow('the log is full');
  });

  test('refuses variables that would run code before the process is recorded', async () => {
    const { driver, path } = await setUp();
    for (const name of ['LD_PRELOAD', 'BASH_ENV', 'a b', 'BASH_FUNC_x%%', '']) {
      await expect((await build(driver, path, 'true', { environment: { [name]: 'x' } })).done).rejects.toThrow(
        EnvironmentRefused,
      );
    }
    await (
      await build(driver, path, 'test "$NODE_OPTIONS" = --no-warnings', {
        environment: { NODE_OPTIONS: '--no-warnings' },
      })
    ).done;
  });
});

describe('instances', () => {
  test('start, answer, log and stop', async () => {
    const { driver, path } = await setUp();
    await cp(example, path, { recursive: true });
    const instance = await start(driver, path, 'npm start', { MESSAGE: 'ahoy', PORT: '1' });
    expect(instance.port).toBeGreaterThanOrEqual(20_000);
    expect(instance.port).toBeLessThan(27_000);
    expect(await healthy(driver, instance.port)).toMatchObject({ ok: true, status: 200, bodyStart: 'ok\n' });
    expect((await healthy(driver, instance.port, '/')).bodyStart).toBe('{"message":"ahoy","version":"1.0.0"}\n');
    expect(await driver.tail(path, 1)).toEqual([`hello-node 1.0.0 listens on port ${instance.port}`]);

    const following = new AbortController();
    const followed: string[] = [];
    for await (const line of driver.follow(path, following.signal)) {
      followed.push(line);
      if (line.includes('listens')) await driver.stop(instance, 10_000);
      if (line.includes('stops')) following.abort();
    }
    expect(followed.at(-1)).toBe('hello-node stops');
    expect(await isAlive(instance)).toBe(false);
    const after = await driver.probe({
      port: instance.port,
      path: '/',
      timeoutMs: 500,
      signal: AbortSignal.timeout(5_000),
    });
    expect(after).toMatchObject({ ok: false, error: 'nothing listens on the port' });
  });

  test('are judged by what they answer', async () => {
    const { driver, path } = await setUp();
    await fill(path, {
      'server.js': `require('http').createServer((request, response) => {
        if (request.url === '/slow') return;
        if (request.url === '/big') return response.end('x'.repeat(1e7));
        response.writeHead(Number(request.url.slice(1)), { location: 'http://127.0.0.1:1/' }).end('body');
      }).listen(process.env.PORT, process.env.HOST);`,
    });
    const { port } = await start(driver, path, 'node server.js');
    await healthy(driver, port, '/204');
    const probe = (url: string) =>
      driver.probe({ port, path: url, timeoutMs: url === '/slow' ? 300 : 5_000, signal: AbortSignal.timeout(10_000) });
    expect(await probe('/302')).toMatchObject({ ok: true, status: 302 });
    expect(await probe('/500')).toMatchObject({ ok: false, status: 500, bodyStart: 'body' });
    expect((await probe('/big')).bodyStart).toHaveLength(2_000);
    expect(await probe('/slow')).toMatchObject({ ok: false, error: 'no answer within 300 ms' });
    const stopped = driver.probe({
      port,
      path: '/slow',
      timeoutMs: 5_000,
      signal: AbortSignal.abort(new Error('fenced')),
    });
    await expect(stopped).rejects.toThrow('fenced');
  });

  test.runIf(asRoot)('are not confused with another user on their port', async () => {
    const { driver, path } = await setUp();
    await cp(example, path, { recursive: true });
    const { port } = await start(driver, path, 'node server.js');
    await healthy(driver, port);
    const options = { port, path: '/', timeoutMs: 500, signal: AbortSignal.timeout(5_000) };
    expect(await driver.probe({ ...options, userSlot: userSlot + 1 })).toMatchObject({
      ok: false,
      error: 'another user of this machine listens on the port',
    });
  });

  test('outlive the process that started them', async () => {
    const { driver, path, hostDir, folder } = await setUp();
    await cp(example, path, { recursive: true });
    const module = new URL('../../../src/integrations/process/driver.ts', import.meta.url).href;
    const logModule = new URL('../../../src/kernel/log.ts', import.meta.url).href;
    const { log: _log, ...plain } = optionsFor(hostDir);
    await writeFile(
      join(folder, 'parent.mjs'),
      `import { createProcessDriver } from ${JSON.stringify(module)};
      import { createLogger } from ${JSON.stringify(logModule)};
      const driver = await createProcessDriver({ ...${JSON.stringify(plain)}, log: createLogger('silent') });
      const started = await driver.start({ path: ${JSON.stringify(path)}, startCommand: 'node server.js', environment: {},
        userSlot: ${userSlot}, record: async () => {} });
      console.log(JSON.stringify(started));`,
    );
    const parent = spawn(process.execPath, [join(folder, 'parent.mjs')], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: {},
    });
    let said = '';
    parent.stdout.setEncoding('utf8').on('data', (chunk: string) => (said += chunk));
    const [exitCode] = await once(parent, 'close');
    expect(exitCode).toBe(0);
    const instance: ProcessIdentity & { port: number } = JSON.parse(said);
    onTestFinished(async () => {
      await endProcess(instance, { graceMs: 0 });
    });
    await healthy(driver, instance.port);
    expect(await isAlive(instance)).toBe(true);
    const listed = (await driver.listProcesses()).filter((one) => one.groupId === instance.pid);
    expect(listed.length > 0).toBe(asRoot);
    expect(listed.every((one) => one.userOffset === userSlot)).toBe(true);
    expect(await driver.stop(instance, 5_000)).toBe('TERMINATED');
  });

  test.runIf(process.platform === 'linux')('have no open file that the server was itself started with', async () => {
    const { driver, path, hostDir, folder } = await setUp();
    await writeFile(join(folder, 'secret'), 'x', { mode: 0o600 });
    const module = new URL('../../../src/integrations/process/driver.ts', import.meta.url).href;
    const logModule = new URL('../../../src/kernel/log.ts', import.meta.url).href;
    const { log: _log, ...plain } = optionsFor(hostDir);
    await writeFile(
      join(folder, 'parent.mjs'),
      `import { createProcessDriver } from ${JSON.stringify(module)};
      import { createLogger } from ${JSON.stringify(logModule)};
      const driver = await createProcessDriver({ ...${JSON.stringify(plain)}, log: createLogger('silent') });
      const options = { path: ${JSON.stringify(path)}, environment: {}, userSlot: ${userSlot}, record: async () => {} };
      await driver.build({ ...options, command: 'ls -l /proc/self/fd', signal: AbortSignal.timeout(10_000), timeoutMs: 10_000,
        onOutput: (stream, line) => console.log(line) });
      await driver.start({ ...options, startCommand: 'ls -l /proc/self/fd' });`,
    );
    await using secret = await open(join(folder, 'secret'));
    // Node closes those that follow each other from 0 on for its children, and a gap hides the others.
    const stdio = [
      'ignore',
      'pipe',
      'inherit',
      ...Array.from({ length: 37 }, () => 'ignore' as const),
      secret.fd,
    ] as const;
    const parent = spawn(process.execPath, [join(folder, 'parent.mjs')], { stdio: [...stdio], env: {} });
    let said = '';
    parent.stdout?.setEncoding('utf8').on('data', (chunk: string) => (said += chunk));
    const [exitCode] = await once(parent, 'close');
    expect(exitCode).toBe(0);
    await until('the instance has told', async () => (await driver.tail(path, 20)).length >= 4);
    for (const lines of [said.split('\n'), await driver.tail(path, 20)]) {
      const files = new Map(
        lines.flatMap((line) => [...line.matchAll(/(\d+) -> (.+)$/g)]).map(([, fd, to]) => [fd, to]),
      );
      expect(['0', '1', '2'].filter((fd) => !files.has(fd))).toEqual([]);
      expect(files.get('40')).toBe('/dev/null');
      const others = [...files].filter(([fd, to]) => Number(fd) > 2 && to !== '/dev/null' && !to?.startsWith('/proc/'));
      expect(others).toEqual([]);
    }
  });

  test('have logs that are cut while they write', async () => {
    const { driver, path, hostDir } = await setUp();
    const { port: _port, ...instance } = await start(
      driver,
      path,
      'i=0; while :; do i=$((i+1)); echo "line $i"; sleep 0.01; done',
    );
    await until('it has written', async () => (await driver.tail(path, 50)).length >= 20);
    expect(await rotateLogs(hostDir, 100)).toBe(1);
    const before = Number((await driver.tail(path, 1))[0]?.split(' ')[1]);
    await until('it goes on', async () => Number((await driver.tail(path, 1))[0]?.split(' ')[1]) > before + 5);
    expect((await lstat(`${path}.log`)).size).toBeLessThan(2_000);
    await driver.stop(instance, 1_000);
    await truncate(`${path}.log`, 0);
    expect((await driver.tail(path, 3)).length).toBe(3); // from before the rotation
  });
});

test('of a log that is mostly a hole its end is kept', async () => {
  const file = join(await temporaryFolder(), 'x.log');
  await writeFile(file, 'begin\n');
  await truncate(file, 2 ** 40);
  await writeFile(file, 'the end\n', { flag: 'a' });
  expect(await rotateLog(file, 3_000_000)).toBe(true);
  expect((await lstat(file)).size).toBe(0);
  expect((await lstat(`${file}.1`)).size).toBe(3_000_000);
  expect(await readFile(`${file}.1`, 'utf8')).toMatch(/^\0+the end\n$/);
});

describe.runIf(asRoot)('isolation by user', () => {
  test("keeps an application out of the server's and other applications' files", async () => {
    const { driver, path, folder } = await setUp();
    const secret = join(folder, 'secret');
    await mkdir(secret, { mode: 0o700 });
    await writeFile(join(secret, 'file'), 'secret');
    const other = await driver.prepare({
      applicationId: randomUUID(),
      name: `${randomUUID()}.1`,
      userSlot: userSlot + 1,
    });
    await writeFile(join(other.path, 'file'), 'secret');
    const refused = [
      `cat ${secret}/file`,
      `ls ${secret}`,
      `cat ${other.path}/file`,
      `ls ${other.path}/..`,
      `touch ${path}/../x`,
      `mv ${path} ${path}x`,
      `kill -0 ${process.pid}`,
      `cat /proc/${process.pid}/environ`,
      'cat /etc/shadow',
    ];
    const succeeded: string[] = [];
    for (const command of refused) {
      await (
        await build(driver, path, command)
      ).done.then(
        () => succeeded.push(command),
        (error: unknown) => {
          if (!(error instanceof BuildFailed)) throw error;
        },
      );
    }
    expect(succeeded).toEqual([]);
    const { lines, done } = await build(
      driver,
      path,
      'id -u; id -g; id -G; grep NoNewPrivs /proc/self/status; ulimit -n; umask',
    );
    await done;
    const uid = 61_184 + userSlot;
    expect(lines.map((line) => line.replace('STDOUT ', ''))).toEqual([
      `${uid}`,
      `${uid}`,
      `${uid}`,
      'NoNewPrivs:\t1',
      '1024',
      '0027',
    ]);
    expect(driver.limits.isolation).toBe('user');
  });

  test("bounds the number of an application's processes", async () => {
    const { driver, path } = await setUp({ limits: { memoryMb: 512, maxOpenFiles: 1024, maxProcesses: 10 } });
    const { done, lines } = await build(driver, path, 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; wait');
    await expect(done).rejects.toThrow(BuildFailed);
    expect(lines.join('\n')).toMatch(/Cannot fork/);
  });

  test("says when the host's folder cannot be reached", async () => {
    const folder = await temporaryFolder();
    await chmod(folder, 0o700);
    await expect(createProcessDriver(optionsFor(join(folder, 'host')))).rejects.toThrow('cannot reach');
  });

  test('makes a node that its users cannot reach reachable', async () => {
    const folder = await temporaryFolder();
    const closed = join(folder, 'closed');
    await mkdir(closed, { mode: 0o700 });
    await symlink(process.execPath, join(closed, 'node'));
    const hostDir = join(folder, 'host');
    const driver = await createProcessDriver({ ...optionsFor(hostDir), nodeBinary: join(closed, 'node') });
    const { path } = await driver.prepare({ applicationId: randomUUID(), name: `${randomUUID()}.1`, userSlot });
    const { lines, done } = await build(driver, path, 'node -p process.execPath');
    await done;
    expect(lines).toEqual([`STDOUT ${hostDir}/bin/node`]);
  });
});

test('without isolation the same works, and says what that means', async () => {
  const { driver, path } = await setUp({ isolation: 'none' });
  await cp(example, path, { recursive: true });
  const instance = await start(driver, path, 'node server.js');
  await healthy(driver, instance.port);
  expect(await driver.listProcesses()).toEqual([]);
  expect(driver.limits.missing.join(' ')).toContain('can read its files and secrets');
  await driver.stop(instance, 5_000);
  await driver.remove(path);
});

describe('releases', () => {
  test("are removed whole, without following links, and only below the host's folder", async () => {
    const { driver, path, folder } = await setUp();
    await writeFile(join(folder, 'precious'), 'x');
    await (
      await build(driver, path, `mkdir -p a/b; touch a/b/c; chmod 500 a/b a; ln -s ${folder} link; ln -s ${folder} a2`)
    ).done;
    await driver.remove(path);
    await driver.remove(path);
    expect((await readdir(join(path, '..'))).toSorted()).toEqual(['cache']);
    expect(await readFile(join(folder, 'precious'), 'utf8')).toBe('x');
    for (const bad of [folder, join(path, '..'), `${path}/a`, `${path}/../../x`, '/', `${path}/`]) {
      await expect(driver.remove(bad)).rejects.toThrow('not a release folder');
    }
  });

  test('are emptied when they are prepared again', async () => {
    const { driver, path, applicationId } = await setUp();
    await writeFile(join(path, 'left'), 'x');
    const again = await driver.prepare({ applicationId, name: path.split('/').at(-1) ?? '', userSlot });
    expect(again.path).toBe(path);
    expect(await readdir(path)).toEqual([]);
    for (const name of ['../x.1', 'x', 'x.1/..', '.1']) {
      await expect(driver.prepare({ applicationId, name, userSlot })).rejects.toThrow('not the name');
    }
    await expect(driver.prepare({ applicationId: '..', name: 'x.1', userSlot })).rejects.toThrow('not an application');
  });
});

test('an application that is forgotten leaves no file, and no process of its user', async () => {
  const { driver, path, hostDir, applicationId } = await setUp();
  // The build ends when it has escaped, and not before.
  const escaping =
    'mkdir -p a; echo x > a/b; (setsid sh -c "trap \'\' TERM; : > a/escaped; sleep 61; sleep 61" >/dev/null 2>&1 &); ' +
    'while ! [ -e a/escaped ]; do sleep 0.02; done; echo y > ../cache/z';
  await (
    await build(driver, path, escaping)
  ).done;
  const left = async () => (await driver.listProcesses()).filter((one) => one.userOffset === userSlot);
  expect((await left()).length > 0).toBe(asRoot);
  await driver.forget({ applicationId, userSlot });
  expect(await left()).toEqual([]);
  expect(await readdir(join(hostDir, 'applications'))).toEqual([]);
  await driver.forget({ applicationId, userSlot });
  await expect(driver.forget({ applicationId: '..', userSlot })).rejects.toThrow('not an application');
});

describe('detectProject', () => {
  const cases: [string, Record<string, string>, object | null][] = [
    ['lock and scripts', { 'package.json': '{"scripts":{"build":"x","start":"y"}}', 'package-lock.json': '' }, { buildCommand: 'npm ci --include=dev && npm run build', startCommand: 'npm start' }],
    ['lock and main', { 'package.json': '{"main":"it\'s.js"}', 'package-lock.json': '' }, { buildCommand: 'npm ci', startCommand: "node -- 'it'\\''s.js'" }],
    ['no lock', { 'package.json': '{}', 'server.js': '' }, { buildCommand: null, startCommand: 'node server.js' }],
    ['server.js alone', { 'server.js': '' }, { buildCommand: null, startCommand: 'node server.js' }],
    ['dependencies without a lock', { 'package.json': '{"dependencies":{"a":"1"},"main":"a.js"}' }, null],
    ['nothing to start', { 'package.json': '{}' }, null],
    ['no JSON', { 'package.json': '{' }, null],
    ['nothing', {}, null],
  ]; // prettier-ignore

  test.each(cases)('%s', async (_name, files, expected) => {
    const folder = await temporaryFolder();
    for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
    const found = await detectProject(folder).catch((error: unknown) => {
      if (!(error instanceof UnknownProject)) throw error;
      return null;
    });
    expect(found).toEqual(expected);
  });

  test("does not follow a link to somebody else's file", async () => {
    const folder = await temporaryFolder();
    await writeFile(join(folder, 'other'), '{"main":"a.js"}');
    await symlink(join(folder, 'other'), join(folder, 'package.json'));
    await expect(detectProject(folder)).rejects.toThrow('symbolic link');
  });
});

test.runIf(asRoot)('an application beyond the last user gets none, rather than that of another', async () => {
  const { driver } = await setUp();
  expect(driver.userOf(3999)?.uid).not.toBe(driver.userOf(0)?.uid);
  expect(() => driver.userOf(4000)).toThrow(/users for 4000 applications/);
});
