import type { Where } from '../auth/policy.ts';
import type { Ordering } from './declared.ts';
import { columnOf, refuse, type Model } from './models.ts';
import { asked } from './types.ts';

/** What Prisma would be asked for. */
export interface Query {
  readonly where?: Where;
  readonly orderBy?: Ordering | readonly Ordering[];
  readonly take?: number;
  readonly skip?: number;
  readonly cursor?: Where;
  readonly select?: Readonly<Record<string, Query | boolean>>;
}

/** Relations from a row of a page to what is shown of it. */
export function pathOf({ select = {} }: Query): string[] {
  if (select[asked]) return [];
  const [name, ...more] = Object.keys(select).filter((one) => one !== 'id');
  const below = name === undefined ? undefined : select[name];
  if (name === undefined || more.length > 0 || typeof below !== 'object') return refuse('a page of several things');
  return [name, ...pathOf(below)];
}

/** Columns in their order; true: descending. Only those that are never null, and in all a total order. */
export function orderingsOf(model: Model, orderBy: Query['orderBy']): [column: string, descending: boolean][] {
  const all = [orderBy ?? []].flat().flatMap((one) => Object.entries(one));
  if (all.length === 0) refuse(`a list of ${model.name} without an order`);
  return all.map(([name, direction]) => {
    const column = columnOf(model, name);
    if (!column.isRequired || (direction !== 'asc' && direction !== 'desc')) refuse(`the order of ${model.name}`);
    return [column.sql, direction === 'desc'];
  });
}

export const orderSql = (model: Model, alias: string, orderBy: Query['orderBy'], backward: boolean): string =>
  orderingsOf(model, orderBy)
    .map(([column, descending]) => `${alias}.${column}${descending === backward ? '' : ' desc'}`)
    .join(', ');
