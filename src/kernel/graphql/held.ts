import SchemaBuilder, { BasePlugin, type PothosOutputFieldConfig, type SchemaTypes } from '@pothos/core';
import type { GraphQLFieldResolver } from 'graphql';

declare global {
  // Pothos is extended by merging into its own namespace.
  // oxlint-disable-next-line typescript/no-namespace
  export namespace PothosSchemaTypes {
    interface Plugins<Types extends SchemaTypes> {
      held: HeldPlugin<Types>;
    }
  }
}

/** The name of the plugin. */
export const held = 'held' as const;

type Resolver<Types extends SchemaTypes> = GraphQLFieldResolver<unknown, Types['Context'], object>;

/**
 * A verb may answer with the rows that it wrote. What a field selects of such a row is not read again: the Prisma plugin,
 * which knows only what it loaded itself, is passed by. It must stand right before that in the list of plugins.
 */
class HeldPlugin<Types extends SchemaTypes> extends BasePlugin<Types> {
  override wrapResolve(resolver: Resolver<Types>, field: PothosOutputFieldConfig<Types>): Resolver<Types> {
    const { select } = field.pothosOptions as { readonly select?: unknown };
    const { resolve } = field;
    // What such a field answers has no selection of its own.
    const isLeaf = field.type.kind === 'Scalar' || field.type.kind === 'Enum';
    if (!resolve || !isLeaf || !isSelection(select)) return resolver;
    return (parent, args, context, info) =>
      rows.has(parent as object) && holds(parent, select)
        ? resolve(parent, args, context, info)
        : resolver(parent, args, context, info);
  }
}

/** Columns, and rows of relations to one, as Prisma is asked for them. */
interface Selection {
  readonly [name: string]: true | { readonly select: Selection };
}

const isSelection = (select: unknown): select is Selection =>
  typeof select === 'object' &&
  select !== null &&
  Object.values(select).every(
    (one: unknown) =>
      one === true ||
      (typeof one === 'object' &&
        one !== null &&
        Object.keys(one).join() === 'select' &&
        isSelection(Object.values(one)[0])),
  );

const holds = (row: unknown, select: Selection): boolean =>
  row === null ||
  Object.entries(select).every(([name, one]) => {
    const value = (row as Record<string, unknown>)[name];
    return one === true ? value !== undefined : typeof value === 'object' && holds(value, one.select);
  });

const rows = new WeakSet<object>();

/** Marks a row that was written: what it has of its columns and relations is as the database has it. */
export function asWritten<R extends object>(row: R): R {
  rows.add(row);
  return row;
}

SchemaBuilder.registerPlugin(held, HeldPlugin);
