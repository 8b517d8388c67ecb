import type { z } from 'zod';
import type { App } from '../app.ts';

/** What a job's handler is given. */
export interface JobContext {
  readonly app: App;
  /** Aborts when the job takes too long or the worker stops. */
  readonly signal: AbortSignal;
  /** Tries so far, this one included. */
  readonly attempt: number;
}

/** Background work that is not a run: short, safe to run twice, nobody watches it. */
export interface JobType<P extends object = object> {
  /** `<domain>.<what it does>`. */
  readonly name: string;
  readonly payload: z.ZodType<P>;
  /** Tries in all before it becomes a dead letter. */
  readonly attempts: number;
  /** Wait before the second try, seconds; doubles with each further one. */
  readonly retryDelayS: number;
  /** Time that one try may take, seconds. */
  readonly timeoutS: number;
  /** Runs by the clock, in UTC, with an empty payload. */
  readonly cron?: string;
  /** The workspace whose administrators see its dead letters. */
  readonly workspaceOf?: (payload: P) => string;
  readonly handle: (payload: P, context: JobContext) => Promise<void>;
}

const types = new Map<string, JobType<never>>();

export function defineJob<P extends object>(job: JobType<P>): JobType<P> {
  if (types.has(job.name)) throw new Error(`Two jobs named ${job.name}`);
  types.set(job.name, job as unknown as JobType<never>);
  return job;
}

export const jobTypes = (): ReadonlyMap<string, JobType<never>> => types;
