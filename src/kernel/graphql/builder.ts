import SchemaBuilder, { type InputFieldMap } from '@pothos/core';
import ComplexityPlugin from '@pothos/plugin-complexity';
import DataloaderPlugin from '@pothos/plugin-dataloader';
import ErrorsPlugin from '@pothos/plugin-errors';
import PrismaPlugin from '@pothos/plugin-prisma';
import RelayPlugin from '@pothos/plugin-relay';
import ScopeAuthPlugin from '@pothos/plugin-scope-auth';
import SimpleObjectsPlugin from '@pothos/plugin-simple-objects';
import WithInputPlugin from '@pothos/plugin-with-input';
import {
  getNamedType,
  getNullableType,
  GraphQLError,
  isListType,
  isObjectType,
  type GraphQLNamedType,
  type GraphQLOutputType,
} from 'graphql';
import { DateTimeResolver, JSONResolver, NonNegativeIntResolver, URLResolver } from 'graphql-scalars';
import '../compiler/declared.ts';
import type PrismaTypes from '../../generated/pothos.ts';
import { getDatamodel } from '../../generated/pothos.ts';
import { ValidationError } from '../errors.ts';
import { isId } from '../ids.ts';
import { access } from './access.ts';
import { audited } from './audited.ts';
import { BigIntScalar } from './big-int.ts';
import type { Context } from './context.ts';
import { describe } from './describe.ts';
import { decodeNodeId } from './global-id.ts';
import { mayRead } from './guard.ts';
import { held } from './held.ts';
import { lists } from './lists.ts';
import { loadNodes } from './nodes.ts';

export interface SchemaTypes {
  Context: Context;
  PrismaTypes: PrismaTypes;
  DefaultFieldNullability: false;
  DefaultInputFieldRequiredness: true;
  Scalars: {
    ID: { Input: string; Output: string };
    DateTime: { Input: Date; Output: Date };
    JSON: { Input: unknown; Output: unknown };
    BigInt: { Input: bigint; Output: bigint };
    Secret: { Input: unknown; Output: never };
    NonNegativeInt: { Input: number; Output: number };
    URL: { Input: URL; Output: URL | string };
  };
  AuthScopes: {
    /** The row's rule in the policy lets the actor see it. */
    row: readonly [model: string, row: object];
  };
}

const capital = (name: string): string => name.charAt(0).toUpperCase() + name.slice(1);

/** Items that a list of unknown length is taken for. */
const defaultListMultiplier = 10;
/** Items of a connection's page: at most, and when none are asked for. */
const maxPageSize = 100;
const defaultPageSize = 20;
/** Ids that `nodes` takes at once. */
export const maxNodeIds = 100;

/**
 * What lies in a page costs as often as the page has items; `edges` and `nodes` do not count them again. The cost is
 * reckoned before anything is executed, so this is also where a page that cannot be is refused.
 */
function pageCost(args: Record<string, unknown>): { field: number; multiplier: number } {
  for (const name of ['first', 'last']) {
    if (Number(args[name] ?? 0) < 0) throw badPage(name, 'must not be negative');
  }
  for (const name of ['after', 'before']) {
    const cursor = args[name];
    if (typeof cursor === 'string' && !isPageCursor(cursor)) throw badPage(name, 'is not a cursor of this list');
  }
  return sizeCost(args);
}

/** The same for a list with cursors of another kind. */
export function sizeCost(args: object): { field: number; multiplier: number } {
  const { first, last } = args as { first?: unknown; last?: unknown };
  return { field: 1, multiplier: Math.min(Number(first ?? last ?? defaultPageSize), maxPageSize) };
}

const badPage = (name: string, problem: string) =>
  new GraphQLError(`${name}: ${problem}`, { extensions: { code: 'BAD_USER_INPUT' } });

/** A cursor as the Prisma plugin writes it, of a row whose id is a UUID. */
export const isPageCursor = (cursor: string): boolean => {
  const [, id] = /^GPC:S:(.*)$/.exec(cursor.length > 200 ? '' : Buffer.from(cursor, 'base64').toString()) ?? [];
  return id !== undefined && isId(id);
};

/** A page of a list. The name alone does not tell: a connection to a provider is none. */
export const isConnection = (type: GraphQLNamedType): boolean => isObjectType(type) && 'pageInfo' in type.getFields();

const isList = (type: GraphQLOutputType): boolean => isListType(getNullableType(type));
const perPage = { field: 1, multiplier: 1 } as const;

export const builder = new SchemaBuilder<SchemaTypes>({
  // Errors before the others: it wraps what all of them throw.
  plugins: [
    // What it gives is for the executor alone.
    lists,
    ErrorsPlugin,
    audited,
    access,
    ScopeAuthPlugin,
    ComplexityPlugin,
    WithInputPlugin,
    SimpleObjectsPlugin,
    RelayPlugin,
    DataloaderPlugin,
    held,
    PrismaPlugin,
    // Last, so that it sees what the others added.
    describe,
  ],
  defaultFieldNullability: false,
  defaultInputFieldRequiredness: true,
  errors: {
    defaultTypes: [],
    defaultResultOptions: { name: ({ fieldName }) => `${capital(fieldName)}Success` },
    defaultUnionOptions: { name: ({ fieldName }) => `${capital(fieldName)}Result` },
    unsafelyHandleInputErrors: true,
  },
  withInput: {
    typeOptions: { name: ({ fieldName }) => `${capital(fieldName)}Input` },
    argOptions: { required: true },
  },
  prisma: {
    client: ({ app }) => app.db,
    dmmf: getDatamodel(),
    exposeDescriptions: true,
    filterConnectionTotalCount: true,
    onUnusedQuery: null,
    maxConnectionSize: maxPageSize,
    defaultConnectionSize: defaultPageSize,
  },
  relay: {
    clientMutationId: 'omit',
    cursorType: 'String',
    decodeGlobalID: decodeNodeId,
    nodesOnConnection: { description: 'The items alone, without cursors.', complexity: perPage },
    edgesFieldOptions: { description: 'The items with their cursors.', complexity: perPage },
    nodeFieldOptions: { description: 'The item.' },
    cursorFieldOptions: { description: '`after` of the next page, or `before` of the previous one.' },
    pageInfoFieldOptions: { description: 'Whether there is more, and where to go on.' },
    pageInfoTypeOptions: { description: 'Where a page lies in its list.' },
    hasNextPageFieldOptions: { description: 'True when there are more after this page.' },
    hasPreviousPageFieldOptions: { description: 'True when there are more before this page.' },
    startCursorFieldOptions: { description: 'Cursor of the first item; null on an empty page.' },
    endCursorFieldOptions: { description: 'Cursor of the last item; null on an empty page.' },
    firstArgOptions: { description: `How many from the start, at most ${maxPageSize}; default ${defaultPageSize}.` },
    lastArgOptions: { description: `How many from the end, at most ${maxPageSize}.` },
    afterArgOptions: { description: 'Only items after this cursor.' },
    beforeArgOptions: { description: 'Only items before this cursor.' },
    nodeTypeOptions: { description: 'Something with a global id, which `node` finds again.' },
    idFieldOptions: { description: 'Global id.' },
    nodeQueryOptions: {
      access: 'member',
      compiled: 'node',
      description: 'The thing with this global id; null when there is none that you reach.',
      args: { id: { description: 'Global id.' } },
      resolve: async (_, { id }, context, info) => (await loadNodes(context, info, [id]))[0],
    },
    nodesQueryOptions: {
      access: 'member',
      compiled: 'nodes',
      description:
        'The things with these global ids, in their order; null for each that does not exist or that you do not reach.',
      args: { ids: { description: `Global ids, at most ${maxNodeIds}.` } },
      complexity: ({ ids }) => ({ field: 1, multiplier: ids.length }),
      resolve: (_, { ids }, context, info) => {
        if (ids.length > maxNodeIds)
          throw new ValidationError([{ path: 'ids', message: `must be at most ${maxNodeIds}` }]);
        return loadNodes(context, info, ids);
      },
    },
  },
  scopeAuth: {
    authorizeOnSubscribe: false,
    runScopesOnType: true,
    authScopes: (context) => ({
      row: ([model, row]) => mayRead(context, model, row),
    }),
    unauthorizedError: () => new GraphQLError('There is no such thing.', { extensions: { code: 'NOT_FOUND' } }),
  },
  // The limits are enforced before execution (see http/limits.ts); here are the weights.
  complexity: {
    defaultComplexity: 1,
    defaultListMultiplier,
    fieldComplexity: (args, _, field) => {
      if (isConnection(getNamedType(field.type))) return pageCost(args);
      return isList(field.type) ? { field: 1, multiplier: defaultListMultiplier } : 1;
    },
  },
});

builder.queryType({ description: 'Everything that can be read.' });
builder.mutationType({
  description: 'Everything that can be done. Each answers with its success type or a typed error.',
});
builder.subscriptionType({
  description:
    'Live streams. Each can be resumed after a cursor and never skips: what cannot be told is told as a StreamGap.',
});
builder.addScalarType('DateTime', DateTimeResolver);
builder.addScalarType('JSON', JSONResolver);
builder.addScalarType('BigInt', BigIntScalar);
builder.addScalarType('NonNegativeInt', NonNegativeIntResolver);
builder.addScalarType('URL', URLResolver);

export type { InputFieldMap };
