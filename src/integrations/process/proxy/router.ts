import { Agent, createServer, request as startRequest } from 'node:http';
import type {
  AgentOptions,
  ClientRequest,
  ClientRequestArgs,
  IncomingMessage,
  OutgoingHttpHeaders,
  Server,
  ServerOptions,
  ServerResponse,
} from 'node:http';
import { connect, type NetConnectOpts, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Logger } from '#kernel/log.ts';
import { sessionCookie, signInCookie } from '#kernel/auth/actors.ts';
import { codeOf } from '#kernel/system-error.ts';
import { listensAlone } from '../ports.ts';

/** Where the requests of one listening port go. */
export interface Route {
  readonly applicationId: string;
  /** IPv4 address; null, or not given: 127.0.0.1. */
  readonly upstreamHost?: string | null;
  /** Null: there is no active release. */
  readonly upstreamPort: number | null;
  /** The user who must listen there; null: the application has none to itself, and whoever listens is believed. */
  readonly upstreamUid: number | null;
  /** Raised by every switch, so that whoever switched can tell that the router follows. */
  readonly version: number;
}

/** Listening port → route. */
export type Routes = ReadonlyMap<number, Route>;

export interface InFlight {
  readonly applicationId: string;
  readonly upstreamHost: string | null;
  readonly upstreamPort: number;
  /** Requests whose answer is not complete, and open WebSockets. */
  readonly count: number;
}

export interface Router {
  /**
   * Replaces the routes. Requests that come from now on go the new way, those in flight end on the old one. Resolves
   * when every listener is open, or has been found not to open (`problems`); call it again to try those again.
   */
  setRoutes(routes: Routes): Promise<void>;
  routes(): Routes;
  inFlight(applicationId: string, upstreamPort: number): number;
  /** Every upstream that has something in flight. */
  allInFlight(): InFlight[];
  /** Listening ports that could not be opened, with the system's code (EADDRINUSE). */
  problems(): ReadonlyMap<number, string>;
  /** Takes no more connections, gives what is in flight `graceMs` to end, then cuts it. */
  close(graceMs: number): Promise<void>;
}

export interface RouterOptions {
  readonly log: Logger;
  /** Address to listen on, default 127.0.0.1. */
  readonly listenHost?: string;
  /** How long an upstream may take until the headers of its answer, default 120 s. */
  readonly answerTimeoutMs?: number;
}

/** @see https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1 */
const hopByHop = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'expect', // answered by this server
]);
const serverOptions: ServerOptions = {
  keepAliveTimeout: 65_000,
  requestTimeout: 0, // an upload takes as long as it takes
  // Offers of h2c and the like are for this server, and declined by not answering them.
  shouldUpgradeCallback: (request) => request.headers.upgrade?.toLowerCase() === 'websocket',
};
/** May be sent again. @see https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2 */
const idempotent = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE']);

/**
 * The address proxy's HTTP part: plain HTTP/1.1 on loopback ports, each to the instance that serves now, on this
 * machine or another one.
 *
 * `X-Forwarded-For` is extended; `X-Forwarded-Proto` and `-Host` are kept when they came, because only a terminator on
 * this machine can reach a loopback port.
 */
export function createRouter({ log, listenHost = '127.0.0.1', answerTimeoutMs = 120_000 }: RouterOptions): Router {
  let table: Routes = new Map();
  let closing = false;
  const listeners = new Map<number, Server>();
  const failures = new Map<number, string>();
  const agents = new Map<string, UpstreamAgents>();
  const counts = new Map<string, InFlight & { count: number }>();
  const upgraded = new Set<Duplex>();

  return {
    async setRoutes(next) {
      if (closing) return;
      table = new Map(next);
      for (const port of failures.keys()) if (!table.has(port)) failures.delete(port);
      for (const [port, server] of listeners) {
        if (table.has(port)) continue;
        listeners.delete(port);
        server.close();
        server.closeIdleConnections();
      }
      dropIdleAgents();
      await Promise.all([...table.keys()].filter((port) => !listeners.has(port)).map(listen));
    },

    routes: () => table,
    inFlight: (applicationId, upstreamPort) =>
      [...counts.values()].find((one) => one.applicationId === applicationId && one.upstreamPort === upstreamPort)
        ?.count ?? 0,
    allInFlight: () => [...counts.values()].map((one) => ({ ...one })),
    problems: () => failures,

    async close(graceMs) {
      closing = true;
      const servers = [...listeners.values()];
      listeners.clear();
      const cut = setTimeout(() => {
        for (const server of servers) server.closeAllConnections();
        for (const socket of upgraded) socket.destroy();
      }, graceMs);
      await Promise.all(
        servers.map(
          (server) =>
            new Promise<void>((resolve) => {
              server.close(() => resolve());
              server.closeIdleConnections();
            }),
        ),
      );
      clearTimeout(cut);
      for (const socket of upgraded) socket.destroy();
      for (const { kept, single } of agents.values()) {
        kept.destroy();
        single.destroy();
      }
      agents.clear();
    },
  };

  function listen(port: number): Promise<void> {
    return new Promise((resolve) => {
      const server = createServer(serverOptions, (request, response) => {
        // After `close` a kept connection ends with its answer.
        if (listeners.get(port) !== server) response.setHeader('connection', 'close');
        forward(port, request, response);
      });
      server.on('upgrade', (request, socket, head) => forwardUpgrade(port, request, socket, head));
      server.on('clientError', (_error, socket) => {
        if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n');
        else socket.destroy();
      });
      // Taken before it listens, so that a second setRoutes does not open it twice.
      listeners.set(port, server);
      const onFailure = (error: Error): void => {
        if (listeners.get(port) === server) listeners.delete(port);
        const code = codeOf(error);
        const reason = typeof code === 'string' ? code : error.message;
        if (failures.get(port) !== reason) log.error({ port, reason }, 'The address cannot be opened');
        failures.set(port, reason);
        resolve();
      };
      server.once('error', onFailure);
      server.listen({ port, host: listenHost, exclusive: true }, () => {
        failures.delete(port);
        server.off('error', onFailure);
        server.on('error', (error) => log.error({ port, err: error }, 'Listener'));
        resolve();
      });
    });
  }

  /** Counts one request or socket until the returned function is called; more calls do nothing. */
  function count({ applicationId, upstreamHost = null }: Route, upstreamPort: number): () => void {
    const key = `${applicationId} ${upstreamHost} ${upstreamPort}`;
    const entry = counts.get(key) ?? { applicationId, upstreamHost, upstreamPort, count: 0 };
    counts.set(key, entry);
    entry.count += 1;
    let done = false;
    return () => {
      if (done) return;
      done = true;
      entry.count -= 1;
      if (entry.count > 0) return;
      counts.delete(key);
      dropIdleAgents();
    };
  }

  function dropIdleAgents(): void {
    const used = new Set([...table.values(), ...counts.values()].map(placeOf));
    for (const [key, { place, kept }] of agents) {
      if (used.has(place)) continue;
      kept.destroy();
      agents.delete(key);
    }
  }

  /** A port may be given to another application later: its connections are others. */
  function agentsOf(route: Route): UpstreamAgents {
    const { upstreamUid: uid } = route;
    const place = placeOf(route);
    const key = `${place} ${uid}`;
    const known = agents.get(key);
    if (known) return known;
    const made = {
      place,
      // Shorter than the 5 s after which a Node server closes an idle connection.
      kept: new UpstreamAgent(uid, { keepAlive: true, maxFreeSockets: 64, timeout: 4_000 }),
      single: new UpstreamAgent(uid),
    };
    agents.set(key, made);
    return made;
  }

  function forward(listenPort: number, request: IncomingMessage, response: ServerResponse): void {
    const hasBody =
      request.headers['transfer-encoding'] !== undefined || Number(request.headers['content-length'] ?? 0) > 0;
    const mayRepeat = !hasBody && idempotent.has(request.method ?? '');
    let again = true;
    attempt();

    function attempt(): void {
      const route = table.get(listenPort);
      if (!route || route.upstreamPort === null) {
        refuse(response, 503, 'This application has no active release.\n');
        return;
      }
      const { applicationId, upstreamPort } = route;
      const done = count(route, upstreamPort);
      const { kept, single } = agentsOf(route);
      // A kept connection may be closed by the upstream at the very moment that it is used again, and only what may be
      // repeated survives that.
      const upstream = startRequest({
        host: hostOf(route),
        port: upstreamPort,
        method: request.method,
        path: request.url,
        headers: forwardedHeaders(request, listenPort),
        agent: mayRepeat ? kept : single,
        setHost: false,
      });
      const late = setTimeout(() => upstream.destroy(new Error('no answer in time')), answerTimeoutMs);
      const onClientGone = (): void => {
        if (!response.writableFinished) upstream.destroy();
        finish();
      };
      const finish = (): void => {
        clearTimeout(late);
        response.off('close', onClientGone);
        done();
      };
      response.once('close', onClientGone);

      upstream.once('response', (answer) => {
        clearTimeout(late);
        try {
          response.writeHead(answer.statusCode ?? 502, answer.statusMessage, endToEnd(answer));
        } catch (error) {
          // Bytes that the parser lets through and a header cannot hold.
          upstream.destroy(error instanceof Error ? error : new Error(String(error)));
          return;
        }
        // The client must see a broken answer as broken.
        answer.once('error', () => response.destroy());
        answer.once('close', () => {
          if (!answer.complete) response.destroy();
        });
        answer.pipe(response);
        // It may have answered without reading all of the request: the rest of that must not block the connection.
        response.once('finish', () => {
          request.unpipe(upstream);
          request.resume();
        });
      });
      upstream.once('error', (error) => {
        if (response.headersSent || response.destroyed) {
          response.destroy();
          finish();
          return;
        }
        finish();
        const refused = codeOf(error) === 'ECONNREFUSED' && !hasBody;
        const dropped = mayRepeat && upstream.reusedSocket && ['ECONNRESET', 'EPIPE'].includes(String(codeOf(error)));
        const now = table.get(listenPort);
        const switched = !now || placeOf(now) !== placeOf(route);
        if (again && (dropped || (refused && switched) || (mayRepeat && switched))) {
          again = false;
          attempt();
          return;
        }
        log.warn({ applicationId, upstreamPort, reason: error.message }, 'The application does not answer');
        refuse(response, 502, 'The application does not answer.\n');
      });
      sendBody(upstream);
    }

    function sendBody(upstream: ClientRequest): void {
      if (!hasBody) {
        upstream.end();
        return;
      }
      request.pipe(upstream);
      request.once('close', () => {
        if (!request.complete) upstream.destroy();
      });
    }
  }

  function forwardUpgrade(listenPort: number, request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const route = table.get(listenPort);
    socket.on('error', () => socket.destroy());
    if (!route || route.upstreamPort === null) {
      socket.end(plainAnswer(503, 'Service Unavailable', 'This application has no active release.\n'));
      return;
    }
    const { applicationId, upstreamPort } = route;
    const done = count(route, upstreamPort);
    const headers = forwardedHeaders(request, listenPort);
    headers['connection'] = 'Upgrade';
    headers['upgrade'] = request.headers.upgrade;
    const upstream = startRequest({
      host: hostOf(route),
      port: upstreamPort,
      method: request.method,
      path: request.url,
      headers,
      agent: agentsOf(route).single,
      setHost: false,
    });
    const late = setTimeout(() => upstream.destroy(new Error('no answer in time')), answerTimeoutMs);
    upgraded.add(socket);
    socket.once('close', () => {
      clearTimeout(late);
      upgraded.delete(socket);
      upstream.destroy();
      done();
    });
    upstream.once('upgrade', (answer: IncomingMessage, other: Socket, otherHead: Buffer) => {
      clearTimeout(late);
      other.setNoDelay(true);
      other.on('error', () => socket.destroy());
      other.once('close', () => socket.destroy());
      socket.once('close', () => other.destroy());
      socket.write(`${headText(answer)}\r\n`);
      if (otherHead.length > 0) socket.write(otherHead);
      if (head.length > 0) other.write(head);
      other.pipe(socket).pipe(other);
    });
    upstream.once('response', (answer) => {
      // It does not want to upgrade: its answer goes back, and the connection ends with it.
      clearTimeout(late);
      const text = headText(answer, (name) => hopByHop.has(name) || name === 'content-length');
      socket.write(`${text}Connection: close\r\n\r\n`);
      answer.on('error', () => socket.destroy());
      answer.pipe(socket);
    });
    upstream.once('error', (error) => {
      log.warn({ applicationId, upstreamPort, reason: error.message }, 'The application does not answer');
      if (socket.writable) socket.end(plainAnswer(502, 'Bad Gateway', 'The application does not answer.\n'));
      else socket.destroy();
    });
    upstream.end();
  }
}

const hostOf = ({ upstreamHost }: Pick<Route, 'upstreamHost'>): string => upstreamHost ?? '127.0.0.1';
const placeOf = (one: Pick<Route, 'upstreamHost' | 'upstreamPort'>): string => `${hostOf(one)}:${one.upstreamPort}`;

interface UpstreamAgents {
  /** Host and port. */
  readonly place: string;
  /** Its connections are used again. */
  readonly kept: Agent;
  /** Each of its connections is for one request. */
  readonly single: Agent;
}

/**
 * Connections to an instance. Nothing is sent through one before it is known who has accepted it: an instance that
 * has died leaves its port to whoever is the first to listen on it.
 */
class UpstreamAgent extends Agent {
  readonly #uid: number | null;
  constructor(uid: number | null, options: AgentOptions = {}) {
    super(options);
    this.#uid = uid;
  }

  override createConnection(
    options: ClientRequestArgs,
    callback: (error: Error | null, socket: Duplex) => void,
  ): Duplex | undefined {
    const socket = connect(options as NetConnectOpts);
    const uid = this.#uid;
    if (uid === null) return socket;
    // Each is one of those that were listening when it was accepted, and these are asked after that.
    const port = Number(options.port);
    let settled = false;
    const settle = (error: Error | null): void => {
      if (settled) return;
      settled = true;
      socket.off('error', settle);
      socket.off('close', closed);
      if (error) socket.destroy();
      callback(error, socket);
    };
    const closed = (): void => settle(new Error('the connection was closed'));
    socket.once('error', settle);
    socket.once('close', closed);
    socket.once('connect', () => {
      listensAlone(port, uid).then(
        (alone) => settle(alone === false ? new Error('another user of this machine listens on its port') : null),
        (error: unknown) => settle(error instanceof Error ? error : new Error(String(error))),
      );
    });
    return undefined;
  }
}

function forwardedHeaders(request: IncomingMessage, listenPort: number): OutgoingHttpHeaders {
  const headers = endToEnd(request);
  const { remoteAddress = '127.0.0.1' } = request.socket;
  const before = request.headers['x-forwarded-for'];
  headers['x-forwarded-for'] = before ? `${String(before)}, ${remoteAddress}` : remoteAddress;
  headers['x-forwarded-proto'] ??= 'http';
  headers['x-forwarded-host'] ??= request.headers.host;
  headers['x-forwarded-port'] ??= String(listenPort);
  if (request.headers['transfer-encoding'] !== undefined) {
    delete headers['content-length'];
    headers['transfer-encoding'] = 'chunked'; // Node would not frame the body of a DELETE by itself
  }
  // A browser sends the cookies of a host to all its ports: an application must not get its visitor's session.
  if (request.headers.cookie !== undefined) headers['cookie'] = withoutSession(request.headers.cookie);
  for (const name of Object.keys(headers)) if (headers[name] === undefined) delete headers[name];
  return headers;
}

/** The server's own cookies, as they are called with https and without. */
const ownCookies = new Set([sessionCookie, signInCookie].flatMap((name) => [name, `__Host-${name}`]));

/** The `Cookie` header without the server's own cookies; undefined when nothing is left. */
function withoutSession(cookie: string): string | undefined {
  const kept = cookie.split(';').filter((part) => !ownCookies.has(part.split('=')[0]?.trim() ?? ''));
  return kept.length === 0 ? undefined : kept.join(';').trim();
}

/** The headers that are meant for the other end; repeated ones stay repeated. */
function endToEnd(message: IncomingMessage): OutgoingHttpHeaders {
  const named = (message.headers.connection ?? '').split(',').map((name) => name.trim().toLowerCase());
  const headers: OutgoingHttpHeaders = {};
  for (const [name, values] of Object.entries(message.headersDistinct)) {
    if (!values || hopByHop.has(name) || named.includes(name)) continue;
    headers[name] = values.length === 1 ? values[0] : values;
  }
  return headers;
}

/** Status line and headers as they came, without the empty line that ends them. */
function headText(answer: IncomingMessage, leaveOut: (name: string) => boolean = () => false): string {
  let text = `HTTP/1.1 ${answer.statusCode} ${answer.statusMessage}\r\n`;
  for (let at = 0; at + 1 < answer.rawHeaders.length; at += 2) {
    const [name = '', value = ''] = answer.rawHeaders.slice(at, at + 2);
    if (!leaveOut(name.toLowerCase())) text += `${name}: ${value}\r\n`;
  }
  return text;
}

function refuse(response: ServerResponse, status: 502 | 503, text: string): void {
  if (response.headersSent || response.destroyed) return;
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', 'cache-control': 'no-store' }).end(text);
}

function plainAnswer(status: number, reason: string, text: string): string {
  const length = Buffer.byteLength(text);
  return `HTTP/1.1 ${status} ${reason}\r\nContent-Type: text/plain\r\nContent-Length: ${length}\r\nConnection: close\r\n\r\n${text}`;
}
