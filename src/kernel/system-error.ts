import { DomainError } from './errors.ts';

/** The code of a system error, for instance ENOENT; undefined for anything else. */
export function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined;
}

/** The file system of the host that does the work, or of its engine, is full: its operator has to make room, or to give it more. */
export class DiskFull extends DomainError {
  readonly code = 'DISK_FULL';
  /** @param leastMb what has to be free, MiB; not given: it is full */
  constructor(whose: 'the host' | 'the Docker engine' = 'the host', leastMb?: number) {
    super(
      leastMb === undefined
        ? `There is no room left on the disk of ${whose}.`
        : `Less than ${leastMb} MiB are free on the disk of ${whose}.`,
    );
  }
}

/** Whether an error says so, or was caused by one that does. */
export const isDiskFull = (error: unknown): boolean =>
  codeOf(error) === 'ENOSPC' || (error instanceof Error && error.cause !== undefined && isDiskFull(error.cause));
