import SchemaBuilder, {
  BasePlugin,
  type FieldNullability,
  type InputFieldMap,
  type PothosOutputFieldConfig,
  PothosSchemaError,
  type SchemaTypes,
  type TypeParam,
} from '@pothos/core';
import {
  getOperationAST,
  Kind,
  type DocumentNode,
  type GraphQLField,
  type GraphQLFieldResolver,
  type GraphQLObjectType,
  type GraphQLSchema,
  type SelectionSetNode,
} from 'graphql';
import { isPerson, type Actor } from '../auth/actor.ts';
import type { Verb } from '../auth/policy.ts';
import { Forbidden, Unauthenticated } from '../errors.ts';
import type { Context } from './context.ts';

/**
 * Who may ask for a root field at all: `public` everybody, `member` every credential, `user` a person and no program,
 * or what a verb of a policy says. What depends on the thing itself is decided by the service's `authorize`, and by the
 * row's rule.
 */
export type Access = 'public' | 'member' | 'user' | Verb;

declare global {
  // Pothos is extended by merging into its own namespace.
  // oxlint-disable-next-line typescript/no-namespace
  export namespace PothosSchemaTypes {
    interface Plugins<Types extends SchemaTypes> {
      access: AccessPlugin<Types>;
    }
    interface FieldOptions<
      Types extends SchemaTypes = SchemaTypes,
      ParentShape = unknown,
      Type extends TypeParam<Types> = TypeParam<Types>,
      Nullable extends FieldNullability<Type> = FieldNullability<Type>,
      Args extends InputFieldMap = InputFieldMap,
      ResolveShape = unknown,
      ResolveReturnShape = unknown,
    > {
      /** Who may ask for it. Fields of Query, Mutation and Subscription must say it; others inherit it. */
      access?: Access;
    }
  }
}

/** The name of the plugin. */
export const access = 'access' as const;

const isRoot = ({ kind }: { readonly kind: string }): boolean =>
  kind === 'Query' || kind === 'Mutation' || kind === 'Subscription';

/** Keeps each root field's access with it, refuses to build a schema where one has none, and checks it. */
class AccessPlugin<Types extends SchemaTypes> extends BasePlugin<Types> {
  override onOutputFieldConfig(field: PothosOutputFieldConfig<Types>): PothosOutputFieldConfig<Types> {
    const declared = field.pothosOptions.access;
    if (!isRoot(field)) {
      if (declared) throw new PothosSchemaError(`${field.parentType}.${field.name}: only root fields have an access`);
      return field;
    }
    return { ...field, extensions: { ...field.extensions, access: declared } };
  }

  override afterBuild(schema: GraphQLSchema): GraphQLSchema {
    const missing = rootFields(schema)
      .filter(({ field }) => !field.extensions['access'])
      .map(({ type, field }) => `${type.name}.${field.name}`);
    if (missing.length > 0) throw new PothosSchemaError(`Say who may ask for it (access): ${missing.join(', ')}`);
    return schema;
  }

  override wrapResolve(
    resolver: GraphQLFieldResolver<unknown, Types['Context'], object>,
    field: PothosOutputFieldConfig<Types>,
  ): GraphQLFieldResolver<unknown, Types['Context'], object> {
    return field.kind === 'Query' || field.kind === 'Mutation' ? checked(resolver, field) : resolver;
  }

  override wrapSubscribe(
    subscriber: GraphQLFieldResolver<unknown, Types['Context'], object> | undefined,
    field: PothosOutputFieldConfig<Types>,
  ): GraphQLFieldResolver<unknown, Types['Context'], object> | undefined {
    return subscriber && field.kind === 'Subscription' ? checked(subscriber, field) : subscriber;
  }
}

function checked<Types extends SchemaTypes>(
  resolver: GraphQLFieldResolver<unknown, Types['Context'], object>,
  field: PothosOutputFieldConfig<Types>,
): GraphQLFieldResolver<unknown, Types['Context'], object> {
  const { access: declared } = field.pothosOptions;
  if (!declared) return resolver; // the build fails anyway
  return async (parent, args, given, info) => {
    const context = given as unknown as Context;
    if (field.kind === 'Mutation') await lookAgain(context);
    admit(context.actor, declared, field);
    return resolver(parent, args, given, info);
  };
}

const begun = new WeakSet<Context>();

/**
 * Mutations of one operation follow each other, and one may take its time: each further one has the rights of its own
 * moment, not of the operation's.
 * @throws {Unauthenticated} when the credential ended meanwhile
 */
async function lookAgain(context: Context): Promise<void> {
  if (!begun.has(context)) {
    begun.add(context);
    return;
  }
  const now = await context.app.actors.refresh(context.actor);
  if (!now) throw new Unauthenticated('The credential has ended. Sign in again.');
  context.actor = now;
}

/**
 * What can be known of an actor's right without looking at anything.
 * @throws {Unauthenticated} when nobody is signed in
 * @throws {Forbidden} for a program where a person is asked for, and for a key that is not for this verb
 */
export function admit(actor: Actor, declared: Access, { kind, name }: { kind: string; name: string }): void {
  const least = typeof declared === 'string' ? declared : declared.least;
  if (least === 'public') return;
  if (actor.kind === 'ANONYMOUS') throw new Unauthenticated();
  const verb = typeof declared === 'string' ? name : declared.name;
  if (least === 'user' && !isPerson(actor)) throw new Forbidden(verb);
  // Scopes are of what a key may do; it reads what its role may.
  if (typeof declared === 'string' || least === 'user' || kind !== 'Mutation') return;
  if (actor.scopes?.has(verb) === false) throw new Forbidden(verb);
}

/** Whether somebody who is not signed in may ask for it. */
export const isPublic = (declared: Access): boolean =>
  declared === 'public' || (typeof declared === 'object' && declared.least === 'public');

export const accessOf = (field: GraphQLField<unknown, unknown>): Access => field.extensions['access'] as Access;

interface RootField {
  readonly type: GraphQLObjectType;
  readonly field: GraphQLField<unknown, unknown>;
}

/** Every root field of a schema, in its order. */
export const rootFields = (schema: GraphQLSchema): RootField[] =>
  [schema.getQueryType(), schema.getMutationType(), schema.getSubscriptionType()].flatMap((type) =>
    type ? Object.values(type.getFields()).map((field) => ({ type, field })) : [],
  );

/**
 * The root fields that an operation names, wherever in its fragments and whatever `@skip` and `@include` say. Those of
 * introspection are not among them.
 */
export function rootFieldsOf(
  schema: GraphQLSchema,
  document: DocumentNode,
  operationName?: string | null,
): readonly GraphQLField<unknown, unknown>[] {
  let ofSchema = rootsFound.get(schema);
  if (!ofSchema) rootsFound.set(schema, (ofSchema = new WeakMap()));
  let ofDocument = ofSchema.get(document);
  if (!ofDocument) ofSchema.set(document, (ofDocument = new Map()));
  const key = operationName ?? null;
  let found = ofDocument.get(key);
  if (!found) {
    found = findRootFields(schema, document, operationName);
    // A name that there is not has none, and of those there is no end.
    if (found.length > 0) ofDocument.set(key, found);
  }
  return found;
}

type Found = readonly GraphQLField<unknown, unknown>[];
const rootsFound = new WeakMap<GraphQLSchema, WeakMap<DocumentNode, Map<string | null, Found>>>();

function findRootFields(schema: GraphQLSchema, document: DocumentNode, operationName?: string | null): Found {
  const operation = getOperationAST(document, operationName);
  const fields = operation && schema.getRootType(operation.operation)?.getFields();
  if (!fields) return [];
  const found = rootNamesOf(document, operationName).flatMap((name) => fields[name] ?? []);
  return [...new Set(found)];
}

/** Names of the fields that an operation asks for at its root, wherever in its fragments; a fragment counts once. */
export function rootNamesOf(document: DocumentNode, operationName?: string | null): string[] {
  const names: string[] = [];
  const seen = new Set<string>();
  const look = ({ selections }: SelectionSetNode): void => {
    for (const selection of selections) {
      if (selection.kind === Kind.FIELD) names.push(selection.name.value);
      else if (selection.kind === Kind.INLINE_FRAGMENT) look(selection.selectionSet);
      else if (!seen.has(selection.name.value)) {
        seen.add(selection.name.value);
        const fragment = document.definitions.find(
          (one) => one.kind === Kind.FRAGMENT_DEFINITION && one.name.value === selection.name.value,
        );
        if (fragment?.kind === Kind.FRAGMENT_DEFINITION) look(fragment.selectionSet);
      }
    }
  };
  const operation = getOperationAST(document, operationName);
  if (operation) look(operation.selectionSet);
  return names;
}

SchemaBuilder.registerPlugin(access, AccessPlugin);
