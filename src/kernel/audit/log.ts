import type pg from 'pg';
import { decodeCursor, encodeCursor } from '../live/cursor.ts';
import type { LoggedEvent } from '../events/define.ts';
import { toEvent, type EventRow } from '../live/hub.ts';
import { accessDenied, signInRefused } from './events.ts';

/** How what somebody tried ended. */
export type Outcome = 'SUCCEEDED' | 'REFUSED';

/** Which entries to tell. All that is given must hold; row ids. */
export interface AuditFilter {
  readonly actorId?: string | null | undefined;
  readonly credentialId?: string | null | undefined;
  readonly subjectId?: string | null | undefined;
  readonly actions?: readonly string[] | null | undefined;
  readonly outcome?: Outcome | null | undefined;
  readonly since?: Date | null | undefined;
  readonly until?: Date | null | undefined;
}

const refusals: readonly string[] = [accessDenied.name, signInRefused.name];

export const outcomeOf = (event: LoggedEvent): Outcome => (refusals.includes(event.type) ? 'REFUSED' : 'SUCCEEDED');

/** What the server did by itself is in the log, but nobody's doing. */
export const isAudited =
  (filter: AuditFilter) =>
  (event: LoggedEvent): boolean =>
    (event.actorKind !== 'SYSTEM' || refusals.includes(event.type)) &&
    (!filter.actorId || event.actorId === filter.actorId) &&
    (!filter.credentialId || event.credentialId === filter.credentialId) &&
    (!filter.subjectId || event.subjectId === filter.subjectId) &&
    (!filter.actions || filter.actions.includes(event.type)) &&
    (!filter.outcome || outcomeOf(event) === filter.outcome) &&
    (!filter.since || event.at >= filter.since) &&
    (!filter.until || event.at < filter.until);

/** The same as SQL, `$1` being the workspace. */
function conditions(workspaceId: string, filter: AuditFilter): { where: string; values: unknown[] } {
  const values: unknown[] = [workspaceId, refusals];
  const parts = ["e.workspace_id = $1 and (e.actor_kind <> 'SYSTEM' or e.type = any($2))"];
  const add = (value: unknown, sql: (place: string) => string) => {
    if (value === null || value === undefined) return;
    values.push(value);
    parts.push(sql(`$${values.length}`));
  };
  add(filter.actorId, (value) => `e.actor_id = ${value}`);
  add(filter.credentialId, (value) => `e.credential_id = ${value}`);
  add(filter.subjectId, (value) => `e.subject_id = ${value}`);
  add(filter.actions, (value) => `e.type = any(${value})`);
  add(filter.since, (value) => `e.at >= ${value}`);
  add(filter.until, (value) => `e.at < ${value}`);
  if (filter.outcome) parts.push(filter.outcome === 'REFUSED' ? 'e.type = any($2)' : 'not e.type = any($2)');
  return { where: parts.join(' and '), values };
}

export interface AuditPage {
  readonly workspaceId: string;
  readonly filter: AuditFilter;
  readonly limit: number;
  /** Cursors of this log. */
  readonly olderThan: string | undefined;
  readonly newerThan: string | undefined;
  /** Oldest first; else newest first. */
  readonly oldestFirst: boolean;
}

/**
 * A page of the log with the cursor of each entry.
 * @throws {ValidationError} for what is no cursor of this log
 */
export async function auditPage(
  pool: pg.Pool,
  page: AuditPage,
): Promise<{ readonly entry: LoggedEvent; readonly cursor: string }[]> {
  const { where, values } = conditions(page.workspaceId, page.filter);
  const bound = (cursor: string | undefined, operator: '<' | '>'): string => {
    if (cursor === undefined) return '';
    values.push(decodeCursor(cursor, page.workspaceId).seq.toString());
    return ` and e.seq ${operator} $${values.length}`;
  };
  const bounds = bound(page.olderThan, '<') + bound(page.newerThan, '>');
  const { rows } = await pool.query<EventRow & { epoch: number }>(
    `select e.*, h.epoch from event e join event_head h using (workspace_id) where ${where}${bounds}
     order by e.seq ${page.oldestFirst ? 'asc' : 'desc'} limit ${page.limit}`,
    values,
  );
  return rows.map((row) => {
    const entry = toEvent(row);
    return { entry, cursor: encodeCursor({ stream: page.workspaceId, epoch: row.epoch, seq: entry.seq }) };
  });
}

export async function auditCount(pool: pg.Pool, workspaceId: string, filter: AuditFilter): Promise<number> {
  const { where, values } = conditions(workspaceId, filter);
  const { rows } = await pool.query<{ count: string }>(`select count(*) from event e where ${where}`, values);
  return Number(rows[0]?.count ?? 0);
}
