import { PothosValidationError } from '@pothos/core';
import { GraphQLError } from 'graphql';
import { tookTooLong } from '../db/late.ts';
import { DomainError, IssuerUnavailable, RateLimited, Unauthenticated, ValidationError } from '../errors.ts';
import type { Logger } from '../log.ts';

/** What HTTP says of a domain error that ends a whole request. */
function httpOf(error: DomainError, placed: boolean): object | undefined {
  // Of a whole request also where GraphQL over HTTP allows a 200: what lies between heeds these statuses.
  if (error instanceof Unauthenticated) return placed ? { status: 401, spec: true } : { status: 401 };
  if (error instanceof RateLimited && !placed)
    return { status: 429, headers: { 'Retry-After': String(error.retryAfterS) } };
  if (error instanceof IssuerUnavailable && !placed) return { status: 503, headers: { 'Retry-After': '10' } };
  return undefined;
}

/**
 * What a client is told of an error. What it can act on has a stable `extensions.code`; everything else is a fault of
 * the server: masked, and logged under the request's id.
 */
export function maskError(error: unknown, requestId: string, log: Logger): GraphQLError {
  const original = rootOf(error);
  if (original instanceof DomainError) {
    const at = error instanceof GraphQLError ? error : undefined;
    const http = httpOf(original, at?.path !== undefined);
    return new GraphQLError(original.message, {
      ...(at?.nodes ? { nodes: at.nodes } : {}),
      ...(at?.path ? { path: at.path } : {}),
      extensions: {
        code: original.code,
        ...(original instanceof ValidationError ? { issues: original.issues } : {}),
        ...(original instanceof RateLimited ? { resetAt: original.resetAt.toISOString() } : {}),
        ...(http ? { http } : {}),
      },
    });
  }
  const code = codeOfClientError(error, original);
  if (error instanceof GraphQLError && code) return error.extensions['code'] === code ? error : withCode(error, code);
  if (tookTooLong(original)) return late(error, original as Error, requestId, log);
  log.error({ err: original, requestId }, 'internal error');
  return new GraphQLError('Something went wrong on the server. The request id identifies it in the log.', {
    ...(error instanceof GraphQLError && error.nodes ? { nodes: error.nodes } : {}),
    ...(error instanceof GraphQLError && error.path ? { path: error.path } : {}),
    // Without a path there is no answer at all.
    extensions: { code: 'INTERNAL', requestId, ...(isPlaced(error) ? {} : { http: { status: 500 } }) },
  });
}

/** What several fields were waiting for is told of each, and logged once. */
const logged = new WeakSet<Error>();

/** Of a statement that took too long: nothing was changed, and it may be quicker another time. */
function late(error: unknown, original: Error, requestId: string, log: Logger): GraphQLError {
  if (!logged.has(original)) log.warn({ err: original, requestId }, 'the database took too long');
  logged.add(original);
  const at = error instanceof GraphQLError ? error : undefined;
  return new GraphQLError('It took too long and was given up; nothing was changed. Ask for less, or try again.', {
    ...(at?.nodes ? { nodes: at.nodes } : {}),
    ...(at?.path ? { path: at.path } : {}),
    extensions: {
      code: 'TIMEOUT',
      retryable: true,
      ...(isPlaced(error) ? {} : { http: { status: 503, headers: { 'Retry-After': '10' } } }),
    },
  });
}

/**
 * The code of an error that the client caused and can mend; null for faults of the server. The GraphQL library reports
 * both as GraphQLError, and gives neither a code.
 */
function codeOfClientError(error: unknown, original: unknown): string | null {
  if (!(error instanceof GraphQLError)) return null;
  const { code } = error.extensions;
  if (typeof code === 'string' && original instanceof GraphQLError) return code;
  if (original instanceof PothosValidationError) return 'BAD_USER_INPUT';
  // Without a path nothing was executed yet: it is about the document or its variables.
  if (!error.path && (error.nodes || !error.originalError))
    return error.message.startsWith('Variable "') ? 'BAD_USER_INPUT' : 'GRAPHQL_VALIDATION_FAILED';
  return original === error && error.message.startsWith('Argument "') ? 'BAD_USER_INPUT' : null;
}

const isPlaced = (error: unknown): boolean => error instanceof GraphQLError && error.path !== undefined;

const withCode = (error: GraphQLError, code: string): GraphQLError =>
  new GraphQLError(error.message, {
    ...(error.nodes ? { nodes: error.nodes } : { source: error.source, positions: error.positions }),
    ...(error.path ? { path: error.path } : {}),
    extensions: { ...error.extensions, code },
  });

function rootOf(error: unknown): unknown {
  let root = error;
  for (let depth = 0; depth < 5 && root instanceof GraphQLError && root.originalError; depth++)
    root = root.originalError;
  return root;
}
