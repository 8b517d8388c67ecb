import { pino, type DestinationStream, type Logger } from 'pino';

export type { Logger } from 'pino';

/** Fields that never reach a log, wherever they stand in a logged object (one level deep or at the top). */
const secretFields = [
  'password',
  'token',
  'secret',
  'authorization',
  'cookie',
  'apiKey',
  'key',
  'receipt',
  'databaseUrl',
  'redisUrl',
];

/** How long a line may wait for others, milliseconds, and how much of them, characters. */
const waitMs = 100;
const waitLength = 16_384;
/** Warnings and what is worse do not wait. */
const urgent = pino.levels.values['warn'] ?? 40;

/** What pino writes to. */
interface Destination extends DestinationStream {
  /** Set by pino before each line. */
  lastLevel?: number;
}

/**
 * Lines are collected and written together, since a call of the system for each is most of its cost: after 100 ms, with
 * 16 kB, with a warning or an error, and when the process ends by itself or by a signal that it handles. What kills it on
 * the spot loses the lines of that time.
 */
export function collected(write: (lines: string) => void): { readonly to: Destination; readonly flush: () => void } {
  let lines = '';
  let timer: NodeJS.Timeout | null = null;
  const flush = (): void => {
    if (timer) clearTimeout(timer);
    timer = null;
    if (lines === '') return;
    const now = lines;
    lines = '';
    write(now);
  };
  const to: Destination = {
    write(line) {
      lines += line;
      if ((to.lastLevel ?? 0) >= urgent || lines.length >= waitLength) flush();
      else timer ??= setTimeout(flush, waitMs).unref();
    },
  };
  // That it is told the level.
  Object.defineProperty(to, Symbol.for('pino.metadata'), { value: true });
  return { to, flush };
}

/** Standard output, for all logs of the process. */
let output: Destination | null = null;

function standardOutput(): Destination {
  if (output) return output;
  // It waits where the reader of a pipe is slow, and goes on where there is none any more.
  const file = pino.destination({ fd: 1, sync: true });
  const { to, flush } = collected((lines) => void file.write(lines));
  process.on('exit', flush);
  return (output = to);
}

/**
 * JSON lines on standard output, one object each, after the conventions of pino: `level`, `time`, `msg` and fields.
 * @see https://getpino.io
 */
export function createLogger(level: string, base: Record<string, unknown> = {}): Logger {
  return pino(
    {
      level,
      base,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: secretFields.flatMap((field) => [field, `*.${field}`]), censor: '[redacted]' },
    },
    standardOutput(),
  );
}
