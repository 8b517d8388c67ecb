import '../../support/probe.ts';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { failing } from '../../support/brittle.ts';
import { send, socket } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

/*
 * A rejection that nobody waits for ends the process. What the executors leave behind when an answer is given up is
 * rejected here after that answer was given.
 */

const unhandled: unknown[] = [];
const onUnhandled = (reason: unknown) => void unhandled.push(reason);
let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
  process.on('unhandledRejection', onUnhandled);
});
afterAll(async () => {
  process.off('unhandledRejection', onUnhandled);
  await server.stop();
});

/** Rejects what is still open, and waits until Node has told of it. */
async function failLate(): Promise<void> {
  // That it was rejected is known; what the executors make of it is what is looked for.
  failing.late.promise.catch(() => undefined);
  failing.late.reject(new Error('later'));
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
  failing.late = Promise.withResolvers();
}

const overHttp = async (document: string) => (await send(server.url, document)).errors;

async function overSocket(document: string) {
  const client = socket(server.url);
  try {
    for await (const answer of client.iterate({ query: document })) return answer.errors;
    throw new Error('There was no answer');
  } finally {
    await client.dispose();
  }
}

test.each([
  ['a list', '{ brittle { now later } }', overHttp],
  ['a list that comes later', '{ brittleOnes { later now } }', overHttp],
  ['a list in a list', '{ brittle { parts { now later } } }', overHttp],
  ['fields of an object', '{ brittle { later now } }', overHttp],
  ['root fields', '{ a: brittle { now later } b: brittleOnes { later } }', overHttp],
  ['a list, over a socket,', '{ brittle { now later } }', overSocket],
  ['an event of a stream', 'subscription { brittleEvents { now later } }', overSocket],
] as const)('%s in which something fails at once leaves no rejection behind', async (_, document, ask) => {
  failing.asked = false;
  const answered = ask(document);
  // What was rejected before that would be nothing that it waits for.
  await until('it waits for what fails later', async () => failing.asked);
  // Where the answer waits for all of it, it comes when that has failed.
  const early = await Promise.race([answered, new Promise<null>((resolve) => setTimeout(resolve, 100, null))]);
  await failLate();
  const errors = early ?? (await answered);
  expect(errors?.[0]?.extensions?.['code']).toBe('INTERNAL');
  await failLate();
  expect(unhandled.splice(0)).toEqual([]);
});
