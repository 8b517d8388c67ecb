import { z } from 'zod';
import { ValidationError } from '../errors.ts';

/** A place in a dense log: everything up to and including `seq` was read. */
export interface Cursor {
  /** The log: a workspace's or a run's id. */
  readonly stream: string;
  /** The history that it was made for; another one (restore, failover with loss) makes it void. */
  readonly epoch: number;
  readonly seq: bigint;
}

/** Largest value of a PostgreSQL bigint. */
const maxSeq = 2n ** 63n - 1n;

const shape = z.tuple([
  z.uuid(),
  z.number().int().nonnegative(),
  z
    .string()
    .regex(/^\d{1,19}$/)
    .transform(BigInt)
    .refine((seq) => seq <= maxSeq),
]);

export const encodeCursor = (cursor: Cursor): string =>
  Buffer.from(JSON.stringify([cursor.stream, cursor.epoch, cursor.seq.toString()])).toString('base64url');

/**
 * @throws {ValidationError} when it is no cursor, or one of another stream
 */
export function decodeCursor(text: string, stream: string): Cursor {
  const parsed = shape.safeParse(fromJson(text));
  if (!parsed.success) throw new ValidationError([{ path: 'after', message: 'is not a cursor of this API' }]);
  const [of, epoch, seq] = parsed.data;
  if (of !== stream) throw new ValidationError([{ path: 'after', message: 'is a cursor of another stream' }]);
  return { stream, epoch, seq };
}

/** The cursor that a client gave. @throws {ValidationError} when it is none, or one of another stream */
export const given = (after: string | null | undefined, stream: string): Cursor | null =>
  after == null ? null : decodeCursor(after, stream);

function fromJson(text: string): unknown {
  if (text.length > 200) return undefined;
  try {
    return JSON.parse(Buffer.from(text, 'base64url').toString('utf8'));
  } catch {
    return undefined; // not JSON: the shape refuses it
  }
}
