import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { z } from 'zod';
import { createLanguageModel } from '../../../src/integrations/llm/index.ts';
import { LlmFailed, maxDataChars } from '../../../src/kernel/llm.ts';
import { createOutboundPolicy } from '../../../src/kernel/outbound.ts';
import { createOutboundFetch } from '../../../src/kernel/outbound-fetch.ts';
import { says, startLlm, type LlmServer } from '../../support/llm.ts';

let server: LlmServer;
beforeAll(async () => {
  server = await startLlm();
});
afterAll(() => server.close());
beforeEach(() => {
  server.asked.length = 0;
});

const key = 'sk-the-key-of-the-operator';
const model = (options: { allowLoopback?: boolean; timeoutMs?: number; url?: string } = {}) =>
  createLanguageModel({
    url: options.url ?? server.url,
    key,
    model: 'stand-in',
    fetch: createOutboundFetch({
      policy: createOutboundPolicy({ allowLoopback: options.allowLoopback ?? true, allowPrivate: true }),
      timeoutMs: options.timeoutMs ?? 30_000,
      maxBytes: 65_536,
    }),
  });
const Schema = z.object({ color: z.enum(['red', 'green']), count: z.int().max(9) });
const never = new AbortController().signal;
const ask = (of = model(), signal = never) => of.complete(Schema, 'Tell the color.', 'The data: green', signal);
/** What it was refused with. */
async function refusal(of = model()): Promise<LlmFailed> {
  const error: unknown = await ask(of).catch((thrown: unknown) => thrown);
  if (!(error instanceof LlmFailed)) throw error;
  // Nothing of the question, the answer or the key is told on.
  const told = `${error.message} ${error.stack} ${JSON.stringify(error)} ${String(error.cause)}`;
  for (const secret of [key, 'The data', 'purple']) expect(told).not.toContain(secret);
  return error;
}

test('gives what was asked for, in the form that was asked for', async () => {
  server.answer = (_, res) => says(res, { color: 'green', count: 3 });
  expect(await ask()).toEqual({ color: 'green', count: 3 });
  const [asked] = server.asked;
  expect(asked).toMatchObject({ path: '/v1/chat/completions', authorization: `Bearer ${key}` });
  expect(asked?.text).toContain('Tell the color.');
  expect(asked?.text).toContain('"enum":["red","green"]');
  expect(JSON.parse(asked?.raw ?? '')).toMatchObject({
    model: 'stand-in',
    response_format: { type: 'json_object' },
    messages: [{ role: 'system' }, { role: 'user', content: 'The data: green' }],
  });
});

test.each<[what: string, answer: LlmServer['answer'], reason: LlmFailed['reason'], mayPass: boolean]>([
  ['no JSON', (_, res) => says(res, 'It is purple.'), 'MALFORMED', false],
  ['half of a JSON text', (_, res) => says(res, '{"color":"gre'), 'MALFORMED', false],
  ['another form', (_, res) => says(res, { color: 'purple', count: 3 }), 'MALFORMED', false],
  ['no text', (_, res) => says(res, ''), 'MALFORMED', false],
  ['no chat completion', (_, res) => void res.writeHead(200, { 'content-type': 'application/json' }).end('{"purple":1}'), 'MALFORMED', false], // prettier-ignore
  ['a page', (_, res) => void res.writeHead(200).end('<html>purple'), 'MALFORMED', false],
  ['429', (_, res) => void res.writeHead(429).end('{"error":{"message":"purple"}}'), 'BUSY', true],
  ['503', (_, res) => void res.writeHead(503).end('purple'), 'UNREACHABLE', true],
  ['401', (_, res) => void res.writeHead(401).end('{"error":{"message":"purple"}}'), 'REFUSED', false],
  [
    'a redirect',
    (_, res) => void res.writeHead(307, { location: 'http://169.254.169.254/' }).end(),
    'UNREACHABLE',
    true,
  ],
  ['an answer without end', (_, res) => void res.writeHead(200).end('x'.repeat(100_000)), 'TOO_LARGE', false],
  ['a connection that breaks', (_, res) => void res.destroy(), 'UNREACHABLE', true],
])('%s: %s', async (_, answer, reason, mayPass) => {
  server.answer = answer;
  expect(await refusal()).toMatchObject({ reason, mayPass });
  // Whoever asks decides whether to ask again.
  expect(server.asked).toHaveLength(1);
});

test('one that does not answer in time, and a signal', async () => {
  server.answer = () => undefined;
  expect(await refusal(model({ timeoutMs: 100 }))).toMatchObject({ reason: 'BUSY', mayPass: true });
  const stop = new AbortController();
  const asking = ask(model(), stop.signal);
  setTimeout(() => stop.abort(new Error('enough')), 50);
  await expect(asking).rejects.toThrow('enough');
});

test('asks no address that the policy refuses, and nothing that is too long', async () => {
  expect(await refusal(model({ allowLoopback: false }))).toMatchObject({ reason: 'UNREACHABLE' });
  expect(await refusal(model({ url: 'http://169.254.169.254/v1' }))).toMatchObject({ reason: 'UNREACHABLE' });
  await expect(model().complete(Schema, '', 'x'.repeat(maxDataChars + 1), never)).rejects.toMatchObject({ reason: 'TOO_LARGE' }); // prettier-ignore
  expect(server.asked).toEqual([]);
});
