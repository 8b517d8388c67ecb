import { execFile } from 'node:child_process';
import { chmod, chown, mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import {
  reachableBy,
  resolveStateDirs,
  shareExecutable,
  SharedFolderError,
} from '../../../src/kernel/db/state-dirs.ts';
import { asRoot, temporaryFolder } from '../../support/embedded.ts';

const others = { uid: 4_000_000, gid: 4_000_000 };
const mode = async (file: string) => (await stat(file)).mode & 0o777;

test.runIf(asRoot)('root: the shared folder is beside the state folder, or where others can get to', async () => {
  const folder = await temporaryFolder();
  const open = await resolveStateDirs({ stateDir: path.join(folder, 'state') });
  expect(open).toEqual({ stateDir: path.join(folder, 'state'), sharedDir: path.join(folder, 'state.shared') });
  expect(await mode(open.stateDir)).toBe(0o700);
  expect(await mode(open.sharedDir)).toBe(0o711);

  await mkdir(path.join(folder, 'home'), { mode: 0o700 });
  const hidden = await resolveStateDirs({ stateDir: path.join(folder, 'home/state') });
  onTestFinished(() => rm(hidden.sharedDir, { recursive: true }));
  expect(hidden.sharedDir).toMatch(/^\/var\/lib\/switchyard-shared\/[0-9a-f]{12}$/);
  expect(await resolveStateDirs({ stateDir: path.join(folder, 'home/../home/state') })).toEqual(hidden);
  expect(await reachableBy(hidden.sharedDir, others)).toBe(true);
  expect(await reachableBy(hidden.stateDir, others)).toBe(false);
});

test.runIf(asRoot)("root refuses a shared folder that is somebody else's", async () => {
  const folder = await temporaryFolder();
  await mkdir(path.join(folder, 'state.shared'));
  await chown(path.join(folder, 'state.shared'), 65534, 65534);
  await expect(resolveStateDirs({ stateDir: path.join(folder, 'state') })).rejects.toThrow(SharedFolderError);
});

test('shares a program that others cannot reach, once', async () => {
  const folder = await temporaryFolder();
  const sharedDir = path.join(folder, 'shared');
  await mkdir(path.join(folder, 'home'), { mode: 0o700 });
  await mkdir(sharedDir);
  await chmod(sharedDir, 0o711);
  const program = path.join(folder, 'home/hello');
  await writeFile(program, '#!/bin/sh\necho hello\n', { mode: 0o700 });
  await chmod(path.join(folder, 'home'), 0o700);
  const shared = await Promise.all([1, 2, 3].map(() => shareExecutable(program, sharedDir)));
  expect(new Set(shared).size).toBe(1);
  const [first = ''] = shared;
  expect(path.basename(first)).toBe('hello');
  expect(await reachableBy(first, others)).toBe(true);
  expect((await promisify(execFile)(first)).stdout).toBe('hello\n');
  expect(await readdir(path.join(sharedDir, 'bin'))).toHaveLength(1);
  expect(await shareExecutable('/bin/sh', sharedDir)).toBe('/bin/sh');
});
