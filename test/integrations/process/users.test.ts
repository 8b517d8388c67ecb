import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { claimUsers } from '../../../src/integrations/process/users.ts';
import { temporaryFolder } from '../../support/embedded.ts';

test('users of applications belong to one host of the machine, until its folder is gone', async () => {
  const base = await temporaryFolder();
  const [folder, one, two] = [join(base, 'claims'), join(base, 'one'), join(base, 'two')];
  for (const dir of [one, two]) await mkdir(dir);
  const claim = (hostDir: string, userBase: number) => claimUsers({ hostDir, userBase, count: 4000 }, folder);
  await claim(one, 10_000);
  await claim(one, 10_000); // after a restart
  await claim(one, 12_000); // it was given another base
  for (const userBase of [10_000, 6_001, 15_999]) await expect(claim(two, userBase)).rejects.toThrow(`of ${one}:`);
  expect((await readdir(folder)).toSorted()).toEqual(['10000', '12000']);
  await claim(two, 16_000);
  await rm(one, { recursive: true });
  await claim(two, 11_000);
  expect((await readdir(folder)).toSorted()).toEqual(['11000', '16000']);
});

test('of some that ask at once at most one gets them; the first that asks alone then has them, and no other', async () => {
  const base = await temporaryFolder();
  for (let round = 0; round < 20; round++) {
    const hosts = Array.from({ length: 4 }, (_, n) => join(base, `${round}-${n}`));
    await Promise.all(hosts.map((dir) => mkdir(dir)));
    const bases = [10_000, 10_000, 11_000, 12_000];
    const folder = join(base, `c${round}`);
    const ask = (n: number) => claimUsers({ hostDir: hosts[n] ?? '', userBase: bases[n] ?? 0, count: 4000 }, folder);
    const asked = await Promise.allSettled(hosts.map((_, n) => ask(n)));
    expect(asked.filter(({ status }) => status === 'fulfilled').length).toBeLessThanOrEqual(1);
    // Who was refused left nothing behind that would keep all of them out.
    const alone: PromiseSettledResult<void>[] = [];
    for (const n of hosts.keys()) alone.push(...(await Promise.allSettled([ask(n)])));
    expect(alone.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    expect(await readdir(folder)).toHaveLength(1);
  }
});
