import { type ChildProcess, spawn } from 'node:child_process';
import { chmod, mkdtemp, readFile, readdir, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { resolveStateDirs } from '../../src/kernel/db/state-dirs.ts';

export const asRoot = process.getuid?.() === 0;

/** A folder that everyone can reach, gone after the test, with the processes that name it ended first. */
export async function temporaryFolder(): Promise<string> {
  const folder = await realpath(await mkdtemp(path.join(tmpdir(), 'switchyard-test-')));
  await chmod(folder, 0o755);
  onTestFinished(async () => {
    // Only a failed test leaves any.
    for (const pid of await processesNaming(folder)) process.kill(pid, 'SIGKILL');
    await until('nothing runs in the folder', async () => (await processesNaming(folder)).length === 0);
    await rm(folder, { recursive: true, force: true });
  });
  return folder;
}

/** The same for a whole file: `remove` goes into its afterAll. */
export async function suiteStateDirs(): Promise<{ stateDir: string; sharedDir: string; remove(): Promise<void> }> {
  const folder = await realpath(await mkdtemp(path.join(tmpdir(), 'switchyard-test-')));
  await chmod(folder, 0o755);
  const dirs = await resolveStateDirs({ stateDir: path.join(folder, 'state') });
  return { ...dirs, remove: () => rm(folder, { recursive: true, force: true }) };
}

/** The folders of an installation in a temporary folder. */
export async function temporaryStateDirs(): Promise<{ stateDir: string; sharedDir: string }> {
  return resolveStateDirs({ stateDir: path.join(await temporaryFolder(), 'state') });
}

/**
 * Looks until `condition` holds, every 10 ms at first and later every 100: a look may be a request, and what is waited
 * for needs the processor. Fails after `limitMs`.
 */
export async function until(what: string, condition: () => Promise<boolean>, limitMs = 15_000): Promise<void> {
  const begun = Date.now();
  while (!(await condition())) {
    const waited = Date.now() - begun;
    if (waited > limitMs) throw new Error(`waited ${limitMs} ms in vain until ${what}`);
    await delay(Math.min(100, 10 + waited / 10));
  }
}

/** The processes with `text` in their command line, this one excepted. Needs Linux. */
export async function processesNaming(text: string): Promise<number[]> {
  const pids = (await readdir('/proc')).map(Number).filter((pid) => pid > 0 && pid !== process.pid);
  const found = await Promise.all(
    pids.map(async (pid) => {
      try {
        return (await readFile(`/proc/${pid}/cmdline`, 'utf8')).includes(text) ? pid : 0;
      } catch {
        return 0; // it has just ended
      }
    }),
  );
  return found.filter((pid) => pid > 0);
}

interface Messages {
  acquired: { url: string; pid: number; supervisorPid: number; port: number; adopted: boolean; durationMs: number };
  lost: string;
  answer: number;
  released: boolean;
}
type Said = Partial<Messages>;

/** A process of its own that holds a lease; see embedded-holder.ts. */
export class Holder {
  readonly child: ChildProcess;
  readonly #said: Said[] = [];
  #errors = '';

  constructor(
    dirs: { stateDir: string; sharedDir: string },
    options: { uid?: number; gid?: number; program?: string; node?: string } = {},
  ) {
    const { program = fileURLToPath(new URL('embedded-holder.ts', import.meta.url)), node = process.execPath } =
      options;
    this.child = spawn(node, [program, dirs.stateDir, dirs.sharedDir], {
      ...(options.uid !== undefined && { uid: options.uid }),
      ...(options.gid !== undefined && { gid: options.gid }),
      cwd: '/',
      env: { PATH: '/usr/bin:/bin' },
      stdio: 'pipe',
    });
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.#errors += text));
    if (this.child.stdout) createInterface(this.child.stdout).on('line', (line) => this.#said.push(JSON.parse(line)));
  }

  /** Waits until it has said `key`, and takes that. */
  async hear<K extends keyof Messages>(key: K): Promise<Messages[K]> {
    let value: Messages[K] | undefined;
    await until(`the holder says ${key}`, async () => {
      const index = this.#said.findIndex((message) => message[key] !== undefined);
      if (index >= 0) value = this.#said.splice(index, 1)[0]?.[key];
      else if (this.child.exitCode !== null) throw new Error(`the holder ended: ${this.#errors}`);
      return index >= 0;
    });
    if (value === undefined) throw new Error(`the holder did not say ${key}`);
    return value;
  }

  do(command: 'query' | 'release'): void {
    this.child.stdin?.write(`${command}\n`);
  }

  /** kill -9 */
  kill(): void {
    this.child.kill('SIGKILL');
  }
}
