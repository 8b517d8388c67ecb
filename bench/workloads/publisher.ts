import pg from 'pg';

/** Commits events as another process of the server does: at the head of the workspace's log, with a wake-up. */
export class Publisher {
  readonly #pool: pg.Pool;
  constructor(databaseUrl: string) {
    this.#pool = new pg.Pool({ connectionString: databaseUrl, max: 4 });
  }

  /** One event of each run, in one transaction. Each carries the time of its making, from the monotonic clock. */
  async publish(workspaceId: string, runs: readonly string[]): Promise<void> {
    await this.#pool.query({
      name: 'publish',
      text: `with head as (
          update event_head set seq = seq + cardinality($2::uuid[]) where workspace_id = $1 returning seq
        ), added as (
          insert into event (workspace_id, seq, type, version, from_state, to_state, subject_type, subject_id, run_id, run_kind,
            actor_kind, data)
          select $1, head.seq - cardinality($2::uuid[]) + r.i, 'deployment.building', 1, 'SECURITY_SCANNING', 'BUILDING',
            'Deployment', r.id, r.id, 'Deployment', 'SYSTEM', jsonb_build_object('ts', $3::text)
          from head, unnest($2::uuid[]) with ordinality r(id, i)
        ) select pg_notify('switchyard', 'bench,w:' || $1::text)`,
      values: [workspaceId, runs, String(process.hrtime.bigint())],
    });
  }

  /** Lets runs that are over go on, so that one can follow them. */
  async revive(runs: readonly string[]): Promise<void> {
    await this.#pool.query(
      `update run set status = 'RUNNING', phase = 'BUILDING', completed_at = null where id = any($1::uuid[])`,
      [runs],
    );
  }

  /** The newest place in a workspace's log. */
  async head(workspaceId: string): Promise<{ seq: bigint; epoch: number }> {
    const { rows } = await this.#pool.query<{ seq: string; epoch: number }>(
      'select seq, epoch from event_head where workspace_id = $1',
      [workspaceId],
    );
    return { seq: BigInt(rows[0]?.seq ?? '0'), epoch: rows[0]?.epoch ?? 1 };
  }

  close(): Promise<void> {
    return this.#pool.end();
  }
}
