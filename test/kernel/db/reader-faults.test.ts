import { setImmediate as turn } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { Pool } from 'pg';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { createDatabase, type Database } from '#kernel/db/client.ts';
import { Reader, type Reading } from '#kernel/db/reader.ts';
import { testDatabase, type TestDatabase } from '../../support/database.ts';
import { until } from '../../support/embedded.ts';
import { upTo } from '../../support/live.ts';
import { random } from '../../support/random.ts';

/* Many reads at once of which many fail, in every way that PostgreSQL knows: each has its own answer, or its own error. */

let own: TestDatabase;
beforeAll(async () => {
  own = await testDatabase();
});
afterAll(() => own.drop());

function opened(of: { poolMax: number; direct?: string; statementTimeoutS?: number }): Database {
  const { direct = '', ...rest } = of;
  const database = createDatabase({
    url: own.url,
    directUrl: `${own.url}${direct}`,
    applicationName: 'faults',
    ...rest,
  });
  onTestFinished(() => database.pool.end());
  return database;
}

interface Case {
  readonly reading: Reading;
  /** Its rows, or a part of the error's message. */
  readonly told: unknown;
}

const of = (text: string, values: Reading['values'], told: unknown): Case => ({
  reading: { name: undefined, text, values, isShort: true },
  told,
});

/** By a number that no other has, so that an answer to another one is seen. */
const kinds: readonly ((n: number) => Case)[] = [
  (n) => of('select $1::int + 1, $2::text', [n, `of ${n}`], [[`${n + 1}`, `of ${n}`]]),
  (n) =>
    of(
      'select i::text, $1::text from generate_series(1, 3) i',
      [`${n}`],
      upTo(3).map((i) => [`${i}`, `${n}`]),
    ),
  (n) => of('select $1::int where $1::int < 0', [n], []),
  (n) => of('select null, $1::text[]', [[`"\\ ü\u{1F600}`, `${n}`]], [[null, `{"\\"\\\\ ü\u{1F600}",${n}}`]]),
  (n) => of('select repeat($1, 20000)', [`${n},`], [[`${n},`.repeat(20_000)]]),
  (n) => of('select $1', ['x'.repeat(10_000) + String(n)], [['x'.repeat(10_000) + String(n)]]),
  (n) => of('select $1::uuid', [`no ${n}`], `invalid input syntax for type uuid: "no ${n}"`),
  (n) => of('select $1::text', [`\0 ${n}`], 'invalid byte sequence for encoding "UTF8": 0x00'),
  (n) => of('select $1::int', [`99999999999${n}`], `value "99999999999${n}" is out of range for type integer`),
  (n) => of('select $1::jsonb', [`{${n}`], 'invalid input syntax for type json'),
  (n) => of('select $1::timestamptz', [`year ${n}`], `invalid input syntax for type timestamp with time zone: "year ${n}"`), // prettier-ignore
  // After some rows were sent.
  (n) => of('select $1::int / (i - 2) from generate_series(1, 3) i', [n], 'division by zero'),
  (n) => of(`select ${n} from nowhere_${n}`, [], `relation "nowhere_${n}" does not exist`),
  (n) => of('select 1 frm', [n], 'bind message supplies 1 parameters, but prepared statement'),
  (n) => of(`select $2::int + ${n}`, [n, 1], 'could not determine data type of parameter $1'),
  (n) => of(`selct ${n}`, [], 'syntax error at or near "selct"'),
  () => of('', [], []),
];

test.each([
  ['itself', ''],
  ['a pooler', '?direct'],
])('over %s each of many reads has its own answer or its own error', async (_, direct) => {
  const { reader, pool, pooled } = opened({ poolMax: 3, direct, statementTimeoutS: 20 });
  const next = random(7);
  const pick = (below: number) => Math.floor(next() * below);
  for (let round = 0, n = 0; round < 20; round++) {
    // In some rounds most of them fail, in others few.
    const goods = pick(3) * 20;
    const cases = upTo(1 + pick(60)).map(() => {
      const kind = next() * 100 < goods ? pick(6) : pick(kinds.length);
      const one = (kinds[kind] as (typeof kinds)[number])(++n);
      const name = pooled || next() < 0.4 || /\d{2,}/.test(one.reading.text) ? undefined : `fault ${kind}`;
      return { told: one.told, reading: { ...one.reading, name, isShort: next() < 0.9 } };
    });
    const answers = await Promise.all(
      cases.map(async ({ reading }) => {
        // Some in the same turn, others a little later, when the first have been sent.
        for (let turns = pick(3); turns > 0; turns--) await turn();
        return reader.read(reading).catch((error: unknown) => (error as Error).message);
      }),
    );
    const wrong = cases
      .map(({ reading, told }, i) => ({ text: reading.text, told, answer: answers[i] }))
      .filter(({ told, answer }) =>
        typeof told === 'string' ? !String(answer).includes(told) : !isDeepStrictEqual(answer, told),
      );
    expect(wrong).toEqual([]);
  }
  await until('all connections are free', async () => pool.idleCount === pool.totalCount);
  expect([reader.waiting, pool.waitingCount]).toEqual([0, 0]);
});

test('connections that are ended under batches answer nobody wrongly, and leave nobody waiting', async () => {
  const { reader, pool } = opened({ poolMax: 3 });
  const killer = opened({ poolMax: 1 });
  for (let round = 0; round < 10; round++) {
    const asked = upTo(80).map((n) =>
      reader
        .read(of('select $1::int + 1 from pg_sleep(0.001)', [n], null).reading)
        .then(([row]) => Number(row?.[0]) - n)
        .catch((error: unknown) => (error as Error).message),
    );
    await turn();
    await turn();
    await killer.pool.query(
      'select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1 and datname = current_database() and pid <> pg_backend_pid()',
      ['faults'],
    );
    for (const answer of await Promise.all(asked)) expect(String(answer)).toMatch(/^1$|[Tt]erminat|ECONNRESET|EPIPE/);
    const after = upTo(5).map((n) => reader.read(of('select $1::int', [n], null).reading));
    expect(await Promise.all(after)).toEqual(upTo(5).map((n) => [[`${n}`]]));
  }
  expect([reader.waiting, pool.waitingCount]).toEqual([0, 0]);
});

test('those that wait for the same lock are told so at the same time', async () => {
  const { pool, reader } = opened({ poolMax: 9, statementTimeoutS: 0.5 });
  await pool.query('create table locked (a int)');
  const holder = await pool.connect();
  await holder.query('begin; set local statement_timeout = 0; lock table locked in access exclusive mode');
  const began = performance.now();
  const answers = await Promise.all(
    upTo(8).map((n) =>
      reader.read(of(`select a, ${n} from locked`, [], null).reading).catch((error: unknown) => error as Error),
    ),
  );
  const tookS = (performance.now() - began) / 1000;
  await holder.query('rollback');
  holder.release();
  for (const answer of answers) expect(answer).toMatchObject({ code: '57014' });
  // The first, and then all others: 1 s. One after the other they take 4 s.
  expect(tookS).toBeLessThan(3);
});

test('a connection that is not to be had fails those that it was for', async () => {
  const pool = new Pool({ connectionString: own.url, max: 3 });
  onTestFinished(() => pool.end());
  const connect = pool.connect.bind(pool) as (then: Parameters<Pool['connect']>[0]) => void;
  let fails = 1;
  pool.connect = ((then: Parameters<Pool['connect']>[0]) => {
    if (fails-- > 0) setImmediate(() => then(new Error('too many'), undefined, () => undefined));
    else connect(then);
  }) as Pool['connect'];
  const reader = new Reader(pool);
  const answers = await Promise.all(
    upTo(40).map((n) => reader.read(of('select $1::int', [n], null).reading).catch((error: unknown) => String(error))),
  );
  expect(answers).toEqual(upTo(40).map((n) => (n <= 16 ? 'Error: too many' : [[`${n}`]])));
});
