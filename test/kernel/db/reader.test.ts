import { setImmediate as turn } from 'node:timers/promises';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { createDatabase, type Database } from '#kernel/db/client.ts';
import type { Reading } from '#kernel/db/reader.ts';
import { testDatabase, type TestDatabase } from '../../support/database.ts';
import { upTo } from '../../support/live.ts';
import { roundTrips } from '../../support/statements.ts';

/* Reads of many requests on few connections: nothing is lost, and nobody is answered with another one's row or fault. */

let own: TestDatabase;
let database: Database;

beforeAll(async () => {
  own = await testDatabase();
  database = createDatabase({ url: own.url, directUrl: own.url, poolMax: 3, applicationName: 'reader' });
});
afterAll(async () => {
  await database.pool.end();
  await own.drop();
});

const short = (text: string, values: Reading['values'] = [], name?: string): Reading => ({
  name,
  text,
  values,
  isShort: true,
});
const plus = (n: number, name: string | undefined = 'plus'): Reading => short('select $1::int + 1, $2::text', [n, `of ${n}`], name); // prettier-ignore
const told = (n: number): unknown => [[String(n + 1), `of ${n}`]];
const failing = (name?: string): Reading => short('select 1 / $1::int', [0], name);
const all = (readings: readonly Reading[], { reader } = database) =>
  Promise.all(readings.map((one) => reader.read(one).catch((error: unknown) => String(error))));

/** A database whose one connection somebody has. */
async function exhausted(): Promise<{ one: Database; release: () => void }> {
  const one = createDatabase({ url: own.url, directUrl: own.url, poolMax: 1, applicationName: 'reader' });
  onTestFinished(() => one.pool.end());
  const client = await one.pool.connect();
  return { one, release: () => client.release() };
}

test('reads of one turn are one batch, each answered with its own rows', async () => {
  const { trips, statements } = await roundTrips(async () => {
    expect(
      await all([...upTo(8).map((n) => plus(n)), short('select where false'), short('select null, true')]),
    ).toEqual([...upTo(8).map(told), [], [[null, 't']]]);
    // One by one they are a batch each.
    expect(await database.reader.read(plus(20))).toEqual(told(20));
  });
  expect({ trips, count: statements.length }).toEqual({ trips: 2, count: 11 });
});

test('a read that is alone goes out in the turn in which it was asked for', async () => {
  await database.reader.read(plus(1));
  const { trips } = await roundTrips(async () => {
    const answer = database.reader.read(plus(1));
    let isAnswered = false;
    void answer.then(() => (isAnswered = true));
    await turn();
    await turn();
    // Sent, and not waited for: a batch that nobody sent would have no answer, however long it takes.
    expect(isAnswered || database.pool.idleCount < database.pool.totalCount).toBe(true);
    expect(await answer).toEqual(told(1));
  });
  expect(trips).toBe(1);
});

test('many are several batches, what is long or large is one of its own', async () => {
  const large = 'x'.repeat(10_001);
  const { trips } = await roundTrips(async () => {
    const readings = [...upTo(33).map((n) => plus(n)), { ...plus(34), isShort: false }, short('select $1', [large])];
    expect(await all(readings)).toEqual([...upTo(34).map(told), [[large]]]);
  });
  // A connection that has answered goes on with what waits: never fewer than these.
  expect(trips).toBeGreaterThanOrEqual(3);
});

test.each<[string, (number | 'fails')[]]>([
  ['first', ['fails', 1, 2, 3]],
  ['among others', [1, 2, 'fails', 3, 4]],
  ['last', [1, 2, 'fails']],
  ['with others that do', ['fails', 1, 'fails', 2, 3, 'fails', 'fails', 4]],
])('one that fails, %s, spoils no other, and is told its own error', async (_, which) => {
  for (const name of [undefined, 'failing']) {
    const pids = () => all(upTo(3).map(() => short('select pg_backend_pid()')));
    const before = await pids();
    const { statements } = await roundTrips(async () => {
      expect(await all(which.map((one) => (one === 'fails' ? failing(name) : plus(one, name && 'plus'))))).toEqual(
        which.map((one) => (one === 'fails' ? 'error: division by zero' : told(one))),
      );
    });
    // What was answered before it is not executed again, and what was behind it once more.
    expect(statements).toHaveLength(which.length + (which.length - 1 - which.indexOf('fails')));
    // Nor does it cost a connection.
    expect(await pids()).toEqual(before);
  }
});

test('a statement that is cancelled spoils no other', async () => {
  const canceled = short('select pg_cancel_backend(pg_backend_pid()), pg_sleep(20)');
  expect(await all([plus(1), canceled, plus(2)])).toEqual([
    told(1),
    'error: canceling statement due to user request',
    told(2),
  ]);
});

test('a value that is none is refused before anything is sent', async () => {
  expect(await all([plus(1), short('select $1', [{} as string]), plus(2)])).toEqual([
    told(1),
    'TypeError: A value of a statement is neither plain nor null',
    told(2),
  ]);
});

test('a statement that is not any more what was prepared is prepared again', async () => {
  await database.pool.query('create table changing (a int); insert into changing values (1)');
  const reading = short('select * from changing', [], 'changing');
  const one = createDatabase({ url: own.url, directUrl: own.url, poolMax: 1, applicationName: 'reader' });
  onTestFinished(() => one.pool.end());
  expect(await all([reading, reading], one)).toEqual([[['1']], [['1']]]);
  await database.pool.query('alter table changing add b int default 2');
  expect(await all([plus(1), reading, plus(2)], one)).toEqual([
    told(1),
    'error: cached plan must not change result type',
    told(2),
  ]);
  expect(await all([reading, reading], one)).toEqual([[['1', '2']], [['1', '2']]]);
});

test('when a connection ends under a batch, all of it is over, and the next has another one', async () => {
  const ends = short('select pg_terminate_backend(pg_backend_pid()), pg_sleep(20)');
  const [first, ...others] = await all([plus(1), ends, plus(2), plus(3)]);
  expect(first).toEqual(told(1));
  expect(others).toEqual(Array.from({ length: 3 }, () => expect.stringMatching(/terminat/)));
  expect(await all(upTo(20).map((n) => plus(n)))).toEqual(upTo(20).map(told));
});

test('without a free connection reads gather, and who waited before goes first', async () => {
  const { one, release } = await exhausted();
  const order: string[] = [];
  const { trips } = await roundTrips(async () => {
    const first = all(
      upTo(20).map((n) => plus(n)),
      one,
    ).then((rows) => (order.push('reads'), rows));
    await turn();
    expect(one.reader.waiting).toBeGreaterThan(0);
    const other = one.pool.query(`select 'other'`).then(() => order.push('other'));
    await turn();
    const more = all(
      upTo(20).map((n) => plus(n)),
      one,
    );
    await turn();
    expect(order).toEqual([]);
    release();
    expect(await first).toEqual(upTo(20).map(told));
    expect(await more).toEqual(upTo(20).map(told));
    await other;
  });
  // Two that were asked for before, the other, and the rest.
  expect({ trips, waiting: one.reader.waiting, order }).toEqual({ trips: 4, waiting: 0, order: ['reads', 'other'] });
});

test('without any connection all are told why', async () => {
  const gone = new URL(own.url);
  gone.pathname = '/nothing';
  const nowhere = createDatabase({ url: gone.href, directUrl: gone.href, poolMax: 2, applicationName: 'reader' });
  const why = 'error: database "nothing" does not exist';
  expect(await all([plus(1), plus(2), { ...plus(3), isShort: false }], nowhere)).toEqual([why, why, why]);
  await nowhere.pool.end();
});

test('a process that ends lets its reads be answered', async () => {
  const ending = createDatabase({ url: own.url, directUrl: own.url, poolMax: 1, applicationName: 'ending' });
  const answers = all([short(`select 1 from pg_sleep(0.05)`), ...upTo(3).map((n) => plus(n))], ending);
  await turn();
  await turn();
  await ending.pool.end();
  expect(await answers).toEqual([[['1']], ...upTo(3).map(told)]);
  expect(await all([plus(1)], ending)).toEqual(['Error: Cannot use a pool after calling end on the pool']);
});

test('behind a pooler statements have no names', async () => {
  const pooled = createDatabase({ url: own.url, directUrl: `${own.url}?direct`, poolMax: 1, applicationName: 'test' });
  onTestFinished(() => pooled.pool.end());
  const readings = upTo(6).map((n) => (n % 2 ? plus(n, '') : short('select $1::text', [`${n}`])));
  expect(await all(readings, pooled)).toEqual(upTo(6).map((n) => (n % 2 ? told(n) : [[`${n}`]])));
  expect(await all([short('select count(*) from pg_prepared_statements')], pooled)).toEqual([[['0']]]);
});
