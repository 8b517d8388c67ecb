import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import type { App } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { Actors, type Credentials } from '#kernel/auth/actors.ts';
import { stampHolds, type Stamp } from '#kernel/auth/rights.ts';
import { SessionSettings } from '#kernel/auth/sessions.ts';
import { newApiKey } from '#kernel/crypto.ts';
import { Unauthenticated } from '#kernel/errors.ts';
import { globalId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { headersOf } from '../../support/client.ts';
import { post } from '../../support/http.ts';
import { httpServer } from '../../support/http-server.ts';
import { random } from '../../support/random.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { statements } from '../../support/statements.ts';
import { keyOf, memberOf, someone, tenant } from '../../support/world.ts';

// Rights that a process remembers are those that it would read.

let server: TestServer;
let other: TestServer;
let app: App;

beforeAll(async () => {
  const env = {
    SWITCHYARD_ROLES: 'api',
    SWITCHYARD_OPERATORS: 'operator@example.com',
    SESSION_SECRET: 'one secret for the two of them, long enough',
  };
  server = await startTestServer(env, { hubPollMs: 600_000 });
  other = await startTestServer(env, { hubPollMs: 600_000 }, server.database);
  app = server.running.app;
});
afterAll(async () => {
  await other.stop();
  await server.stop();
});

/** One that has not read anything yet. */
const fresh = () =>
  new Actors({
    pool: app.database.pool,
    tokens: app.use(SessionSettings).tokens,
    log: app.log,
    operators: new Set(['operator@example.com']),
  });

const stampOf = ({ stamp }: Actor): Stamp => {
  if (!stamp) throw new Error('no stamp');
  return stamp;
};

const may = async (by: Actors, credentials: Credentials): Promise<object | string> => {
  try {
    const { roles, scopes, ...actor } = await by.authenticate(credentials);
    return {
      ...actor,
      roles: Object.fromEntries([...roles].toSorted(([a], [b]) => a.localeCompare(b))),
      scopes: scopes && [...scopes].toSorted(),
    };
  } catch (error) {
    if (error instanceof Unauthenticated) return error.message;
    throw error;
  }
};

const roles = ['OWNER', 'ADMIN', 'MEMBER', 'VIEWER'];

/** People, workspaces and credentials, and everything that can happen to what they may. */
async function world(seed: number) {
  const next = random(seed);
  const one = <T>(of: readonly T[]): T => of[Math.floor(next() * of.length)] as T;
  const { pool } = app.database;
  const { tokens } = app.use(SessionSettings);
  const credentials: Credentials[] = [];
  const [users, workspaces, connections] = [4, 3, 2].map((n) => Array.from({ length: n }, newId)) as [
    string[],
    string[],
    string[],
  ];
  const addUser = (id: string) =>
    pool.query(
      `insert into app_user (id, email, name, updated_at) values ($1, $2, 'x', now()) on conflict do nothing`,
      [id, `${newId()}@example.com`],
    );
  const addSession = async () => {
    const [id, userId] = [newId(), one(users)];
    const expiresAt = new Date(Math.floor(Date.now() / 1000) * 1000 + 600_000);
    await pool.query(
      `insert into session (id, user_id, method, expires_at, sso_connection_id)
       select $1, $2, 'SSO', $3, (select id from sso_connection where id = $4) where exists (select 1 from app_user where id = $2)`,
      [id, userId, expiresAt, next() < 0.6 ? one(connections) : null],
    );
    credentials.push({ authorization: `Bearer ${await tokens.issue({ userId, sessionId: id, expiresAt })}` });
  };
  const addKey = async () => {
    const { key, hash, prefix } = newApiKey();
    await pool.query(
      `insert into api_key (id, workspace_id, created_by_id, name, prefix, key_hash, role, scopes, updated_at)
       select $1, w.id, u.id, 'x', $2, $3, 'MEMBER', '{*}', now() from workspace w, app_user u where w.id = $4 and u.id = $5`,
      [newId(), prefix, hash, one(workspaces), one(users)],
    );
    credentials.push({ apiKey: key });
  };
  for (const id of users) await addUser(id);
  for (const id of workspaces)
    await pool.query(`insert into workspace (id, name, slug, updated_at) values ($1::uuid, 'x', $1::text, now())`, [
      id,
    ]);
  for (const id of connections)
    await pool.query(
      `insert into sso_connection (id, workspace_id, name, issuer, client_id, updated_at) values ($1, $2, 'x', 'x', 'x', now())`,
      [id, one(workspaces)],
    );
  const mine = `user_id = any($1::uuid[])`;
  const pick = (table: string, where = mine) =>
    `id = (select id from ${table} where ${where} order by md5(id::text || $2) limit 1)`;
  const update = (table: string, set: string | (() => string), where?: string) => () =>
    pool.query(`update ${table} set ${typeof set === 'string' ? set : set()} where ${pick(table, where)}`, [
      table === 'workspace' ? workspaces : table === 'sso_connection' ? connections : users,
      String(next()),
    ]);
  const remove = (table: string, where?: string) => () =>
    pool.query(`delete from ${table} where ${pick(table, where)}`, [
      table === 'workspace' ? workspaces : table === 'sso_connection' ? connections : users,
      String(next()),
    ]);
  const own = 'id = any($1::uuid[])';
  const makers = 'created_by_id = any($1::uuid[])';
  const other = (table: string, not: string) =>
    `(select id from ${table} where ${not} order by md5(id::text || '${next()}') limit 1)`;
  const changes: Record<string, () => Promise<unknown>> = {
    'session begins': addSession,
    'session ends': update('session', 'ended_at = now()'),
    'session comes back': update('session', 'ended_at = null'),
    'session is shortened': update('session', `expires_at = now() - interval '1 second'`),
    'session is prolonged': update('session', `expires_at = now() + interval '1 hour'`),
    'session has another provider': update('session', () => `sso_connection_id = ${other('sso_connection', 'true')}`),
    'session has no provider': update('session', 'sso_connection_id = null'),
    'session is another person’s': update('session', () => `user_id = ${other('app_user', own)}`),
    'session goes': remove('session'),
    'sessions go': () => pool.query(`delete from session where user_id = $1`, [one(users)]),
    'key is made': addKey,
    'key is revoked': update('api_key', 'revoked_at = now()', makers),
    'key comes back': update('api_key', 'revoked_at = null', makers),
    'key has another role': update('api_key', () => `role = '${one(roles)}'`, makers),
    'key has other scopes': update('api_key', () => `scopes = '{${one(['*', 'run.read', ''])}}'`, makers),
    'key expires': update('api_key', `expires_at = now() - interval '1 second'`, makers),
    'key expires later': update('api_key', `expires_at = now() + interval '1 hour'`, makers),
    'key has another secret': update('api_key', () => `key_hash = '${newApiKey().hash}'`, makers),
    'key has the secret of another': async () => {
      const { key, hash } = newApiKey();
      await update('api_key', `key_hash = '${hash}'`, makers)();
      credentials.push({ apiKey: key });
    },
    'key is another person’s': update('api_key', () => `created_by_id = ${other('app_user', own)}`, makers),
    'key is another workspace’s': update('api_key', () => `workspace_id = '${one(workspaces)}'`, makers),
    'key goes': remove('api_key', makers),
    'somebody becomes a member': () =>
      pool.query(
        `insert into membership (id, workspace_id, user_id, role, updated_at)
         select $1, w.id, u.id, $2::role, now() from workspace w, app_user u where w.id = $3 and u.id = $4 on conflict do nothing`,
        [newId(), one(roles), one(workspaces), one(users)],
      ),
    'all become members': () =>
      pool.query(
        `insert into membership (id, workspace_id, user_id, role, updated_at)
         select gen_random_uuid(), w.id, u.id, 'VIEWER', now() from workspace w, app_user u
         where w.id = $1 and u.id = any($2) on conflict do nothing`,
        [one(workspaces), users],
      ),
    'member has another role': update('membership', () => `role = '${one(roles)}'`),
    'membership is another person’s': () =>
      pool.query(
        `update membership set user_id = $2 where user_id = $1 and exists (select 1 from app_user where id = $2)
         and not exists (select 1 from membership o where o.user_id = $2 and o.workspace_id = membership.workspace_id)`,
        [one(users), one(users)],
      ),
    'member goes': remove('membership'),
    'workspace closes': update('workspace', 'deleted_at = now()', own),
    'workspace opens': update('workspace', 'deleted_at = null', own),
    'workspace enforces its provider': update('workspace', 'sso_enforced = true', own),
    'workspace does not': update('workspace', 'sso_enforced = false', own),
    'person closes': update('app_user', 'closed_at = now()', own),
    'person opens': update('app_user', 'closed_at = null', own),
    'address is proved': update('app_user', 'email_verified_at = now()', own),
    'address is not': update('app_user', 'email_verified_at = null', own),
    'address is the operator’s': () =>
      pool.query(
        `update app_user set email = 'operator@example.com', email_verified_at = now() where id = $1
         and not exists (select 1 from app_user where email = 'operator@example.com')`,
        [one(users)],
      ),
    'address is another': () =>
      pool.query(`update app_user set email = $2 where id = $1`, [one(users), `${newId()}@example.com`]),
    'provider is switched off': update('sso_connection', 'disabled_at = now()', own),
    'provider is switched on': update('sso_connection', 'disabled_at = null', own),
    'provider is another workspace’s': update(
      'sso_connection',
      () => `workspace_id = ${other('workspace', 'true')}`,
      own,
    ),
  };
  /** What cannot be taken back: at the end. */
  const ends: Record<string, () => Promise<unknown>> = {
    'provider goes': remove('sso_connection', own),
    'workspace goes': remove('workspace', own),
    'person goes': remove('app_user', own),
  };
  /** Everything that can be so is good again, of all at once. */
  const mend = async () => {
    await pool.query('update app_user set closed_at = null where id = any($1)', [users]);
    await pool.query('update workspace set deleted_at = null, sso_enforced = ($2 = 1) where id = any($1)', [
      workspaces,
      one([0, 1]),
    ]);
    await pool.query('update sso_connection set disabled_at = null where id = any($1)', [connections]);
    await pool.query(
      `update session set ended_at = null, expires_at = now() + interval '1 hour' where user_id = any($1)`,
      [users],
    );
    await pool.query('update api_key set revoked_at = null, expires_at = null where created_by_id = any($1)', [users]);
    await changes['all become members']?.();
  };
  return { credentials, changes, ends, mend, one };
}

test.each([20261])('are those of the database after every kind of change, in two processes (seed %i)', async (seed) => {
  const { credentials, changes, ends, mend, one } = await world(seed);
  const names = Object.keys(changes);
  for (let i = 0; i < 6; i++) for (const name of ['session begins', 'key is made']) await changes[name]?.();
  await mend();
  /** Each kind, and others between them. */
  const steps = [...names, ...names]
    .map((name) => [one(names), name])
    .flat()
    .toSorted(() => one([-1, 1]));
  let differed = 0;
  let before = '';
  for (const name of [...steps, ...Object.keys(ends), ...Object.keys(ends)]) {
    if (one([0, 0, 1]) === 1) await mend();
    await (changes[name] ?? ends[name])?.();
    const read = fresh();
    const all = await Promise.all(
      credentials.map(async (given) => [
        await may(read, given),
        await may(app.actors, given),
        await may(other.running.app.actors, given),
      ]),
    );
    const now = JSON.stringify(all.map(([expected]) => expected));
    if (now !== before) differed++;
    before = now;
    for (const [expected, here, there] of all)
      expect({ name, here, there }).toEqual({ name, here: expected, there: expected });
  }
  // The changes did change something.
  expect(differed).toBeGreaterThan(20);
});

describe('two transactions at once', () => {
  const client = async () => {
    const made = new pg.Client({ connectionString: server.database.url });
    await made.connect();
    onTestFinished(() => made.end());
    await made.query('begin');
    return made;
  };
  const settled = (of: Promise<unknown>) => Promise.race([of.then(() => true), delay(100, false)]);

  /** What `changing` takes away, and what `adding` gives to a person at the same time, whichever comes first. */
  async function together(
    userId: string,
    given: Credentials,
    changing: [sql: string, values: unknown[]],
    adding: [sql: string, values: unknown[]],
  ) {
    const rights: [cached: object | string, read: object | string][] = [];
    for (const order of ['changing first', 'adding first']) {
      const [a, b] = [await client(), await client()];
      await (order === 'changing first' ? a.query(...changing) : b.query(...adding));
      const second = order === 'changing first' ? b.query(...adding) : a.query(...changing);
      // It waits.
      expect([order, await settled(second)]).toEqual([order, false]);
      await (order === 'changing first' ? a : b).query('commit');
      await second;
      // Whoever reads now reads the one without the other.
      await may(app.actors, given);
      await may(app.actors, given);
      await (order === 'changing first' ? b : a).query('commit');
      rights.push([await may(app.actors, given), await may(fresh(), given)]);
      await app.database.pool.query('delete from membership where user_id = $1', [userId]);
      await app.database.pool.query('update workspace set deleted_at = null, sso_enforced = false');
      await app.database.pool.query('update sso_connection set disabled_at = null');
    }
    return rights;
  }

  test.each(['deleted_at = now()', 'sso_enforced = true'])('a member comes while a workspace has %s', async (set) => {
    const of = await tenant(app, 'together');
    const { id, token } = await someone(app);
    const rights = await together(
      id,
      { authorization: `Bearer ${token}` },
      [`update workspace set ${set} where id = $1`, [of.id]],
      [
        `insert into membership (id, workspace_id, user_id, role, updated_at) values (gen_random_uuid(), $1, $2, 'MEMBER', now())`,
        [of.id, id],
      ],
    );
    expect(rights.map(([remembered]) => remembered)).toEqual(rights.map(([, read]) => read));
    expect(rights).toHaveLength(2);
  });

  test('a session begins while its provider is switched off', async () => {
    const of = await tenant(app, 'together');
    const { id } = await memberOf(app, of, 'MEMBER');
    const connectionId = newId();
    await app.database.pool.query(
      `insert into sso_connection (id, workspace_id, name, issuer, client_id, updated_at) values ($1, $2, 'x', 'x', 'x', now())`,
      [connectionId, of.id],
    );
    const expiresAt = new Date(Math.floor(Date.now() / 1000) * 1000 + 600_000);
    for (const order of ['changing first', 'adding first']) {
      await app.database.pool.query('update workspace set sso_enforced = true where id = $1', [of.id]);
      const sessionId = newId();
      const token = await app.use(SessionSettings).tokens.issue({ userId: id, sessionId, expiresAt });
      const given = { authorization: `Bearer ${token}` };
      const [a, b] = [await client(), await client()];
      const changing = () => a.query('update sso_connection set disabled_at = now() where id = $1', [connectionId]);
      const adding = () =>
        b.query(
          `insert into session (id, user_id, method, expires_at, sso_connection_id) values ($1, $2, 'SSO', $3, $4)`,
          [sessionId, id, expiresAt, connectionId],
        );
      const [first, then] = order === 'changing first' ? [a, b] : [b, a];
      await (order === 'changing first' ? changing() : adding());
      const second = order === 'changing first' ? adding() : changing();
      expect([order, await settled(second)]).toEqual([order, false]);
      await first.query('commit');
      await second;
      const between = await may(app.actors, given);
      expect([order, typeof between]).toEqual([order, order === 'changing first' ? 'string' : 'object']);
      await then.query('commit');
      expect([order, await may(app.actors, given)]).toEqual([order, await may(fresh(), given)]);
      await app.database.pool.query('update sso_connection set disabled_at = null');
    }
  });
});

test('cost one small statement once they were read, for all requests of a turn', async () => {
  const of = await tenant(app, 'small');
  const key = await keyOf(app, of, of.owner.id, 'MEMBER');
  for (const given of [{ authorization: `Bearer ${of.owner.token}` }, { apiKey: key.apiKey }]) {
    await app.actors.authenticate(given);
    const again = await statements(app.database.pool, () => app.actors.authenticate(given));
    expect(again).toEqual([expect.stringMatching(/^select user_id, version.* from user_rights /)]);
    const many = await statements(app.database.pool, () =>
      Promise.all(Array.from({ length: 20 }, () => app.actors.authenticate(given))),
    );
    expect(many).toHaveLength(1);
  }
});

describe('recalled without a question', () => {
  const stamped = async () => {
    const made = await httpServer(app, {
      graphql: { introspection: true, graphiql: null, persisted: null },
    });
    onTestFinished(() => made.close(0));
    return `${made.url}/graphql`;
  };

  test('have a stamp that a statement can check, until they change or end', async () => {
    const of = await tenant(app, 'stamp');
    const { pool } = app.database;
    const key = await keyOf(app, of, of.owner.id, 'MEMBER', { expiresAt: new Date(Date.now() + 60_000) });
    const holds = async (actor: Actor) => {
      const stamp = stampOf(actor);
      const { rows } = await pool.query<{ ok: boolean }>(`select ${stampHolds('$1', '$2', '$3')} ok`, [
        stamp.userId,
        stamp.version,
        stamp.endsAt,
      ]);
      return rows[0]?.ok;
    };
    for (const given of [{ authorization: `Bearer ${of.owner.token}` }, { apiKey: key.apiKey }]) {
      // What is not remembered is read, and then it is of now.
      expect((await app.actors.recall(given)).stamp).toBeUndefined();
      let recalled = await app.actors.recall(given);
      expect(await statements(pool, async () => void (recalled = await app.actors.recall(given)))).toEqual([]);
      expect(await holds(recalled)).toBe(true);
      await pool.query(`update membership set role = 'ADMIN' where user_id = $1`, [of.owner.id]);
      expect(await holds(recalled)).toBe(false);
      // Whoever is not told of it goes on with what was; nobody is.
      expect((await app.actors.refresh(recalled))?.stamp).toBeUndefined();
      await app.actors.authenticate(given);
      const ended = await app.actors.recall(given);
      expect([await holds(ended), await holds({ ...ended, stamp: { ...stampOf(ended), endsAt: new Date() } })]).toEqual(
        [true, false],
      );
      await pool.query(`update membership set role = 'OWNER' where user_id = $1`, [of.owner.id]);
    }
  });

  test('are of the very credentials that would be read', async () => {
    const of = await tenant(app, 'cookie');
    const { apiKey = '' } = await keyOf(app, of, of.owner.id, 'MEMBER');
    await app.actors.authenticate({ apiKey });
    expect((await app.actors.recall({ authorization: `Bearer ${apiKey}` })).kind).toBe('API_KEY');
    // A cookie is a session's.
    for (const how of ['authenticate', 'recall'] as const)
      await expect((async () => app.actors[how]({ session: apiKey }))()).rejects.toThrow(Unauthenticated);
  });

  test('are made sure of before anything is executed', async () => {
    const url = await stamped();
    const of = await tenant(app, 'stamped');
    const member = await memberOf(app, of, 'ADMIN');
    const asked = () => post(url, { query: `{ workspace(slug: "${of.slug}") { viewerRole } }` }, headersOf(member));
    await asked();
    const texts = await statements(app.database.pool, async () => expect((await asked()).text).toContain('"ADMIN"'));
    expect(texts.filter((text) => text.includes('from user_rights'))).toHaveLength(1);
    await app.database.pool.query(`update membership set role = 'VIEWER' where user_id = $1`, [member.id]);
    expect((await asked()).text).toContain('"VIEWER"');
    await app.database.pool.query('delete from membership where user_id = $1', [member.id]);
    expect((await asked()).text).not.toContain('VIEWER');
    await app.database.pool.query('update session set ended_at = now() where user_id = $1', [member.id]);
    expect([(await asked()).status, (await asked()).codes]).toEqual([401, ['UNAUTHENTICATED']]);
  });
});

test('what is taken away between the look at a credential and the one statement is not in its answer', async () => {
  const of = await tenant(app, 'between');
  const { pool } = app.database;
  const member = await memberOf(app, of, 'ADMIN');
  const key = await keyOf(app, of, member.id, 'ADMIN');
  const [ids, slug] = [[globalId('Workspace', of.id), globalId('User', of.owner.id)], of.slug];
  const asked: readonly [query: string, variables: object][] = [
    ['{ viewer { id name } }', {}],
    ['{ __typename }', {}],
    ['{ workspaces { totalCount } }', {}],
    ['query ($id: ID!) { node(id: $id) { id } }', { id: ids[0] }],
    ['query ($ids: [ID!]!) { nodes(ids: $ids) { id } }', { ids }],
    ['query ($slug: String!) { workspace(slug: $slug) { viewerRole apiKeys { totalCount nodes { id } } } }', { slug }],
    ['query ($slug: String!) { workspace(slug: $slug) { id } }', { slug: 'nothing' }],
  ];
  const changes = [
    ['update session set ended_at = now() where user_id = $1', 'update session set ended_at = null where user_id = $1'],
    [`update session set expires_at = now() where user_id = $1`, `update session set expires_at = now() + interval '1 hour' where user_id = $1`],
    [`update membership set role = 'VIEWER' where user_id = $1`, `update membership set role = 'ADMIN' where user_id = $1`],
    ['delete from membership where user_id = $1', `insert into membership (id, user_id, workspace_id, role, updated_at) select gen_random_uuid(), $1, id, 'ADMIN', now() from workspace where slug = '${of.slug}'`],
    [`update workspace set deleted_at = now() where $1::uuid is not null and slug = '${of.slug}'`, `update workspace set deleted_at = null where $1::uuid is not null and slug = '${of.slug}'`],
    ['update app_user set closed_at = now() where id = $1', 'update app_user set closed_at = null where id = $1'],
    ['update api_key set revoked_at = now() where created_by_id = $1', 'update api_key set revoked_at = null where created_by_id = $1'],
  ] as const; // prettier-ignore
  const { reader } = app.database;
  const read = reader.read.bind(reader);
  let change: string | null = null;
  const spy = vi.spyOn(reader, 'read').mockImplementation(async (reading) => {
    const now = change;
    // It makes sure of the rights by itself.
    if (now === null || !/^select (?!user_id).* from user_rights /s.test(reading.text)) return read(reading);
    change = null;
    await pool.query(now, [member.id]);
    return read(reading);
  });
  onTestFinished(() => spy.mockRestore());
  for (const [taking, giving] of changes)
    for (const [query, variables] of asked) {
      const auth = taking.startsWith('update api_key') ? key : member;
      const ask = async () => {
        const { status, text } = await post(server.url, { query, variables }, headersOf(auth));
        return { taking, query, status, text };
      };
      // The first reads the rights, the second remembers them.
      await ask();
      const before = await ask();
      change = taking;
      const meanwhile = await ask();
      expect([query, change]).toEqual([query, null]);
      // A credential that is not good is counted: it is not asked with again.
      const ended = /update (?:session|app_user|api_key)/.test(taking);
      expect([taking, before.status, meanwhile.status]).toEqual([taking, 200, ended ? 401 : 200]);
      expect(meanwhile).toEqual(ended ? meanwhile : await ask());
      await pool.query(giving, [member.id]);
    }
});

test('end by the clock', async () => {
  const of = await tenant(app, 'clock');
  const { pool } = app.database;
  const key = await keyOf(app, of, of.owner.id, 'MEMBER');
  for (const [table, owner, given] of [
    ['session', 'user_id', { authorization: `Bearer ${of.owner.token}` }],
    ['api_key', 'created_by_id', { apiKey: key.apiKey }],
  ] as const) {
    // Far enough away to be asked before, also where everything is slow.
    await pool.query(`update ${table} set expires_at = now() + interval '2 s' where ${owner} = $1`, [of.owner.id]);
    expect(await may(app.actors, given)).toMatchObject({ userId: of.owner.id });
    const { rows } = await pool.query<{ at: Date }>(`select expires_at as at from ${table} where ${owner} = $1`, [
      of.owner.id,
    ]);
    await pool.query(`select pg_sleep(greatest(extract(epoch from $1::timestamptz - clock_timestamp()) + 0.01, 0))`, [
      rows[0]?.at,
    ]);
    const texts = await statements(pool, async () => expect(typeof (await may(app.actors, given))).toBe('string'));
    expect(texts).toHaveLength(1);
  }
});

test('what is taken away at one process is gone with the very next request to another', async () => {
  const { pool } = app.database;
  const takings = [
    'end of the session',
    'end of the membership',
    'lower role',
    'end of the workspace',
    'end of the person',
  ];
  for (const [i, taking] of takings.entries()) {
    const of = await tenant(app, `next${i}`);
    const member = await memberOf(app, of, 'ADMIN');
    const query = `{ workspace(slug: "${of.slug}") { id viewerRole } }`;
    const asked = () => post(other.url, { query }, headersOf(member));
    for (let n = 0; n < 2; n++) expect((await asked()).text).toContain('"ADMIN"');
    const sql = [
      'update session set ended_at = now() where user_id = $1',
      'delete from membership where user_id = $1',
      `update membership set role = 'VIEWER' where user_id = $1`,
      'update workspace set deleted_at = now() where id in (select workspace_id from membership where user_id = $1)',
      'delete from app_user where id = $1',
    ][i];
    await pool.query(sql ?? '', [member.id]);
    const { status, text } = await asked();
    expect({ taking, status, text }).not.toMatchObject({ text: expect.stringContaining('"ADMIN"') as unknown });
    expect([taking, status]).toEqual([taking, [0, 4].includes(i) ? 401 : 200]);
  }
  const key = await keyOf(app, await tenant(app, 'nextkey'), (await tenant(app, 'x')).owner.id, 'MEMBER');
  expect((await post(other.url, { query: '{ viewer { id } }' }, headersOf(key))).status).toBe(401);
});
