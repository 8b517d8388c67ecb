import { Worker } from 'node:worker_threads';
import { service } from '#kernel/app.ts';
import { RateLimited, ValidationError } from '#kernel/errors.ts';
import { AccountSettings } from './settings.ts';

/** Least score of zxcvbn, 0 to 4: 3 stands for 10^8 guesses and more. */
const leastScore = 3;
/**
 * Characters that are estimated. The time grows with the square of them: 200 take up to 1.9 s on the machine that the
 * figures of docs/architecture.md are of, 64 take 0.4 s. What a password has beyond them is not counted in its favour.
 */
const estimatedChars = 64;
/** Estimates that wait, at most. */
const maxWaiting = 20;
const timeoutMs = 15_000;
/** The thread and its dictionaries, about 60 MB, are given up after so long without work. */
const idleMs = 60_000;

export interface EstimateRequest {
  readonly id: number;
  readonly password: string;
  /** What the person's own data are: guessed first. */
  readonly about: readonly string[];
}

export interface EstimateAnswer {
  readonly id: number;
  readonly score: number;
  /** For a person; empty when there is none. */
  readonly advice: string;
}

/** One for the process: its dictionaries take 0.3 s to load. */
const estimate = createEstimator();

/** Which passwords are taken. */
export const Passwords = service('passwords', (app) => {
  return {
    /**
     * Refuses a password that is easy to guess, or known from a breach. When the list of breaches does not answer, the
     * password passes: nobody is kept from changing a password because somebody else's service is down.
     * @param path of the input's field
     * @param about the person's own texts: name, address
     * @throws {ValidationError} {RateLimited} when too many are looked at already
     */
    async check(password: string, about: readonly string[], path: string): Promise<void> {
      // Also in parts: people take one of their names, or what stands before the @.
      const parts = about
        .flatMap((text) => [...text.split('@'), ...text.split(/[^\p{L}\p{N}]+/u)])
        .filter((part) => part.length > 2);
      const { score, advice } = await estimate(password, [...about, ...parts]);
      if (score < leastScore) {
        throw new ValidationError([{ path, message: `is too easy to guess. ${advice}`.trimEnd() }]);
      }
      const { isBreached } = app.use(AccountSettings);
      const breached = await isBreached?.(password).catch((error: unknown) => {
        app.log.warn({ err: error }, 'the list of breached passwords does not answer: a password was not compared');
        return false;
      });
      if (breached) {
        throw new ValidationError([{ path, message: 'is in a list of passwords from breaches. Choose another one.' }]);
      }
    },
  };
});

/** Estimates in a thread that is started when it is needed. */
function createEstimator(): (password: string, about: readonly string[]) => Promise<EstimateAnswer> {
  interface Waiting {
    resolve(answer: EstimateAnswer): void;
    reject(error: Error): void;
  }
  const waiting = new Map<number, Waiting>();
  let worker: Worker | null = null;
  let last = 0;
  let idle: NodeJS.Timeout | undefined;

  const end = (ended: Worker, error: Error): void => {
    if (worker !== ended) return;
    worker = null;
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
    void ended.terminate();
  };

  function start(): Worker {
    const started = new Worker(new URL('./password-worker.ts', import.meta.url), {
      // Of this program's own settings nothing is needed there.
      env: {},
      execArgv: [],
      resourceLimits: { maxOldGenerationSizeMb: 256 },
    });
    started.on('message', (answer: EstimateAnswer) => {
      waiting.get(answer.id)?.resolve(answer);
      waiting.delete(answer.id);
    });
    started.on('error', (error: Error) => end(started, error));
    // Last, because a listener holds the process again: a thread that waits for work keeps no server from ending.
    started.unref();
    return started;
  }

  return async (password, about) => {
    if (waiting.size >= maxWaiting) throw new RateLimited(new Date(Date.now() + 1000), 'Too many passwords at once.');
    clearTimeout(idle);
    const asked = (worker ??= start());
    const id = ++last;
    const { promise, resolve, reject } = Promise.withResolvers<EstimateAnswer>();
    waiting.set(id, { resolve, reject });
    const late = setTimeout(() => end(asked, new Error('Estimating a password took too long')), timeoutMs);
    const cut = (text: string): string => text.slice(0, estimatedChars);
    // A thread has no origin.
    // oxlint-disable-next-line unicorn/require-post-message-target-origin
    asked.postMessage({ id, password: cut(password), about: about.map(cut) } satisfies EstimateRequest);
    try {
      return await promise;
    } finally {
      clearTimeout(late);
      if (waiting.size === 0) {
        clearTimeout(idle);
        idle = setTimeout(() => end(asked, new Error('unused')), idleMs).unref();
      }
    }
  };
}
