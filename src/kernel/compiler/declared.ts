import type { FieldNullability, InputFieldMap, SchemaTypes, TypeParam } from '@pothos/core';
import type { RowRule, Verb, Where } from '../auth/policy.ts';
import type { Context } from '../graphql/context.ts';

/** The rows of a list, as Prisma is asked for them: of the context it uses what `visible` takes, and nothing else. */
export type Rows = (
  args: never,
  context: Context,
) => { readonly where: Where; readonly orderBy?: Ordering | readonly Ordering[] };

export type Ordering = Readonly<Record<string, 'asc' | 'desc'>>;

/**
 * What a field means where its resolver hides it, so that it can be a part of a statement. It says the same as the
 * resolver, and the differential test holds the two together. Exposed columns, relations and related connections need
 * none.
 */
export type Compiled =
  /** Exactly what its `select` reaches, null where a link is missing: a column, a row, or a page of rows with `totalCount`. */
  | 'selected'
  /** A column of the row as it is. */
  | { readonly column: string }
  /** Whether the actor may use a verb in the row's workspace, and the row is so. */
  | { readonly may: Verb; readonly so: Where }
  /** The actor's role in the workspace whose id is in a column. */
  | { readonly role: string }
  /** The row of a model whose id is in a column, null unless the actor may see it. */
  | { readonly one: string; readonly id: string }
  /** The same of what is no row, such as an event or a snapshot: the id is told by what it has. */
  | { readonly one: string; readonly idOf: (source: never) => string | null }
  /** A row of a model by a rule of its own, or by the values of arguments in unique columns, for a field of Query. */
  | { readonly one: string; readonly rule: RowRule }
  | { readonly one: string; readonly by: Readonly<Record<string, string>> }
  /** A page of a model, for a field of Query. */
  | { readonly page: string; readonly rows: Rows }
  /** What has the global id, or ids, of the argument. */
  | 'node'
  | 'nodes';

/** Extension of a Prisma interface: the column that tells the type of a row. */
export const typeColumn = 'typeColumn';

declare global {
  // Pothos is extended by merging into its own namespace.
  // oxlint-disable-next-line typescript/no-namespace
  export namespace PothosSchemaTypes {
    interface FieldOptions<
      Types extends SchemaTypes = SchemaTypes,
      ParentShape = unknown,
      Type extends TypeParam<Types> = TypeParam<Types>,
      Nullable extends FieldNullability<Type> = FieldNullability<Type>,
      Args extends InputFieldMap = InputFieldMap,
      ResolveShape = unknown,
      ResolveReturnShape = unknown,
    > {
      /** What it means, for the document compiler. */
      compiled?: Compiled;
    }
  }
}
