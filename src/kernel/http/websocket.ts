import { randomUUID } from 'node:crypto';
import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { GraphQLError, type ExecutionArgs } from 'graphql';
import { WebSocketServer, type RawData, type WebSocket } from 'ws';
import type { App } from '../app.ts';
import { anonymous, type Actor } from '../auth/actor.ts';
import type { Credentials } from '../auth/actors.ts';
import { IssuerUnavailable, RateLimited, Unauthenticated } from '../errors.ts';
import { clientOf, keysOf, networkOf } from '../rates/address.ts';
import type { Admission } from './admission.ts';
import { Connections } from './connections.ts';
import { originOf, sameSite, sessionOf, type OriginRules } from './credentials.ts';
import type { Door } from './door.ts';
import { SharedExecution } from '../live/audiences.ts';
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
}

/** Close codes: 4xxx of the graphql-transport-ws protocol; 1012 "service restart" and 1013 "try again later" are retried. */
const closeCode = { forbidden: 4403, silent: 4408, twice: 4409, tooMany: 4429, restart: 1012, later: 1013 } as const;

/** How often a client is asked whether it is there, seconds. */
const heartbeatS = 12;

/** What is kept for a connection: little, as there are many. */
interface Connection extends Spoken {
  readonly clientAddress: string;
  /** Closes it for a reason of its credential. */
  readonly endStreams: (reason: string) => void;
  /** What asked for it; null once that was authenticated: its headers are not needed any more. */
  request: IncomingMessage | null;
  /** Closes it when it says nothing. */
  silence: NodeJS.Timeout | null;
  /** Gives its place among the silent ones back. */
  introduce: (() => void) | null;
  actor: Actor;
  /** Calls off the end of the connection with its credential. */
  disarm: (() => void) | null;
  /** Gives its place among the client's connections back. */
  release: (() => void) | null;
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
  // One for all sockets: a function of each would keep what was around when it was made.
  const onBroken = (error: Error) => app.log.debug({ err: error }, 'websocket broken');

  const upgrade = (req: IncomingMessage, socket: Duplex, head: Buffer) => {
    const refuse = (status: string) =>
      socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
    socket.on('error', destroy);
    if (URL.parse(req.url ?? '/', 'http://localhost')?.pathname !== '/graphql') return refuse('404 Not Found');
    // A browser names the page that asks; programs name none.
    if (req.headers.origin !== undefined && !sameSite(req.headers, options.origins)) return refuse('403 Forbidden');
    const clientAddress = options.clientAddress(req);
    const introduce = silent.take(networkOf(clientAddress));
    if (!introduce) return refuse('429 Too Many Requests\r\nRetry-After: 5');
    socket.once('close', introduce);
    return sockets.handleUpgrade(req, socket, head, (ws) => {
      // Before the protocol's own listener, which must not see what is too much.
      boundMessages(ws, limits.messagesPerS, options.room);
      // A client's broken frame closes its socket and is no event of ours: without a listener it would end the process.
      ws.on('error', onBroken);
      protocol.open({
        socket: ws,
        wire: new Wire(ws, socket),
        clientAddress,
        endStreams: endingOf(ws),
        request: req,
        silence: setTimeout(tooSilent, options.initTimeoutMs ?? 5000, ws),
        introduce() {
          socket.off('close', introduce);
          introduce();
        },
        actor: anonymous,
        disarm: null,
        release: null,
      });
    });
  };
  server.on('upgrade', upgrade);

  const protocol = speak<Connection>(
    {
      connectionInitWaitTimeout: 0, // see `silence`
      execute: (args) => within(args, ({ execute }) => execute(args)),
      subscribe: (args) => within(args, ({ subscribe }) => subscribe(args)),
      onError: (_context, _id, _payload, errors) =>
        errors.map((error) => maskError(error, randomUUID(), app.log).toJSON()),
      async onConnect(context) {
        const { extra } = context;
        const { socket, request, clientAddress } = extra;
        clear(extra);
        if (!request) return false;
        const credentials = connectionCredentials(context.connectionParams, request, options.origins);
        // Nor are secrets kept.
        extra.request = null;
        Object.assign(context, { connectionParams: undefined });
        let actor: Actor;
        try {
          actor = await options.door.authenticate(credentials, originOf(request, clientAddress));
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
        const release = options.connections.take(clientOf(actor, clientAddress), keysOf(actor));
        if (!release) {
          socket.close(closeCode.tooMany, 'Too many connections');
          return false;
        }
        extra.introduce?.();
        extra.introduce = null;
        Object.assign(extra, { actor, release });
        if (actor.expiresAt) {
          // The credential's end is the connection's: the client signs in again and resumes by cursor.
          extra.disarm = onceAt(actor.expiresAt, () => socket.close(closeCode.forbidden, 'The credential expired'));
        }
        return true;
      },
      onClose({ extra }) {
        clear(extra);
        extra.disarm?.();
        extra.release?.();
      },
      async onSubscribe(context, id, payload) {
        const { extra } = context;
        const { clientAddress, wire } = extra;
        if (wire.follows(id)) {
          extra.socket.close(closeCode.twice, 'There is a subscriber of this id');
          return [refusal('There is a subscriber of this id.', 'BAD_REQUEST')];
        }
        if (Object.keys(context.subscriptions).length + wire.following > limits.subscriptionsPerSocket) {
          return [
            refusal(
              `A connection may have ${limits.subscriptionsPerSocket} operations at once.`,
              'TOO_MANY_SUBSCRIPTIONS',
            ),
          ];
        }
        const document = documentOf(payload, options.persisted);
        if (document instanceof GraphQLError) return [document];
        const requestId = flat(randomUUID());
        const serverContext: ServerContext = {
          connection: {
            requestId,
            actor: () => currentActor(app, extra),
            clientAddress,
            endStreams: extra.endStreams,
            outlet: app.use(SharedExecution).on ? wire.outlet(id) : null,
          },
        };
        try {
          await options.admitDocument(serverContext, document, {
            clientAddress,
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
          if (masked.extensions['code'] === 'UNAUTHENTICATED') extra.endStreams(masked.message);
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
  extra.actor = actor;
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
    if (left < 0) refuseMore(ws, closeCode.tooMany, 'Too many messages');
  };
  /** For what is too large to be parsed beside all else that is. */
  let own: Room | null = null;
  const weigh = (data: RawData) => {
    count();
    const bytes = (data as Buffer).length;
    if (bytes <= smallBytes) return;
    own ??= new Room(ownBytes);
    if (!own.tryEnter(bytes) || !room.tryEnter(bytes)) refuseMore(ws, closeCode.later, 'Try again later');
    else if (hasTooManyValues((data as Buffer).toString(), 1)) refuseMore(ws, closeCode.tooMany, 'Too many values');
    else return;
    // Whoever listens after this is told of the message all the same, but there is nothing in it.
    (data as Buffer).fill(' ');
  };
  ws.on('message', weigh).on('ping', count);
}

function refuseMore(ws: WebSocket, code: number, reason: string): void {
  ws.removeAllListeners('message').removeAllListeners('ping');
  ws.close(code, reason);
  setTimeout(() => ws.terminate(), goneMs).unref();
}

/** Closes a moment later, so that what was sent before arrives. */
const endingOf = (socket: WebSocket) => (reason: string) =>
  void setImmediate(() => socket.close(closeCode.forbidden, reason.slice(0, 120)));

function destroy(this: Duplex): void {
  this.destroy();
}

const tooSilent = (socket: WebSocket): void => socket.close(closeCode.silent, 'Connection initialisation timeout');

/** It has spoken, or is gone. */
function clear(connection: Connection): void {
  if (connection.silence) clearTimeout(connection.silence);
  connection.silence = null;
}

/** A text in one piece: Node's random ids are made of sixteen, which are kept as such. */
const flat = (text: string): string => Buffer.from(text, 'latin1').toString('latin1');
