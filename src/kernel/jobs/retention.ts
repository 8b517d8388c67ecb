import { z } from 'zod';
import type { App } from '../app.ts';
import { defineJob, type JobType } from './define.ts';

/** Rows that nobody needs after a while. */
export interface Retention {
  /** Name of the job, `<domain>.<what it does>`. */
  readonly name: string;
  /** When it is done, in UTC; each at another minute. */
  readonly cron: string;
  /** Time that one try may take, seconds; default: 300. */
  readonly timeoutS?: number;
  /** @returns how many are gone, by what they were */
  readonly remove: (app: App, signal: AbortSignal) => Promise<Readonly<Record<string, number>>>;
}

/** Declares what is removed by the clock. Whoever writes a table declares how long its rows are kept. */
export const defineRetention = ({ name, cron, timeoutS = 300, remove }: Retention): JobType<Record<string, never>> =>
  defineJob({
    name,
    payload: z.object({}),
    attempts: 3,
    retryDelayS: 60,
    timeoutS,
    cron,
    async handle(_payload, { app, signal }) {
      app.log.info({ job: name, removed: await remove(app, signal) }, 'cleaned up');
    },
  });
