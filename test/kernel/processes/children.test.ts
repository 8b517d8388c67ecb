import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import {
  endProcess,
  isAlive,
  listProcesses,
  processIdentity,
  spawnRecorded,
  type ProcessIdentity,
  type SpawnRecordedOptions,
} from '../../../src/kernel/processes/children.ts';
import { temporaryFolder, until } from '../../support/embedded.ts';

vi.setConfig({ testTimeout: 20_000, hookTimeout: 20_000 });

const env = { PATH: '/usr/bin:/bin' };

async function shell(script: string, options: Partial<SpawnRecordedOptions> = {}) {
  const started = await spawnRecorded({
    command: '/bin/sh',
    args: ['-c', script],
    cwd: '/',
    env,
    record: () => Promise.resolve(),
    ...options,
  });
  onTestFinished(async () => {
    await endProcess(started.identity, { graceMs: 0 });
  });
  return started;
}

async function exists(file: string): Promise<boolean> {
  return await readFile(file).then(
    () => true,
    () => false,
  );
}

test('a child does nothing before it is recorded, and runs after that', async () => {
  const folder = await temporaryFolder();
  const recorded: ProcessIdentity[] = [];
  const gate = Promise.withResolvers<void>();
  const starting = shell(`touch ${folder}/ran; exit 3`, {
    record: async (child) => {
      recorded.push(child);
      await gate.promise;
    },
  });
  await until('it is recorded', () => Promise.resolve(recorded.length === 1));
  const [child] = recorded;
  if (!child) throw new Error('not recorded');
  expect(await isAlive(child)).toBe(true);
  expect(child.startTime.length).toBeLessThanOrEqual(40);
  expect(await exists(`${folder}/ran`)).toBe(false);
  gate.resolve();
  const { exited, identity } = await starting;
  expect(identity).toEqual(child);
  expect(await exited).toEqual({ exitCode: 3, signal: null });
  expect(await exists(`${folder}/ran`)).toBe(true);
});

test('a child that cannot be recorded never runs', async () => {
  const folder = await temporaryFolder();
  const recorded: ProcessIdentity[] = [];
  const starting = shell(`touch ${folder}/ran`, {
    record: (child) => {
      recorded.push(child);
      return Promise.reject(new Error('fenced'));
    },
  });
  await expect(starting).rejects.toThrow('fenced');
  expect(await exists(`${folder}/ran`)).toBe(false);
  for (const child of recorded) expect(await isAlive(child)).toBe(false);
});

test('a child whose server dies before it has recorded it never runs', async () => {
  const folder = await temporaryFolder();
  const module = new URL('../../../src/kernel/processes/children.ts', import.meta.url).href;
  await writeFile(
    join(folder, 'parent.mjs'),
    `import { spawnRecorded } from ${JSON.stringify(module)};
    await spawnRecorded({ command: 'touch', args: ['${folder}/ran'], cwd: '/', env: { PATH: '/usr/bin:/bin' },
      record: (child) => { console.log(child.pid); return new Promise(() => setInterval(() => {}, 1000)); } });`,
  );
  const parent = spawn(process.execPath, [join(folder, 'parent.mjs')], { stdio: ['ignore', 'pipe', 'inherit'], env });
  const [line] = await once(parent.stdout, 'data');
  const child = await processIdentity(Number(String(line)));
  if (!child) throw new Error('no child');
  parent.kill('SIGKILL');
  await until('the child is gone', async () => !(await isAlive(child)));
  expect(await exists(`${folder}/ran`)).toBe(false);
});

test("nothing of the server's environment, user mask or input reaches a child", async () => {
  const { child } = await shell('umask; env | sort; wc -c', { umask: 0o077, env: { ...env, ONE: '1' } });
  let text = '';
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  await once(child, 'close');
  expect(text.split('\n').filter((line) => !/^(?:_|PWD|OLDPWD|SHLVL)=/.test(line))).toEqual([
    '0077',
    'ONE=1',
    `PATH=${env.PATH}`,
    '0',
    '',
  ]);
});

test('a child with an input gets it', async () => {
  const { child, exited } = await shell('read -r line; test "$line" = hello', { stdio: ['pipe', 'ignore', 'ignore'] });
  child.stdin?.end('hello\n');
  expect((await exited).exitCode).toBe(0);
});

test('a command or folder that is not there is told', async () => {
  const { exited } = await shell('', { command: 'no-such-command', stdio: ['ignore', 'ignore', 'ignore'] });
  expect((await exited).exitCode).toBe(127);
  await expect(shell('', { cwd: '/no/such/folder' })).rejects.toMatchObject({ code: 'ENOENT' });
});

test('ending takes the whole tree, obedient or not, and says which', async () => {
  const obedient = await shell('sleep 60 & sleep 60');
  expect(await endProcess(obedient.identity, { graceMs: 5_000 })).toBe('TERMINATED');
  expect(await endProcess(obedient.identity, { graceMs: 5_000 })).toBe('GONE');

  // One that ignores the signal, and one that has left the group.
  const stubborn = await shell(
    "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo up; while :; do sleep 1; done' & wait",
  );
  await once(stubborn.child.stdout ?? stubborn.child, 'data');
  const tree = (await listProcesses()).filter((one) => one.parentPid === stubborn.identity.pid);
  expect(tree).toHaveLength(1);
  expect(await endProcess(stubborn.identity, { graceMs: 100 })).toBe('KILLED');
  for (const one of tree) expect(await isAlive(one)).toBe(false);
});

test('what a dead leader left in its group is ended', async () => {
  const { identity, child, exited } = await shell('sleep 60 & echo $!');
  const [line] = await once(child.stdout ?? child, 'data');
  const left = await processIdentity(Number(String(line)));
  if (!left) throw new Error('no child');
  await exited;
  expect(await isAlive(identity)).toBe(false);
  expect(await isAlive(left)).toBe(true);
  expect(await endProcess(identity, { graceMs: 1_000 })).toBe('TERMINATED');
  expect(await isAlive(left)).toBe(false);
});

test('a process that only has the pid is left alone', async () => {
  const { identity } = await shell('sleep 60');
  const other = { pid: identity.pid, startTime: `${identity.startTime}1` };
  expect(await isAlive(other)).toBe(false);
  expect(await endProcess(other, { graceMs: 0 })).toBe('GONE');
  expect(await endProcess({ pid: identity.pid, startTime: 'another-boot:1' }, { graceMs: 0 })).toBe('GONE');
  expect(await isAlive(identity)).toBe(true);
});
