import type { RunStatus } from '#prisma';

/** Statuses that never change again. */
export const terminal = ['SUCCEEDED', 'FAILED', 'CANCELED', 'TIMED_OUT'] as const satisfies readonly RunStatus[];

export const isTerminal = (status: RunStatus): boolean => (terminal as readonly RunStatus[]).includes(status);

/** The only moves there are. A lost worker takes RUNNING back to QUEUED. */
export const statusTransitions: Readonly<Record<RunStatus, readonly RunStatus[]>> = {
  QUEUED: ['RUNNING', 'CANCELED', 'FAILED', 'TIMED_OUT'],
  RUNNING: ['QUEUED', 'WAITING', 'CANCELING', 'SUCCEEDED', 'FAILED', 'TIMED_OUT'],
  WAITING: ['QUEUED', 'CANCELING', 'SUCCEEDED', 'FAILED', 'TIMED_OUT'],
  CANCELING: ['CANCELED', 'SUCCEEDED', 'FAILED', 'TIMED_OUT'],
  SUCCEEDED: [],
  FAILED: [],
  CANCELED: [],
  TIMED_OUT: [],
};

export const statusMayBecome = (from: RunStatus, to: RunStatus): boolean => statusTransitions[from].includes(to);

/** JSON as PostgreSQL and JavaScript agree on it. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json };
