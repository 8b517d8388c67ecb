import { isObjectType, type GraphQLField, type GraphQLObjectType, type GraphQLSchema } from 'graphql';
import { anyActor } from '../auth/policy.ts';
import type { Context } from '../graphql/context.ts';
import type { Compiled } from './declared.ts';
import type { Text } from './json.ts';
import { refuse } from './models.ts';

export interface Options {
  readonly compiled?: Compiled;
  readonly authScopes?: unknown;
  readonly errors?: unknown;
  readonly id?: { readonly resolve: (row: object, context: object) => unknown };
}

/** A context that tells nothing, so that what is made with it holds for everybody. */
export const nobody = new Proxy({} as Context, {
  get: (_, name) => (name === 'actor' ? anyActor : refuse(`the context's ${String(name)}`)),
});

/** In what a field selects: what is asked of its type stands here. */
export const asked = '#';

export const fieldOf = (type: GraphQLObjectType, name: string): GraphQLField<unknown, unknown> =>
  type.getFields()[name] ?? refuse(`${type.name}.${name}`);

export const optionsOf = (of: { readonly extensions: Readonly<Record<string, unknown>> }): Options =>
  of.extensions['pothosOptions'] ?? {};

export const objectType = (schema: GraphQLSchema, name: string): GraphQLObjectType => {
  const type = schema.getType(name);
  return isObjectType(type) ? type : refuse(`${name} is no object`);
};

export const typenameText = (name: string): Text => [`"${name}"`];

export const isNode = (type: GraphQLObjectType): boolean => type.getInterfaces().some(({ name }) => name === 'Node');

/** Whether the global id of a type is made of the row's id: tried with one. */
export function hasRowId(type: GraphQLObjectType): boolean {
  return optionsOf(type).id?.resolve({ id: asked }, nobody) === asked;
}

/** The model by whose rule a type is guarded, as its `authScopes` tell; null: it is not. */
export function guardOf(type: GraphQLObjectType): string | null {
  for (const one of type.getInterfaces()) if (optionsOf(one).authScopes !== undefined) refuse(`${one.name} is guarded`);
  const { authScopes } = optionsOf(type);
  if (authScopes === undefined) return null;
  if (typeof authScopes !== 'function') return refuse(`${type.name} is guarded otherwise`);
  const row = new Proxy({}, { get: (_, name) => refuse(`a guard that looks at ${String(name)}`) });
  const scopes = authScopes(row, nobody) as { row?: readonly unknown[] };
  const [model, same] = scopes.row ?? [];
  return Object.keys(scopes).length === 1 && typeof model === 'string' && same === row
    ? model
    : refuse(`${type.name} is guarded otherwise`);
}
