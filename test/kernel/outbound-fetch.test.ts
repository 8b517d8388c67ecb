import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gzipSync } from 'node:zlib';
import { buildConnector } from 'undici';
import { describe, expect, onTestFinished, test } from 'vitest';
import { createOutboundPolicy, OutboundRefused } from '#kernel/outbound.ts';
import { createOutboundFetch, OutboundFailed, type OutboundFetchOptions } from '#kernel/outbound-fetch.ts';

/** A server on loopback that stands for the whole Internet; its port. */
async function decoy(listener: RequestListener): Promise<number> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

/** A fetch whose names resolve to `answers`, one after the other, and whose connections all go to the decoy. */
function internet(port: number, answers: readonly string[][], more: Partial<OutboundFetchOptions> = {}) {
  const connected: string[] = [];
  const names: string[] = [];
  const connect = buildConnector({ timeout: 1000 });
  const fetch = createOutboundFetch({
    policy: createOutboundPolicy({
      allowLoopback: false,
      lookup: async (host) => answers[Math.min(names.push(host), answers.length) - 1] ?? [],
    }),
    connector: (options, callback) => {
      connected.push(options.hostname);
      connect({ ...options, hostname: '127.0.0.1', port: String(port) }, callback);
    },
    timeoutMs: 2000,
    ...more,
  });
  return { fetch, connected, names };
}

const outcome = (asked: Promise<Response>) =>
  asked.then(
    () => 'answered',
    (error: unknown) =>
      error instanceof OutboundRefused || error instanceof OutboundFailed ? error.reason : String(error),
  );

describe('what is asked for outside', () => {
  test('goes to the address that was checked, under the name that was asked for', async () => {
    const port = await decoy((req, res) => {
      res.setHeader('set-cookie', ['a=1', 'b=2']);
      res.writeHead(201, { 'content-type': 'text/plain' }).end(`${req.method} ${req.headers.host} ${req.url}`);
    });
    const { fetch, connected, names } = internet(port, [['93.184.215.14']]);
    const answer = await fetch('http://example.com:8080/a?b', { method: 'DELETE' });
    expect([answer.status, await answer.text()]).toEqual([201, 'DELETE example.com:8080 /a?b']);
    expect(answer.headers.getSetCookie()).toEqual(['a=1', 'b=2']);
    expect([connected, names]).toEqual([['93.184.215.14'], ['example.com']]);
  });

  test('is sent as it is given', async () => {
    const port = await decoy((req, res) => {
      const chunks: Buffer[] = [];
      req.on('data', (chunk: Buffer) => chunks.push(chunk));
      req.on('end', () =>
        res.end([req.headers['content-type'], req.headers['x-a'], Buffer.concat(chunks).toString()].join(' ')),
      );
    });
    const { fetch } = internet(port, [['93.184.215.14']]);
    const body = new URLSearchParams({ a: 'b c' });
    const answer = await fetch('http://example.com/', { method: 'POST', headers: { 'X-A': '1' }, body });
    expect(await answer.text()).toBe('application/x-www-form-urlencoded;charset=UTF-8 1 a=b+c');
  });

  test('never goes to a second answer of the DNS (rebinding)', async () => {
    const port = await decoy((_, res) => res.end('x'));
    const { fetch, connected, names } = internet(port, [['93.184.215.14'], ['127.0.0.1']]);
    await fetch('http://example.com/');
    expect([connected, names.length]).toEqual([['93.184.215.14'], 1]);
    expect(await outcome(fetch('http://example.com/'))).toBe('ADDRESS');
    expect(connected).toEqual(['93.184.215.14']);
  });

  test('tries the next address when one does not take the connection', async () => {
    const port = await decoy((_, res) => res.end('x'));
    const tried: string[] = [];
    const connect = buildConnector({ timeout: 1000 });
    const { fetch } = internet(port, [['93.184.215.14', '93.184.215.15']], {
      connector: (options, callback) => {
        tried.push(options.hostname);
        if (tried.length === 1) callback(new Error('refused'), null);
        else connect({ ...options, hostname: '127.0.0.1', port: String(port) }, callback);
      },
    });
    expect(await (await fetch('http://example.com/')).text()).toBe('x');
    expect(tried).toEqual(['93.184.215.14', '93.184.215.15']);
  });

  test.each([
    'http://127.0.0.1/',
    'http://2130706433/',
    'http://0x7f000001/',
    'http://017700000001/',
    'http://127.1/',
    'http://[::1]/',
    'http://[::ffff:127.0.0.1]/',
    'http://[::ffff:a9fe:a9fe]/',
    'http://[64:ff9b::a9fe:a9fe]/',
    'http://169.254.169.254/latest/meta-data/',
    'http://10.0.0.1/',
    'http://192.168.0.1/',
    'http://[fd00::1]/',
    'http://0.0.0.0/',
    'https://169.254.169.254/',
  ])('never goes to %s', async (url) => {
    const port = await decoy((_, res) => res.end('x'));
    const { fetch, connected } = internet(port, [['93.184.215.14']]);
    expect(await outcome(fetch(url))).toBe('ADDRESS');
    expect(connected).toEqual([]);
  });

  test.each([[['10.0.0.1']], [['93.184.215.14', '127.0.0.1']], [['::ffff:10.0.0.1']], [['fe80::1']]])(
    'never goes to a name at %j',
    async (addresses) => {
      const port = await decoy((_, res) => res.end('x'));
      const { fetch, connected } = internet(port, [addresses]);
      expect(await outcome(fetch('http://example.com/'))).toBe('ADDRESS');
      expect(connected).toEqual([]);
    },
  );

  test.each([301, 302, 303, 307, 308])('follows no redirect (%i)', async (status) => {
    for (const location of ['http://169.254.169.254/latest', 'http://127.0.0.1/', 'http://example.com/elsewhere']) {
      const port = await decoy((_, res) => res.writeHead(status, { location }).end());
      const { fetch, connected } = internet(port, [['93.184.215.14']]);
      expect(await outcome(fetch('http://example.com/'))).toBe('REDIRECT');
      expect(connected).toEqual(['93.184.215.14']);
    }
  });

  test('private networks are for what the operator configured, and never link-local ones', async () => {
    const port = await decoy((_, res) => res.end('x'));
    for (const [address, expected] of [
      ['10.0.0.1', 'answered'],
      ['fd00::1', 'answered'],
      ['169.254.169.254', 'ADDRESS'],
      ['127.0.0.1', 'ADDRESS'],
    ] as const) {
      const policy = createOutboundPolicy({ allowLoopback: false, allowPrivate: true, lookup: async () => [address] });
      const { fetch } = internet(port, [], { policy });
      expect([address, await outcome(fetch('http://example.com/'))]).toEqual([address, expected]);
    }
  });
});

describe('an answer', () => {
  test('that is too long, says a length that is, or never ends', async () => {
    for (const listener of [
      (_: unknown, res) => res.end(Buffer.alloc(2000)),
      (_: unknown, res) => {
        const timer = setInterval(() => res.write(Buffer.alloc(500)), 1);
        res.on('close', () => clearInterval(timer));
      },
    ] satisfies RequestListener[]) {
      const { fetch } = internet(await decoy(listener), [['93.184.215.14']], { maxBytes: 1999 });
      expect(await outcome(fetch('http://example.com/'))).toBe('TOO_LARGE');
    }
  });

  test('that is packed is not unpacked', async () => {
    const port = await decoy((req, res) => {
      expect(req.headers['accept-encoding']).toBeUndefined();
      res.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(Buffer.alloc(10_000_000)));
    });
    const { fetch } = internet(port, [['93.184.215.14']], { maxBytes: 20_000 });
    expect((await (await fetch('http://example.com/')).arrayBuffer()).byteLength).toBeLessThan(20_000);
  });

  test('that does not come in time: the look-up, the connection, the head, the body', async () => {
    const never = new Promise<never>(() => undefined);
    const silent = await decoy(() => undefined);
    const half = await decoy((_, res) => void res.write('x'));
    const options = { timeoutMs: 100 };
    const fetches = [
      internet(silent, [['93.184.215.14']], {
        ...options,
        policy: createOutboundPolicy({ allowLoopback: false, lookup: () => never }),
      }),
      internet(silent, [['93.184.215.14']], { ...options, connector: () => undefined }),
      internet(silent, [['93.184.215.14']], options),
      internet(half, [['93.184.215.14']], options),
    ];
    for (const { fetch } of fetches) expect(await outcome(fetch('http://example.com/'))).toBe('TIMEOUT');
  });

  test('that nobody waits for any more', async () => {
    const { fetch } = internet(await decoy(() => undefined), [['93.184.215.14']]);
    const stop = new AbortController();
    const asked = outcome(fetch('http://example.com/', { signal: stop.signal }));
    stop.abort(new Error('no longer'));
    expect(await asked).toBe('Error: no longer');
  });

  test('without a body', async () => {
    const { fetch } = internet(await decoy((_, res) => res.writeHead(204).end()), [['93.184.215.14']]);
    expect((await fetch('http://example.com/')).status).toBe(204);
  });

  test('that is none', async () => {
    const { fetch } = internet(await decoy((req) => req.socket.destroy()), [['93.184.215.14']]);
    expect(await outcome(fetch('http://example.com/'))).toBe('NETWORK');
  });
});
