import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { Heartbeat } from '../../../src/kernel/http/heartbeat.ts';
import { until } from '../../support/embedded.ts';

test('a client that answers stays, one that does not is ended, each asked once a period', async () => {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  const heartbeat = new Heartbeat(3, 50);
  onTestFinished(() => {
    heartbeat.stop();
    for (const socket of server.clients) socket.terminate();
    server.close();
  });
  server.on('connection', (socket) => {
    heartbeat.add(socket);
    socket.on('close', () => heartbeat.delete(socket));
  });
  await once(server, 'listening');
  const url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const [there, gone] = [new WebSocket(url), new WebSocket(url, { autoPong: false })];
  let asked = 0;
  there.on('ping', () => asked++);
  await Promise.all([once(there, 'open'), once(gone, 'open')]);
  const closed = once(gone, 'close');
  await closed;
  await until('it was asked again and again', async () => asked >= 4);
  expect(there.readyState).toBe(WebSocket.OPEN);
  expect(server.clients.size).toBe(1);
});
