import { pino, type Logger } from 'pino';

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

/**
 * JSON lines on standard output, one object each, after the conventions of pino: `level`, `time`, `msg` and fields.
 * @see https://getpino.io
 */
export function createLogger(level: string, base: Record<string, unknown> = {}): Logger {
  return pino({
    level,
    base,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    redact: { paths: secretFields.flatMap((field) => [field, `*.${field}`]), censor: '[redacted]' },
  });
}
