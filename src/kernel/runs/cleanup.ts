import { setTimeout as pause } from 'node:timers/promises';
import { defineWorkspaceCleanup } from '../workspace-cleanup.ts';
import { isLost } from './host.ts';
import { openRun, Runs } from './runs.ts';

/** A worker that lives may take so long to end its run, milliseconds. */
const patienceMs = 300_000;
const pollMs = 1000;

/** Ends every open run of a workspace, and waits until their workers have: nothing starts anything after it. */
defineWorkspaceCleanup('runs', async (app, workspaceId, { signal, log, fence }) => {
  const runs = app.use(Runs);
  const since = new Map<string, number>();
  for (;;) {
    signal.throwIfAborted();
    const open = await app.db.run.findMany({
      where: { workspaceId, ...openRun },
      select: { id: true, hostId: true },
      take: 500,
    });
    if (open.length === 0) return { removed: since.size, left: [] };
    const hosts = await app.db.host.findMany({
      where: { id: { in: open.flatMap(({ hostId }) => hostId ?? []) } },
      select: { id: true, lastSeenAt: true },
    });
    const alive = new Set(hosts.filter((host) => !isLost(host)).map(({ id }) => id));
    for (const { id, hostId } of open) {
      const asked = since.get(id);
      if (asked === undefined) {
        since.set(id, performance.now());
        await fence();
        await runs.stop(id);
      } else if ((hostId && !alive.has(hostId)) || performance.now() - asked > patienceMs) {
        await fence();
        if (await runs.giveUp(id, 'Its workspace is being deleted, and no worker came to end it.'))
          await log(`run ${id} was given up: no worker came to end it`);
      }
    }
    await pause(pollMs, undefined, { signal });
  }
});
