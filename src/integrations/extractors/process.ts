import { spawn, type ChildProcess } from 'node:child_process';
import { open, readFile, type FileHandle } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { codeOf } from '#kernel/system-error.ts';
import { ExtractionCrashed, ExtractionOutOfMemory, ExtractionTimedOut, type Limits } from './errors.ts';
import { errorOf, type Asked, type Task, type Told } from './messages.ts';

const root = new URL('../../../', import.meta.url);
const program = fileURLToPath(new URL('./child.ts', import.meta.url));
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

export interface ChildRun {
  readonly file: string;
  readonly task: Task;
  readonly limits: Limits;
  readonly signal: AbortSignal;
  /** Told its peak of resident memory when it has ended, bytes. */
  readonly measured?: ((peakBytes: number) => void) | undefined;
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
  return spawn('/bin/sh', ['-c', gate, 'gate', String(seconds), process.execPath, ...args, program], {
    cwd: '/',
    // Of this program's own settings nothing is needed there.
    env: { TZ: 'UTC' },
    stdio: ['ignore', 'ignore', 'pipe', file.fd, 'ipc'],
    serialization: 'json',
  });
}

/**
 * What a child process says about a file, in order. The child waits while the consumer does, and is gone when the
 * iteration is over, however it ends.
 * @throws the signal's reason, or an ExtractionError
 */
export async function* inChild(run: ChildRun): AsyncGenerator<Exclude<Told, { kind: 'FAILED' | 'DONE' }>, void, void> {
  const { task, limits, signal } = run;
  signal.throwIfAborted();
  // What is opened is what is read, whoever changes the path meanwhile; the child has no way to open it.
  const file = await open(run.file, 'r');
  let child: ChildProcess;
  try {
    child = start(file, limits);
  } finally {
    await file.close();
  }
  const told: Told[] = [];
  let said = '';
  let peak = 0;
  const state = { failed: null as Error | null, ended: false, wake: (): void => undefined };
  const stop = (why: Error): void => {
    state.failed ??= why;
    child.kill('SIGKILL');
    state.wake();
  };
  const aborted = (): void => stop(signal.reason instanceof Error ? signal.reason : new Error(String(signal.reason)));
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
  signal.addEventListener('abort', aborted, { once: true });
  const watch = setInterval(() => {
    if (child.pid === undefined) return;
    memoryOf(child.pid).then(
      (memory) => {
        peak = Math.max(peak, memory?.peak ?? 0);
        if ((memory?.now ?? 0) > limits.memoryMb * 1_048_576) stop(new ExtractionOutOfMemory(limits.memoryMb));
      },
      (error: unknown) => stop(error instanceof Error ? error : new Error(String(error))),
    );
  }, watchMs);
  const send = (message: Task | Asked): void => {
    // It may have ended: that is told by its exit.
    if (child.connected) child.send(message, () => undefined);
  };

  let leftMs = limits.timeoutMs;
  try {
    send(task);
    for (;;) {
      const began = performance.now();
      while (told.length === 0 && !state.ended && !state.failed) {
        const late = setTimeout(() => stop(new ExtractionTimedOut(limits.timeoutMs)), Math.max(0, leftMs));
        await new Promise<void>((resolve) => (state.wake = resolve));
        clearTimeout(late);
      }
      leftMs -= performance.now() - began;
      if (state.failed) throw state.failed;
      const message = told.shift();
      if (!message) throw deathOf(said, limits);
      if (message.kind === 'DONE') {
        peak = message.peakBytes;
        return;
      }
      if (message.kind === 'FAILED') throw errorOf(message.error);
      yield message;
      if (message.kind === 'BATCH') send({ kind: 'TAKEN' });
    }
  } finally {
    clearInterval(watch);
    signal.removeEventListener('abort', aborted);
    child.kill('SIGKILL');
    await exited;
    if (child.connected) child.disconnect();
    run.measured?.(peak);
  }
}

/** It ended without a word of its own; what V8 said last tells why. */
function deathOf(said: string, { memoryMb }: Limits): Error {
  if (/heap out of memory|Array buffer allocation failed|ERR_MEMORY_ALLOCATION_FAILED/.test(said))
    return new ExtractionOutOfMemory(memoryMb);
  return new ExtractionCrashed({ cause: new Error(said.slice(0, maxSaid) || 'It said nothing.') });
}
