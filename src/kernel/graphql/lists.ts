import SchemaBuilder, {
  BasePlugin,
  type PothosOutputFieldConfig,
  type PothosOutputFieldType,
  type SchemaTypes,
} from '@pothos/core';
import type { GraphQLFieldResolver } from 'graphql';
import { andThen } from '../and-then.ts';

declare global {
  // Pothos is extended by merging into its own namespace.
  // oxlint-disable-next-line typescript/no-namespace
  export namespace PothosSchemaTypes {
    interface Plugins<Types extends SchemaTypes> {
      lists: ListsPlugin<Types>;
    }
  }
}

/** The name of the plugin. */
export const lists = 'lists' as const;

type Resolver<Types extends SchemaTypes> = GraphQLFieldResolver<unknown, Types['Context'], object>;

/**
 * Where an item of a list fails at once and may not be null, the executors (graphql-js and that of graphql-tools alike)
 * give up the list, and with it the promises of the items before: when one of those is rejected later, nobody waits for
 * it, which ends the process. So the items are given as promises, whose failures come when all of them are waited for.
 *
 * What else can be rejected is waited for there: fields of an object, and mutations, one after the other.
 */
class ListsPlugin<Types extends SchemaTypes> extends BasePlugin<Types> {
  override wrapResolve(resolver: Resolver<Types>, { type }: PothosOutputFieldConfig<Types>): Resolver<Types> {
    if (type.kind !== 'List' || !canFailTwice(type.type)) return resolver;
    return (parent, args, context, info) => andThen(resolver(parent, args, context, info), apart);
  }
}

/** Whether an item takes the list with it, and has fields that may come later. */
const canFailTwice = <Types extends SchemaTypes>(item: PothosOutputFieldType<Types>): boolean =>
  !item.nullable && item.kind !== 'Scalar' && item.kind !== 'Enum';

const apart = (items: unknown): unknown =>
  Array.isArray(items) && items.length > 1 ? items.map((item: unknown) => Promise.resolve(item)) : items;

SchemaBuilder.registerPlugin(lists, ListsPlugin);
