import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, rm, statfs } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { plain, serving, team } from '../domains/deployments/harness.ts';
import { fresh, scenarios, switches, type Ground } from '../domains/deployments/scenarios.ts';
import { asRoot } from '../support/embedded.ts';
import { startTestServer, testFolder, type TestServer } from '../support/server.ts';

const run = promisify(execFile);
/** What the small disk has beside what is on it, bytes. */
const room = 24 * 2 ** 20;

let server: TestServer;
let folder: string;
beforeAll(async () => {
  folder = await testFolder();
  server = await startTestServer({ SWITCHYARD_METRICS_INTERVAL_S: '5' });
});
afterAll(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

const ground = (): Ground => ({ driver: 'PROCESS', server, folder, settings: {} });

describe('processes', { concurrent: true }, () => {
  scenarios(() => Promise.resolve(ground()));
});

test('twenty releases: no request fails', async () => {
  const { failures } = await switches(ground(), await team(server.url), 'twenty', 20);
  expect(failures).toEqual([]);
});

test('a disk that is full: the deployment fails and says so, what serves serves on, and room helps', async (context) => {
  if (!asRoot) return context.skip('a file system of its own needs root');
  const disk = await testFolder();
  await mkdir(path.join(disk, 'shared'), { mode: 0o711 });
  await run('mount', ['-t', 'tmpfs', '-o', 'size=1g,mode=711', 'tmpfs', path.join(disk, 'shared')]);
  context.onTestFinished(async () => {
    await run('umount', [path.join(disk, 'shared')]);
    await rm(disk, { recursive: true, force: true });
  });
  const small = await startTestServer({
    SWITCHYARD_SHARED_DIR: path.join(disk, 'shared'),
    // What happens when it is full, not before.
    SWITCHYARD_MIN_FREE_DISK_MB: '0',
  });
  context.onTestFinished(() => small.stop());
  const place: Ground = { driver: 'PROCESS', server: small, folder: disk, settings: {} };
  const on = await team(small.url);
  const { id, source } = await fresh(on, place, 'small', { 'server.js': serving('small') });
  expect(await on.deploy(id)).toMatchObject({ phase: 'DEPLOYED', statusReason: null });
  const { blocks, bfree, bsize } = await statfs(path.join(disk, 'shared'));
  const size = (blocks - bfree) * bsize + room;
  await run('mount', ['-o', `remount,size=${size}`, path.join(disk, 'shared')]);
  // More than there is room for: as a commit, and as what a build writes.
  const noise = createHash('shake256', { outputLength: room }).update('1').digest('hex');
  await source.commit({ 'large.bin': noise });
  const fetched = await on.deploy(id);
  expect([fetched.phase, fetched.statusReason]).toEqual(['FAILED', 'There is no room left on the disk of the host.']);
  expect(await on.answer(id)).toBe('small');
  await rm(path.join(disk, 'small', 'large.bin'));
  await source.commit({ 'package.json': JSON.stringify({ main: 'server.js', scripts: { build: 'yes > filled' } }) });
  const built = await on.deploy(id);
  expect(built.phase).toBe('FAILED');
  expect(built.logs.nodes.map(({ text }) => text).join('\n')).toMatch(/no space left on device/i);
  expect(await on.answer(id)).toBe('small');
  await source.commit({ ...plain, 'server.js': serving('room again') });
  expect(await on.deploy(id)).toMatchObject({ phase: 'DEPLOYED', statusReason: null });
  expect(await on.answer(id)).toBe('room again');
});
