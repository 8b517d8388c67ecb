import { randomUUID } from 'node:crypto';
import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { GraphQLError, type ExecutionArgs } from 'graphql';
import { WebSocketServer, type RawData, type WebSocket } from 'ws';
import type { App } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import type { Credentials } from '../auth/actors.ts';
import { IssuerUnavailable, RateLimited, Unauthenticated } from '../errors.ts';
import { clientOf, keysOf, networkOf } from '../rates/address.ts';
import type { Admission } from './admission.ts';
import { Connections } from './connections.ts';
import { originOf, sameSite, sessionOf, type OriginRules } from './credentials.ts';
import type { Door } from './door.ts';
import { underRequestId } from '../telemetry/trace.ts';
import { onceAt } from '../timer.ts';
import { hasTooManyValues } from './limits.ts';
import { Room, smallBytes } from './room.ts';
import { maskError } from './errors.ts';
import { speak, type Spoken } from './protocol.ts';
import { Wire } from './wire.ts';
import { documentOf, type Persisted, type ServerContext, type Yoga } from './yoga.ts';

export interface WebSocketOptions {
  readonly app: App;
  readonly yoga: Yoga;
  /** Asked before a document is parsed. */
  readonly admitDocument: Admission['document'];
  readonly origins: OriginRules;
  readonly persisted: Persisted | null;
  /** For large messages. */
  readonly room: Room;
  readonly limits: {
    readonly subscriptionsPerSocket: number;
    readonly messageBytes: number;
    /** Messages a second that one socket may send in the long run; five times as many at once. */
    readonly messagesPerS: number;
    /** Sockets of one network that have not said `connection_init` yet; default 200. */
    readonly silentSockets?: number | undefined;
  };
  /** Where credentials are looked at. */
  readonly door: Door;
  /** Open sockets and streams by client. */
  readonly connections: Connections;
  readonly clientAddress: (req: IncomingMessage) => string;
  /** How long a client may take to say `connection_init`; default 5 s. */
  readonly initTimeoutMs?: number | undefined;
  /** Whether subscribers who may see the same share executions. */
  readonly sharedExecution: boolean;
}

/** Close codes: 4xxx of the graphql-transport-ws protocol; 1012 "service restart" and 1013 "try again later" are retried. */
const closeCode = { forbidden: 4403, tooMany: 4429, restart: 1012, later: 1013 } as const;

/** How often a client is asked whether it is there, seconds. */
const heartbeatS = 12;

interface Connection extends Spoken {
  actor: Actor;
  /** Calls off the end of the connection with its credential. */
  disarm?: () => void;
  /** Gives its place among the client's connections back. */
  release?: () => void;
}

/**
 * GraphQL over WebSocket on the endpoint's own path.
 * @see https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md
 */
export function attachWebSocket(
  server: Server,
  options: WebSocketOptions,
): { close(graceMs: number): Promise<void>; readonly open: number } {
  const { app, yoga, limits } = options;
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: limits.messageBytes,
    perMessageDeflate: false,
    handleProtocols: (protocols) => (protocols.has('graphql-transport-ws') ? 'graphql-transport-ws' : false),
  });
  const silent = new Connections(limits.silentSockets ?? 200);
  /** What gives a socket's place among the silent ones back. */
  const introduced = new WeakMap<WebSocket, () => void>();

  const upgrade = (req: IncomingMessage, socket: Duplex, head: Buffer) => {
    const refuse = (status: string) =>
      socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
    socket.on('error', () => socket.destroy());
    if (URL.parse(req.url ?? '/', 'http://localhost')?.pathname !== '/graphql') return refuse('404 Not Found');
    // A browser names the page that asks; programs name none.
    if (req.headers.origin !== undefined && !sameSite(req.headers, options.origins)) return refuse('403 Forbidden');
    const introduce = silent.take(networkOf(options.clientAddress(req)));
    if (!introduce) return refuse('429 Too Many Requests\r\nRetry-After: 5');
    socket.once('close', introduce);
    return sockets.handleUpgrade(req, socket, head, (ws) => {
      introduced.set(ws, introduce);
      // Before the protocol's own listener, which must not see what is too much.
      boundMessages(ws, limits.messagesPerS, options.room);
      protocol.open(ws, req, new Wire(ws, socket));
      // A client's broken frame closes its socket and is no event of ours: without a listener it would end the process.
      ws.on('error', (error) => app.log.debug({ err: error }, 'websocket broken'));
    });
  };
  server.on('upgrade', upgrade);

  const protocol = speak<Connection>(
    {
      connectionInitWaitTimeout: options.initTimeoutMs ?? 5000,
      execute: (args) => within(args, ({ execute }) => execute(args)),
      subscribe: (args) => within(args, ({ subscribe }) => subscribe(args)),
      onError: (_context, _id, _payload, errors) =>
        errors.map((error) => maskError(error, randomUUID(), app.log).toJSON()),
      async onConnect(context) {
        const { socket, request } = context.extra;
        const credentials = connectionCredentials(context.connectionParams, request, options.origins);
        let actor: Actor;
        try {
          actor = await options.door.authenticate(credentials, originOf(request, options.clientAddress(request)));
        } catch (error) {
          if (error instanceof Unauthenticated) return false; // closes with 4403
          if (error instanceof RateLimited) {
            socket.close(closeCode.tooMany, error.message.slice(0, 120));
            return false;
          }
          if (!(error instanceof IssuerUnavailable))
            app.log.error({ err: error }, 'a connection could not be authenticated');
          socket.close(closeCode.later, 'Try again later');
          return false;
        }
        // It went away meanwhile, and its end was told already: nothing would count it down again.
        if (socket.readyState !== socket.OPEN) return false;
        const release = options.connections.take(clientOf(actor, options.clientAddress(request)), keysOf(actor));
        if (!release) {
          socket.close(closeCode.tooMany, 'Too many connections');
          return false;
        }
        introduced.get(socket)?.();
        Object.assign(context.extra, { actor, release });
        if (actor.expiresAt) {
          // The credential's end is the connection's: the client signs in again and resumes by cursor.
          context.extra.disarm = onceAt(actor.expiresAt, () =>
            socket.close(closeCode.forbidden, 'The credential expired'),
          );
        }
        return true;
      },
      onClose(context) {
        const { disarm, release } = context.extra;
        disarm?.();
        release?.();
      },
      async onSubscribe(context, id, payload) {
        if (Object.keys(context.subscriptions).length > limits.subscriptionsPerSocket) {
          return [
            refusal(
              `A connection may have ${limits.subscriptionsPerSocket} operations at once.`,
              'TOO_MANY_SUBSCRIPTIONS',
            ),
          ];
        }
        const document = documentOf(payload, options.persisted);
        if (document instanceof GraphQLError) return [document];
        const { extra } = context;
        const requestId = randomUUID();
        const serverContext: ServerContext = {
          connection: {
            requestId,
            actor: () => currentActor(app, extra),
            clientAddress: options.clientAddress(extra.request),
            endStreams: (reason) => endStreams(extra.socket, reason),
            outlet: options.sharedExecution ? extra.wire.outlet(id) : null,
          },
        };
        try {
          await options.admitDocument(serverContext, document, {
            clientAddress: options.clientAddress(extra.request),
            // As it was at the last look: the rights of now are looked up once, for the operation.
            actor: () => Promise.resolve(extra.actor),
          });
          const { schema, execute, subscribe, contextFactory, parse, validate } = yoga.getEnveloped({
            ...serverContext,
            params: { ...payload, query: document },
          });
          const parsed = parse(document);
          const errors = validate(schema, parsed);
          if (errors.length > 0) return errors.map((error: GraphQLError) => maskError(error, requestId, app.log));
          const args: ExecutionArgs = {
            schema,
            document: parsed,
            contextValue: await contextFactory(),
            rootValue: { execute, subscribe, requestId } satisfies Root,
            ...(payload.operationName ? { operationName: payload.operationName } : {}),
            ...(payload.variables ? { variableValues: payload.variables } : {}),
          };
          return args;
        } catch (error) {
          const masked = maskError(error, requestId, app.log);
          if (masked.extensions['code'] === 'UNAUTHENTICATED') endStreams(extra.socket, masked.message);
          return [masked];
        }
      },
    },
    app.log,
    heartbeatS,
  );

  return {
    get open() {
      return sockets.clients.size;
    },
    async close(graceMs) {
      server.off('upgrade', upgrade);
      server.on('upgrade', (_req, socket) => socket.destroy());
      for (const socket of sockets.clients) socket.close(closeCode.restart, 'The server restarts');
      // A client that does not answer the close is not waited for any longer.
      const timer = setTimeout(() => sockets.clients.forEach((socket) => socket.terminate()), graceMs);
      await new Promise((resolve) => sockets.close(resolve));
      clearTimeout(timer);
      protocol.stop();
    },
  };
}

/** Yoga's own execution of this operation, with its plugins. */
type Root = Pick<ReturnType<Yoga['getEnveloped']>, 'execute' | 'subscribe'> & { readonly requestId: string };

function within<T>(args: ExecutionArgs, run: (root: Root) => T): T {
  const root = args.rootValue as Root;
  return underRequestId(root.requestId, () => run(root));
}

const refusal = (message: string, code: string) => new GraphQLError(message, { extensions: { code } });

const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined);

/** `connection_init` tells who it is as HTTP headers would, in any case; a browser's page may rely on its cookie. */
function connectionCredentials(
  params: Record<string, unknown> | undefined,
  req: IncomingMessage,
  origins: OriginRules,
): Credentials {
  const given = new Map(Object.entries(params ?? {}).map(([name, value]) => [name.toLowerCase(), text(value)]));
  const header = (name: string) => text(req.headers[name]);
  return {
    authorization: given.get('authorization') ?? header('authorization'),
    apiKey: given.get('x-api-key') ?? given.get('apikey') ?? header('x-api-key'),
    // Without an Origin it is no browser's, or one of an older kind: then the cookie does not count.
    session: req.headers.origin === undefined ? undefined : sessionOf(req.headers, origins),
  };
}

/** The connection's credential with the rights of now. @throws {Unauthenticated} when it has ended */
async function currentActor(app: App, extra: Connection): Promise<Actor> {
  if (extra.actor.kind === 'ANONYMOUS') return extra.actor;
  const actor = await app.actors.refresh(extra.actor);
  if (!actor) throw new Unauthenticated('The credential of this connection has ended. Sign in again.');
  return actor;
}

/** Messages that may come at once, in seconds of the rate. */
const burstS = 5;
/** What one socket may have of the room for large messages, bytes. */
const ownBytes = 4_194_304;
/** How long a client that was told to go may take. */
const goneMs = 1000;

/** Closes a socket that sends more messages, or pings, than it may; what came too fast is not looked at. */
function boundMessages(ws: WebSocket, perS: number, room: Room): void {
  let left = perS * burstS;
  let since = performance.now();
  const count = () => {
    const now = performance.now();
    left = Math.min(perS * burstS, left + ((now - since) / 1000) * perS) - 1;
    since = now;
    if (left < 0) end(closeCode.tooMany, 'Too many messages');
  };
  const end = (code: number, reason: string) => {
    ws.removeAllListeners('message').removeAllListeners('ping');
    ws.close(code, reason);
    setTimeout(() => ws.terminate(), goneMs).unref();
  };
  /** What is too large to be parsed beside all else that is. */
  const own = new Room(ownBytes);
  const weigh = (data: RawData) => {
    const bytes = (data as Buffer).length;
    if (bytes <= smallBytes) return;
    if (!own.tryEnter(bytes) || !room.tryEnter(bytes)) end(closeCode.later, 'Try again later');
    else if (hasTooManyValues((data as Buffer).toString(), 1)) end(closeCode.tooMany, 'Too many values');
    else return;
    // Whoever listens after this is told of the message all the same, but there is nothing in it.
    (data as Buffer).fill(' ');
  };
  ws.on('message', count).on('message', weigh).on('ping', count);
}

/** Closes a moment later, so that what was sent before arrives. */
function endStreams(socket: WebSocket, reason: string): void {
  setImmediate(() => socket.close(closeCode.forbidden, reason.slice(0, 120)));
}
