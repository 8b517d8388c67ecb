import { access, constants, mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { endProcess, spawnRecorded, type ProcessIdentity } from '#kernel/processes/children.ts';
import { codeOf } from '#kernel/system-error.ts';

export interface TrivyOptions {
  /** `on`: a server without it does not start. */
  readonly mode: 'auto' | 'on' | 'off';
  /** Where the program is looked for. */
  readonly pathDirs: readonly string[];
  /** Folder of its own for its database. */
  readonly cacheDir: string;
  /** What the operator hands to programs: proxies and the like. */
  readonly environment: Readonly<Record<string, string>>;
  readonly timeoutMs?: number;
  readonly maxMemoryMb?: number;
}

/** What it said; the report is read in a thread. */
export interface TrivyOutput {
  readonly report: string;
  readonly about: string;
}

/** It ended without a report. The message is for people. */
export class TrivyFailed extends Error {}

const defaults = { timeoutMs: 240_000, maxMemoryMb: 2048 } as const;
const maxOutputBytes = 64 * 1_048_576;
const maxErrorChars = 2000;
/** How often its memory is looked at, milliseconds. */
const lookMs = 250;

/** Path of the program; null: it is in none of the folders. */
export async function findTrivy(pathDirs: readonly string[]): Promise<string | null> {
  for (const dir of pathDirs) {
    const file = path.join(dir, 'trivy');
    try {
      await access(file, constants.X_OK);
      return file;
    } catch (error) {
      if (!['ENOENT', 'ENOTDIR', 'EACCES'].includes(String(codeOf(error)))) throw error;
    }
  }
  return null;
}

/** One after the other: two that share a cache get in each other's way. */
let turn: Promise<unknown> = Promise.resolve();

/**
 * Runs Trivy on a folder. It fetches its own database; for the folder it asks nobody (`--offline-scan`), and of what it
 * can check for misconfiguration it does not get what would fetch modules that a repository names.
 * @throws {TrivyFailed}, or the signal's reason
 */
export async function runTrivy(
  options: TrivyOptions & { readonly command: string },
  folder: string,
  how: { readonly signal: AbortSignal; readonly record: (child: ProcessIdentity) => Promise<void> },
): Promise<TrivyOutput> {
  const { promise: done, resolve: release } = Promise.withResolvers<void>();
  const before = turn;
  turn = before.then(() => done);
  try {
    await abortable(before, how.signal);
    const empty = path.join(options.cacheDir, 'empty');
    // Not in the repository: it would obey the settings that it finds there.
    await mkdir(empty, { recursive: true, mode: 0o700 });
    const run = (args: readonly string[]) => once(options, args, { cwd: empty, folder, ...how });
    const report = await run([
      'fs', '--quiet', '--format', 'json', '--scanners', 'vuln,secret,misconfig', '--misconfig-scanners',
      'dockerfile,kubernetes', '--offline-scan', '--', folder,
    ]); // prettier-ignore
    return { report, about: await run(['version', '--format', 'json']) };
  } finally {
    release();
  }
}

async function abortable(what: Promise<unknown>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const { promise, reject } = Promise.withResolvers<never>();
  const stop = (): void => reject(signal.reason);
  signal.addEventListener('abort', stop, { once: true });
  try {
    await Promise.race([what, promise]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

async function once(
  options: TrivyOptions & { readonly command: string },
  args: readonly string[],
  how: {
    readonly cwd: string;
    readonly folder: string;
    readonly signal: AbortSignal;
    readonly record: (child: ProcessIdentity) => Promise<void>;
  },
): Promise<string> {
  const { cwd, folder, signal, record } = how;
  const { timeoutMs = defaults.timeoutMs, maxMemoryMb = defaults.maxMemoryMb } = options;
  const { child, identity, exited } = await spawnRecorded({
    command: options.command,
    args,
    cwd,
    env: {
      ...options.environment,
      PATH: options.pathDirs.join(':'),
      HOME: options.cacheDir,
      TRIVY_CACHE_DIR: path.join(options.cacheDir, 'cache'),
      // Go collects before it gets there; what does not fit is ended.
      GOMEMLIMIT: `${Math.floor(maxMemoryMb * 0.8)}MiB`,
    },
    record,
  });
  let problem: unknown = null;
  const end = (why: unknown): void => {
    problem ??= why;
    // Whether it has ended is seen below.
    endProcess(identity, { graceMs: 0 }).catch(() => undefined);
  };
  const stop = (): void => end(signal.reason);
  signal.addEventListener('abort', stop, { once: true });
  if (signal.aborted) stop();
  const late = setTimeout(() => end(new TrivyFailed(`Trivy took longer than ${timeoutMs / 1000} s.`)), timeoutMs);
  const look = setInterval(() => {
    residentMb(identity.pid).then(
      (mb) => mb > maxMemoryMb && end(new TrivyFailed(`Trivy took more than ${maxMemoryMb} MiB of memory.`)),
      () => undefined, // it has ended
    );
  }, lookMs);
  const chunks: Buffer[] = [];
  let bytes = 0;
  let errors = '';
  child.stdout?.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > maxOutputBytes) end(new TrivyFailed('Trivy told more than 64 MiB.'));
    else chunks.push(chunk);
  });
  child.stderr?.on('data', (chunk: Buffer) => {
    errors = (errors + chunk.toString('utf8')).slice(-maxErrorChars);
  });
  const read = Promise.all([child.stdout, child.stderr].map((stream) => ended(stream)));
  try {
    const { exitCode } = await exited;
    if (problem) throw problem;
    await read;
    if (exitCode !== 0) {
      const last = errors.trim().split('\n').at(-1) ?? '';
      // Paths of this host are nobody's business.
      const told = last.replaceAll(folder, '…').replaceAll(options.cacheDir, '…');
      throw new TrivyFailed(`Trivy ended with exit code ${exitCode}. ${told}`.trim());
    }
    return Buffer.concat(chunks).toString('utf8');
  } finally {
    clearTimeout(late);
    clearInterval(look);
    signal.removeEventListener('abort', stop);
  }
}

const ended = (stream: NodeJS.ReadableStream | null): Promise<void> =>
  new Promise((resolve) => {
    if (stream) stream.once('close', resolve);
    else resolve();
  });

/** Resident memory, MiB; where the system does not tell, 0. */
async function residentMb(pid: number): Promise<number> {
  if (process.platform !== 'linux') return 0;
  const kb = /^VmRSS:\s+(\d+) kB/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Number(kb ?? 0) / 1024;
}
