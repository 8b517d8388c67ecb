import type { Db } from '../db/client.ts';
import { getDatamodel } from '../../generated/pothos.ts';

/** A part of a document that is not compiled: the operation is executed in the ordinary way. */
export class NotCompiled extends Error {}

export function refuse(reason: string): never {
  throw new NotCompiled(reason);
}

export interface Column {
  /** As PostgreSQL calls it, quoted. */
  readonly sql: string;
  /** As Prisma calls its type. */
  readonly type: string;
  readonly isEnum: boolean;
  readonly isList: boolean;
  readonly isRequired: boolean;
}

export interface Relation {
  readonly model: string;
  readonly isList: boolean;
  /** Pairs of columns that are equal: here, and there. */
  readonly on: readonly (readonly [here: string, there: string])[];
}

export interface Model {
  readonly name: string;
  /** As PostgreSQL calls it, quoted. */
  readonly table: string;
  readonly columns: ReadonlyMap<string, Column>;
  readonly relations: ReadonlyMap<string, Relation>;
}

export type Models = ReadonlyMap<string, Model>;

interface Field {
  readonly name: string;
  readonly kind: string;
  readonly type: string;
  readonly isList: boolean;
  readonly isRequired: boolean;
  readonly isId: boolean;
  readonly relationName?: string;
  readonly relationFromFields?: readonly string[];
}

/** Names in the database, which Prisma's client has and its datamodel has not. */
interface Names {
  readonly models: Readonly<
    Record<string, { readonly dbName: string | null; readonly fields: readonly { name: string; dbName?: string }[] }>
  >;
}

export const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;
export const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`;

/** Tables, columns and relations of Prisma's datamodel. */
export function modelsOf(db: Db): Models {
  const names = (db as unknown as { _runtimeDataModel: Names })._runtimeDataModel.models;
  const fields = Object.fromEntries(
    Object.entries(getDatamodel().datamodel.models as unknown as Record<string, { fields: readonly Field[] }>).map(
      ([name, model]) => [name, model.fields],
    ),
  );
  const column = (model: string, name: string): string =>
    quoted(names[model]?.fields.find((one) => one.name === name)?.dbName ?? name);

  /** The columns that a relation is kept in, from the side that has them. */
  const kept = (model: string, { type, relationFromFields = [] }: Field): [here: string, there: string][] => {
    const id = fields[type]?.find(({ isId }) => isId)?.name;
    return relationFromFields.map((name) => [
      column(model, name),
      column(type, relationFromFields.length === 1 && id ? id : name),
    ]);
  };
  const relation = (model: string, field: Field): Relation => {
    const { type, isList, relationName, relationFromFields = [] } = field;
    if (relationFromFields.length > 0) return { model: type, isList, on: kept(model, field) };
    const other = fields[type]?.find(
      (one) => one.relationName === relationName && (one.relationFromFields?.length ?? 0) > 0,
    );
    return { model: type, isList, on: other ? kept(type, other).map(([there, here]) => [here, there]) : [] };
  };

  return new Map(
    Object.entries(fields).map(([name, all]) => [
      name,
      {
        name,
        table: quoted(names[name]?.dbName ?? name),
        columns: new Map(
          all
            .filter(({ kind }) => kind !== 'object')
            .map((one) => [
              one.name,
              {
                sql: column(name, one.name),
                type: one.type,
                isEnum: one.kind === 'enum',
                isList: one.isList,
                isRequired: one.isRequired,
              },
            ]),
        ),
        relations: new Map(all.filter(({ kind }) => kind === 'object').map((one) => [one.name, relation(name, one)])),
      },
    ]),
  );
}

export function modelOf(models: Models, name: string): Model {
  return models.get(name) ?? refuse(`no model ${name}`);
}

export function columnOf(model: Model, name: string): Column {
  return model.columns.get(name) ?? refuse(`${model.name} has no column ${name}`);
}

export function relationOf(model: Model, name: string): Relation {
  const relation = model.relations.get(name);
  return relation && relation.on.length > 0 ? relation : refuse(`${model.name} has no relation ${name}`);
}
