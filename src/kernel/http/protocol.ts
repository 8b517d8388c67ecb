import { makeServer, type ServerOptions } from 'graphql-ws';
import type { WebSocket } from 'ws';
import { Follower } from '../live/outlet.ts';
import type { Logger } from '../log.ts';
import { Heartbeat } from './heartbeat.ts';
import type { Wire } from './wire.ts';

/** What every connection has. */
export interface Spoken extends Record<PropertyKey, unknown> {
  readonly socket: WebSocket;
  readonly wire: Wire;
}

/** Close code of the protocol for a fault of the server. */
const internalError = 4500;

/**
 * graphql-transport-ws on sockets that share their wire with streams, and one heartbeat for all of them. What follows
 * by an outlet is taken out of the protocol's hands, which would keep the message, the arguments and a pending loop for
 * each operation: it stays with the wire, and only its end is heard here.
 * @param periodS how often a client is asked whether it is there, seconds; by the next time it must have answered
 * @see https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md
 */
export function speak<E extends Spoken>(
  options: Omit<ServerOptions<Record<string, unknown>, E>, 'onOperation'>,
  log: Logger,
  periodS: number,
): { open(extra: E): void; stop(): void } {
  const protocol = makeServer<Record<string, unknown>, E>({
    ...options,
    onOperation({ subscriptions }, id, _payload, _args, result: unknown) {
      if (!(result instanceof Follower)) return undefined;
      // Otherwise the client has completed it, or is gone.
      if (id in subscriptions) {
        delete (subscriptions as Record<string, unknown>)[id];
        result.begin();
      }
      return {}; // told to nobody: there is no such operation for the protocol any more
    },
  });
  const heartbeat = new Heartbeat(periodS);
  return {
    open(extra) {
      const { socket, wire } = extra;
      heartbeat.add(socket);
      const closed = protocol.opened(
        {
          protocol: socket.protocol,
          // After what streams have put on the wire.
          send: (data) =>
            new Promise((resolve, reject) => {
              wire.flush();
              if (socket.readyState !== socket.OPEN) resolve();
              else socket.send(data, (error) => (error ? reject(error) : resolve()));
            }),
          close(code, reason) {
            wire.flush();
            socket.close(code, reason);
          },
          onMessage: (take) =>
            socket.on('message', (message) => {
              const text = (message as Buffer).toString();
              if (wire.following > 0 && stops(text, wire)) return;
              // What a client can do wrong has been answered: this is a fault of ours.
              take(text).catch((error: unknown) => {
                if (socket.readyState !== socket.OPEN) return;
                log.error({ err: error }, 'a message was not handled');
                socket.close(internalError, 'Internal server error');
              });
            }),
        },
        extra,
      );
      socket.once('close', (code, reason) => {
        heartbeat.delete(socket);
        wire.stopAll();
        closed(code, String(reason)).catch((error: unknown) => log.error({ err: error }, 'a socket was not given up'));
      });
    },
    stop: () => heartbeat.stop(),
  };
}

/** Whether a message completes an operation that the wire follows, which it does then. */
function stops(text: string, wire: Wire): boolean {
  let message: { type?: unknown; id?: unknown } | null;
  try {
    message = JSON.parse(text) as typeof message;
  } catch (error) {
    if (error instanceof SyntaxError) return false; // the protocol answers it
    throw error;
  }
  return message?.type === 'complete' && typeof message.id === 'string' && wire.stop(message.id);
}
