import { expect, test } from 'vitest';
import { newId } from '../../../src/kernel/ids.ts';
import { startTestServer } from '../../support/server.ts';
import { retiredRelease, tenant } from '../../support/world.ts';

test('what workers of the version before write and read of a release is the same', async () => {
  const server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
  try {
    const { app } = server.running;
    const of = await tenant(app, 'before');
    const { id } = await retiredRelease(app, of);
    const before = async () =>
      (await app.database.pool.query('select path, start_command, pid, start_time, artifact, instance from release where id = $1', [id])).rows[0] as object; // prettier-ignore
    expect(await before()).toMatchObject({ path: of.marker, start_command: of.marker, pid: null });
    // The new version starts and ends an instance.
    await app.db.release.update({ where: { id }, data: { instance: { pid: 7, startTime: 'then' } } });
    expect(await before()).toMatchObject({ pid: 7, start_time: 'then' });
    // So does the old one.
    await app.database.pool.query('update release set pid = 8, start_time = $2 where id = $1', [id, 'later']);
    expect(await before()).toMatchObject({ instance: { pid: 8, startTime: 'later' } });
    await app.database.pool.query('update release set pid = null, start_time = null where id = $1', [id]);
    expect(await before()).toMatchObject({ instance: null });
    await app.db.release.delete({ where: { id } });
    await app.database.pool.query(
      `insert into release (id, application_id, deployment_id, commit_sha, path, start_command, pid, start_time, updated_at)
       select $1, d.application_id, d.id, 'c', '/p', 'run', 9, 'now', now() from deployment d limit 1`,
      [newId()],
    );
    expect(await app.db.release.findFirstOrThrow()).toMatchObject({
      driver: 'PROCESS',
      artifact: { path: '/p', startCommand: 'run' },
      instance: { pid: 9, startTime: 'now' },
    });
  } finally {
    await server.stop();
  }
});
