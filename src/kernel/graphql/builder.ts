import SchemaBuilder, { type InputFieldMap } from '@pothos/core';
import ComplexityPlugin from '@pothos/plugin-complexity';
import DataloaderPlugin from '@pothos/plugin-dataloader';
import ErrorsPlugin from '@pothos/plugin-errors';
import PrismaPlugin from '@pothos/plugin-prisma';
import RelayPlugin from '@pothos/plugin-relay';
import ScopeAuthPlugin from '@pothos/plugin-scope-auth';
import SimpleObjectsPlugin from '@pothos/plugin-simple-objects';
import WithInputPlugin from '@pothos/plugin-with-input';
import { GraphQLError } from 'graphql';
import { BigIntResolver, DateTimeResolver, JSONResolver, NonNegativeIntResolver, URLResolver } from 'graphql-scalars';
import type PrismaTypes from '../../generated/pothos.ts';
import { getDatamodel } from '../../generated/pothos.ts';
import type { Context } from './context.ts';
import { mayRead } from './guard.ts';

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
    NonNegativeInt: { Input: number; Output: number };
    URL: { Input: URL; Output: URL | string };
  };
  AuthScopes: {
    /** The row's rule in the policy lets the actor see it. */
    row: readonly [model: string, row: object];
  };
}

const capital = (name: string): string => name.charAt(0).toUpperCase() + name.slice(1);

/** Cost that one field, and one item of a list, is taken for. */
const defaultListMultiplier = 10;

export const builder = new SchemaBuilder<SchemaTypes>({
  // Errors first: it wraps what all others throw.
  plugins: [
    ErrorsPlugin,
    ScopeAuthPlugin,
    ComplexityPlugin,
    WithInputPlugin,
    SimpleObjectsPlugin,
    RelayPlugin,
    DataloaderPlugin,
    PrismaPlugin,
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
    maxConnectionSize: 100,
    defaultConnectionSize: 20,
  },
  relay: { clientMutationId: 'omit', cursorType: 'String', nodesOnConnection: true },
  scopeAuth: {
    authorizeOnSubscribe: false,
    runScopesOnType: true,
    authScopes: (context) => ({
      row: ([model, row]) => mayRead(context, model, row),
    }),
    unauthorizedError: () => new GraphQLError('There is no such thing.', { extensions: { code: 'NOT_FOUND' } }),
  },
  // The limits are enforced before execution (see http/limits.ts); here are the weights.
  complexity: { defaultComplexity: 1, defaultListMultiplier },
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
builder.addScalarType('BigInt', BigIntResolver);
builder.addScalarType('NonNegativeInt', NonNegativeIntResolver);
builder.addScalarType('URL', URLResolver);

export type { InputFieldMap };
