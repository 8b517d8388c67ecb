import { createServer } from 'node:http';
import { WebSocketServer, type WebSocket } from 'ws';
import { globalId } from '../data/shape.ts';
import { follow, listenForEvents, workspaceOfRun, type EventRow } from './shared/feed.ts';
import { listen } from './shared/serve.ts';

// The limit of subscriptions: the event as JSON is made once, and given to `ws` for each socket. No GraphQL, no rights;
// the operation's id is always the same one, of the usual length.

const server = createServer((_, response) => void response.writeHead(404).end());
const sockets = new WebSocketServer({
  server,
  path: '/graphql',
  perMessageDeflate: false,
  handleProtocols: ([protocol]) => protocol ?? false,
});

const frame = (field: string, event: EventRow): Buffer =>
  Buffer.from(
    JSON.stringify({
      id: '00000000-0000-4000-8000-000000000000',
      type: 'next',
      payload: {
        data: {
          [field]: {
            seq: Number(event.seq),
            type: event.type,
            from: event.from_state,
            to: event.to_state,
            subjectId: globalId(event.subject_type, event.subject_id),
            at: event.at.toISOString(),
            data: event.data,
          },
        },
      },
    }),
  );

/** Sockets by what they follow: a workspace, or a run. */
const followers = new Map<string, Set<WebSocket>>();
const followed = new Map<string, { readonly stop: Promise<() => void>; sockets: number }>();

function tell(key: string, field: string, event: EventRow): void {
  const all = followers.get(key);
  if (!all) return;
  const bytes = frame(field, event);
  for (const socket of all) socket.send(bytes, { binary: false });
}

async function subscribe(socket: WebSocket, id: string): Promise<void> {
  const [type, row = ''] = Buffer.from(id, 'base64').toString().split(':');
  const workspace = type === 'Workspace' ? row : await workspaceOfRun(row);
  const all = followers.get(row) ?? new Set();
  followers.set(row, all.add(socket));
  let log = followed.get(workspace);
  if (!log) {
    const stop = follow(workspace, (event) => {
      tell(workspace, 'workspaceEvents', event);
      if (event.run_id) tell(event.run_id, 'runEvents', event);
    });
    followed.set(workspace, (log = { stop, sockets: 0 }));
  }
  const { stop } = log;
  log.sockets++;
  socket.on('close', () => {
    all.delete(socket);
    if (all.size === 0) followers.delete(row);
    if (--log.sockets > 0) return;
    followed.delete(workspace);
    void stop.then((end) => end());
  });
  await stop;
}

/** As often as the server does. */
const heartbeatMs = 12_000;

// Who has not answered by the next time is gone: as the documentation of `ws` has it.
const silent = new WeakSet<WebSocket>();
function pong(this: WebSocket): void {
  silent.delete(this);
}
setInterval(() => {
  for (const socket of sockets.clients) {
    if (silent.has(socket)) socket.terminate();
    else {
      silent.add(socket);
      socket.ping();
    }
  }
}, heartbeatMs).unref();

interface Message {
  readonly type: string;
  readonly payload?: { readonly variables?: { readonly id?: string } };
}
sockets.on('connection', (socket) => {
  socket.on('pong', pong);
  socket.on('message', (data: Buffer) => {
    const { type, payload } = JSON.parse(data.toString()) as Message;
    if (type === 'connection_init') socket.send('{"type":"connection_ack"}');
    if (type === 'subscribe') void subscribe(socket, payload?.variables?.id ?? '');
  });
});
await listenForEvents();
listen(server);
