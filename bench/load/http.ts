import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import type { Request } from '../workloads/requests.ts';

const run = promisify(execFile);

export interface Load {
  readonly requests: number;
  readonly perSecond: number;
  /** Milliseconds. */
  readonly p50: number;
  readonly p99: number;
  /** Refused connections, time-outs, and statuses that are no success. */
  readonly errors: number;
  /** Time that the load itself took of a processor, microseconds. */
  readonly cpuUs: number;
}

/** Whether wrk is there; else autocannon, which takes several times the processor time and so measures less. */
export const hasWrk: boolean = await run('wrk', ['-v']).then(
  () => true,
  (error: { code?: unknown }) => error.code !== 'ENOENT',
);

const pinned = (core: number | null, command: string, ...args: string[]): [string, string[]] =>
  core === null ? [command, args] : ['taskset', ['-c', String(core), command, ...args]];

/** Asks for so long, over so many connections that stay open, each with one request at a time. */
export async function load(
  url: string,
  requests: readonly Request[],
  options: {
    readonly seconds: number;
    readonly connections: number;
    readonly core: number | null;
    readonly seed: number;
  },
): Promise<Load> {
  const folder = await mkdtemp(path.join(tmpdir(), 'switchyard-bench-'));
  try {
    return hasWrk ? await wrk(folder, url, requests, options) : await autocannon(folder, url, requests, options);
  } finally {
    await rm(folder, { recursive: true });
  }
}

type Options = Parameters<typeof load>[2];

async function wrk(folder: string, url: string, requests: readonly Request[], options: Options): Promise<Load> {
  const file = path.join(folder, 'requests');
  await writeFile(file, requests.map(({ authorization, body }) => `${authorization ?? ''}\t${body}\n`).join(''));
  const script = path.join(import.meta.dirname, 'wrk.lua');
  const args = ['-t1', `-c${options.connections}`, `-d${options.seconds}s`, '--latency', '--timeout', '10s', '-s', script, url]; // prettier-ignore
  const { stdout } = await run(...pinned(options.core, 'wrk', ...args), {
    env: { ...process.env, REQUESTS: file, SEED: String(options.seed) },
  });
  const line = /^RESULT (.*)$/m.exec(stdout)?.[1];
  if (!line) throw new Error(`wrk said: ${stdout}`);
  const { us, ...rest } = JSON.parse(line) as Omit<Load, 'perSecond'> & { us: number };
  return { ...rest, perSecond: rest.requests / (us / 1e6) };
}

async function autocannon(folder: string, url: string, requests: readonly Request[], options: Options): Promise<Load> {
  const file = path.join(folder, 'requests.json');
  await writeFile(file, JSON.stringify(requests));
  const program = path.join(import.meta.dirname, 'autocannon.ts');
  const args = [program, url, file, String(options.seconds), String(options.connections)];
  const { stdout } = await run(...pinned(options.core, process.execPath, ...args));
  return JSON.parse(stdout) as Load;
}
