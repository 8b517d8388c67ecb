import { brandWithType } from '@pothos/core';
import { queryFromInfo } from '@pothos/plugin-prisma';
import { isObjectType, type GraphQLResolveInfo, type GraphQLSchema } from 'graphql';
import { rowsOf } from '../auth/policy.ts';
import { isId } from '../ids.ts';
import type { Context } from './context.ts';
import { delegateOf } from './guard.ts';

/**
 * The rows behind global ids, in their order: one statement a type. Null for what does not exist, what the actor may
 * not see, and what is no node.
 */
export async function loadNodes(
  context: Context,
  info: GraphQLResolveInfo,
  wanted: readonly { readonly typename: string; readonly id: unknown }[],
): Promise<(object | null)[]> {
  const found = new Map<string, object>();
  const byType = Map.groupBy(wanted, ({ typename }) => typename);
  await Promise.all(
    [...byType].map(async ([typename, group]) => {
      const model = modelOfNode(info.schema, typename);
      const ids = [...new Set(group.map(({ id }) => id).filter((id) => typeof id === 'string' && isId(id)))];
      if (model === null || ids.length === 0) return;
      const query = queryFromInfo({ context, info, typeName: typename });
      const rows = await delegateOf(context, model).findMany({
        ...query,
        // A kind of run is a variant of one model: an id names the kind too.
        where: { AND: [{ id: { in: ids } }, rowsOf(model, context.actor), model === 'Run' ? { kind: typename } : {}] },
      });
      for (const row of rows) {
        brandWithType(row, typename as never);
        found.set(`${typename} ${row.id}`, row);
      }
    }),
  );
  return wanted.map(({ typename, id }) => found.get(`${typename} ${String(id)}`) ?? null);
}

/** The Prisma model of a type that implements Node; null for every other name. */
export function modelOfNode(schema: GraphQLSchema, typename: string): string | null {
  const type = schema.getType(typename);
  if (!isObjectType(type) || !type.getInterfaces().some(({ name }) => name === 'Node')) return null;
  const model = type.extensions['pothosPrismaModel'];
  return typeof model === 'string' ? model : null;
}
