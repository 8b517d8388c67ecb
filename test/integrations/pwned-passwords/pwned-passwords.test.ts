import { createHash } from 'node:crypto';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { createBreachList, limits } from '../../../src/integrations/pwned-passwords/index.ts';
import { createOutboundPolicy, OutboundRefused } from '#kernel/outbound.ts';
import { createOutboundFetch, OutboundFailed } from '#kernel/outbound-fetch.ts';

const password = 'nineteen sleepy walruses';
const hash = createHash('sha1').update(password).digest('hex').toUpperCase();

/** A list at a name, and what it was asked. */
async function list(answer: RequestListener, allowLoopback = true) {
  const asked: string[] = [];
  const server = createServer((req, res) => {
    asked.push(`${req.headers.host} ${req.url} ${String(req.headers['add-padding'])}`);
    answer(req, res);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void (server.closeAllConnections(), server.close()));
  const { port } = server.address() as AddressInfo;
  let lookups = 0;
  const policy = createOutboundPolicy({
    allowLoopback,
    allowPrivate: true,
    // Whoever asks a second time is sent elsewhere.
    lookup: async () => (lookups++ === 0 ? ['127.0.0.1'] : ['203.0.113.1']),
  });
  const url = `http://list.example:${port}/v1/`;
  return { asked, url, port, isBreached: createBreachList({ url, fetch: createOutboundFetch({ policy, ...limits }) }) };
}

test.each([
  ['one that is there', `${hash.slice(5)}:3`, true],
  ['one that is not', `${'0'.repeat(35)}:3`, false],
  ['padding', `${hash.slice(5)}:0`, false],
  ['lines that end as on Windows', `${'0'.repeat(35)}:3\r\n${hash.slice(5)}:12\r\n`, true],
  ['an empty answer', '', false],
])('%s', async (_, body, expected) => {
  const { isBreached, asked, port } = await list((_req, res) => res.end(body));
  expect(await isBreached(password)).toBe(expected);
  // Resolved once, asked where it was checked; five digits left.
  expect(asked).toEqual([`list.example:${port} /v1/range/${hash.slice(0, 5)} true`]);
});

test('is not followed elsewhere, read without an end, or believed when it fails', async () => {
  const elsewhere = await list((_req, res) => res.end());
  const away = await list((_req, res) => res.writeHead(302, { location: `http://127.0.0.1:${elsewhere.port}/` }).end());
  await expect(away.isBreached(password)).rejects.toMatchObject({ reason: 'REDIRECT' });
  expect(elsewhere.asked).toEqual([]);
  const endless = await list((_req, res) => res.end('x'.repeat(limits.maxBytes + 1)));
  await expect(endless.isBreached(password)).rejects.toBeInstanceOf(OutboundFailed);
  const broken = await list((_req, res) => res.writeHead(503).end());
  await expect(broken.isBreached(password)).rejects.toThrow('status 503');
});

test('is not asked at an address that the policy refuses', async () => {
  const { isBreached, asked } = await list((_req, res) => res.end(), false);
  await expect(isBreached(password)).rejects.toBeInstanceOf(OutboundRefused);
  expect(asked).toEqual([]);
});
