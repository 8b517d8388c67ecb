import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Contender } from '../contenders/index.ts';
import { summary, type CpuProfile } from '../report/profile.ts';
import type { Bench } from './bench.ts';
import { loadOf } from './http.ts';
import { underLoad } from './live.ts';
import { isRequestWorkload } from './requests.ts';
import { isLiveWorkload } from './streams.ts';
import { isRunWorkload, runsUnderLoad, startRunner } from './runs.ts';

const root = path.resolve(import.meta.dirname, '../..');

/** Prints where one contender spends its time while it is loaded, and keeps the profiles (`.cpuprofile`). */
export async function profile(
  bench: Bench,
  name: string,
  workloads: readonly string[],
  executing: readonly Contender[],
): Promise<void> {
  await mkdir(bench.options.out, { recursive: true });
  for (const workload of workloads) {
    const file = path.join(bench.options.out, `${name}-${workload}.cpuprofile`);
    await rm(file, { force: true });
    const found = (isRunWorkload(workload) ? executing : bench.contenders).find((one) => one.name === name);
    const able = found && (isLiveWorkload(workload) ? found.live.includes(workload) : found.http);
    if (!able) continue;
    const contender: Contender = { ...found, env: { ...found.env, BENCH_PROFILE: file } };
    const running = await (isRunWorkload(workload) ? startRunner(bench, contender) : bench.start(contender));
    try {
      const loaded = isRequestWorkload(workload)
        ? await loadOf(bench, contender, running, workload)
        : isLiveWorkload(workload)
          ? await underLoad(bench, contender, running, workload)
          : isRunWorkload(workload)
            ? runsUnderLoad(bench, running, workload)
            : null;
      if (!loaded) continue;
      await loaded.run(); // warm
      running.signal('SIGUSR2');
      await delay(300);
      await loaded.run();
      running.signal('SIGUSR2');
      const text = await written(file);
      await loaded.end();
      const said = summary(JSON.parse(text) as CpuProfile, root);
      await writeFile(file.replace('.cpuprofile', '.txt'), `${said}\n`);
      console.log(`\n${name}, ${workload}: ${file}\n\n${said}`);
    } finally {
      await running.stop();
    }
  }
}

/** The text of a file once it is there as a whole. */
async function written(file: string): Promise<string> {
  for (let tries = 0; ; tries++) {
    await delay(200);
    const text = await readFile(file, 'utf8').catch(() => '');
    if (text.endsWith('}')) return text;
    if (tries > 150) throw new Error('No profile was written');
  }
}
