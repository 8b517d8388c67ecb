import { defaultLimits, ExtractorUnavailable, type Limits } from './errors.ts';
import type { Detected, Extracted, ExtractRequest, Extractors, Progress } from './extractor.ts';
import { createHttpExtractor, type HttpExtractorOptions } from './http.ts';
import type { Task } from './messages.ts';
import { inChild } from './process.ts';

export * from './extractor.ts';
export { Interpreter, noEvidence } from './values/interpret.ts';

export interface ExtractorsOptions {
  /** Where they are stricter or wider than the defaults; a request's own come before them. */
  readonly limits?: Partial<Limits>;
  /** Child processes at a time; who comes later waits. Default 4. */
  readonly maxChildren?: number;
  /** The extractor HTTP, when there is one. */
  readonly http?: HttpExtractorOptions | undefined;
  /** The extractor MODEL, when there is one: what it yields is given on as it is. */
  readonly model?: ((request: ExtractRequest) => AsyncIterable<Extracted | Progress>) | undefined;
  /** Told the peak of resident memory of each child process that has ended, bytes; Linux. For measurements. */
  readonly measured?: (peakBytes: number) => void;
}

/** Of a look at what a file is. */
const detectLimits = { timeoutMs: 30_000, maxBytes: Number.MAX_SAFE_INTEGER } as const;

/** Extractors of this host. A process is started for each document, and ends with it. */
export function createExtractors(options: ExtractorsOptions = {}): Extractors {
  const { maxChildren = 4, model, measured } = options;
  const http = options.http && createHttpExtractor(options.http);
  const closing = new AbortController();
  const running = new Set<Promise<void>>();
  const waiting: (() => void)[] = [];
  let free = maxChildren;

  /** Waits for its turn. @throws the signal's reason */
  const enter = async (signal: AbortSignal): Promise<void> => {
    signal.throwIfAborted();
    if (free > 0) {
      free -= 1;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const turn = (): void => {
        signal.removeEventListener('abort', left);
        resolve();
      };
      const left = (): void => {
        waiting.splice(waiting.indexOf(turn), 1);
        reject(signal.reason instanceof Error ? signal.reason : new Error(String(signal.reason)));
      };
      signal.addEventListener('abort', left, { once: true });
      waiting.push(turn);
    });
  };
  const leave = (): void => {
    const next = waiting.shift();
    if (next) next();
    else free += 1;
  };

  async function* told(file: string, task: Task, limits: Limits, given: AbortSignal): ReturnType<typeof inChild> {
    const signal = AbortSignal.any([given, closing.signal]);
    await enter(signal);
    let over = (): void => undefined;
    const run = new Promise<void>((resolve) => (over = resolve));
    running.add(run);
    try {
      yield* inChild({ file, task, limits, signal, measured });
    } finally {
      running.delete(run);
      over();
      leave();
    }
  }

  async function* extractIn(
    file: string,
    format: Extract<Task, { kind: 'EXTRACT' }>['format'],
    { definition, sample, signal }: ExtractRequest,
    limits: Limits,
  ): AsyncGenerator<Extracted | Progress> {
    const task: Task = { kind: 'EXTRACT', format, definition, limits, sampleRows: sample?.rows ?? null };
    for await (const message of told(file, task, limits, signal)) if (message.kind === 'BATCH') yield* message.items;
  }

  return {
    async detect(file, signal): Promise<Detected> {
      const limits: Limits = { ...defaultLimits, ...options.limits, ...detectLimits };
      for await (const message of told(file, { kind: 'DETECT', limits }, limits, signal))
        if (message.kind === 'DETECTED') return message.detected;
      throw new Error('The child process said nothing.');
    },
    extract(request) {
      const limits: Limits = { ...defaultLimits, ...options.limits, ...request.limits };
      const extractor = request.definition.extractor ?? 'BUILT_IN';
      if (extractor === 'BUILT_IN') return extractIn(request.file, request.format, request, limits);
      if (extractor === 'MODEL') return model ? model(request) : unavailable('No model is configured for extraction.');
      if (!http) return unavailable('No external extractor is configured.');
      const answerLimits = { ...limits, maxBytes: Number.MAX_SAFE_INTEGER };
      return http.ask(request, limits, (file) => extractIn(file, 'ANSWER', request, answerLimits));
    },
    async close() {
      closing.abort(new Error('The extractors are closed.'));
      await Promise.all(running);
    },
  };
}

// oxlint-disable-next-line require-yield
async function* unavailable(why: string): AsyncGenerator<never> {
  throw new ExtractorUnavailable(why);
}
