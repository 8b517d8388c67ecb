import { spawn, type ChildProcess } from 'node:child_process';
import { open, readFile, type FileHandle } from 'node:fs/promises';
import type { Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { codeOf } from '#kernel/system-error.ts';
import { ExtractionCrashed, ExtractionOutOfMemory, ExtractionTimedOut, type Limits } from './errors.ts';
import { strippedCode } from './code.ts';
import { codeDescriptor, errorOf, type Asked, type Task, type Told } from './messages.ts';

const root = new URL('../../../', import.meta.url);
const program = fileURLToPath(new URL('./start.mjs', import.meta.url));
/** What the child may read beside the file that it is given: its own code. It may write nothing and start nothing. */
const readable = ['src/', 'node_modules/', 'package.json'].map(
  (name) => `--allow-fs-read=${fileURLToPath(new URL(name, root))}`,
);

/** How often the resident memory of a child is looked at. The heap is bounded by V8, buffers outside of it by nobody. */
const watchMs = 100;
/** Processor time beyond its time limit that ends a child whose parent is not there any more, seconds. */
const graceS = 10;
/** Of what a child says before it dies. */
const maxSaid = 4_000;

// A core of a process that has read a hostile file is of no use, and what nobody waits for ends by the system's clock.
const gate = 'ulimit -c 0; ulimit -t "$1"; shift; exec "$@"';

/** What a child process has taken when it has ended. */
export interface Spent {
  /** Peak of its resident memory, bytes; Linux. */
  readonly peakBytes: number;
  /** Its processor time, as far as it has told, milliseconds. */
  readonly cpuMs: number;
}

/** What a child says of one task. */
export type Answer = Exclude<Told, { kind: 'FAILED' | 'DONE' }>;

/** A process that reads one file: one task after the other, until one of them fails or is left. */
export interface Child {
  /**
   * What it says, in order. It waits while the consumer does. `task.limits` bounds the time; memory is bounded by what
   * it was started with.
   * @throws the signal's reason, or an ExtractionError; the process is gone then, and when the iteration was left
   */
  ask(task: Task, signal: AbortSignal): AsyncGenerator<Answer, void, void>;
  /** Whether it is there for another task. */
  readonly idle: boolean;
  /** Ends it. */
  close(): Promise<void>;
}

/** Resident bytes now and at most; null: it is gone, or the system does not tell. */
async function memoryOf(pid: number): Promise<{ now: number; peak: number } | null> {
  if (process.platform !== 'linux') return null;
  try {
    const status = await readFile(`/proc/${pid}/status`, 'utf8');
    const kb = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? '0');
    return { now: kb('VmRSS') * 1024, peak: kb('VmHWM') * 1024 };
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ESRCH') return null;
    throw error;
  }
}

function start(file: FileHandle, { timeoutMs, memoryMb }: Limits): ChildProcess {
  const seconds = Math.ceil(timeoutMs / 1000) + graceS;
  // What is not heap: code, buffers, the collector's own. Small limits leave the heap its half.
  const heapMb = Math.max(32, Math.floor(memoryMb > 320 ? memoryMb - 160 : memoryMb / 2));
  const args = [`--max-old-space-size=${heapMb}`, '--permission', ...readable, '--disable-warning=SecurityWarning'];
  const child = spawn('/bin/sh', ['-c', gate, 'gate', String(seconds), process.execPath, ...args, program], {
    cwd: '/',
    // Of this program's own settings nothing is needed there.
    env: { TZ: 'UTC' },
    stdio: ['ignore', 'ignore', 'pipe', file.fd, 'ipc', 'pipe'],
    serialization: 'json',
  });
  const code = (child.stdio as readonly unknown[])[codeDescriptor] as Writable;
  // It may end before it has read that: its exit tells.
  code.on('error', () => undefined);
  code.end(strippedCode());
  return child;
}

/** @param measured told when it has ended */
export async function startChild(
  path: string,
  limits: Limits,
  measured: ((spent: Spent) => void) | undefined,
): Promise<Child> {
  // What is opened is what is read, whoever changes the path meanwhile; the child has no way to open it.
  const file = await open(path, 'r');
  let child: ChildProcess;
  try {
    child = start(file, limits);
  } finally {
    await file.close();
  }
  const told: Told[] = [];
  let said = '';
  const spent = { peakBytes: 0, cpuMs: 0 };
  const state = { failed: null as Error | null, ended: false, wake: (): void => undefined };
  let idle = true;
  let isMeasured = false;
  const stop = (why: Error): void => {
    state.failed ??= why;
    child.kill('SIGKILL');
    state.wake();
  };
  const exited = new Promise<void>((resolve) => {
    child.once('error', (error) => {
      // It could not be started.
      state.failed ??= error;
      state.ended = true;
      state.wake();
      resolve();
    });
    child.once('close', () => {
      state.ended = true;
      state.wake();
      resolve();
    });
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    if (said.length < maxSaid) said += text;
  });
  child.on('message', (message: Told) => {
    told.push(message);
    state.wake();
  });
  const watch = setInterval(() => {
    if (child.pid === undefined) return;
    memoryOf(child.pid).then(
      (memory) => {
        spent.peakBytes = Math.max(spent.peakBytes, memory?.peak ?? 0);
        if ((memory?.now ?? 0) > limits.memoryMb * 1_048_576) stop(new ExtractionOutOfMemory(limits.memoryMb));
      },
      (error: unknown) => stop(error instanceof Error ? error : new Error(String(error))),
    );
  }, watchMs);
  const send = (message: Task | Asked): void => {
    // It may have ended: that is told by its exit.
    if (child.connected) child.send(message, () => undefined);
  };

  const close = async (): Promise<void> => {
    idle = false;
    clearInterval(watch);
    child.kill('SIGKILL');
    await exited;
    if (child.connected) child.disconnect();
    if (!isMeasured) measured?.(spent);
    isMeasured = true;
  };

  async function* ask(task: Task, signal: AbortSignal): AsyncGenerator<Answer, void, void> {
    if (!idle) throw new Error('The process is busy or gone.');
    idle = false;
    const aborted = (): void => stop(signal.reason instanceof Error ? signal.reason : new Error(String(signal.reason)));
    if (signal.aborted) aborted();
    signal.addEventListener('abort', aborted, { once: true });
    const { timeoutMs } = task.limits;
    let leftMs = timeoutMs;
    try {
      send(task);
      for (;;) {
        const began = performance.now();
        while (told.length === 0 && !state.ended && !state.failed) {
          const late = setTimeout(() => stop(new ExtractionTimedOut(timeoutMs)), Math.max(0, leftMs));
          await new Promise<void>((resolve) => (state.wake = resolve));
          clearTimeout(late);
        }
        leftMs -= performance.now() - began;
        if (state.failed) throw state.failed;
        const message = told.shift();
        if (!message) throw deathOf(said, limits);
        if (message.kind === 'DONE') {
          ({ peakBytes: spent.peakBytes, cpuMs: spent.cpuMs } = message);
          idle = true;
          return;
        }
        if (message.kind === 'FAILED') throw errorOf(message.error);
        yield message;
        if (message.kind === 'BATCH') send({ kind: 'TAKEN' });
      }
    } finally {
      signal.removeEventListener('abort', aborted);
      if (!idle) await close();
    }
  }

  return {
    ask,
    close,
    get idle() {
      return idle;
    },
  };
}

/** It ended without a word of its own; what V8 said last tells why. */
function deathOf(said: string, { memoryMb }: Limits): Error {
  if (/heap out of memory|Array buffer allocation failed|ERR_MEMORY_ALLOCATION_FAILED/.test(said))
    return new ExtractionOutOfMemory(memoryMb);
  return new ExtractionCrashed({ cause: new Error(said.slice(0, maxSaid) || 'It said nothing.') });
}
