import { expect, inject, onTestFinished, test } from 'vitest';
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
