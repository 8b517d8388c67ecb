// Holds a lease on an embedded server for a test that kills it: `node embedded-holder.ts <stateDir> <sharedDir>`.
// Says JSON lines: {acquired: …}, {lost: "…"}, {answer: 1}, {released: true}. Does what lines on standard input say:
// `query`, `release`.
import { createInterface } from 'node:readline';
import { Client } from 'pg';
import { acquireEmbeddedPostgres } from '../../src/kernel/db/embedded/index.ts';
import { createLogger } from '../../src/kernel/log.ts';

const [stateDir = '', sharedDir = ''] = process.argv.slice(2);
const say = (message: object) => console.log(JSON.stringify(message));

const startedAt = performance.now();
const postgres = await acquireEmbeddedPostgres({ stateDir, sharedDir, log: createLogger('silent') });
const { url, pid, supervisorPid, port, adopted } = postgres;
const durationMs = Math.round(performance.now() - startedAt);
say({ acquired: { url, pid, supervisorPid, port, adopted, durationMs } });

async function reportLoss(): Promise<void> {
  say({ lost: (await postgres.lost).message });
}

async function query(): Promise<number | undefined> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<{ answer: number }>('SELECT 1 AS answer')).rows[0]?.answer;
  } finally {
    await client.end();
  }
}

void reportLoss();
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'query') say({ answer: await query() });
  if (line === 'release') {
    await postgres.release();
    say({ released: true });
  }
}
