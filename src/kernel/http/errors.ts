import { GraphQLError } from 'graphql';
import { DomainError, RateLimited, Unauthenticated, ValidationError } from '../errors.ts';
import type { Logger } from '../log.ts';

/** HTTP status of a domain error that ends a whole request. */
const statusOf = (error: DomainError): number | undefined => {
  if (error instanceof Unauthenticated) return 401;
  if (error instanceof RateLimited) return 429;
  return undefined;
};

/**
 * What a client is told of an error. What it can act on has a stable `extensions.code`; everything else is a fault of
 * the server: masked, and logged under the request's id.
 */
export function maskError(error: unknown, requestId: string, log: Logger): GraphQLError {
  const original = rootOf(error);
  if (original instanceof DomainError) {
    const at = error instanceof GraphQLError ? error : undefined;
    const status = statusOf(original);
    return new GraphQLError(original.message, {
      ...(at?.nodes ? { nodes: at.nodes } : {}),
      ...(at?.path ? { path: at.path } : {}),
      extensions: {
        code: original.code,
        ...(original instanceof ValidationError ? { issues: original.issues } : {}),
        ...(status ? { http: { status, spec: true } } : {}),
      },
    });
  }
  if (error instanceof GraphQLError && (original === error || original instanceof GraphQLError)) return error;
  log.error({ err: original, requestId }, 'internal error');
  return new GraphQLError('Something went wrong on the server. The request id identifies it in the log.', {
    ...(error instanceof GraphQLError && error.nodes ? { nodes: error.nodes } : {}),
    ...(error instanceof GraphQLError && error.path ? { path: error.path } : {}),
    extensions: { code: 'INTERNAL', requestId },
  });
}

function rootOf(error: unknown): unknown {
  let root = error;
  for (let depth = 0; depth < 5 && root instanceof GraphQLError && root.originalError; depth++)
    root = root.originalError;
  return root;
}
