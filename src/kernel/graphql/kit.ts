import { rowsOf, type Where } from '../auth/policy.ts';
import {
  Conflict,
  DomainError,
  Forbidden,
  IdempotencyConflict,
  IllegalTransition,
  NotFound,
  RateLimited,
  Unauthenticated,
  ValidationError,
} from '../errors.ts';
import { isId } from '../ids.ts';
import { encodeCursor } from '../live/cursor.ts';
import type { Appended } from '../db/transact.ts';
import type { GraphQLSchema } from 'graphql';
import { builder } from './builder.ts';
import type { Context } from './context.ts';
import { globalId } from './global-id.ts';
import { modelOfNode } from './nodes.ts';

export const ErrorInterface = builder.interfaceRef<DomainError>('Error').implement({
  description: 'Something that the client can act on.',
  fields: (t) => ({
    code: t.exposeString('code', { description: 'Stable name of the error; see the error reference.' }),
    message: t.exposeString('message', { description: 'What is wrong, for a person.' }),
  }),
});

/** Publishes a domain error class as a GraphQL type of its own. */
export const errorType = builder.objectType.bind(builder);

const IssueRef = builder.simpleObject('ValidationIssue', {
  description: 'One thing that is wrong with an input.',
  fields: (t) => ({
    path: t.string({ description: "Where, dot-separated from the input's root; empty: the input as a whole." }),
    message: t.string({ description: 'What is wrong there.' }),
  }),
});

errorType(ValidationError, {
  name: 'ValidationError',
  description: 'The input is wrong. Nothing was changed.',
  interfaces: [ErrorInterface],
  fields: (t) => ({
    issues: t.field({
      type: [IssueRef],
      description: 'Everything that is wrong.',
      resolve: (error) => [...error.issues],
    }),
  }),
});
/** Services look for rows, clients for nodes. */
const givenId = ({ kind, id }: NotFound, schema: GraphQLSchema): string =>
  isId(id) && modelOfNode(schema, kind) !== null ? globalId(kind, id) : id;

errorType(NotFound, {
  name: 'NotFound',
  description: 'There is no such thing, or you may not know that there is.',
  interfaces: [ErrorInterface],
  fields: (t) => ({
    message: t.string({
      description: 'What is wrong, for a person.',
      resolve: (error, _, __, { schema }) => error.message.replace(error.id, givenId(error, schema)),
    }),
    kind: t.exposeString('kind', { description: 'Type that was looked for.' }),
    id: t.string({
      description: 'The id as it was given.',
      resolve: (error, _, __, { schema }) => givenId(error, schema),
    }),
  }),
});
errorType(Forbidden, {
  name: 'Forbidden',
  description: 'Your role in the workspace does not allow it.',
  interfaces: [ErrorInterface],
  fields: (t) => ({ verb: t.exposeString('verb', { description: 'What was refused.' }) }),
});
errorType(Unauthenticated, {
  name: 'Unauthenticated',
  description: 'Nobody is signed in, or the credential has ended.',
  interfaces: [ErrorInterface],
});
errorType(Conflict, {
  name: 'Conflict',
  description: 'The thing was changed, or exists, since you looked.',
  interfaces: [ErrorInterface],
});
errorType(IllegalTransition, {
  name: 'IllegalTransition',
  description: "The thing's state does not allow it.",
  interfaces: [ErrorInterface],
  fields: (t) => ({
    from: t.exposeString('from', { description: 'The state that it is in.' }),
    to: t.exposeString('to', { description: 'The state that was asked for.' }),
    allowed: t.stringList({ description: 'States that it can go to.', resolve: (error) => [...error.allowed] }),
  }),
});
errorType(IdempotencyConflict, {
  name: 'IdempotencyConflict',
  description: 'The idempotency key was used with another input in the last 24 hours.',
  interfaces: [ErrorInterface],
  fields: (t) => ({ key: t.exposeString('key', { description: 'The key.' }) }),
});
errorType(RateLimited, {
  name: 'RateLimited',
  description: 'Too much, too fast. Nothing was done.',
  interfaces: [ErrorInterface],
  fields: (t) => ({
    resetAt: t.expose('resetAt', { type: 'DateTime', description: 'From then on there is room again.' }),
  }),
});
type ErrorClass = abstract new (...args: never[]) => DomainError;

/** Options of a mutation that answers with a union: its success type, what any mutation may say, and these errors. */
export const failing = <T extends ErrorClass[]>(...types: T) =>
  ({
    types: [ValidationError, NotFound, Forbidden, Unauthenticated, ...types] as never[],
    directResult: true,
  }) as const;

/** Guard and look-up of a Prisma node, both from the model's rule in the policy. */
export const guarded = (model: string) => ({
  authScopes: (row: object) => ({ row: [model, row] as const }),
  findUnique: (id: string, context: Context) => ({ id: isId(id) ? id : nobody, AND: [rowsOf(model, context.actor)] }),
});

/** The nil UUID: what a malformed id is looked up as. */
const nobody = '00000000-0000-0000-0000-000000000000';

/** Guard of a Prisma type that is no node. */
export const guardedPart = (model: string) => ({
  authScopes: (row: object) => ({ row: [model, row] as const }),
});

/** `where` of a list, count or aggregate of a model: what the actor may see of it, and nothing else. */
export const visible = (context: Context, model: string, where: Where = {}): Where => ({
  AND: [rowsOf(model, context.actor), where],
});

/** Cursor right after an event of one's own write: follow on from there. */
export const cursorOf = (workspaceId: string, at: Appended | null): string | null =>
  at?.seq == null ? null : encodeCursor({ stream: workspaceId, epoch: at.epoch, seq: at.seq });

export const descriptionOfCursor =
  'Cursor of the event that this wrote: `after` of `workspaceEvents` or `runEvents`, to follow on from here. Null when nothing was written.';

/** The field of what a mutation wrote that tells where to follow on. */
export const eventCursor = {
  nullable: true,
  description: descriptionOfCursor,
  resolve: ({ workspaceId, event }: { readonly workspaceId: string; readonly event: Appended | null }) =>
    cursorOf(workspaceId, event),
} as const;

/** Argument of mutations that start something. */
export const idempotencyKey = {
  required: false,
  description:
    'A repeat with the same key within 24 hours starts nothing and gives the first answer. 1 to 200 characters.',
} as const;

/** Options of a field whose answer depends on the credential that asks, beyond what row rules say: no two share it. */
export const ofCredential = { extensions: { ofCredential: true } } as const;

/** Newest first; the id makes it total. */
export const newestFirst = [{ createdAt: 'desc' as const }, { id: 'desc' as const }];
