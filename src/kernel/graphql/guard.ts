import DataLoader from 'dataloader';
import { decidedByRow, rowRule, rowsOf, type Where } from '../auth/policy.ts';
import type { Context } from './context.ts';

type Reader = DataLoader<string, boolean>;
const readers = new WeakMap<Context, Map<string, Reader>>();

/** True when the policy lets the actor see this row. Asks the database, once for all rows, where the row alone does not tell. */
export function mayRead(context: Context, model: string, row: object): boolean | Promise<boolean> {
  const decided = decidedByRow(rowRule(model), context.actor, row as Record<string, unknown>);
  if (decided !== undefined) return decided;
  return readerOf(context, model).load((row as { id: string }).id);
}

function readerOf(context: Context, model: string): Reader {
  let ofContext = readers.get(context);
  if (!ofContext) readers.set(context, (ofContext = new Map()));
  let reader = ofContext.get(model);
  if (!reader) {
    reader = new DataLoader<string, boolean>(async (ids) => {
      const where: Where = { AND: [{ id: { in: ids } }, rowsOf(model, context.actor)] };
      const seen = new Set(
        (await delegateOf(context, model).findMany({ where, select: { id: true } })).map(({ id }) => id),
      );
      return ids.map((id) => seen.has(id));
    });
    ofContext.set(model, reader);
  }
  return reader;
}

/** The part of a Prisma model's client that every model has alike. */
export interface Delegate {
  findMany(args: object): Promise<{ id: string }[]>;
  count(args: object): Promise<number>;
}

export function delegateOf(context: Context, model: string): Delegate {
  const key = model.charAt(0).toLowerCase() + model.slice(1);
  return (context.app.db as unknown as Record<string, Delegate>)[key] as Delegate;
}
