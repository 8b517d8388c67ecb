import type { LanguageModel } from '#kernel/llm.ts';
import { defaultLimits, ExtractorUnavailable, type Limits } from './errors.ts';
import type { Detected, Extracted, ExtractRequest, Extractors, FileReader, Progress } from './extractor.ts';
import { createHttpExtractor, type HttpExtractorOptions } from './http.ts';
import type { Task } from './messages.ts';
import { asText, createModelExtractor } from './model.ts';
import { unpack } from './packing.ts';
import type { TaskFormat } from './raw.ts';
import { startChild, type Answer, type Child, type Spent } from './process.ts';

export * from './extractor.ts';
export { Interpreter, noEvidence } from './values/interpret.ts';

export interface ExtractorsOptions {
  /** Where they are stricter or wider than the defaults; a request's own come before them. */
  readonly limits?: Partial<Limits>;
  /** Child processes at a time; who comes later waits. Default 4. */
  readonly maxChildren?: number;
  /** The extractor HTTP, when there is one. */
  readonly http?: HttpExtractorOptions | undefined;
  /** The extractor MODEL, when there is one. */
  readonly model?: LanguageModel | null | undefined;
  /** Told what each child process has taken when it has ended. For measurements. */
  readonly measured?: (spent: Spent) => void;
}

type Asked = Omit<ExtractRequest, 'file' | 'limits' | 'format'>;

/** Of a look at what a file is. */
const detectLimits = { timeoutMs: 30_000, maxBytes: Number.MAX_SAFE_INTEGER } as const;

/** Child processes at a time, and a queue for those who come later. */
class Turns {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(most: number) {
    this.#free = most;
  }

  /** Waits for its turn. @throws the signal's reason */
  async enter(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#free > 0) {
      this.#free -= 1;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const turn = (): void => {
        signal.removeEventListener('abort', left);
        resolve();
      };
      const left = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(turn), 1);
        reject(signal.reason instanceof Error ? signal.reason : new Error(String(signal.reason)));
      };
      signal.addEventListener('abort', left, { once: true });
      this.#waiting.push(turn);
    });
  }

  leave(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free += 1;
  }
}

/** Extractors of this host. A process is started for each document, and ends with it. */
export function createExtractors(options: ExtractorsOptions = {}): Extractors {
  const { maxChildren = 4, measured } = options;
  const model = options.model ? createModelExtractor(options.model) : null;
  const http = options.http && createHttpExtractor(options.http);
  const closing = new AbortController();
  const turns = new Turns(maxChildren);
  /** Those that have a turn. */
  const running = new Set<Promise<void>>();

  /** Of one file: a process that is started when it is first asked. */
  const processOf = (file: () => Promise<string>, limits: Limits) => {
    let held: { readonly child: Child; readonly over: () => void } | null = null;
    const close = async (): Promise<void> => {
      const last = held;
      held = null;
      if (!last) return;
      await last.child.close();
      last.over();
    };
    const begin = async (signal: AbortSignal) => {
      const path = await file();
      await turns.enter(signal);
      const run = Promise.withResolvers<void>();
      running.add(run.promise);
      const over = (): void => {
        running.delete(run.promise);
        run.resolve();
        turns.leave();
      };
      try {
        return { child: await startChild(path, limits, measured), over };
      } catch (error) {
        over();
        throw error;
      }
    };
    async function* ask(task: Task, asked: AbortSignal): AsyncGenerator<Answer, void, void> {
      const signal = AbortSignal.any([asked, closing.signal]);
      signal.throwIfAborted();
      held ??= await begin(signal);
      const { child } = held;
      try {
        yield* child.ask(task, signal);
      } finally {
        // What has failed, or was left, is gone.
        if (!child.idle) await close();
      }
    }
    async function* read(
      format: TaskFormat,
      { definition, sample, signal }: Asked,
      own: Limits = limits,
    ): AsyncGenerator<Extracted | Progress> {
      const task: Task = { kind: 'EXTRACT', format, definition, limits: own, sampleRows: sample?.rows ?? null };
      for await (const answer of ask(task, signal))
        if (answer.kind === 'BATCH') for (const item of answer.items) yield unpack(item);
    }
    return { ask, read, close };
  };

  /** A file that another program has answered with. */
  async function* answerOf(file: string, asked: Asked, limits: Limits): AsyncGenerator<Extracted | Progress> {
    const answer = processOf(async () => file, { ...limits, maxBytes: Number.MAX_SAFE_INTEGER });
    try {
      yield* answer.read('ANSWER', asked);
    } finally {
      await answer.close();
    }
  }

  const open = (file: () => Promise<string>, given: Partial<Limits> = {}): FileReader => {
    const limits: Limits = { ...defaultLimits, ...options.limits, ...given };
    const { ask, read, close } = processOf(file, limits);
    return {
      close,
      async detect(signal) {
        let detected: Detected | null = null;
        for await (const answer of ask({ kind: 'DETECT', limits: { ...limits, ...detectLimits } }, signal))
          if (answer.kind === 'DETECTED') ({ detected } = answer);
        if (!detected) throw new Error('The child process said nothing.');
        return detected;
      },
      async *extract(request) {
        const extractor = request.definition.extractor ?? 'BUILT_IN';
        if (extractor === 'BUILT_IN') return yield* read(request.format, request);
        if (extractor === 'MODEL') {
          if (!model) throw new ExtractorUnavailable('No model is configured for extraction.');
          const asked = { definition: asText(request.definition), signal: request.signal };
          const text = (async function* () {
            try {
              yield* read(request.format === 'PDF' ? 'LINES' : request.format, asked);
            } finally {
              // Its turn is the next one's, who reads the answer.
              await close();
            }
          })();
          const whole = { ...request, file: await file() };
          return yield* model.ask(whole, limits, text, (answer) => answerOf(answer, request, limits));
        }
        if (!http) throw new ExtractorUnavailable('No external extractor is configured.');
        await close();
        const whole = { ...request, file: await file() };
        return yield* http.ask(whole, limits, (answer) => answerOf(answer, request, limits));
      },
    };
  };

  return {
    open,
    async detect(file, signal) {
      const reader = open(async () => file);
      try {
        return await reader.detect(signal);
      } finally {
        await reader.close();
      }
    },
    async *extract({ file, limits, ...request }) {
      const reader = open(async () => file, limits);
      try {
        yield* reader.extract(request);
      } finally {
        await reader.close();
      }
    },
    async close() {
      closing.abort(new Error('The extractors are closed.'));
      await Promise.all(running);
    },
  };
}
