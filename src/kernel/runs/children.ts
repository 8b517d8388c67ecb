import type { App } from '../app.ts';
import { system } from '../auth/actor.ts';
import type { ProcessIdentity } from '../processes/children.ts';
import { fence, type Hold } from './row.ts';

/** Processes that executions of runs start, which must not outlive them. */
export const children = (app: App) => ({
  /** Records a process that an execution is about to start. @throws {Fenced} */
  async recordChild(hold: Hold, hostId: string, child: ProcessIdentity): Promise<void> {
    await app.transact(system, async (tx) => {
      await fence(tx, hold);
      const { pid, startTime } = child;
      await tx.db.runChild.create({
        data: { runId: hold.runId, attempt: hold.attempt, hostId, pid, startTime },
      });
    });
  },

  /** Processes on a host that no execution answers for: their run is over, waits, or is at a later attempt. */
  async strayChildren(hostId: string): Promise<(ProcessIdentity & { id: string; runId: string })[]> {
    const { rows } = await app.database.pool.query<{ id: string; run_id: string; pid: number; start_time: string }>(
      `select c.id, c.run_id, c.pid, c.start_time from run_child c left join run r on r.id = c.run_id
       where c.host_id = $1 and (r.worker_id is null or c.attempt < r.attempt) limit 100`,
      [hostId],
    );
    return rows.map((row) => ({ id: row.id, runId: row.run_id, pid: row.pid, startTime: row.start_time }));
  },

  /** Leaves processes of runs that are over to the workers of a host, which end them. */
  async leaveChildren(hostId: string, children: readonly (ProcessIdentity & { runId: string })[]): Promise<void> {
    for (const child of children) {
      const known = { runId: child.runId, hostId, pid: child.pid, startTime: child.startTime };
      if ((await app.db.runChild.count({ where: known })) === 0)
        await app.db.runChild.create({ data: { ...known, attempt: 0 } });
    }
  },

  /** Forgets processes that have ended. */
  async forgetChildren(ids: readonly string[]): Promise<void> {
    await app.db.runChild.deleteMany({ where: { id: { in: [...ids] } } });
  },
});
