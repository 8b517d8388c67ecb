import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { system } from '#kernel/auth/actor.ts';
import { Mail } from '#kernel/mail/mail.ts';
import { freePort } from '../../support/counterparts.ts';
import { http } from '../../support/http.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

interface Entry {
  readonly id: string;
  readonly to: string;
  readonly subject: string;
  readonly text: string;
  readonly at: string;
}

const get = (url: string, headers: Record<string, string> = {}) => http(url, { method: 'GET', headers });

describe('/dev/mail in development', () => {
  let server: TestServer;
  let address: string;
  beforeAll(async () => {
    server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
    address = `${server.running.url}/dev/mail`;
    const { app } = server.running;
    for (const to of ['ada@example.com', 'bob@example.com', 'ada@example.com']) {
      const text = `Hello ${to}`;
      await app.transact(system, (tx) => app.use(Mail).send(tx, { to, subject: 'Hello', text }));
    }
  });
  afterAll(() => server.stop());

  test('shows the mails, newest first, and those to one address', async () => {
    const all = await get(address);
    expect(all.status).toBe(200);
    expect(all.headers['cache-control']).toBe('no-store');
    expect(all.headers['content-type']).toBe('application/json; charset=utf-8');
    const mails = all.body as Entry[];
    expect(mails.map(({ to }) => to)).toEqual(['ada@example.com', 'bob@example.com', 'ada@example.com']);
    expect(Object.keys(mails[0] ?? {})).toEqual(['id', 'to', 'subject', 'text', 'at']);
    expect(mails[0]?.text).toBe('Hello ada@example.com');
    const times = mails.map(({ at }) => at);
    expect(times).toEqual(times.toSorted().toReversed());
    const one = await get(`${address}?to=Bob%40example.com`);
    expect((one.body as Entry[]).map(({ to }) => to)).toEqual(['bob@example.com']);
    expect((await get(`${address}?to=nobody%40example.com`)).body).toEqual([]);
  });

  test.each([
    ['a script or a tool', {}],
    ['its own page', { 'sec-fetch-site': 'same-origin' }],
    ['the address bar', { 'sec-fetch-site': 'none' }],
    ['localhost by name', { host: 'localhost:1234' }],
    ['localhost in IPv6', { host: '[::1]' }],
  ] as const)('answers %s', async (_, headers) => {
    expect((await get(address, headers)).status).toBe(200);
  });

  test.each([
    ['a page of another site', { origin: 'https://evil.example' }],
    ['a sandboxed page', { origin: 'null' }],
    ['an image or a script of another site', { 'sec-fetch-site': 'cross-site' }],
    ['another site of the same name', { 'sec-fetch-site': 'same-site' }],
    ['a name that leads here (DNS rebinding)', { host: 'evil.example' }],
    ['a name that leads here, with our port', { host: 'evil.example:4000' }],
    ['a name that looks like ours', { host: 'localhost.evil.example' }],
    ['a name with ours in front', { host: '127.0.0.1.evil.example' }],
    ['what a proxy passed on', { 'x-forwarded-for': '203.0.113.7' }],
    ['what a tunnel passed on under our name', { 'x-forwarded-host': 'evil.example', host: 'localhost' }],
    ['what says so by the standard', { forwarded: 'for=203.0.113.7' }],
  ] as const)('refuses %s', async (_, headers) => {
    const answer = await get(address, headers);
    expect(answer.status).toBe(403);
    expect(answer.text).not.toContain('example.com');
  });

  test('reads only', async () => {
    for (const method of ['POST', 'DELETE', 'HEAD', 'OPTIONS'])
      expect((await http(address, { method })).status).toBe(405);
  });

  test('has no other address', async () => {
    for (const path of ['', '/', '/mail/', '/Mail', '/mail/x']) {
      expect((await get(`${server.running.url}/dev${path}`)).status).toBe(404);
    }
  });
});

describe('/dev/mail is not there', () => {
  let server: TestServer;
  afterEach(() => server.stop());

  test.each([
    ['with a mail server', { SMTP_URL: 'smtp://127.0.0.1:9', MAIL_FROM: 'a@example.org' }],
    ['when the server listens on more than loopback', { HOST: '0.0.0.0' }],
    [
      'in production',
      {
        NODE_ENV: 'production',
        PUBLIC_URL: 'https://switchyard.example.com',
        SESSION_SECRET: 's'.repeat(32),
        STORAGE_SECRET: 's'.repeat(32),
        SWITCHYARD_PROCESS_DRIVER: 'false',
        SWITCHYARD_ENCRYPTION_KEYS: `k1:${Buffer.alloc(32, 1).toString('base64')}`,
      },
    ],
  ] as const)('%s', async (_, env) => {
    const port = await freePort();
    server = await startTestServer({ SWITCHYARD_ROLES: 'api', PORT: String(port), ...env });
    expect((await get(`http://127.0.0.1:${port}/health/live`)).status).toBe(200);
    expect((await get(`http://127.0.0.1:${port}/dev/mail`)).status).toBe(404);
  });
});
