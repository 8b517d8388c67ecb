import { readFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { raw, repository, answering, plain } from '../domains/deployments/harness.ts';
import { workspace } from '../support/actors.ts';
import { asRoot, until } from '../support/embedded.ts';
import {
  appPids,
  appProcesses,
  dieInAll,
  dyingGround,
  holder,
  leave,
  livenessMs,
  makePlace,
  measured,
  runRow,
  stepRuns,
  type Place,
} from './dying.ts';

/** Multiplies the size of the load; the time that it may take grows with it. */
const scale = Number(process.env['PROOF_SCALE'] ?? '1');
const applications = 200 * scale;
const workspaces = 50 * scale;

describe.skipIf(!asRoot)('workers that die', { concurrent: true }, () => {
  test(
    'whatever the step, the rollback included: another takes the run over, and nothing is done twice',
    { timeout: 600_000 },
    async (context) => {
      const takeOvers = await dieInAll((index) => dyingGround(context, index));
      measured('take-over after SIGKILL, default lease', takeOvers, 's');
      expect(takeOvers.length).toBeGreaterThanOrEqual(6);
    },
  );

  test(
    'a worker that was stopped past its lease and goes on changes nothing',
    { timeout: 300_000 },
    async (context) => {
      const { place, application, open, builds } = await dyingGround(context, 2);
      for (const gate of ['built', 'healthy'] as const) {
        const name = `stalled-${gate}`;
        const other = gate === 'built' ? 'healthy' : 'built';
        const before = new Set((await appProcesses(place)).map(({ pid }) => pid));
        const applicationId = await application(name);
        const id = (await place.on.createDeployment({ applicationId })).deployment?.id ?? '';
        open(name, other);
        await stepRuns(place, id, gate === 'built' ? 'build' : 'health');
        if (gate === 'built') await until('it builds', async () => builds(name) === 1, livenessMs); // prettier-ignore
        const stalled = await holder(place, id);
        stalled.child.kill('SIGSTOP');
        await until('it is taken over', async () => (await runRow(place, id)).attempt === 2, livenessMs);
        open(name, gate);
        expect((await place.on.over(id)).phase).toBe('DEPLOYED');
        // All there is; only the advice on what was deployed comes when it comes, from whichever worker has the time.
        const state = async () => {
          const { rows } = await place.sql.query<{ all: unknown }>(
            `select json_build_object('run', (select to_json(r) from run r where id = $1),
             'steps', (select json_agg(s order by position) from run_step s where run_id = $1),
             'events', (select json_agg(e order by e.seq) from event e where e.type <> 'deployment.advised'), 'lines', (select count(*) from log_line),
             'application', (select to_json(a) from application a where name = $2),
             'releases', (select json_agg(r) from release r join application a on a.id = r.application_id where a.name = $2),
             'children', (select count(*) from run_child)) as all`,
            [raw('Run', id), name],
          );
          return rows[0]?.all;
        };
        const then = await state();
        const processes = await appPids(place);
        stalled.child.kill('SIGCONT');
        await until('it has seen that', async () => stalled.lines.some((line) => line.includes(raw('Run', id)) && line.includes('no longer ours')), livenessMs); // prettier-ignore
        expect(await state()).toEqual(then);
        expect(await appPids(place)).toEqual(processes);
        expect(new Set((await appProcesses(place)).filter(({ pid }) => !before.has(pid)).map(({ groupId }) => groupId)).size).toBe(1); // prettier-ignore
        expect(await place.on.answer(applicationId)).toBe(name);
      }
    },
  );
});

describe.skipIf(!asRoot)('many at once', () => {
  let place: Place;
  beforeEach(async () => {
    place = await makePlace(0, {
      SWITCHYARD_WORKER_CONCURRENCY: '4',
      SWITCHYARD_ADDRESS_PORTS: `27000-${27_000 + 2 * applications}`,
      SWITCHYARD_INSTANCE_PORTS: '11000-16999',
    });
    await place.worker();
    await place.worker();
  });
  afterEach(() => leave(place));

  test(
    `${applications} deployments in ${workspaces} workspaces all end DEPLOYED, and leave nothing behind`,
    { timeout: 900_000 * scale },
    async () => {
      const { on, folder, sql } = place;
      const source = await repository(folder);
      await source.commit({ ...plain, 'server.js': answering('tiny ') });
      const begun = performance.now();
      const ids: string[] = [];
      for (let w = 0; w < workspaces; w++) {
        const { id: workspaceId } = await workspace(on.url, on.who);
        for (let n = 0; n < applications / workspaces; n++) {
          ids.push(
            await on.application({
              workspaceId,
              name: `tiny-${n}`,
              repositoryUrl: source.url,
              healthTimeoutS: 120,
              environment: { GREETING: `${w}-${n}` },
            }),
          );
        }
      }
      const submitted = performance.now();
      const deployments = await Promise.all(ids.map((applicationId) => on.createDeployment({ applicationId })));
      const accepted = performance.now();
      const open = new Map(
        deployments.map(({ deployment }, index) => [raw('Run', deployment?.id ?? ''), ids[index] ?? '']),
      );
      let mostAtOnce = 0;
      await until(
        'all are over',
        async () => {
          const { rows } = await sql.query<{ id: string; phase: string }>(
            `select id, phase from run where id = any($1) and completed_at is not null`,
            [[...open.keys()]],
          );
          const { rows: at } = await sql.query<{ count: string }>(`select count(*) from run where status = 'RUNNING'`);
          mostAtOnce = Math.max(mostAtOnce, Number(at[0]?.count));
          for (const { id, phase } of rows) {
            const applicationId = open.get(id) ?? '';
            open.delete(id);
            expect(phase).toBe('DEPLOYED');
            expect(await on.answer(applicationId)).toMatch(/^tiny \d+-\d+$/);
            await on.stopApplication(applicationId);
          }
          return open.size === 0;
        },
        800_000 * scale,
      );
      const ended = performance.now();
      expect(mostAtOnce).toBeLessThanOrEqual(8);
      await until('no process is left', async () => (await appProcesses(place)).length === 0, livenessMs);
      const { rows: left } = await sql.query<{ open: string; locks: string; children: string; lost: string }>(
        `select (select count(*) from run where completed_at is null) open, (select count(*) from run_lock) locks,
           (select count(*) from run_child) children, (select count(*) from run where lost_workers > 0) lost`,
      );
      expect(left).toEqual([{ open: '0', locks: '0', children: '0', lost: '0' }]);
      const peak = async (pid: number | undefined) => {
        const status = await readFile(`/proc/${pid}/status`, 'utf8');
        return Number(/^VmHWM:\s+(\d+)/m.exec(status)?.[1]) / 1024;
      };
      console.log(
        `MEASURED ${applications} deployments: accepted in ${((accepted - submitted) / 1000).toFixed(1)} s, over in ` +
          `${((ended - submitted) / 1000).toFixed(1)} s (${(applications / ((ended - submitted) / 1000)).toFixed(2)}/s), ` +
          `prepared in ${((submitted - begun) / 1000).toFixed(1)} s, at most ${mostAtOnce} at once`,
      );
      console.log(
        `MEASURED peak memory: api ${(await peak(place.api.child.pid)).toFixed(0)} MiB, workers ` +
          `${(await Promise.all(place.workers.map(({ child }) => peak(child.pid)))).map((mib) => mib.toFixed(0)).join(' and ')} MiB`,
      );
    },
  );
});
