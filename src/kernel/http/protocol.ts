import type { IncomingMessage } from 'node:http';
import { makeServer, type ServerOptions } from 'graphql-ws';
import type { WebSocket } from 'ws';
import type { Logger } from '../log.ts';
import { Heartbeat } from './heartbeat.ts';
import type { Wire } from './wire.ts';

/** What every connection has. */
export interface Spoken extends Record<PropertyKey, unknown> {
  readonly socket: WebSocket;
  readonly request: IncomingMessage;
  readonly wire: Wire;
}

/** Close code of the protocol for a fault of the server. */
const internalError = 4500;

/**
 * graphql-transport-ws on sockets that share their wire with streams, and one heartbeat for all of them.
 * @param periodS how often a client is asked whether it is there, seconds; by the next time it must have answered
 * @see https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md
 */
export function speak<E extends Spoken>(
  options: ServerOptions<Record<string, unknown>, E>,
  log: Logger,
  periodS: number,
): { open(socket: WebSocket, request: IncomingMessage, wire: Wire): void; stop(): void } {
  const protocol = makeServer(options);
  const heartbeat = new Heartbeat(periodS);
  return {
    open(socket, request, wire) {
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
              // What a client can do wrong has been answered: this is a fault of ours.
              take((message as Buffer).toString()).catch((error: unknown) => {
                if (socket.readyState !== socket.OPEN) return;
                log.error({ err: error }, 'a message was not handled');
                socket.close(internalError, 'Internal server error');
              });
            }),
        },
        { socket, request, wire } as E,
      );
      socket.once('close', (code, reason) => {
        closed(code, String(reason)).catch((error: unknown) => log.error({ err: error }, 'a socket was not given up'));
      });
    },
    stop: () => heartbeat.stop(),
  };
}
