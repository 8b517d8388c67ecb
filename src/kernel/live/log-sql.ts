/** A statement, prepared by its name. */
export interface Named {
  readonly name: string;
  readonly text: string;
}

/** The epoch is read with the entries, in one statement: a page of another history must not pass for the next one of this. */
export interface LogSql {
  /** Takes a list of ids. */
  readonly heads: Named;
  /** Takes an id, a seq and a limit. */
  readonly page: Named;
  /**
   * Takes lists of ids and seqs, and the limit for each; `place` tells which of them a row is of, from 1. They stand in
   * selects of their own so that no plan is better for knowing them: else it would be planned anew each time.
   */
  readonly pages: Named;
}

const eventColumns = `e.seq, e.type, e.version, e.from_state, e.to_state, e.subject_type, e.subject_id, e.run_id, e.run_kind,
  e.actor_id, e.actor_kind, e.credential_id, e.origin_id, e.data, e.at, e.traceparent`;
export const eventSql: LogSql = {
  heads: {
    name: 'log heads of events',
    text: 'select workspace_id id, seq, pruned_seq, epoch from event_head where workspace_id = any($1::uuid[])',
  },
  page: {
    name: 'log page of events',
    text: `select workspace_id, ${eventColumns}, h.epoch from event e join event_head h using (workspace_id)
      where workspace_id = $1 and e.seq > $2 order by e.seq limit $3`,
  },
  pages: {
    name: 'log pages of events',
    text: `select w.place::int, w.id workspace_id, ${eventColumns}, h.epoch
      from unnest((select $1::uuid[]), (select $2::bigint[])) with ordinality w(id, after, place)
      join event_head h on h.workspace_id = w.id
      cross join lateral (select * from event where workspace_id = w.id and seq > w.after order by seq limit (select $3::int)) e
      order by w.place, e.seq`,
  },
};
const lineColumns = 'l.run_id, l.seq, l.at, l.stream, l.level, l.step, l.text';
export const lineSql: LogSql = {
  heads: {
    name: 'log heads of lines',
    text: `select r.id, r.log_seq seq, 0 pruned_seq, h.epoch
      from run r join event_head h using (workspace_id) where r.id = any($1::uuid[])`,
  },
  page: {
    name: 'log page of lines',
    text: `select ${lineColumns}, h.epoch
      from log_line l join run r on r.id = l.run_id join event_head h on h.workspace_id = r.workspace_id
      where l.run_id = $1 and l.seq > $2 order by l.seq limit $3`,
  },
  pages: {
    name: 'log pages of lines',
    text: `select w.place::int, ${lineColumns}, h.epoch
      from unnest((select $1::uuid[]), (select $2::bigint[])) with ordinality w(id, after, place)
      join run r on r.id = w.id join event_head h on h.workspace_id = r.workspace_id
      cross join lateral (select * from log_line where run_id = w.id and seq > w.after order by seq limit (select $3::int)) l
      order by w.place, l.seq`,
  },
};
