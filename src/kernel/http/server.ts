import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { GraphQLSchema } from 'graphql';
import type { App } from '../app.ts';
import { timingSafeEqualText } from '../crypto.ts';
import type { StorageHandler } from '../storage/http.ts';
import { withTrace } from '../telemetry/trace.ts';
import type { OriginRules } from './credentials.ts';
import { health, type Check } from './health.ts';
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
  readonly secureCookies: boolean;
  readonly graphql: Pick<GraphQLOptions, 'introspection' | 'graphiql' | 'persisted'>;
  readonly limits: GraphQLOptions['limits'] & {
    readonly socketsPerActor: number;
    readonly subscriptionsPerSocket: number;
  };
  readonly storage: StorageHandler;
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

/** The API's HTTP server: GraphQL with its WebSocket, files, health and metrics on one port. */
export async function startHttpServer(options: HttpOptions): Promise<HttpServer> {
  const { app } = options;
  const server = createServer({ requestTimeout: 60_000, headersTimeout: 10_000, maxHeaderSize: 16_384 });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, options.host, resolve);
  });
  const { port } = server.address() as AddressInfo;
  const url = options.publicUrl ?? `http://${options.host.includes(':') ? `[${options.host}]` : options.host}:${port}`;
  const origins: OriginRules = { allowed: new Set([new URL(url).origin, ...options.corsOrigins]) };
  const clientAddress = (req: IncomingMessage) => addressOf(req, options.trustProxy);
  const yoga = createGraphQL({
    app,
    schema: options.schema,
    limits: options.limits,
    ...options.graphql,
    origins,
    corsOrigins: options.corsOrigins,
    secureCookies: options.secureCookies,
    clientAddress,
  });
  const sockets = attachWebSocket(server, {
    app,
    yoga,
    origins,
    persisted: options.graphql.persisted,
    limits: { ...options.limits, messageBytes: options.maxBodyBytes },
    clientAddress,
  });
  let stopping = false;

  const route = async (req: IncomingMessage, res: ServerResponse): Promise<string> => {
    const address = new URL(req.url ?? '/', 'http://localhost');
    switch (address.pathname) {
      case '/graphql':
        if (await readBody(req, res, options.maxBodyBytes)) await yoga.handle(req, res);
        return '/graphql';
      case '/health/live':
        answer(res, 200, { status: 'ok' });
        return '/health/live';
      case '/health/ready': {
        const report = await health(options.checks, stopping);
        answer(res, report.status === 'ok' ? 200 : 503, report);
        return '/health/ready';
      }
      case '/metrics':
        await metrics(app, options.metrics, req, res);
        return '/metrics';
      default:
        if (await options.storage(req, res, address)) return '/storage';
        answer(res, 404, { code: 'NOT_FOUND', message: 'There is nothing here.' });
        return 'none';
    }
  };

  server.on('request', (req: IncomingMessage, res: ServerResponse) => {
    const begun = performance.now();
    const requestId = requestIdOf(req);
    res.setHeader(requestIdHeader, requestId);
    res.setHeader('x-content-type-options', 'nosniff');
    res.setHeader('referrer-policy', 'no-referrer');
    res.setHeader('x-frame-options', 'DENY');
    const traceparent = req.headers['traceparent'];
    withTrace(typeof traceparent === 'string' ? traceparent : undefined, 'http request', () => route(req, res))
      .then((name) => {
        app.metrics.httpRequests.inc({ route: name, status: String(res.statusCode) });
        app.metrics.httpRequestSeconds.observe({ route: name }, (performance.now() - begun) / 1000);
        app.log.debug(
          { requestId, route: name, status: res.statusCode, latencyMs: Math.round(performance.now() - begun) },
          'request',
        );
      })
      .catch((error: unknown) => {
        app.log.error({ err: error, requestId }, 'request failed');
        if (res.headersSent) res.destroy();
        else answer(res, 500, { code: 'INTERNAL', message: 'Something went wrong on the server.', requestId });
      });
  });

  return {
    url,
    port,
    sockets: () => sockets.open,
    async close(graceMs) {
      stopping = true;
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      await sockets.close();
      server.closeIdleConnections();
      const timer = setTimeout(() => server.closeAllConnections(), graceMs);
      await closed;
      clearTimeout(timer);
      await yoga.dispose();
    },
  };
}

function answer(res: ServerResponse, status: number, body: object): void {
  res.writeHead(status, { 'content-type': 'application/json; charset=utf-8', 'cache-control': 'no-store' });
  res.end(JSON.stringify(body));
}

/**
 * Reads a GraphQL request's body, so that its size is bounded whatever its headers say.
 * @returns false when it answered itself: 413 too large, 415 not JSON
 */
async function readBody(req: IncomingMessage, res: ServerResponse, maxBytes: number): Promise<boolean> {
  if (req.method !== 'POST') return true;
  const type = req.headers['content-type']?.split(';')[0]?.trim().toLowerCase();
  if (type !== 'application/json') {
    req.resume();
    answer(res, 415, {
      errors: [{ message: 'The body must be application/json.', extensions: { code: 'UNSUPPORTED_MEDIA_TYPE' } }],
    });
    return false;
  }
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of req as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes <= maxBytes) chunks.push(chunk);
    else if (bytes > maxBytes * 2) break; // enough was read for a polite client to hear the answer
  }
  if (bytes > maxBytes) {
    res.setHeader('connection', 'close');
    answer(res, 413, {
      errors: [
        {
          message: `The body has more than ${maxBytes} bytes.`,
          extensions: { code: 'BODY_TOO_LARGE', limit: maxBytes },
        },
      ],
    });
    return false;
  }
  // The fetch adapter below Yoga takes a body that was read already from here.
  (req as IncomingMessage & { body?: string }).body = Buffer.concat(chunks).toString('utf8') || ' ';
  return true;
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
