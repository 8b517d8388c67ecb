import type { App } from '../app.ts';
import { decodeCursor, encodeCursor } from '../live/cursor.ts';
import { toLine, type LineRow, type LoggedLine } from '../live/hub.ts';
import type { LogFilter } from '../live/log-filter.ts';
import type { Placed } from '../live/schema.ts';
import { storedLevel } from './log-level.ts';

/** Lines that one page looks through: what it costs does not depend on how rare it is what is looked for. */
const window = 20_000;

/**
 * Lines of a run that pass a filter, oldest first. A page ends where it has looked through so many lines, with what was
 * found there, and the next one goes on from there.
 * @throws {ValidationError} for a malformed cursor
 */
export async function searchLines(
  app: App,
  run: { readonly id: string; readonly workspaceId: string },
  page: { readonly filter: LogFilter; readonly after: string | null | undefined; readonly first: number },
): Promise<{ nodes: Placed<LoggedLine>[]; endCursor: string | null; hasNextPage: boolean }> {
  const { filter, after, first } = page;
  const { rows } = await app.database.pool.query<{
    scanned: number;
    last: string | null;
    epoch: number;
    found: string[];
  }>(
    `with seen as materialized (
         select seq, stream, level, step, text from log_line where run_id = $1 and seq > $2 order by seq limit ${window}),
       found as (select seq from seen where ($5::text is null or strpos(lower(text), lower($5)) > 0)
         and ($6::text[] is null or stream = any($6)) and ($7::text is null or step = $7)
         and ($8::smallint is null or level <= $8) order by seq limit $4)
     select (select count(*)::int from seen) scanned, (select max(seq)::text from seen) last, h.epoch,
       coalesce((select array_agg(seq::text order by seq) from found), '{}') found
     from event_head h where h.workspace_id = $3`,
    [
      run.id,
      String(after ? decodeCursor(after, run.id).seq : 0n),
      run.workspaceId,
      first + 1,
      filter.text ?? null,
      filter.streams ?? null,
      filter.step ?? null,
      storedLevel(filter.level ?? null),
    ],
  );
  const [seen] = rows;
  if (!seen) return { nodes: [], endCursor: after ?? null, hasNextPage: false };
  const cursorAt = (seq: bigint) => encodeCursor({ stream: run.id, epoch: seen.epoch, seq });
  const more = seen.found.length > first;
  const lines = await app.database.pool.query<LineRow>(
    'select * from log_line where run_id = $1 and seq = any($2::bigint[]) order by seq',
    [run.id, seen.found.slice(0, first)],
  );
  const nodes = lines.rows.map(toLine).map((entry) => ({ kind: 'entry' as const, entry, cursor: cursorAt(entry.seq) }));
  const upTo = more ? nodes.at(-1)?.entry.seq : seen.last === null ? undefined : BigInt(seen.last);
  return {
    nodes,
    endCursor: upTo === undefined ? (after ?? null) : cursorAt(upTo),
    hasNextPage: more || seen.scanned === window,
  };
}
