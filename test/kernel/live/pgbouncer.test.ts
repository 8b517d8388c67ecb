import { expect, inject, onTestFinished, test } from 'vitest';
import { system } from '#kernel/auth/actor.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { person, workspace } from '../../support/actors.ts';
import { locate, pgBouncer, startPgBouncer, throughPort } from '../../support/counterparts.ts';
import { testDatabase } from '../../support/database.ts';
import { until } from '../../support/embedded.ts';
import { append, Follower, upTo } from '../../support/live.ts';
import { startTestServer } from '../../support/server.ts';

async function pooler(context: Parameters<typeof locate>[1]) {
  const program = await locate(pgBouncer, context);
  const bouncer = await startPgBouncer(program, inject('postgresUrl'));
  onTestFinished(() => bouncer.stop());
  const database = await testDatabase();
  onTestFinished(() => database.drop());
  return { database, pooled: throughPort(database.url, bouncer.port) };
}

test('a whole server works through PgBouncer in transaction mode, with LISTEN direct', async (context) => {
  const { database, pooled } = await pooler(context);
  const server = await startTestServer(
    { SWITCHYARD_ROLES: 'api', DATABASE_URL: pooled, DATABASE_DIRECT_URL: database.url },
    {},
    database,
  );
  try {
    const ada = await person(server.url);
    const { id, cursor } = await workspace(server.url, ada);
    const follower = new Follower(server.url, ada, 'workspaceEvents', { id, after: cursor });
    await append(server.running.app, id, 3);
    await Promise.all(upTo(20, 4).map((n) => append(server.running.app, id, 1, undefined, n)));
    await until('all came', async () => follower.noted.length === 23);
    expect(follower.seqs).toEqual(upTo(24, 2));
    await follower.close();
    // What goes out without waiting, what is waited for and what Prisma does, of many at once on few connections.
    const { app } = server.running;
    const workspaceId = rowId('Workspace', id);
    const seen = await Promise.all(
      upTo(20).map((n) =>
        app
          .transact(system, async (tx) => {
            tx.send('insert into origin (id, address) values ($1, $2)', [newId(), `through ${n}`]);
            const limit = tx.sql<{ limit: string; n: number }>(
              `select current_setting('lock_timeout') "limit", $1::int n`,
              [n],
            );
            const written = await tx.db.origin.count({ where: { address: `through ${n}` } });
            if (n === 20) tx.send('select 1 / $1::int', [0]);
            return {
              ...(await limit)[0],
              written,
              workspace: await tx.db.workspace.count({ where: { id: workspaceId } }),
            };
          })
          .catch((error: unknown) => String(error)),
      ),
    );
    expect(seen).toEqual([
      ...upTo(19).map((n) => ({ limit: '10s', n, written: 1, workspace: 1 })),
      'error: division by zero',
    ]);
    expect(await app.db.origin.count({ where: { address: { startsWith: 'through' } } })).toBe(19);
  } finally {
    await server.stop();
  }
});

test.for(['both addresses', 'the direct address alone'])(
  'PgBouncer as %s is refused at start, with what to do',
  async (which, context) => {
    const { database, pooled } = await pooler(context);
    await expect(
      startTestServer(
        {
          SWITCHYARD_ROLES: 'api',
          DATABASE_URL: which === 'both addresses' ? pooled : database.url,
          DATABASE_DIRECT_URL: pooled,
        },
        {},
        database,
      ),
    ).rejects.toThrow('DATABASE_DIRECT_URL');
  },
);
