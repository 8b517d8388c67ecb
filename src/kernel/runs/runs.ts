import type { Run } from '#prisma';
import { service } from '../app.ts';
import type { Transaction } from '../db/transact.ts';
import { asking } from './asking.ts';
import { children } from './children.ts';
import { ending } from './ending.ts';
import { holding } from './holding.ts';
import { keeping } from './keeping.ts';
import { moving } from './moving.ts';
import { fence, lockRow, type Hold } from './row.ts';
import { stepping } from './steps.ts';
import { stopping } from './stopping.ts';

export type { NewRun, Started } from './asking.ts';
export { notBegun, openRun, type Hold } from './row.ts';

/** The only writer of run, run_step, run_child, run_lock and idempotency_key. */
export const Runs = service('runs', (app) => {
  const ends = ending(app);
  return {
    ...asking(app),
    ...holding(app),
    ...moving(app, ends),
    ...stepping(app),
    ...ends,
    ...stopping(app, ends),
    ...children(app),
    ...keeping(app, ends),

    /** The row of a run, locked until the transaction ends; null: there is none. */
    lock: (tx: Transaction, id: string): Promise<Run | null> => lockRow(tx, id),

    /** The row of a run that this worker holds, locked. @throws {Fenced} */
    fence: (tx: Transaction, hold: Hold): Promise<Run> => fence(tx, hold),
  };
});
