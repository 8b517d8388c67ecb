import type { App } from './app.ts';
import { instanceWorkspaceId } from './auth/instance.ts';
import { defineRetention } from './jobs/retention.ts';
import { pruneThrottles } from './rates/counters.ts';
import { Runs } from './runs/runs.ts';
import { Artifacts, uploadLifeMs } from './storage/artifacts.ts';
import './storage/orphans.ts';

/** Most events that one statement removes: a long retention that is shortened must not hold locks for minutes. */
const batch = 5000;

/** Removes events beyond retention. Cursors before them meet a StreamGap, because the head remembers what went. */
export async function pruneEvents(app: App, keepDays: number): Promise<number> {
  const { rows } = await app.database.pool.query<{ workspace_id: string; seq: string }>(
    `select e.workspace_id, max(e.seq) seq from event e
     where e.at < now() - make_interval(days => $1) group by e.workspace_id`,
    [keepDays],
  );
  let removed = 0;
  for (const { workspace_id: workspaceId, seq } of rows) {
    // The mark first: a reader that finds the rows gone must find the mark.
    await app.database.pool.query(
      `update event_head set pruned_seq = greatest(pruned_seq, $2) where workspace_id = $1`,
      [workspaceId, seq],
    );
    for (;;) {
      const { rowCount } = await app.database.pool.query(
        `delete from event where workspace_id = $1 and seq in (select seq from event where workspace_id = $1 and seq <= $2 order by seq limit ${batch})`,
        [workspaceId, seq],
      );
      removed += rowCount ?? 0;
      if ((rowCount ?? 0) < batch) break;
    }
  }
  return removed;
}

/** Removes what nobody needs any more, once an hour. */
export const cleanUp = defineRetention({
  name: 'kernel.cleanUp',
  cron: '17 * * * *',
  timeoutS: 1800,
  async remove(app, signal) {
    const before = new Date(Date.now() - app.limits.eventRetentionDays * 24 * 3600 * 1000);
    const events = await pruneEvents(app, app.limits.eventRetentionDays);
    const { count: keys } = await app.db.idempotencyKey.deleteMany({
      where: { createdAt: { lt: new Date(Date.now() - 24 * 3600 * 1000) } },
    });
    const uploadsBefore = new Date(Date.now() - uploadLifeMs);
    const artifacts = await app.use(Artifacts).expire(uploadsBefore, signal);
    const unusedUploads = await app.use(Artifacts).expireUnclaimed(uploadsBefore, signal);
    const brokenUploads = await app.blobs.sweep(uploadsBefore);
    // Kept for a while, for people who look where they were signed in.
    const { count: sessions } = await app.db.session.deleteMany({
      where: { expiresAt: { lt: new Date(Date.now() - 30 * 24 * 3600 * 1000) } },
    });
    const { count: origins } = await app.db.origin.deleteMany({ where: { lastSeenAt: { lt: before } } });
    // Of the server itself: deletions, whose receipts end with them, and rotations of keys.
    const runs = await app.use(Runs).prune({ workspaceId: instanceWorkspaceId, before, signal });
    const { count: deadLetters } = await app.db.deadLetter.deleteMany({ where: { createdAt: { lt: before } } });
    const throttles = await pruneThrottles(app.database.pool);
    return { events, keys, sessions, origins, runs, deadLetters, throttles, artifacts, unusedUploads, brokenUploads };
  },
});
