import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { usePersistedOperations } from '@graphql-yoga/plugin-persisted-operations';
import { renderGraphiQL } from '@graphql-yoga/render-graphiql';
import { getOperationAST, NoSchemaIntrospectionCustomRule, type ExecutionResult, type GraphQLSchema } from 'graphql';
import { createYoga, isAsyncIterable, type Plugin, type YogaServerInstance } from 'graphql-yoga';
import type { App } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import type { Context } from '../graphql/context.ts';
import { currentTraceparent } from '../telemetry/trace.ts';
import { credentialsOf, sessionCookieHeader, type OriginRules } from './credentials.ts';
import { maskError } from './errors.ts';
import { operationLimits, type OperationLimits } from './limits.ts';

export interface GraphQLOptions {
  readonly app: App;
  readonly schema: GraphQLSchema;
  readonly limits: OperationLimits & { readonly batch: number };
  readonly introspection: boolean;
  /** Shown to people who open the endpoint in a browser; null: not served. */
  readonly graphiql: { readonly defaultQuery?: string; readonly headers?: string } | null;
  /** Documents by id; with `only`, no others are executed. */
  readonly persisted: { readonly documents: ReadonlyMap<string, string>; readonly only: boolean } | null;
  readonly origins: OriginRules;
  readonly corsOrigins: readonly string[];
  readonly secureCookies: boolean;
  readonly clientAddress: (req: IncomingMessage) => string;
}

/** What a transport hands to Yoga for one operation. */
export interface ServerContext {
  readonly req?: IncomingMessage;
  readonly res?: ServerResponse;
  /** Set on a WebSocket, where the connection was authenticated. */
  readonly connection?: {
    readonly actor: () => Promise<Actor>;
    readonly clientAddress: string;
    readonly endStreams: (reason: string) => void;
  };
}

export type Yoga = YogaServerInstance<ServerContext, Context>;

export const requestIdHeader = 'x-request-id';

/** A client's own id is kept when it is harmless, so that its log and ours can be brought together. */
export function requestIdOf(req: IncomingMessage): string {
  const given = req.headers[requestIdHeader];
  return typeof given === 'string' && /^[\w.-]{8,64}$/.test(given) ? given : randomUUID();
}

/** GraphQL over HTTP (queries and mutations) and SSE (subscriptions), and the pipeline that the WebSocket uses too. */
export function createGraphQL(options: GraphQLOptions): Yoga {
  const { app } = options;
  // A batch is one request: its operations share the look-up of who asks.
  const actors = new WeakMap<IncomingMessage, Promise<Actor>>();
  const actorOf = (req: IncomingMessage): Promise<Actor> => {
    let actor = actors.get(req);
    if (!actor) {
      actor = Promise.resolve().then(() => app.actors.authenticate(credentialsOf(req.headers, options.origins)));
      actors.set(req, actor);
    }
    return actor;
  };

  return createYoga<ServerContext, Context>({
    schema: options.schema,
    context: async ({ req, res, connection }): Promise<Context> => {
      const requestId = (req && (res?.getHeader(requestIdHeader) as string | undefined)) || randomUUID();
      if (connection) {
        return {
          app,
          actor: await connection.actor(),
          requestId,
          clientAddress: connection.clientAddress,
          setSession: null,
          endStreams: connection.endStreams,
        };
      }
      if (!req || !res) throw new Error('An operation without a transport');
      return {
        app,
        actor: await actorOf(req),
        requestId,
        clientAddress: options.clientAddress(req),
        setSession: (session) => res.appendHeader('set-cookie', sessionCookieHeader(session, options.secureCookies)),
        endStreams: null,
      };
    },
    graphqlEndpoint: '/graphql',
    landingPage: false,
    healthCheckEndpoint: '/health/yoga-unused',
    logging: false,
    batching: { limit: options.limits.batch },
    cors:
      options.corsOrigins.length === 0
        ? false
        : {
            origin: [...options.corsOrigins],
            credentials: true,
            methods: ['GET', 'POST', 'OPTIONS'],
            allowedHeaders: [
              'Authorization',
              'Content-Type',
              'X-API-Key',
              'X-Request-Id',
              'GraphQL-Require-Preflight',
              'traceparent',
            ],
            exposedHeaders: ['X-Request-Id'],
            maxAge: 600,
          },
    graphiql: options.graphiql
      ? () => ({ ...options.graphiql, title: 'Switchyard', subscriptionsProtocol: 'WS' })
      : false,
    renderGraphiQL,
    maskedErrors: {
      maskError: (error) => maskError(error, 'unknown', app.log),
    },
    plugins: [
      operationLimits(options.limits),
      ...(options.introspection ? [] : [withoutIntrospection]),
      ...(options.persisted ? [persistedDocuments(options.persisted)] : []),
      observed(app),
    ],
  });
}

const withoutIntrospection: Plugin<Context> = {
  onValidate({ addValidationRule }) {
    addValidationRule(NoSchemaIntrospectionCustomRule);
  },
};

/** `extensions.persistedQuery.sha256Hash`, as Apollo's and urql's clients send it, or `documentId`. */
export function persistedId(params: { extensions?: unknown; documentId?: unknown }): string | null {
  const extension = (params.extensions as { persistedQuery?: { sha256Hash?: unknown } } | undefined)?.persistedQuery
    ?.sha256Hash;
  const id = extension ?? params.documentId;
  return typeof id === 'string' ? id : null;
}

function persistedDocuments(persisted: { documents: ReadonlyMap<string, string>; only: boolean }): Plugin {
  return usePersistedOperations({
    getPersistedOperation: (id) => persisted.documents.get(id) ?? null,
    allowArbitraryOperations: !persisted.only,
    extractPersistedOperationId: (params) => persistedId(params),
  });
}

/** One log line and one measurement an operation; errors masked with the request's id. */
function observed(app: App): Plugin<Context> {
  return {
    onExecute({ args }) {
      const begun = performance.now();
      const context = args.contextValue as unknown as Context;
      return {
        onExecuteDone({ result, setResult }) {
          if (isAsyncIterable(result)) return;
          setResult(told(app, args, context, result as ExecutionResult, begun));
        },
      };
    },
    onSubscribe({ args }) {
      const context = args.contextValue as unknown as Context;
      const begun = performance.now();
      return {
        onSubscribeResult({ result, setResult }) {
          if (!isAsyncIterable(result)) {
            setResult(told(app, args, context, result as ExecutionResult, begun));
            return;
          }
          told(app, args, context, {}, begun);
          return {
            onNext: ({ result: next, setResult: setNext }) => {
              const { errors } = next as ExecutionResult;
              if (errors)
                setNext({
                  ...(next as object),
                  errors: errors.map((error) => maskError(error, context.requestId, app.log)),
                });
            },
          };
        },
        onSubscribeError({ error, setError }) {
          setError(maskError(error, context.requestId, app.log));
        },
      };
    },
  };
}

type Args = Parameters<NonNullable<Plugin['onExecute']>>[0]['args'];

function told(app: App, args: Args, context: Context, result: ExecutionResult, begun: number): ExecutionResult {
  const operation = getOperationAST(args.document, args.operationName);
  const errors = result.errors?.map((error) => maskError(error, context.requestId, app.log));
  const type = operation?.operation ?? 'query';
  const seconds = (performance.now() - begun) / 1000;
  const code = errors?.[0]?.extensions['code'];
  app.metrics.graphqlOperationSeconds.observe({ type, outcome: errors ? 'error' : 'ok' }, seconds);
  app.log.info(
    {
      requestId: context.requestId,
      operation: operation?.name?.value ?? null,
      type,
      uid: context.actor.userId,
      credential: context.actor.kind,
      ...(context.actor.roles.size === 1 ? { workspace: [...context.actor.roles.keys()][0] } : {}),
      latencyMs: Math.round(seconds * 1000),
      ...(errors ? { errorCode: typeof code === 'string' ? code : 'GRAPHQL_ERROR' } : {}),
      traceparent: currentTraceparent(),
    },
    'operation',
  );
  return errors ? { ...result, errors } : result;
}
