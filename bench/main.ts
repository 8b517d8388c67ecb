import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import path from 'node:path';
import { contenders, notCompiling, runners, start } from './contenders/index.ts';
import { admin, pin, postgres, template, workingCopy } from './data/database.ts';
import { shapeOf, type Shape } from './data/shape.ts';
import { hasWrk } from './load/http.ts';
import { cores } from './measure.ts';
import { help, optionsOf, UnknownOption, type Options } from './options.ts';
import type { Sample } from './report/results.ts';
import { writeReport } from './report/write.ts';
import { isRunWorkload, measureRuns, runWorkloads } from './workloads/runs.ts';
import { AnswersDiffer, type Bench } from './workloads/bench.ts';
import { measureRequests } from './workloads/http.ts';
import { corpusWorkloads, isCorpusWorkload, measureCorpus } from './workloads/corpus.ts';
import { measureLive } from './workloads/live.ts';
import { profile } from './workloads/profile.ts';
import { isLiveWorkload, liveWorkloads } from './workloads/streams.ts';
import { isRequestWorkload, requestWorkloads } from './workloads/requests.ts';

// Measures the server against others: npm --prefix bench start -- --help

const allWorkloads = { ...requestWorkloads, ...liveWorkloads, ...runWorkloads, ...corpusWorkloads };
const root = path.resolve(import.meta.dirname, '..');
const git = (...args: string[]): string => execFileSync('git', ['-C', root, ...args], { encoding: 'utf8' }).trim();
const begun = performance.now();
const tell = (what: string): void =>
  console.log(`${((performance.now() - begun) / 1000).toFixed(0).padStart(5)} s  ${what}`);

/** A checkout of another commit, kept in the cache; with this one's packages where the lock file is the same. */
async function checkout(ref: string, cache: string): Promise<string> {
  const commit = git('rev-parse', `${ref}^{commit}`);
  const folder = path.join(cache, `commit-${commit.slice(0, 12)}`);
  const made = path.join(folder, 'bench', '.ready');
  if (existsSync(made)) return folder;
  tell(`making a checkout of ${ref} in ${folder}`);
  await rm(folder, { recursive: true, force: true });
  git('worktree', 'prune');
  git('worktree', 'add', '--detach', folder, commit);
  const lock = (of: string) => readFile(path.join(of, 'package-lock.json'), 'utf8');
  const within = { cwd: folder, stdio: 'inherit' } as const;
  if ((await lock(folder)) === (await lock(root))) {
    await symlink(path.join(root, 'node_modules'), path.join(folder, 'node_modules'));
  } else execFileSync('npm', ['ci', '--no-audit', '--no-fund'], within);
  execFileSync(process.execPath, ['tools/ensure-generated.mjs'], within);
  await writeFile(made, '');
  return folder;
}

async function measure(options: Options): Promise<void> {
  // Each contender is told.
  process.env['DATABASE_POOL_MAX'] = String(options.pool);
  await mkdir(options.cache, { recursive: true });
  const against = options.against === null ? null : await checkout(options.against, options.cache);
  const all = contenders(path.join(options.cache, 'server'), against);
  const chosen = all.filter(({ name }) => name.startsWith('switchyard') || options.contenders.includes(name));
  const executing = runners(path.join(options.cache, 'worker'), against);
  const { cache, sharedBuffers } = options;
  const server = await postgres({ url: options.database, cache, sharedBuffers });
  const samples: Sample[] = [];
  try {
    const databases: { shape: Shape; data: string }[] = [];
    for (const shape of options.scales.map(shapeOf)) {
      const data = await template(server.url, shape, tell);
      tell(`scale ${shape.scale}: ${shape.deployments} deployments in ${data}`);
      databases.push({ shape, data });
    }
    if (options.prepare) return;
    if (cores.others !== null) {
      // The bench itself writes the events of streams.
      for (const pid of [process.pid, ...(server.pid === null ? [] : [server.pid])]) pin(pid, cores.others);
    }
    const benches: Bench[] = [];
    for (const { shape, data } of databases) {
      const url = await workingCopy(server.url, data, shape);
      benches.push({
        options,
        shape,
        contenders: chosen,
        databaseUrl: url,
        databasePid: server.pid,
        tell,
        start: (contender) => start(contender, url),
      });
    }
    const [requests, live] = [options.workloads.filter(isRequestWorkload), options.workloads.filter(isLiveWorkload)];
    const runs = options.workloads.filter(isRunWorkload);
    for (const bench of benches) {
      if (options.profile !== null) {
        await profile(bench, options.profile, options.workloads, executing);
        continue;
      }
      if (options.workloads.some(isCorpusWorkload)) samples.push(...(await measureCorpus(bench)));
      // Before M1: a worker would find what it asked for.
      if (runs.length > 0) samples.push(...(await measureRuns(bench, executing, runs)));
    }
    if (options.profile !== null) return;
    if (requests.length > 0) samples.push(...(await measureRequests(benches, requests)));
    if (live.length > 0) for (const bench of benches) samples.push(...(await measureLive(bench, live)));
    const [version, buffers] = await admin(server.url, 'show server_version', 'show shared_buffers');
    const { cache: _cache, database: _database, sharedBuffers: _buffers, out, ...asked } = options;
    const about = {
      when: new Date().toISOString(),
      node: process.versions.node,
      postgres: String((version?.rows[0] as { server_version?: string } | undefined)?.server_version),
      sharedBuffers: String((buffers?.rows[0] as { shared_buffers?: string } | undefined)?.shared_buffers),
      processor: `${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}`,
      commit: git('describe', '--always', '--dirty'),
      load: hasWrk ? 'wrk' : 'autocannon',
      workloads: allWorkloads,
      contenders: Object.fromEntries(
        [...chosen, ...chosen.slice(0, 1).map(notCompiling), ...executing].map(({ name, label }) => [name, label]),
      ),
      options: asked,
    };
    console.log(await writeReport(out, { about, samples }));
    tell(`the report is in ${out}`);
  } finally {
    await server.release();
  }
}

const known = {
  workloads: Object.keys(allWorkloads),
  contenders: contenders('', '.').map(({ name }) => name),
};
try {
  const options = optionsOf(process.argv.slice(2), known);
  if (options) await measure(options);
  else console.log(help);
} catch (error) {
  const expected = error instanceof UnknownOption || error instanceof AnswersDiffer;
  console.error(expected ? error.message : error);
  process.exitCode = 1;
}
// What a library keeps open does not keep it.
process.exit();
