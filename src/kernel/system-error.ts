import { DomainError } from './errors.ts';

/** The code of a system error, for instance ENOENT; undefined for anything else. */
export function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined;
}

/** The file system of the host that does the work, or of its engine, is full: its operator has to make room, or to give it more. */
export class DiskFull extends DomainError {
  readonly code = 'DISK_FULL';
  constructor(whose: 'the host' | 'the Docker engine' = 'the host') {
    super(`There is no room left on the disk of ${whose}.`);
  }
}

/** Whether an error says so, or was caused by one that does. */
export const isDiskFull = (error: unknown): boolean =>
  codeOf(error) === 'ENOSPC' || (error instanceof Error && error.cause !== undefined && isDiskFull(error.cause));
