import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { renderGraphiQL } from '@graphql-yoga/render-graphiql';
import {
  getOperationAST,
  type ExecutionArgs,
  GraphQLError,
  NoSchemaIntrospectionCustomRule,
  type ExecutionResult,
  type GraphQLSchema,
} from 'graphql';
import { createYoga, isAsyncIterable, type Plugin, type YogaServerInstance } from 'graphql-yoga';
import { andThen } from '../and-then.ts';
import type { App } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import { compiled } from '../compiler/plugin.ts';
import type { Context } from '../graphql/context.ts';
import type { Outlet } from '../live/outlet.ts';
import { subscribeFresh } from '../live/subscribe.ts';
import type { Rate } from '../rates/budgets.ts';
import { currentRequestId, currentTraceparent } from '../telemetry/trace.ts';
import { credentialsOf, originOf, sessionCookieHeader, type OriginRules } from './credentials.ts';
import { admission, type Admission } from './admission.ts';
import type { Connections } from './connections.ts';
import { Documents } from './documents.ts';
import type { Door } from './door.ts';
import { maskError } from './errors.ts';
import { goneOf } from './gone.ts';
import { documentLimits, type OperationLimits } from './limits.ts';
import { namedThen } from './names.ts';

export interface GraphQLOptions {
  readonly app: App;
  readonly schema: GraphQLSchema;
  readonly limits: OperationLimits & { readonly batch: number };
  readonly introspection: boolean;
  /** Whether queries that can be are executed as one statement; default: they are. */
  readonly compile?: boolean;
  /** Shown to people who open the endpoint in a browser; null: not served. */
  readonly graphiql: { readonly defaultQuery?: string; readonly headers?: string } | null;
  readonly persisted: Persisted | null;
  readonly origins: OriginRules;
  readonly corsOrigins: readonly string[];
  readonly secureCookies: boolean;
  readonly clientAddress: (req: IncomingMessage) => string;
  /** Where credentials are looked at. */
  readonly door: Door;
  /** Open streams by client. */
  readonly connections: Connections;
}

/** What a transport hands to Yoga for one operation. */
export interface ServerContext {
  readonly req?: IncomingMessage;
  readonly res?: ServerResponse;
  /** Set on a WebSocket, where the connection was authenticated. */
  readonly connection?: {
    readonly requestId: string;
    readonly actor: () => Promise<Actor>;
    readonly clientAddress: string;
    readonly endStreams: (reason: string) => void;
    /** The way of a stream to its subscriber, where executions are shared. */
    readonly outlet?: Outlet | null;
  };
  /** Id of the HTTP request, where it is not among the headers of the answer yet. */
  readonly requestId?: string;
  /** Whether the transport itself tells what is left of the budget, by the context's `rate`. */
  readonly told?: true;
  /** What reading the document took from the budget already; absent for one that was known. */
  reading?: Rate;
}

export type Yoga = YogaServerInstance<ServerContext, Context>;

export interface GraphQLServer {
  readonly yoga: Yoga;
  /** To be asked before a document is parsed; Yoga does so itself for HTTP. */
  readonly admitDocument: Admission['document'];
  /** Documents that were found good. */
  readonly documents: Documents;
}

export const requestIdHeader = 'x-request-id';

/** A client's own id is kept when it is harmless, so that its log and ours can be brought together. */
export function requestIdOf(req: IncomingMessage): string {
  const given = req.headers[requestIdHeader];
  return typeof given === 'string' && /^[\w.-]{8,64}$/.test(given) ? given : randomUUID();
}

/** GraphQL over HTTP (queries and mutations) and SSE (subscriptions), and the pipeline that the WebSocket uses too. */
export function createGraphQL(options: GraphQLOptions): GraphQLServer {
  const { app, compile = true } = options;
  // A batch is one request: its operations share the look-up of who asks.
  const actors = new WeakMap<IncomingMessage, Promise<Actor>>();
  const look = (how: 'authenticate' | 'recall', req: IncomingMessage): Actor | Promise<Actor> =>
    options.door[how](credentialsOf(req.headers, options.origins), originOf(req, options.clientAddress(req)));
  const actorOf = (req: IncomingMessage): Actor | Promise<Actor> => {
    const known = actors.get(req);
    if (known) return known;
    const actor = look(compile ? 'recall' : 'authenticate', req);
    if (actor instanceof Promise) actors.set(req, actor);
    return actor;
  };

  const documents = new Documents();
  const admitted = admission({ app, limits: options.limits, connections: options.connections, documents });

  const yoga = createYoga<ServerContext, Context>({
    schema: options.schema,
    context: (given) => {
      const { req, res, connection, requestId } = given;
      if (connection) {
        return connection.actor().then((actor) => ({
          app,
          actor,
          requestId: connection.requestId,
          clientAddress: connection.clientAddress,
          setSession: null,
          gone: null,
          endStreams: connection.endStreams,
        }));
      }
      if (!req || !res) throw new Error('An operation without a transport');
      const contextOf = (actor: Actor) => ({
        app,
        actor,
        confirmActor: compile ? async () => look('authenticate', req) : undefined,
        requestId: requestId ?? String(res.getHeader(requestIdHeader)),
        clientAddress: options.clientAddress(req),
        setSession: ((session) => {
          res.appendHeader('set-cookie', sessionCookieHeader(session, options.secureCookies));
        }) satisfies Context['setSession'],
        endStreams: null,
      });
      // What has one already makes it when somebody asks for it.
      const whole = (actor: Actor): Context =>
        'gone' in given ? (contextOf(actor) as Context) : { ...contextOf(actor), gone: goneOf(res) };
      return andThen(actorOf(req), whole);
    },
    graphqlEndpoint: '/graphql',
    landingPage: false,
    healthCheckEndpoint: '/health/yoga-unused',
    logging: false,
    batching: { limit: options.limits.batch },
    // The server bounds bodies before.
    maxRequestBodySize: false,
    cors: (request) => {
      const origin = request.headers.get('origin');
      // For others nothing at all: Yoga itself would answer `null`, which is the origin of every sandboxed frame.
      return origin !== null && options.corsOrigins.includes(origin) ? corsOf(origin) : false;
    },
    graphiql: options.graphiql
      ? () => ({ ...options.graphiql, title: 'Switchyard', subscriptionsProtocol: 'WS' })
      : false,
    renderGraphiQL,
    maskedErrors: {
      maskError: (error) => maskError(error, currentRequestId() ?? 'unknown', app.log),
    },
    parserAndValidationCache: { documentCache: documents, errorCache: noCache },
    plugins: [
      documentLimits(options.limits),
      keeping(documents),
      // What compiles is executed otherwise.
      namedThen,
      // Before admission: what that lets through runs in its lanes, compiled or not.
      ...(compile ? [compiled({ app, schema: options.schema })] : []),
      executing(app, admitted, options.introspection),
      admitted.plugin,
      freshContexts,
      ...(options.introspection ? [] : [withoutIntrospection]),
      ...(options.persisted ? [persistedDocuments(options.persisted)] : []),
      // After it: the document that is read is the persisted one.
      {
        onParams({ params, context }) {
          const { req } = context as unknown as ServerContext;
          // Yoga refuses what is no request, but later.
          const source = (params as { query?: unknown } | null)?.query;
          if (!req || typeof source !== 'string') return undefined;
          const client = { clientAddress: options.clientAddress(req), actor: async () => actorOf(req) };
          return admitted.document(context, source, client);
        },
      },
    ],
  });
  return { yoga, admitDocument: admitted.document, documents };
}

/** What a page of an allowed origin may do here. */
export const corsOf = (origin: string) => ({
  origin: [origin],
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
  exposedHeaders: ['X-Request-Id', 'RateLimit', 'RateLimit-Policy', 'Retry-After'],
  maxAge: 600,
});

const keeping = (documents: Documents): Plugin<Context> => ({
  onValidate({ params }) {
    return ({ valid }) => {
      if (valid) documents.keep(params.documentAST);
    };
  },
});

const freshContexts: Plugin<Context> = {
  onSubscribe({ setSubscribeFn }) {
    setSubscribeFn(subscribeFresh);
  },
};

const noCache = { get: () => undefined, set: () => undefined };

/** No schema, neither by asking nor by guessing; what the execution says is looked at in `executing`. */
const withoutIntrospection: Plugin<Context> = {
  onValidate({ addValidationRule }) {
    addValidationRule(NoSchemaIntrospectionCustomRule);
    return ({ result, setResult }) => {
      setResult((result as readonly GraphQLError[]).map(withoutHint));
    };
  },
};

/** What the library guesses that was meant is a name out of the schema. */
function withoutHint(error: GraphQLError): GraphQLError {
  const message = error.message.replace(/ Did you mean [^?]*\?/, '');
  return message === error.message
    ? error
    : new GraphQLError(message, { nodes: error.nodes ?? null, path: error.path ?? null, extensions: error.extensions });
}

/** `extensions.persistedQuery.sha256Hash`, as Apollo's and urql's clients send it, or `documentId`. */
export function persistedId(params: { extensions?: unknown; documentId?: unknown }): string | null {
  const extension = (params.extensions as { persistedQuery?: { sha256Hash?: unknown } } | undefined)?.persistedQuery
    ?.sha256Hash;
  const id = extension ?? params.documentId;
  return typeof id === 'string' ? id : null;
}

/** Documents by id; with `only`, no others are executed. */
export interface Persisted {
  readonly documents: ReadonlyMap<string, string>;
  readonly only: boolean;
}

/** The document that a request is about, on every transport: an id goes before a text. */
export function documentOf(
  params: { query?: string | null | undefined; extensions?: unknown; documentId?: unknown },
  persisted: Persisted | null,
): string | GraphQLError {
  const id = persisted ? persistedId(params) : null;
  if (id !== null)
    return persisted?.documents.get(id) ?? refusal('There is no such persisted document.', 'PERSISTED_QUERY_NOT_FOUND');
  if (persisted?.only) return refusal('Only persisted documents are executed here.', 'PERSISTED_QUERY_ONLY');
  return params.query ?? refusal('The request has no document.', 'BAD_REQUEST');
}

const refusal = (message: string, code: string) =>
  new GraphQLError(message, { extensions: { code, http: { status: 400, spec: true } } });

function persistedDocuments(persisted: Persisted): Plugin {
  return {
    onParams({ params, setParams }) {
      const document = documentOf(params, persisted);
      if (document instanceof GraphQLError) throw document;
      // Without the `documentId`, which Yoga does not know.
      const known = Object.entries(params).filter(([name]) => name !== 'documentId');
      setParams({ ...Object.fromEntries(known), query: document });
    },
  };
}

/**
 * What an operation goes through, from the outside: one log line and one measurement, with its errors masked with the
 * request's id, and without names of the schema where nobody may ask for them; then admission. One hook for all of
 * it: each costs closures for each request.
 */
function executing(app: App, admitted: Admission, introspection: boolean): Plugin<Context> {
  return {
    onExecute({ executeFn, setExecuteFn }) {
      setExecuteFn((given: ExecutionArgs) => {
        const begun = performance.now();
        const args = given as Args;
        return andThen(
          admitted.execute(args, () => executeFn(args) as unknown),
          (result) => {
            if (isAsyncIterable(result)) return result;
            const known = told(app, args, args.contextValue as unknown as Context, result as ExecutionResult, begun);
            return introspection || !known.errors ? known : { ...known, errors: known.errors.map(withoutHint) };
          },
        );
      });
    },
    onSubscribe({ args }) {
      const context = args.contextValue as unknown as Context;
      const begun = performance.now();
      return {
        onSubscribeResult({ result, setResult }) {
          if (!isAsyncIterable(result)) {
            setResult(told(app, args, context, result, begun));
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
  app.metrics.graphqlOperationSeconds.of(type, errors ? 'error' : 'ok').observe(seconds);
  if (!app.log.isLevelEnabled('info')) return errors ? { ...result, errors } : result;
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
