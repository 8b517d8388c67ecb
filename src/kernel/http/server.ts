import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { isAscii } from 'node:buffer';
import type { AddressInfo } from 'node:net';
import type { GraphQLSchema } from 'graphql';
import type { App } from '../app.ts';
import { timingSafeEqualText } from '../crypto.ts';
import type { StorageHandler } from '../storage/http.ts';
import { beginTrace } from '../telemetry/trace.ts';
import { held, read, type Unread } from './body.ts';
import { Connections } from './connections.ts';
import type { OriginRules } from './credentials.ts';
import { createDoor } from './door.ts';
import { createFront } from './front.ts';
import { health, type Check } from './health.ts';
import { hasTooManyValues, manyValues } from './limits.ts';
import { Room, smallBytes } from './room.ts';
import { checkDeclared, defineRoute, type Route } from './routes.ts';
import { attachWebSocket } from './websocket.ts';
import { createGraphQL, requestIdHeader, requestIdOf, type GraphQLOptions } from './yoga.ts';

export interface HttpOptions {
  readonly app: App;
  readonly schema: GraphQLSchema;
  readonly host: string;
  /** 0: the system chooses. */
  readonly port: number;
  /** Address that clients use; undefined: follows from the port listened on. */
  readonly publicUrl: string | undefined;
  readonly corsOrigins: readonly string[];
  /** Number of proxies in front whose `X-Forwarded-For` entry is believed. */
  readonly trustProxy: number;
  readonly maxBodyBytes: number;
  /** How long the body of a GraphQL request may take to arrive; default 20 s. */
  readonly bodyTimeoutMs?: number;
  /** How long a WebSocket may take to say who it is; default 5 s. */
  readonly initTimeoutMs?: number;
  readonly secureCookies: boolean;
  readonly graphql: Pick<GraphQLOptions, 'introspection' | 'compile' | 'graphiql' | 'persisted'>;
  /** False: Yoga answers everything, also what the front could; for tests. */
  readonly front?: boolean | undefined;
  readonly limits: GraphQLOptions['limits'] & {
    readonly socketsPerActor: number;
    readonly subscriptionsPerSocket: number;
    /** Messages a second of one WebSocket; default 100. */
    readonly messagesPerS?: number;
    /** WebSockets of one network that have not said who they are; default 200. */
    readonly silentSockets?: number;
  };
  readonly storage: StorageHandler;
  /** Further addresses, tried in this order after the server's own. */
  readonly routes?: readonly Route[];
  readonly checks: Readonly<Record<string, Check>>;
  /** Bearer token that `/metrics` asks for; `open`: none; null: closed. */
  readonly metrics: { readonly token: string } | 'open' | null;
}

export interface HttpServer {
  readonly url: string;
  readonly port: number;
  readonly sockets: () => number;
  /** Stops accepting, tells open streams to reconnect elsewhere, and waits for requests in progress. */
  close(graceMs: number): Promise<void>;
}

const graphqlRoute = defineRoute({
  path: '/graphql',
  methods: ['GET', 'POST', 'OPTIONS'],
  description: 'GraphQL over HTTP and server-sent events; the upgrade to WebSocket; GraphiQL where it is switched on.',
  authentication: 'by root field',
  limits:
    'budget of points by client; size, depth, cost; streams and sockets by client; the throttle http.badCredentials',
  cors: 'CORS_ORIGINS',
});
/** The address that nearly all requests name. */
const graphqlAddress = new URL(graphqlRoute.path, 'http://localhost');
const liveRoute = defineRoute({
  path: '/health/live',
  methods: ['GET'],
  description: 'Whether the process answers.',
  authentication: 'none',
  limits: 'none',
  cors: 'none',
});
const readyRoute = defineRoute({
  path: '/health/ready',
  methods: ['GET'],
  description: 'Whether what it needs works.',
  authentication: 'none',
  limits: 'none',
  cors: 'none',
});
const metricsRoute = defineRoute({
  path: '/metrics',
  methods: ['GET'],
  description: 'Figures for Prometheus.',
  authentication: 'bearer METRICS_TOKEN; outside production none, unless it is set',
  limits: 'none',
  cors: 'none',
});
const storageRoute = defineRoute({
  path: '/storage/*',
  methods: ['GET', 'HEAD', 'PUT'],
  description: 'Upload and download of files.',
  authentication: 'signed address that expires',
  limits: 'size of a file: SWITCHYARD_MAX_UPLOAD_BYTES',
  cors: 'none',
});

/** The API's HTTP server: GraphQL with its WebSocket, files, health and metrics on one port. */
export async function startHttpServer(options: HttpOptions): Promise<HttpServer> {
  const { app } = options;
  // A whole upload may take an hour; the body of a GraphQL request has a limit of its own.
  const server = createServer({ requestTimeout: 3_600_000, headersTimeout: 10_000, maxHeaderSize: 16_384 });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, options.host, resolve);
  });
  const { port } = server.address() as AddressInfo;
  const url = options.publicUrl ?? `http://${options.host.includes(':') ? `[${options.host}]` : options.host}:${port}`;
  const origins: OriginRules = {
    allowed: new Set([new URL(url).origin, ...loopbackNames(options, port), ...options.corsOrigins]),
    secureCookies: options.secureCookies,
  };
  const clientAddress = (req: IncomingMessage) => addressOf(req, options.trustProxy);
  const door = createDoor(app);
  const connections = new Connections(options.limits.socketsPerActor);
  const { yoga, admitDocument, documents } = createGraphQL({
    app,
    schema: options.schema,
    limits: options.limits,
    ...options.graphql,
    origins,
    corsOrigins: options.corsOrigins,
    secureCookies: options.secureCookies,
    clientAddress,
    door,
    connections,
  });
  const sockets = attachWebSocket(server, {
    app,
    yoga,
    admitDocument,
    origins,
    persisted: options.graphql.persisted,
    room: new Room(),
    limits: {
      ...options.limits,
      messageBytes: options.maxBodyBytes,
      messagesPerS: options.limits.messagesPerS ?? 100,
    },
    clientAddress,
    door,
    connections,
    initTimeoutMs: options.initTimeoutMs,
  });
  const { persisted } = options.graphql;
  const { corsOrigins } = options;
  const everyAnswer = securityHeaders(options.secureCookies);
  const everyGraphqlAnswer = corsOrigins.length > 0 ? [...everyAnswer, ['vary', 'Origin'] as const] : everyAnswer;
  const front =
    options.front === false
      ? null
      : createFront({ yoga, documents, persisted, corsOrigins, everyAnswer: everyGraphqlAnswer, log: app.log });
  let stopping = false;
  const bodyLimits: BodyLimits = {
    room: new Room(),
    maxBytes: options.maxBodyBytes,
    timeoutMs: options.bodyTimeoutMs ?? 20_000,
    operations: Math.max(1, options.limits.batch),
  };

  /** Yoga answers; the fetch adapter below it takes a body that was read already from here, and would wait for an empty one. */
  const byYoga = async (req: IncomingMessage, res: ServerResponse, text: string): Promise<void> => {
    Object.assign(req, { body: text || ' ' });
    await yoga.handle(req, res);
  };

  const routes: readonly Route[] = [
    {
      name: graphqlRoute.path,
      matches: (pathname) => pathname === graphqlRoute.path,
      async handle(req, res, { url: address }) {
        const page = options.graphql.graphiql !== null && req.method === 'GET' && accepts(req, 'text/html');
        if (page) res.setHeader('content-security-policy', pagePolicy);
        if (corsOrigins.length > 0) res.setHeader('vary', 'Origin');
        if (!jsonParameters(address)) {
          refuse(res, 400, 'BAD_REQUEST', '`variables` and `extensions` must be JSON.');
        } else if (req.method !== 'POST') await yoga.handle(req, res);
        else {
          const refused = refusedType(req);
          const body =
            refused ?? (await new Promise<Body | Refused>((resolve) => readBody(req, res, bodyLimits, resolve)));
          if ('code' in body) return refuseBody(res, body);
          try {
            if (!(await front?.(req, res, body.text))) await byYoga(req, res, body.text);
          } finally {
            body.leave?.();
          }
        }
      },
    },
    {
      name: liveRoute.path,
      matches: (pathname) => pathname === liveRoute.path,
      handle: async (_, res) => answer(res, 200, { status: 'ok' }),
    },
    {
      name: readyRoute.path,
      matches: (pathname) => pathname === readyRoute.path,
      async handle(_, res) {
        const report = await health(options.checks, stopping);
        answer(res, report.status === 'ok' ? 200 : 503, report);
      },
    },
    {
      name: metricsRoute.path,
      matches: (pathname) => pathname === metricsRoute.path,
      handle: (req, res) => metrics(app, options.metrics, req, res),
    },
    {
      name: storageRoute.path,
      matches: (pathname) => pathname.startsWith('/storage/'),
      async handle(req, res, { url: address }) {
        if (!(await options.storage(req, res, address))) answer(res, 404, { code: 'NOT_FOUND', message: 'No files.' });
      },
    },
    ...(options.routes ?? []),
  ];
  checkDeclared(routes);

  const route = async (req: IncomingMessage, res: ServerResponse): Promise<string> => {
    const address = addressed(req);
    if (!address) {
      answer(res, 400, { code: 'BAD_REQUEST', message: 'The address is malformed.' });
      return 'none';
    }
    const found = routes.find((one) => one.matches(address.pathname));
    if (!found) {
      answer(res, 404, { code: 'NOT_FOUND', message: 'There is nothing here.' });
      return 'none';
    }
    await found.handle(req, res, { url: address, origins, clientAddress: clientAddress(req) });
    return found.name;
  };

  server.on('request', (req: IncomingMessage, res: ServerResponse) => {
    const begun = performance.now();
    const requestId = requestIdOf(req);
    const traceparent = req.headers['traceparent'];
    const tracing = beginTrace(typeof traceparent === 'string' ? traceparent : undefined, 'http request', requestId);

    const quick =
      front !== null && !stopping && req.method === 'POST' && req.url === graphqlRoute.path && !refusedType(req);
    /** Sets the headers of every answer; what is answered in one go has them without that. */
    const prepare = (): void => {
      res.setHeader(requestIdHeader, requestId);
      for (const [name, value] of quick ? everyGraphqlAnswer : everyAnswer) res.setHeader(name, value);
      if (stopping) res.setHeader('connection', 'close');
    };
    const answered = (name: string): void => {
      tracing.end();
      const ms = performance.now() - begun;
      app.metrics.httpRequests.of(name, String(res.statusCode)).inc();
      app.metrics.httpRequestSeconds.of(name).observe(ms / 1000);
      if (app.log.isLevelEnabled('debug'))
        app.log.debug({ requestId, route: name, status: res.statusCode, latencyMs: Math.round(ms) }, 'request');
    };
    const failed = (error: unknown): void => {
      tracing.end(error);
      app.log.error({ err: error, requestId }, 'request failed');
      if (res.headersSent) res.destroy();
      else {
        prepare();
        answer(res, 500, { code: 'INTERNAL', message: 'Something went wrong on the server.', requestId });
      }
    };

    if (quick) {
      readBody(req, res, bodyLimits, (body) => {
        const work = (): Promise<void> | void => {
          if ('code' in body) {
            prepare();
            refuseBody(res, body);
            return undefined;
          }
          const done = front(req, res, body.text, { requestId, prepare });
          if (done === true) return undefined;
          const rest = Promise.resolve(done).then((own) => (own ? undefined : byYoga(req, res, body.text)));
          return body.leave ? rest.finally(body.leave) : rest;
        };
        try {
          const done = tracing.run(work);
          if (done) done.then(() => answered(graphqlRoute.path)).catch(failed);
          else answered(graphqlRoute.path);
        } catch (error) {
          failed(error);
        }
      });
      return;
    }
    prepare();
    tracing
      .run(() => route(req, res))
      .then(answered)
      .catch(failed);
  });

  return {
    url,
    port,
    sockets: () => sockets.open,
    async close(graceMs) {
      stopping = true;
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      const timer = setTimeout(() => server.closeAllConnections(), graceMs);
      await sockets.close(graceMs);
      await closed;
      clearTimeout(timer);
      await yoga.dispose();
    },
  };
}

function answer(res: ServerResponse, status: number, body: object): void {
  // The rest of a body that nobody reads is not taken for the next request.
  if (!res.req.complete) res.setHeader('connection', 'close');
  res.writeHead(status, { 'content-type': 'application/json; charset=utf-8', 'cache-control': 'no-store' });
  res.end(JSON.stringify(body));
}

const refuse = (res: ServerResponse, status: number, code: string, message: string, extensions: object = {}): false => {
  answer(res, status, { errors: [{ message, extensions: { code, ...extensions } }] });
  return false;
};

/** What a page has no use for here, whatever it is. */
const features = [
  'accelerometer',
  'camera',
  'display-capture',
  'geolocation',
  'gyroscope',
  'microphone',
  'payment',
  'usb',
];

/**
 * Headers of every answer. The answers are data: no page, no part of one, and nothing to keep.
 * @see https://cheatsheetseries.owasp.org/cheatsheets/HTTP_Headers_Cheat_Sheet.html
 */
const securityHeaders = (https: boolean): (readonly [name: string, value: string])[] => [
  ['x-content-type-options', 'nosniff'],
  ['referrer-policy', 'no-referrer'],
  ['x-frame-options', 'DENY'],
  ['content-security-policy', "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"],
  ['cross-origin-opener-policy', 'same-origin'],
  // Pages of other origins read by CORS or not at all; that is what this leaves as it is.
  ['cross-origin-resource-policy', 'same-origin'],
  ['permissions-policy', features.map((feature) => `${feature}=()`).join(', ')],
  ['cache-control', 'no-store'],
  // Not for other names below it: they are not this server's to decide on.
  ...(https ? [['strict-transport-security', 'max-age=31536000'] as [string, string]] : []),
];

const accepts = (req: IncomingMessage, type: string): boolean => (req.headers.accept ?? '').includes(type);

/**
 * Of GraphiQL, the only page that there is: it brings all it needs with it.
 * @see https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Content-Security-Policy
 */
const pagePolicy = [
  "default-src 'none'",
  "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
  "style-src 'self' 'unsafe-inline' data:",
  "img-src 'self' data:",
  "font-src 'self' data:",
  "connect-src 'self' ws: wss:",
  'worker-src blob: data:',
  "frame-ancestors 'none'",
  "base-uri 'none'",
  "form-action 'none'",
].join('; ');

/** Whether the parameters of a GET that are JSON can be read as such. */
function jsonParameters(address: URL): boolean {
  return ['variables', 'extensions'].every((name) => {
    const text = address.searchParams.get(name);
    if (!text) return true;
    try {
      JSON.parse(text);
      return true;
    } catch (error) {
      if (error instanceof SyntaxError) return false;
      throw error;
    }
  });
}

interface BodyLimits {
  /** For large bodies. */
  readonly room: Room;
  readonly maxBytes: number;
  readonly timeoutMs: number;
  /** How many operations it may have. */
  readonly operations: number;
}

/** A body that was read. */
interface Body {
  readonly text: string;
  /** To be called when the request was handled, where it took room. */
  readonly leave: (() => void) | null;
}

/** Why a body was not read; `gone`: there is nobody to tell. */
interface Refused {
  readonly status: number;
  readonly code: string;
  readonly message: string;
  readonly extensions?: object;
  readonly retryAfterS?: number;
}
const gone: Refused = { status: 0, code: 'GONE', message: '' };
const unsupported: Refused = {
  status: 415,
  code: 'UNSUPPORTED_MEDIA_TYPE',
  message: 'The body must be application/json in UTF-8.',
};

function refuseBody(res: ServerResponse, { status, code, message, extensions, retryAfterS }: Refused): void {
  if (status === gone.status) return;
  if (retryAfterS !== undefined) res.setHeader('retry-after', retryAfterS);
  refuse(res, status, code, message, extensions);
}

/** The refusal of a body that is not JSON. */
function refusedType({ headers: { 'content-type': given = '' } }: IncomingMessage): Refused | null {
  // What nearly everybody sends.
  if (given === 'application/json') return null;
  const [type, ...parameters] = given.split(';').map((part) => part.trim().toLowerCase());
  const charset = parameters
    .find((parameter) => parameter.startsWith('charset='))
    ?.replace(/^charset="?([^"]*)"?$/, '$1');
  const fits = type === 'application/json' && (charset === undefined || charset === 'utf-8' || charset === 'utf8');
  return fits ? null : unsupported;
}

/**
 * Reads the body of a POST to GraphQL, so that its size and time are bounded whatever its headers say. Refused: 408 too
 * slow, 413 too large, 400 not UTF-8 or too many values, 503 too many of them at once.
 */
function readBody(
  req: IncomingMessage,
  res: ServerResponse,
  limits: BodyLimits,
  take: (body: Body | Refused) => void,
): void {
  const { maxBytes, timeoutMs, room, operations } = limits;
  read(req, maxBytes, timeoutMs, (body) => {
    if (typeof body === 'string') return take(refusalOf(body, limits));
    if (body.length <= smallBytes) return take(textOf(body, operations, null));
    // As bytes it waits outside of the heap.
    held.bytes += body.length;
    return void room.enter(body.length).then((leave) => {
      held.bytes -= body.length;
      res.once('close', leave);
      const text = res.destroyed ? gone : textOf(body, operations, leave);
      if ('code' in text) leave();
      take(text);
    });
  });
}

function refusalOf(why: Unread, { maxBytes, timeoutMs }: BodyLimits): Refused {
  switch (why) {
    case 'full':
      return { status: 503, code: 'BUSY', message: 'There are too many large requests right now.', retryAfterS: 5 };
    case 'slow':
      return { status: 408, code: 'BODY_TOO_SLOW', message: `The body took more than ${timeoutMs} ms to arrive.` };
    case 'large': {
      const message = `The body has more than ${maxBytes} bytes.`;
      return { status: 413, code: 'BODY_TOO_LARGE', message, extensions: { limit: maxBytes } };
    }
    case 'gone':
      return gone;
    default:
      return why satisfies never;
  }
}

function textOf(body: Buffer, operations: number, leave: Body['leave']): Body | Refused {
  const text = decoded(body);
  if (text === null) return { status: 400, code: 'BAD_REQUEST', message: 'The body is not UTF-8.' };
  if (!hasTooManyValues(text, operations)) return { text, leave };
  const { message, extensions } = manyValues();
  return { status: 400, code: 'TOO_MANY_VALUES', message, extensions: { limit: extensions['limit'] } };
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

function decoded(body: Buffer): string | null {
  // Of one byte a character, which is faster to read and to parse.
  if (isAscii(body)) return body.toString('latin1');
  try {
    return utf8.decode(body);
  } catch (error) {
    if (error instanceof TypeError) return null;
    throw error;
  }
}

/** The address that a request names; null when it is none, which is for the client to mend. */
function addressed(req: IncomingMessage): URL | null {
  const target = req.url ?? '/';
  if (target === graphqlRoute.path) return graphqlAddress;
  const url = URL.parse(target, 'http://localhost');
  // A path that means another one (`/a/../b`, `//host/b`) would go around the rules of a proxy in front.
  const path = target.startsWith('/') ? target.split(/[?#]/, 1)[0] : url?.pathname;
  return url?.pathname === path ? url : null;
}

/** A server on this machine only is opened by any of its names. */
function loopbackNames(options: HttpOptions, port: number): string[] {
  if (options.publicUrl !== undefined || !['127.0.0.1', '::1', 'localhost'].includes(options.host)) return [];
  return ['127.0.0.1', '[::1]', 'localhost'].map((name) => `http://${name}:${port}`);
}

async function metrics(
  app: App,
  access: HttpOptions['metrics'],
  req: IncomingMessage,
  res: ServerResponse,
): Promise<void> {
  const allowed =
    access === 'open' ||
    (access !== null && timingSafeEqualText(req.headers.authorization ?? '', `Bearer ${access.token}`));
  if (!allowed) {
    answer(res, 401, { code: 'UNAUTHENTICATED', message: 'Metrics need METRICS_TOKEN as a bearer token.' });
    return;
  }
  res.writeHead(200, { 'content-type': app.metrics.registry.contentType });
  res.end(await app.metrics.registry.metrics());
}

/** The client's address: the entry of `X-Forwarded-For` that the outermost trusted proxy wrote, else the peer's. */
function addressOf(req: IncomingMessage, trustProxy: number): string {
  const forwarded = req.headers['x-forwarded-for'];
  if (trustProxy > 0 && typeof forwarded === 'string') {
    const hops = forwarded.split(',').map((hop) => hop.trim());
    return hops.at(-trustProxy) ?? hops[0] ?? '';
  }
  return req.socket.remoteAddress ?? '';
}
