import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { Agent, createServer, request, type IncomingHttpHeaders, type RequestListener, type Server } from 'node:http';
import { connect, createServer as createNetServer, type AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { createLogger } from '#kernel/log.ts';
import { createPortFinder, listenersOf } from '../../../src/integrations/process/ports.ts';
import { asRoot } from '../../support/embedded.ts';
import { createRouter, type Router, type Routes } from '../../../src/integrations/process/proxy/router.ts';

vi.setConfig({ testTimeout: 30_000 });

const freePort = createPortFinder({ from: 27_000, to: 29_999 });
const log = createLogger('silent');

function router(): Router {
  const made = createRouter({ log });
  onTestFinished(() => made.close(0));
  return made;
}

function routeTo(
  listenPort: number,
  upstreamPort: number | null,
  version = 1,
  upstreamUid: number | null = null,
): Routes {
  return new Map([[listenPort, { applicationId: 'a', upstreamPort, upstreamUid, version }]]);
}

/** A server in this process; gives its port. */
async function serve(listener: RequestListener, change?: (server: Server) => void): Promise<number> {
  const server = createServer(listener);
  change?.(server);
  const port = await freePort();
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(async () => {
    const closed = once(server, 'close');
    server.close();
    server.closeAllConnections();
    await closed;
  });
  return port;
}

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: string;
}

interface Sent {
  method?: string;
  path?: string;
  headers?: Record<string, string | string[]>;
  body?: string;
  agent?: Agent;
}

function ask(port: number, { method = 'GET', path = '/', headers = {}, body, agent }: Sent = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port, method, path, headers, agent: agent ?? false }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      response.once('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: text }));
      response.once('error', reject);
    });
    sent.once('error', reject);
    sent.end(body);
  });
}

const instanceProgram = `
  const { createServer } = require('node:http');
  const server = createServer((request, response) => {
    request.resume().on('end', () => setTimeout(() => response.end(process.argv[2]), Math.random() * 10));
  }).listen(Number(process.argv[1]), '127.0.0.1', () => console.log('up'));
`;

/** An instance as a process that SIGKILL ends. */
async function startInstance(name: string): Promise<{ port: number; child: ChildProcess }> {
  const port = await freePort();
  const child = spawn(process.execPath, ['-e', instanceProgram, String(port), name], {
    env: {},
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  return { port, child };
}

test('a client sees no failed request while instances are exchanged under it', async () => {
  const proxy = router();
  const address = await freePort();
  let current = await startInstance('0');
  await proxy.setRoutes(routeTo(address, current.port));

  const seen = new Set<string>();
  const failures: unknown[] = [];
  let requests = 0;
  const stop = new AbortController();
  const client = async (method: string): Promise<void> => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    while (!stop.signal.aborted) {
      try {
        const { status, body } = await ask(address, {
          method,
          agent,
          ...(method === 'POST' && { body: 'x'.repeat(1_000) }),
        });
        if (status !== 200) failures.push(`${status} ${body}`);
        seen.add(body);
      } catch (error) {
        failures.push(error);
      }
      requests += 1;
      await delay(1); // the instances need the processor, too
    }
    agent.destroy();
  };
  const clients = ['GET', 'GET', 'POST', 'DELETE'].map(client);
  for (let version = 2; version <= 21; version += 1) {
    const next = await startInstance(String(version));
    const old = current;
    await proxy.setRoutes(routeTo(address, next.port, version));
    await expect.poll(() => proxy.inFlight('a', old.port), { interval: 2 }).toBe(0);
    old.child.kill('SIGKILL');
    current = next;
    const before = requests;
    await expect.poll(() => requests, { interval: 2 }).toBeGreaterThan(before + 4);
  }
  stop.abort();
  await Promise.all(clients);
  expect(failures).toEqual([]);
  expect(seen.size).toBe(21);
  expect(requests).toBeGreaterThan(100);
});

test('requests in flight end where they began, new ones go the new way', async () => {
  const proxy = router();
  const address = await freePort();
  const held: (() => void)[] = [];
  const old = await serve((_request, response) => void held.push(() => response.end('old')));
  const fresh = await serve((_request, response) => response.end('new'));
  await proxy.setRoutes(routeTo(address, old));
  const first = ask(address);
  await expect.poll(() => held.length).toBe(1);
  expect(proxy.inFlight('a', old)).toBe(1);
  const switched = proxy.setRoutes(routeTo(address, fresh, 2));
  expect((await ask(address)).body).toBe('new');
  await switched;
  expect(proxy.allInFlight()).toEqual([{ applicationId: 'a', upstreamHost: null, upstreamPort: old, count: 1 }]);
  held[0]?.();
  expect((await first).body).toBe('old');
  await expect.poll(() => proxy.inFlight('a', old)).toBe(0);
});

test.runIf(process.platform === 'linux')(
  'an instance of another address is reached there, whoever has its port here',
  async () => {
    const proxy = router();
    const address = await freePort();
    const here = await serve((_request, response) => response.end('here'));
    const held: (() => void)[] = [];
    const there = createServer((request, response) => {
      if (request.url === '/held') held.push(() => response.end('held'));
      else response.end('there');
    });
    await new Promise<void>((resolve) => there.listen(here, '127.0.0.2', resolve));
    onTestFinished(() => {
      there.close();
      there.closeAllConnections();
    });
    const route = { applicationId: 'a', upstreamPort: here, upstreamUid: null };
    await proxy.setRoutes(new Map([[address, { ...route, upstreamHost: '127.0.0.2', version: 1 }]]));
    expect((await ask(address)).body).toBe('there');
    const waiting = ask(address, { path: '/held' });
    await expect.poll(() => held.length).toBe(1);
    await proxy.setRoutes(new Map([[address, { ...route, version: 2 }]]));
    expect((await ask(address)).body).toBe('here');
    expect(proxy.allInFlight()).toEqual([
      { applicationId: 'a', upstreamHost: '127.0.0.2', upstreamPort: here, count: 1 },
    ]);
    held[0]?.();
    expect((await waiting).body).toBe('held');
  },
);

test('passes methods, bodies and end-to-end headers on, and no hop-by-hop ones', async () => {
  const proxy = router();
  const address = await freePort();
  const upstream = await serve((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
    request.once('end', () => {
      response.setHeader('set-cookie', ['a=1', 'b=2']);
      response.setHeader('connection', 'x-secret');
      response.setHeader('x-secret', '1');
      response
        .writeHead(201)
        .end(JSON.stringify({ method: request.method, url: request.url, headers: request.headers, body }));
    });
  });
  await proxy.setRoutes(routeTo(address, upstream));
  const sent = {
    path: '/a%20b?c=d',
    headers: {
      host: 'example.com',
      connection: 'close, x-hop',
      'x-hop': '1',
      te: 'trailers',
      'x-forwarded-for': '203.0.113.9',
      cookie: 'c=3',
    },
  };
  const answer = await ask(address, {
    ...sent,
    method: 'DELETE',
    headers: { ...sent.headers, 'transfer-encoding': 'chunked' },
    body: 'hello',
  });
  expect(answer.status).toBe(201);
  expect(answer.headers['set-cookie']).toEqual(['a=1', 'b=2']);
  expect(answer.headers).not.toHaveProperty('x-secret');
  const got: { method: string; url: string; headers: IncomingHttpHeaders; body: string } = JSON.parse(answer.body);
  expect(got).toMatchObject({ method: 'DELETE', url: '/a%20b?c=d', body: 'hello' });
  expect(got.headers).toMatchObject({
    host: 'example.com', cookie: 'c=3', 'x-forwarded-for': '203.0.113.9, 127.0.0.1', 'x-forwarded-proto': 'http',
    'x-forwarded-host': 'example.com', 'x-forwarded-port': String(address),
  }); // prettier-ignore
  for (const name of ['x-hop', 'te']) expect(got.headers).not.toHaveProperty(name);
  expect((await ask(address, { method: 'HEAD' })).status).toBe(201);
  const big = 'y'.repeat(3_000_000);
  const echoed: { body: string } = JSON.parse((await ask(address, { method: 'POST', body: big })).body);
  expect(echoed.body).toBe(big);
});

test('says 503 without a release, 502 without an answer, and breaks what breaks', async () => {
  const proxy = router();
  const address = await freePort();
  await proxy.setRoutes(routeTo(address, null));
  expect(await ask(address)).toMatchObject({ status: 503, body: 'This application has no active release.\n' });
  await proxy.setRoutes(routeTo(address, await freePort(), 2));
  expect(await ask(address)).toMatchObject({ status: 502, body: 'The application does not answer.\n' });
  expect((await ask(address, { method: 'POST', body: 'x' })).status).toBe(502);
  const breaking = await serve((_request, response) => {
    response.writeHead(200, { 'content-length': '10' });
    response.write('half', () => response.destroy());
  });
  await proxy.setRoutes(routeTo(address, breaking, 3));
  await expect(ask(address)).rejects.toThrow(/aborted|socket hang up/);
  await expect.poll(() => proxy.allInFlight()).toEqual([]);
});

test('asks the current instance when the old one is gone under a request', async () => {
  const proxy = router();
  const address = await freePort();
  const fresh = await serve((_request, response) => response.end('new'));
  // It takes the connection, the switch comes, and it dies without a word.
  const dying = createNetServer((socket) => {
    socket.once('data', () => {
      void proxy.setRoutes(routeTo(address, fresh, 2)).then(() => socket.destroy());
    });
  });
  onTestFinished(() => void dying.close());
  const port = await freePort();
  dying.listen(port, '127.0.0.1');
  await once(dying, 'listening');
  await proxy.setRoutes(routeTo(address, port));
  expect(await ask(address)).toMatchObject({ status: 200, body: 'new' });
  // Something may have been done already: not twice.
  await proxy.setRoutes(routeTo(address, port, 3));
  expect((await ask(address, { method: 'POST', body: 'x' })).status).toBe(502);
});

test('a client that goes away ends the request to the application', async () => {
  const proxy = router();
  const address = await freePort();
  const gone = Promise.withResolvers<void>();
  const started = Promise.withResolvers<void>();
  const upstream = await serve((request, response) => {
    started.resolve();
    response.once('close', () => gone.resolve());
    void request;
  });
  await proxy.setRoutes(routeTo(address, upstream));
  const client = connect(address, '127.0.0.1', () => client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n'));
  await started.promise;
  client.destroy();
  await gone.promise;
  await expect.poll(() => proxy.inFlight('a', upstream)).toBe(0);
});

test('WebSockets go through, are counted, and stay on their instance', async () => {
  const proxy = router();
  const address = await freePort();
  const sockets = new WebSocketServer({ noServer: true });
  const upstream = await serve(
    (_request, response) => response.writeHead(426).end('no'),
    (server) =>
      server.on('upgrade', (request, socket, head) => {
        if (request.url === '/no') {
          socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno');
          return;
        }
        sockets.handleUpgrade(request, socket, head, (client) => {
          client.on('message', (data, binary) => client.send(data, { binary }));
          client.send(`hello ${String(request.headers['x-forwarded-host'])}`);
        });
      }),
  );
  await proxy.setRoutes(routeTo(address, upstream));
  const client = new WebSocket(`ws://127.0.0.1:${address}/`);
  const [hello] = await once(client, 'message');
  expect(String(hello)).toBe(`hello 127.0.0.1:${address}`);
  const big = Buffer.alloc(2 ** 20, 7);
  client.send(big);
  const [echo] = await once(client, 'message');
  expect(Buffer.compare(echo, big)).toBe(0);
  expect(proxy.inFlight('a', upstream)).toBe(1);
  await proxy.setRoutes(routeTo(address, null, 2));
  client.send('still there');
  expect(String((await once(client, 'message'))[0])).toBe('still there');
  client.close();
  await expect.poll(() => proxy.inFlight('a', upstream)).toBe(0);

  const refusedWith = async (path: string): Promise<string> => {
    const refused = new WebSocket(`ws://127.0.0.1:${address}${path}`);
    const [error] = await once(refused, 'error');
    return String(error);
  };
  expect(await refusedWith('/')).toContain('503');
  await proxy.setRoutes(routeTo(address, upstream, 3));
  expect(await refusedWith('/no')).toContain('403');
  await proxy.setRoutes(routeTo(address, await freePort(), 4));
  expect(await refusedWith('/')).toContain('502');
  // Other protocols are not offered: this is an ordinary request.
  await proxy.setRoutes(routeTo(address, upstream, 5));
  const headers = { connection: 'upgrade', upgrade: 'h2c' };
  expect(await ask(address, { method: 'POST', headers, body: 'x' })).toMatchObject({ status: 426, body: 'no' });
});

test('opens and closes addresses, and tries again where one is taken', async () => {
  const proxy = router();
  const [one, two] = [await freePort(), await freePort()];
  const upstream = await serve((_request, response) => response.end('up'));
  const route = { applicationId: 'a', upstreamPort: upstream, upstreamUid: null, version: 1 };
  const taken = createServer().listen(two, '127.0.0.1');
  await once(taken, 'listening');
  await proxy.setRoutes(new Map([[one, route], [two, route]])); // prettier-ignore
  expect(proxy.problems()).toEqual(new Map([[two, 'EADDRINUSE']]));
  expect((await ask(one)).body).toBe('up');
  taken.close();
  await once(taken, 'close');
  await proxy.setRoutes(new Map([[two, route]]));
  expect(proxy.problems().size).toBe(0);
  expect((await ask(two)).body).toBe('up');
  await expect(ask(one)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
});

test('keeps the cookies of the server from applications, and passes on the others', async () => {
  const seen: (string | undefined)[] = [];
  const upstream = await serve((req, res) => {
    seen.push(req.headers.cookie);
    res.end();
  });
  const made = router();
  const port = await freePort();
  await made.setRoutes(routeTo(port, upstream));
  await ask(port, { headers: { cookie: 'a=1; switchyard_session=secret; b=2' } });
  await ask(port, { headers: { cookie: 'switchyard_session=secret' } });
  await ask(port, { headers: { cookie: 'a=1' } });
  await ask(port, {
    headers: { cookie: '__Host-switchyard_session=s; switchyard_sign_in=s; __Host-switchyard_sign_in=s' },
  });
  expect(seen).toEqual(['a=1; b=2', undefined, 'a=1', undefined]);
});

/** A server of another user of the machine, which says every byte that it is sent and answers nothing of HTTP. */
const listenerProgram = `
  const [port, host, uid] = process.argv.slice(1);
  process.setgroups([]);
  process.setuid(Number(uid));
  require('node:http').createServer((request, response) => {
    console.log('request');
    response.end('mine');
  }).listen({ port: Number(port), host, ipv6Only: true }, () => console.log('up'));
`;
async function listenAs(
  uid: number,
  port: number,
  host = '127.0.0.1',
): Promise<{ said: () => string; end(): Promise<void> }> {
  const child = spawn(process.execPath, ['-e', listenerProgram, String(port), host, String(uid)], {
    env: {},
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let said = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
  await once(child.stdout, 'data');
  return {
    said: () => said,
    async end() {
      const gone = once(child, 'exit');
      child.kill('SIGKILL');
      await gone;
    },
  };
}

describe.runIf(asRoot && process.platform === 'linux')('whoever listens on the port of an instance', () => {
  const [own, neighbour] = [61_001, 61_002];

  test('is sent nothing unless it is the user of the application', async () => {
    const proxy = router();
    const [address, upstream] = [await freePort(), await freePort()];
    await proxy.setRoutes(routeTo(address, upstream, 1, own));
    const instance = await listenAs(own, upstream);
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    for (const method of ['GET', 'GET', 'POST'])
      expect(await ask(address, { agent, method })).toMatchObject({ status: 200, body: 'mine' });

    await instance.end();
    const thief = await listenAs(neighbour, upstream);
    for (const method of ['GET', 'HEAD', 'POST', 'OPTIONS'])
      expect(await ask(address, { agent, method, ...(method === 'POST' && { body: 'secret' }) })).toMatchObject({
        status: 502,
      });
    const socket = new WebSocket(`ws://127.0.0.1:${address}/`);
    const [error] = (await once(socket, 'error')) as [Error];
    expect(error.message).toContain('502');
    expect(thief.said()).toBe('up\n');

    await thief.end();
    await listenAs(own, upstream);
    expect(await ask(address, { agent })).toMatchObject({ status: 200, body: 'mine' });
    agent.destroy();
  });

  test('is not somebody beside it, at another address of the machine', async () => {
    const proxy = router();
    for (const [others, mine] of [
      [['127.0.0.2', '::1'], '127.0.0.1'],
      [['127.0.0.2', '::'], '127.0.0.1'],
      [['::1'], '0.0.0.0'],
    ] as const) {
      // prettier-ignore
      const [address, upstream] = [await freePort(), await freePort()];
      await proxy.setRoutes(routeTo(address, upstream, 1, own));
      await listenAs(own, upstream, mine);
      for (const host of others) await listenAs(neighbour, upstream, host);
      expect(await ask(address)).toMatchObject({ status: 200, body: 'mine' });
      expect(await listenersOf(upstream)).toEqual([own]);
    }
  });

  test('is found at every address that a program can choose', async () => {
    for (const host of ['127.0.0.1', '0.0.0.0', '::', '::ffff:127.0.0.1']) {
      const server = createServer().listen({ port: 0, host });
      await once(server, 'listening');
      expect([host, await listenersOf((server.address() as AddressInfo).port)]).toEqual([host, [0]]);
      server.close();
    }
  });
});
