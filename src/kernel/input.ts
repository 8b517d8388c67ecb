import type { z } from 'zod';
import { ValidationError } from './errors.ts';

/**
 * Parses a verb's input once, at its edge.
 * @throws {ValidationError} naming every field that is wrong
 */
export function parse<T extends z.ZodType>(schema: T, input: unknown): z.output<T> {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  throw new ValidationError(
    result.error.issues.map((issue) => ({ path: issue.path.map(String).join('.'), message: issue.message })),
  );
}
