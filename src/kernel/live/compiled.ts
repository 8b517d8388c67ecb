import type { ExecutionArgs } from 'graphql';
import type { Context } from '../graphql/context.ts';

export type Compiled = (item: unknown, context: Context) => string | null;

export function compile(_args: ExecutionArgs): Compiled | null {
  return null;
}
