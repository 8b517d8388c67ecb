import { PgBoss } from 'pg-boss';
import { hostId } from './shape.ts';

/** The job engine's tables and the queue of the host, as a worker makes them. */
export async function jobQueues(url: string): Promise<void> {
  const boss = new PgBoss({ connectionString: url, schema: 'pgboss', max: 1, supervise: false, schedule: false });
  await boss.start();
  await boss.createQueue(`run.${hostId}`, {
    policy: 'short',
    retryLimit: 0,
    expireInSeconds: 23 * 3600,
    retentionSeconds: 3600,
    deleteAfterSeconds: 60,
    notify: true,
  });
  await boss.stop({ graceful: false, close: true });
}
