import { fork } from 'node:child_process';
import { chmod, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { ensureSecret } from '#kernel/secrets.ts';

let stateDir: string;
beforeEach(async () => {
  stateDir = path.join(await mkdtemp(path.join(tmpdir(), 'secrets-')), 'state');
});
afterEach(() => rm(path.dirname(stateDir), { recursive: true }));

it('makes a private secret once', async () => {
  const first = await ensureSecret(stateDir, 'session');
  expect(Buffer.from(first, 'base64url')).toHaveLength(32);
  expect(await ensureSecret(stateDir, 'session')).toBe(first);
  expect(await ensureSecret(stateDir, 'storage')).not.toBe(first);
  expect((await stat(path.join(stateDir, 'secrets', 'session'))).mode & 0o777).toBe(0o600);
  expect((await stat(path.join(stateDir, 'secrets'))).mode & 0o777).toBe(0o700);
});

it('gives eight callers at once the same secret, and leaves nothing else behind', async () => {
  const all = await Promise.all(Array.from({ length: 8 }, () => ensureSecret(stateDir, 'session')));
  expect(new Set(all).size).toBe(1);
  expect(await readdir(path.join(stateDir, 'secrets'))).toEqual(['session']);
});

it('gives processes that start at once the same secret', async () => {
  const script = path.join(path.dirname(stateDir), 'child.mjs');
  const module = new URL('../../src/kernel/secrets.ts', import.meta.url).href;
  await writeFile(
    script,
    `import { ensureSecret } from ${JSON.stringify(module)};
     process.once('message', async (stateDir) => process.send(await ensureSecret(stateDir, 'session'), () => process.exit()));
     process.send('ready');`,
  );
  const children = Array.from({ length: 3 }, () => fork(script, { execArgv: [] }));
  await Promise.all(children.map((child) => once(child, 'message')));
  const answers = children.map((child) => once(child, 'message'));
  for (const child of children) child.send(stateDir);
  const secrets = (await Promise.all(answers)).map(([secret]) => String(secret));
  expect(secrets[0]).toHaveLength(43);
  expect(new Set(secrets).size).toBe(1);
});

it('never replaces what it does not understand', async () => {
  await ensureSecret(stateDir, 'session');
  const file = path.join(stateDir, 'secrets', 'session');
  await chmod(file, 0o644);
  await expect(ensureSecret(stateDir, 'session')).rejects.toThrow('chmod 600');
  await chmod(file, 0o600);
  await writeFile(file, '');
  await expect(ensureSecret(stateDir, 'session')).rejects.toThrow('does not hold a secret');
});

it.each(['', '../x', 'a/b', 'A', '.hidden', 'x'.repeat(65)])('refuses the name %j', async (name) => {
  await expect(ensureSecret(stateDir, name)).rejects.toThrow(TypeError);
});
