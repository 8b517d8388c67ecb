import { afterAll, beforeAll, expect, test } from 'vitest';
import { createDatabase } from '#kernel/db/client.ts';
import { globalId } from '#kernel/graphql/global-id.ts';
import { headersOf, send, socket, type Auth } from '../../support/client.ts';
import { keptLog } from '../../support/http.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { keyOf, rowOf, tenant, type Tenant } from '../../support/world.ts';

/* A statement of a request ends by itself. Everything here waits for that at the same time: a second. */

const { log, lines } = keptLog();
let server: TestServer;
let of: Tenant;
let auth: Auth;
let id: string;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api', SWITCHYARD_STATEMENT_TIMEOUT_S: '1' }, { log });
  of = await tenant(server.running.app, 'late');
  auth = await keyOf(server.running.app, of, of.owner.id, 'OWNER');
  id = globalId('Application', (await rowOf['Application']?.(server.running.app, of)) ?? '');
});
afterAll(() => server.stop());

test.concurrent(
  'whoever asks for what takes too long is told so, once for each in the log, and without a word of SQL',
  async () => {
    const query = 'query Late($id: ID!) { node(id: $id) { id ... on Application { name } } }';
    // What the schema says of itself is not of one statement with the rest.
    const ordinary =
      'query Ordinary($id: ID!) { __schema { queryType { name } } node(id: $id) { ... on Application { name } } }';
    const stop = `mutation Stop($id: ID!) { stopApplication(input: { id: $id }) { __typename ... on Error { code } } }`;
    const locked = await server.running.app.database.pool.connect();
    await locked.query('begin; set local statement_timeout = 0; lock table application in access exclusive mode');
    const client = socket(server.url, auth);
    try {
      const overSocket = async () => {
        for await (const answer of client.iterate({ query, variables: { id } })) return answer;
        throw new Error('There was no answer');
      };
      const compiled = fetch(server.url, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headersOf(auth) },
        body: JSON.stringify({ query, variables: { id } }),
      });
      const answers = await Promise.all([
        overSocket(),
        send(server.url, ordinary, { id }, auth),
        send(server.url, `${query} # again`, { id }, auth),
        send(server.url, stop, { id }, auth),
      ]);
      for (const answer of answers) {
        expect(answer.errors?.map(({ extensions }) => extensions)).toMatchObject([
          { code: 'TIMEOUT', retryable: true },
        ]);
        expect(JSON.stringify(answer)).not.toMatch(/select |statement|invocation|57014/i);
      }
      expect((await compiled).status).toBe(503);
      expect((await compiled).headers.get('retry-after')).toBe('10');
    } finally {
      await locked.query('rollback');
      locked.release();
      await client.dispose();
    }
    const told = lines.filter(({ msg }) => msg === 'the database took too long');
    expect(told).toHaveLength(5);
    expect(new Set(told.map(({ requestId }) => requestId)).size).toBe(5);
    expect((await send(server.url, query, { id }, auth)).errors).toBeUndefined();
  },
);

test.concurrent.each([
  ['itself', ''],
  ['a pooler, which forgets what a session has', '?direct'],
])('over %s a statement has its limit alone and in a transaction, and maintenance has none', async (_, direct) => {
  const { url } = server.database;
  const of = { url, directUrl: `${url}${direct}`, poolMax: 4, applicationName: `late${direct}`, statementTimeoutS: 1 };
  const database = createDatabase(of);
  try {
    const sleep = 'select pg_sleep(1.3)::text slept';
    const late = { code: '57014' };
    await Promise.all([
      expect(database.query(sleep, [])).rejects.toMatchObject(late),
      expect(database.db.$queryRawUnsafe(sleep)).rejects.toThrow('57014'),
      database.unhurried(async () => {
        const answers = await Promise.all([database.query(sleep, []), database.db.$queryRawUnsafe(sleep)]);
        expect(answers).toMatchObject([{ rows: [{ slept: '' }] }, [{ slept: '' }]]);
      }),
    ]);
    const connection = await database.begin();
    const limit = `select current_setting('statement_timeout') "limit"`;
    expect(await connection.query(limit, [])).toEqual([{ limit: '1s' }]);
    await connection.commit();
    expect((await database.query(limit, [])).rows).toEqual([{ limit: '1s' }]);
    expect((await database.unhurried(() => database.query(limit, []))).rows).toEqual([{ limit: '0' }]);
    expect((await database.query('select $1::int + 1 sum', [1])).rows).toEqual([{ sum: 2 }]);
    await expect(database.query('select 1 / 0', [])).rejects.toThrow('division by zero');
    // None of the connections is left in a transaction.
    const { rows } = await server.running.app.database.query(
      `select count(*)::int open from pg_stat_activity where application_name = $1 and state <> 'idle'`,
      [of.applicationName],
    );
    expect(rows).toEqual([{ open: 0 }]);
  } finally {
    await database.close();
  }
});
