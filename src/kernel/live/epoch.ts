import type pg from 'pg';

/**
 * Declares every workspace's history to be another one: cursors that were made before meet a StreamGap. For use after a
 * restore, a point-in-time recovery or a failover with loss, before anything is written.
 *
 * The new epoch is the time (seconds since 2026) unless the old one is higher: what was restored does not know the
 * epochs that came after it, and adding one could give a number that cursors of the lost history bear.
 * @returns how many workspaces there are
 */
export async function raiseEpochs(db: Pick<pg.ClientBase, 'query'>): Promise<number> {
  const { rowCount } = await db.query(
    `update event_head
     set epoch = greatest(epoch + 1, extract(epoch from clock_timestamp() - timestamptz '2026-01-01 00:00:00Z')::int)`,
  );
  return rowCount ?? 0;
}
