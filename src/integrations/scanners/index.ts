import { Worker } from 'node:worker_threads';
import type { ProcessIdentity } from '#kernel/processes/children.ts';
import type { AdvisorySources } from './dependencies/index.ts';
import { noReport, scannerNames, type Report, type ScannerName } from './scanner.ts';
import { findTrivy, runTrivy, TrivyFailed, type TrivyOptions, type TrivyOutput } from './trivy/index.ts';
import type { ScanMessage, ScanTask } from './worker.ts';

export type { Report } from './scanner.ts';

export interface ScannersOptions {
  readonly advisories: AdvisorySources;
  readonly trivy: TrivyOptions;
  /** A thread's heap, MiB. A scanner that needs more fails; the others go on. */
  readonly memoryMb?: number;
  /** Of one scanner. */
  readonly timeoutMs?: number;
}

export interface ScanRequest {
  readonly folder: string;
  /** The application's own: what fingerprints are made with. */
  readonly key: string;
  /** Ends everything within a second. */
  readonly signal: AbortSignal;
  /** Told of each process before it does anything. */
  readonly record: (child: ProcessIdentity) => Promise<void>;
}

export interface Scanners {
  /**
   * Looks through a folder with every scanner, in the order of `scannerNames`. A scanner that does not come to an end
   * is FAILED in the answer, and never an error.
   * @throws the signal's reason
   */
  scan(request: ScanRequest): Promise<Report[]>;
  /** Ends all threads. */
  close(): Promise<void>;
}

const defaults = { memoryMb: 768, timeoutMs: 180_000 } as const;
/** A thread that has nothing to do is given up, with the about 60 MB that it has loaded, milliseconds. */
const idleMs = 60_000;

/** Only one's own: Node has listeners of its own there, by which it hears of messages. */
function quiet(worker: Worker): void {
  for (const name of ['message', 'error', 'exit']) worker.removeAllListeners(name);
}

/**
 * Scanners of this host. Threads are started when they are needed.
 * @throws Error when Trivy has to be there and is not
 */
export async function createScanners(options: ScannersOptions): Promise<Scanners> {
  const { memoryMb = defaults.memoryMb, timeoutMs = defaults.timeoutMs } = options;
  if (options.trivy.mode === 'on' && !(await findTrivy(options.trivy.pathDirs)))
    throw new Error('SWITCHYARD_TRIVY is on, but there is no program trivy in PATH.');
  const all = new Set<Worker>();
  /** One that has loaded everything and waits. */
  let spare: Worker | null = null;
  let idle: NodeJS.Timeout | undefined;

  const end = async (worker: Worker): Promise<void> => {
    all.delete(worker);
    if (spare === worker) spare = null;
    await worker.terminate();
  };
  const take = (): Worker => {
    clearTimeout(idle);
    const taken = spare;
    spare = null;
    if (taken) {
      quiet(taken);
      return taken;
    }
    const worker = new Worker(new URL('./worker.ts', import.meta.url), {
      // Of this program's own settings nothing is needed there.
      env: {},
      execArgv: [],
      resourceLimits: { maxOldGenerationSizeMb: memoryMb, maxYoungGenerationSizeMb: 64 },
    });
    all.add(worker);
    return worker;
  };
  const giveBack = (worker: Worker): void => {
    if (spare) return void end(worker);
    quiet(worker);
    // What it dies of while nobody waits for it ends no more than it, and a dead one is not handed out.
    worker.on('error', () => undefined);
    worker.once('exit', () => {
      all.delete(worker);
      if (spare === worker) spare = null;
    });
    worker.unref();
    spare = worker;
    idle = setTimeout(() => void end(worker), idleMs).unref();
  };

  /** One thread with some scanners. Answers with the scanner that it died of, and why; null: all reported. */
  const inThread = (
    task: ScanTask,
    signal: AbortSignal,
    told: (report: Report) => void,
  ): Promise<{ readonly name: ScannerName; readonly why: string } | null> =>
    new Promise((resolve, reject) => {
      const worker = take();
      worker.ref();
      let at = task.scanners[0] as ScannerName;
      let left = task.scanners.length;
      const over = (settle: () => void): void => {
        clearTimeout(late);
        signal.removeEventListener('abort', stop);
        settle();
      };
      const died = (why: string): void =>
        over(() => {
          quiet(worker);
          worker.on('error', () => undefined); // it is being ended
          end(worker).then(() => resolve({ name: at, why }), reject);
        });
      const stop = (): void =>
        over(() => {
          quiet(worker);
          worker.on('error', () => undefined); // it is being ended
          end(worker).then(() => reject(signal.reason), reject);
        });
      const tooLate = (): void => died(`It took longer than ${timeoutMs / 1000} s.`);
      let late = setTimeout(tooLate, timeoutMs);
      signal.addEventListener('abort', stop, { once: true });
      worker.on('error', (error: Error & { code?: string }) =>
        died(error.code === 'ERR_WORKER_OUT_OF_MEMORY' ? `It needs more than ${memoryMb} MiB.` : error.message),
      );
      worker.on('exit', () => died('It ended without a report.'));
      worker.on('message', (message: ScanMessage) => {
        if ('begun' in message) {
          at = message.begun;
          clearTimeout(late);
          late = setTimeout(tooLate, timeoutMs);
          return;
        }
        told(message.report);
        left -= 1;
        if (left > 0) return;
        over(() => {
          giveBack(worker);
          resolve(null);
        });
      });
      // A thread has no origin.
      // oxlint-disable-next-line unicorn/require-post-message-target-origin
      worker.postMessage(task);
    });

  const trivyOutput = async ({ folder, signal, record }: ScanRequest): Promise<TrivyOutput | Report> => {
    const { trivy } = options;
    if (trivy.mode === 'off') return noReport('TRIVY', 'OFF', 'The operator has turned it off.');
    const command = await findTrivy(trivy.pathDirs);
    if (!command) return noReport('TRIVY', 'NOT_RUN', 'It is not installed on this host.');
    try {
      return await runTrivy({ ...trivy, command }, folder, { signal, record });
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof TrivyFailed)) throw error;
      return noReport('TRIVY', 'FAILED', error.message);
    }
  };

  return {
    async scan(request) {
      const { folder, key, signal } = request;
      signal.throwIfAborted();
      const reports = new Map<ScannerName, Report>();
      const told = (report: Report): void => void reports.set(report.scanner, report);
      const output = await trivyOutput(request);
      const trivy = 'scanner' in output ? null : output;
      if ('scanner' in output) told(output);
      for (;;) {
        signal.throwIfAborted();
        const scanners = scannerNames.filter((name) => !reports.has(name));
        if (scanners.length === 0) return scannerNames.flatMap((name) => reports.get(name) ?? []);
        const task: ScanTask = { folder, key, advisories: options.advisories, scanners, trivy };
        const death = await inThread(task, signal, told);
        if (death) told(noReport(death.name, 'FAILED', death.why));
      }
    },
    async close() {
      clearTimeout(idle);
      await Promise.all([...all].map(end));
    },
  };
}
