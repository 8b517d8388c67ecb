import { codeOf } from './transact.ts';

/**
 * An error of the way to the database rather than of what was asked of it: what was under way may have been done.
 * @see https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
export const isAway = (error: unknown): boolean =>
  /^(?:08\w{3}|57P0[1-5]|P10\d\d|P2024|ECONN\w+|EPIPE|ETIMEDOUT)$/.test(codeOf(error)) ||
  (error instanceof Error && /^Connection terminated|Client has encountered a connection error/.test(error.message));
