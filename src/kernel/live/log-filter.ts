import { z } from 'zod';
import { parse } from '../input.ts';
import { isAtLeastLevel, logLevels } from '../runs/log-level.ts';
import type { LoggedLine } from './hub.ts';

const LogFilterInput = z.object({
  text: z.string().min(1, 'must not be empty').max(200).nullish(),
  streams: z
    .array(z.enum(['STDOUT', 'STDERR', 'SYSTEM']))
    .min(1, 'must name one')
    .nullish(),
  level: z.enum(logLevels).nullish(),
  step: z.string().max(60).nullish(),
});

/** Which lines of a run's output are wanted: those for which all that is given holds. */
export type LogFilter = z.output<typeof LogFilterInput>;

/** @throws {ValidationError} */
export const parseLogFilter = (filter: unknown): LogFilter | null =>
  filter == null ? null : parse(LogFilterInput, filter);

/** The same as `searchLines` does in the database. */
export function matchesLine(filter: LogFilter | null): (line: LoggedLine) => boolean {
  if (!filter) return () => true;
  const { streams, level, step } = filter;
  const text = filter.text?.toLowerCase();
  return (line) =>
    (text === undefined || line.text.toLowerCase().includes(text)) &&
    (!streams || streams.includes(line.stream)) &&
    (level == null || isAtLeastLevel(line.level, level)) &&
    (step == null || line.step === step);
}
