import { createServer, request as startRequest } from 'node:http';
import { once } from 'node:events';
import { chmod, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test, type TestContext } from 'vitest';
import { isAlive, listProcesses, type ListedProcess } from '../../src/kernel/processes/children.ts';
import { raw, repository, answering, plain, team, type Team } from '../domains/deployments/harness.ts';
import { workspace } from '../support/actors.ts';
import { testDatabase, type TestDatabase } from '../support/database.ts';
import { asRoot, until } from '../support/embedded.ts';
import { git, startGitHttp, type GitHttp } from '../support/git-http.ts';
import { environment, spawnServer, testFolder, type ServerProcess } from '../support/server.ts';

/** Multiplies the size of the load; the time that it may take grows with it. */
const scale = Number(process.env['PROOF_SCALE'] ?? '1');
const applications = 200 * scale;
const workspaces = 50 * scale;

/** A take-over is promised within 15 s; a test gives up after four times that, milliseconds. */
const livenessMs = 60_000;
/** Users of applications of one place of this process alone: another checkout may run the same proof on this machine. */
const userBase = (index: number) => 1_602_000_000 + ((process.pid % 24_000) * 4 + index) * 4000;

interface Place {
  readonly userBase: number;
  readonly folder: string;
  readonly env: Readonly<Record<string, string>>;
  readonly database: TestDatabase;
  readonly sql: pg.Client;
  readonly api: ServerProcess;
  readonly on: Team;
  readonly workers: ServerProcess[];
  worker(): Promise<ServerProcess>;
}

/** @param index of those that are there at a time, 0 to 3 */
async function makePlace(index: number, more: Readonly<Record<string, string>>): Promise<Place> {
  const folder = await testFolder();
  await mkdir(path.join(folder, 'shared'), { mode: 0o711 });
  const database = await testDatabase();
  const env = environment(folder, database.url, {
    SWITCHYARD_APP_USER_BASE: String(userBase(index)),
    SWITCHYARD_ADDRESS_PORTS: `${27_000 + index * 100}-${27_099 + index * 100}`,
    SWITCHYARD_INSTANCE_PORTS: `${11_000 + index * 100}-${11_099 + index * 100}`,
    SWITCHYARD_APP_MEMORY_MB: '32',
    SWITCHYARD_STOP_GRACE_S: '5',
    ...more,
  });
  const sql = new pg.Client({ connectionString: database.url });
  await sql.connect();
  const api = await spawnServer({ ...env, SWITCHYARD_ROLES: 'api' });
  const workers: ServerProcess[] = [];
  return {
    userBase: userBase(index),
    folder,
    env,
    database,
    sql,
    api,
    workers,
    on: await team(api.url),
    async worker() {
      const one = await spawnServer({ ...env, SWITCHYARD_ROLES: 'worker' });
      workers.push(one);
      return one;
    },
  };
}

/** Processes of applications of a place. */
const appProcesses = async ({ userBase: first }: Pick<Place, 'userBase'>): Promise<ListedProcess[]> =>
  (await listProcesses()).filter(({ uid, zombie }) => uid >= first && uid < first + 4000 && !zombie);

const appPids = async (place: Place): Promise<number[]> =>
  (await appProcesses(place)).map(({ pid }) => pid).toSorted((a, b) => a - b);

async function leave(place: Place): Promise<void> {
  const { folder, api, workers, sql, database } = place;
  for (const one of [...workers, api]) {
    one.child.kill('SIGCONT');
    await one.kill('SIGKILL');
  }
  const record = JSON.parse(await readFile(path.join(folder, 'shared/host/proxy/proxy.json'), 'utf8')) as {
    pid: number;
    startTime: string;
  };
  if (await isAlive(record)) {
    process.kill(record.pid, 'SIGCONT');
    process.kill(record.pid, 'SIGKILL');
  }
  for (const { pid } of await appProcesses(place)) process.kill(pid, 'SIGKILL');
  await until('nothing is left', async () => (await appProcesses(place)).length === 0 && !(await isAlive(record)));
  await sql.end();
  await database.drop();
  await rm(folder, { recursive: true, force: true });
}

const measured = (what: string, values: readonly number[], unit: string): void => {
  const sorted = values.toSorted((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  console.log(`MEASURED ${what}: median ${median.toFixed(1)} ${unit}, worst ${sorted.at(-1)?.toFixed(1)} ${unit}, of ${sorted.length}`); // prettier-ignore
};

interface RunRow {
  readonly id: string;
  readonly status: string;
  readonly phase: string;
  readonly attempt: number;
  readonly worker_id: string | null;
  readonly updated_at: Date;
  readonly log_seq: string;
}

const runRow = async (place: Place, id: string): Promise<RunRow> => {
  const { rows } = await place.sql.query<RunRow>(
    `select id, status, phase, attempt, worker_id, updated_at, log_seq from run where id = $1`,
    [raw('Run', id)],
  );
  if (!rows[0]) throw new Error('no such run');
  return rows[0];
};

const stepsOf = async (
  place: Place,
  id: string,
): Promise<Record<string, { status: string; attempt: number; events: number }>> => {
  const { rows } = await place.sql.query<{ name: string; status: string; attempt: number; events: string }>(
    `select s.name, s.status, s.attempt, (select count(*) from event e where e.run_id = s.run_id
       and e.type = 'deployment.stepSucceeded' and e.data->>'step' = s.name) events
     from run_step s where s.run_id = $1`,
    [raw('Run', id)],
  );
  return Object.fromEntries(
    rows.map(({ name, status, attempt, events }) => [name, { status, attempt, events: Number(events) }]),
  );
};

/** The worker that holds a run. */
async function holder(place: Place, id: string): Promise<ServerProcess> {
  const { worker_id: workerId } = await runRow(place, id);
  const found = place.workers.find((one) => one.workerId === workerId);
  if (!found) throw new Error(`no worker ${workerId}`);
  return found;
}

const stepRuns = (place: Place, id: string, step: string): Promise<void> =>
  until(`step ${step} runs`, async () => (await stepsOf(place, id))[step]?.status === 'RUNNING', livenessMs);

/** Does something while a row or table is locked by a transaction of its own, which ends afterwards. */
async function whileLocked(
  place: Place,
  statement: string,
  values: unknown[],
  work: () => Promise<void>,
): Promise<void> {
  const client = new pg.Client({ connectionString: place.database.url });
  await client.connect();
  try {
    await client.query('begin');
    await client.query(statement, values);
    await work();
  } finally {
    await client.end();
  }
}

/** How many blocked statements there are that another transaction keeps waiting. */
const blocked = async (place: Place): Promise<number> => {
  const { rows } = await place.sql.query<{ count: string }>(
    `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  );
  return Number(rows[0]?.count);
};

let turn: Promise<unknown> = Promise.resolve();
/** Servers that all start at once on two cores take long, each of them; while the next ones start, the first ones work. */
function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const mine = turn.then(work, work);
  turn = mine;
  return mine;
}

/**
 * A place of its own for workers that die one after the other, with the default lease: what is measured is what is
 * promised. It goes after the test.
 */
async function dyingGround({ onTestFinished }: TestContext, index: number) {
  const place = await inTurn(async () => {
    const made = await makePlace(index, {});
    onTestFinished(() => leave(made));
    await made.worker();
    await made.worker();
    return made;
  });
  /** A folder that applications can write to. */
  const notes = path.join(place.folder, 'notes');
  await mkdir(notes);
  await chmod(notes, 0o777);
  const source = await repository(place.folder);
  const remote: GitHttp = await startGitHttp(place.folder);
  onTestFinished(() => remote.close());
  const fetching = { open: true, asked: 0 };
  const front = createServer((incoming, outgoing) => {
    fetching.asked++;
    if (!fetching.open) return; // never answered
    const forwarded = startRequest(
      `${remote.url}${incoming.url}`,
      { method: incoming.method ?? 'GET', headers: incoming.headers },
      (answer) => {
        outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(outgoing);
      },
    );
    forwarded.on('error', () => outgoing.destroy());
    incoming.pipe(forwarded);
  }).listen(0, '127.0.0.1');
  await once(front, 'listening');
  onTestFinished(() => {
    front.closeAllConnections();
    front.close();
  });
  const address = front.address();
  const frontUrl = typeof address === 'object' && address ? `http://127.0.0.1:${address.port}/bare.git` : '';

  async function publish(files: Readonly<Record<string, string>>): Promise<void> {
    await source.commit(files);
    await rm(path.join(place.folder, 'bare.git'), { recursive: true, force: true });
    await git(place.folder, 'clone', '--quiet', '--bare', source.url, 'bare.git');
  }

  /** An application whose build notes that it ran and waits for a file, and which is healthy once there is another. */
  async function application(name: string): Promise<string> {
    await publish({
      ...plain,
      'server.js': answering(name).replace(
        'response.end(',
        `!require('node:fs').existsSync(process.env.HEALTHY) ? response.writeHead(503).end() : response.end(`,
      ),
    });
    return place.on.application({
      name,
      repositoryUrl: frontUrl,
      buildCommand: `echo built >> ${notes}/${name}.builds; while ! [ -e ${notes}/${name}.built ]; do sleep 0.05; done`,
      healthTimeoutS: 120,
      environment: { HEALTHY: `${notes}/${name}.healthy` },
    });
  }

  const open = (name: string, gate: 'built' | 'healthy') => writeFile(path.join(notes, `${name}.${gate}`), '');
  const builds = async (name: string) =>
    (await readFile(path.join(notes, `${name}.builds`), 'utf8')).trim().split('\n').length;

  const scenarios: Record<
    (typeof deaths)[number][number],
    { readonly builds: number; kill(id: string, name: string, strike: () => Promise<void>): Promise<void> }
  > = {
    fetch: {
      builds: 1,
      async kill(_id, name, strike) {
        await open(name, 'built');
        await open(name, 'healthy');
        await until('git has asked', async () => fetching.asked > 0, livenessMs);
        await strike();
        fetching.open = true;
      },
    },
    scan: {
      builds: 1,
      async kill(id, name, strike) {
        await open(name, 'built');
        await open(name, 'healthy');
        // Everything is looked through, and the report cannot be written.
        await whileLocked(place, 'lock table security_scan in share row exclusive mode', [], async () => {
          await stepRuns(place, id, 'scan');
          await until('the report waits', async () => (await blocked(place)) > 0, livenessMs);
          await strike();
        });
      },
    },
    build: {
      builds: 2,
      async kill(_id, name, strike) {
        await open(name, 'healthy');
        await until('the build runs', async () => (await readdir(notes)).includes(`${name}.builds`), livenessMs);
        await strike();
        await until('it builds again', async () => (await builds(name)) === 2, livenessMs);
        await open(name, 'built');
      },
    },
    start: {
      builds: 1,
      async kill(id, name, strike) {
        await open(name, 'healthy');
        // The instance runs, and its row cannot be written.
        await whileLocked(place, 'lock table release in share row exclusive mode', [], async () => {
          await open(name, 'built');
          await stepRuns(place, id, 'start');
          await until('the step cannot complete', async () => (await blocked(place)) > 0, livenessMs);
          expect(await appProcesses(place)).not.toHaveLength(0);
          await strike();
        });
      },
    },
    health: {
      builds: 1,
      async kill(id, name, strike) {
        await open(name, 'built');
        await stepRuns(place, id, 'health');
        await strike();
        await open(name, 'healthy');
      },
    },
    'activate, before the switch': {
      builds: 1,
      async kill(id, name, strike) {
        await open(name, 'built');
        await stepRuns(place, id, 'health');
        await whileLocked(place, 'select 1 from application for update', [], async () => {
          await open(name, 'healthy');
          await stepRuns(place, id, 'activate');
          await until('the switch waits', async () => (await blocked(place)) > 0, livenessMs);
          await strike();
        });
      },
    },
    'activate, after the switch': {
      builds: 1,
      async kill(id, name, strike) {
        await open(name, 'built');
        await stepRuns(place, id, 'health');
        const proxy = JSON.parse(await readFile(path.join(place.folder, 'shared/host/proxy/proxy.json'), 'utf8')) as {
          pid: number;
        };
        // It has the address already, so that the switch does not wait for the proxy.
        await open(name, 'healthy');
        await until(
          'it is switched',
          async () => {
            const { rows } = await place.sql.query<{ switched: boolean; ported: boolean }>(
              `select active_release_id is not null switched, port is not null ported from application where name = $1`,
              [name],
            );
            return rows[0]?.switched ?? false;
          },
          livenessMs,
        );
        process.kill(proxy.pid, 'SIGSTOP');
        await strike();
        process.kill(proxy.pid, 'SIGCONT');
      },
    },
  };

  return { place, notes, fetching, publish, application, open, builds, scenarios };
}

/** The steps that a worker dies in, by the place that they are tried at: those of one place follow each other. */
const deaths = [
  ['fetch', 'start', 'activate, before the switch'],
  ['scan', 'build', 'health', 'activate, after the switch'],
] as const;

describe.skipIf(!asRoot)('workers that die', { concurrent: true }, () => {
  test(
    'whatever the step: another takes the run over, and nothing is done twice',
    { timeout: 600_000 },
    async (context) => {
      const takeOvers: number[] = [];
      const dieAt = async (index: number, names: readonly (typeof deaths)[number][number][]): Promise<void> => {
        const { place, fetching, application, builds, scenarios } = await dyingGround(context, index);
        for (const scenario of names) {
          const { builds: wanted, kill } = scenarios[scenario];
          const name = `app-${names.indexOf(scenario)}`;
          const before = new Set((await appProcesses(place)).map(({ pid }) => pid));
          const applicationId = await application(name);
          Object.assign(fetching, { asked: 0, open: scenario !== 'fetch' });
          const created = await place.on.createDeployment({ applicationId });
          const id = created.deployment?.id ?? '';
          let struckAt = 0;
          let completed: string[] = [];
          await kill(id, name, async () => {
            const victim = await holder(place, id);
            await victim.kill('SIGKILL');
            struckAt = performance.now();
            completed = Object.entries(await stepsOf(place, id))
              .filter(([, { status }]) => status === 'SUCCEEDED')
              .map(([step]) => step);
            place.workers.splice(place.workers.indexOf(victim), 1);
          });
          await until(`${scenario}: taken over`, async () => (await runRow(place, id)).attempt === 2 || (await runRow(place, id)).status === 'SUCCEEDED', livenessMs); // prettier-ignore
          const tookMs = performance.now() - struckAt;
          const over = await place.on.over(id);
          expect([scenario, over.phase, over.statusReason]).toEqual([scenario, 'DEPLOYED', null]);
          // After the switch it may have ended before the kill.
          expect(over.attempt === 2 || scenario === 'activate, after the switch').toBe(true);
          if (over.attempt === 2) takeOvers.push(tookMs / 1000);
          const steps = await stepsOf(place, id);
          for (const step of ['fetch', 'scan', 'build', 'start', 'health', 'activate']) {
            expect([scenario, step, steps[step]]).toEqual([
              scenario,
              step,
              { status: 'SUCCEEDED', attempt: completed.includes(step) ? 1 : over.attempt, events: 1 },
            ]);
          }
          expect(await builds(name)).toBe(wanted);
          expect(await place.on.answer(applicationId)).toBe(name);
          const groups = new Set(
            (await appProcesses(place)).filter(({ pid }) => !before.has(pid)).map(({ groupId }) => groupId),
          );
          expect([scenario, groups.size]).toEqual([scenario, 1]);
          const { rows } = await place.sql.query(`select 1 from run_child`);
          expect(rows).toHaveLength(0);
          const { rows: switches } = await place.sql.query(`select 1 from event where run_id = $1 and type = 'application.released'`, [raw('Run', id)]); // prettier-ignore
          expect([scenario, switches.length]).toEqual([scenario, 1]);
          await place.worker();
        }
      };
      await Promise.all(deaths.map((names, index) => dieAt(index, names)));
      measured('take-over after SIGKILL, default lease', takeOvers, 's');
      expect(takeOvers.length).toBeGreaterThanOrEqual(6);
    },
  );

  test(
    'a worker that dies while it rolls back: another one does, and what served serves on',
    { timeout: 300_000 },
    async (context) => {
      const { place, notes, publish, application, open } = await dyingGround(context, deaths.length + 1);
      const name = 'rolled-back';
      const applicationId = await application(name);
      for (const gate of ['built', 'healthy'] as const) await open(name, gate);
      expect((await place.on.deploy(applicationId)).phase).toBe('DEPLOYED');
      const before = await appPids(place);
      // It never listens, and goes when it is told to.
      const broken = `setInterval(() => require('node:fs').existsSync('${notes}/break') && process.exit(1), 50);`;
      await publish({ ...plain, 'server.js': broken });
      const id = (await place.on.createDeployment({ applicationId })).deployment?.id ?? '';
      await stepRuns(place, id, 'health');
      // That its instance is gone cannot be written down.
      await whileLocked(place, 'lock table release in share row exclusive mode', [], async () => {
        await writeFile(path.join(notes, 'break'), '');
        await stepRuns(place, id, 'rollback');
        await until('the step waits', async () => (await blocked(place)) > 0, livenessMs);
        const victim = await holder(place, id);
        await victim.kill('SIGKILL');
        place.workers.splice(place.workers.indexOf(victim), 1);
      });
      expect(await place.on.over(id)).toMatchObject({ phase: 'ROLLED_BACK', attempt: 2 });
      expect((await stepsOf(place, id))['rollback']).toEqual({ status: 'SUCCEEDED', attempt: 2, events: 1 });
      expect(await place.on.answer(applicationId)).toBe(name);
      await until('only what served runs', async () => String(await appPids(place)) === String(before), livenessMs);
      const { rows } = await place.sql.query(`select 1 from run_child`);
      expect(rows).toHaveLength(0);
    },
  );

  test(
    'a worker that was stopped past its lease and goes on changes nothing',
    { timeout: 300_000 },
    async (context) => {
      const { place, notes, application, open } = await dyingGround(context, deaths.length);
      for (const gate of ['built', 'healthy'] as const) {
        const name = `stalled-${gate}`;
        const other = gate === 'built' ? 'healthy' : 'built';
        const before = new Set((await appProcesses(place)).map(({ pid }) => pid));
        const applicationId = await application(name);
        const id = (await place.on.createDeployment({ applicationId })).deployment?.id ?? '';
        await open(name, other);
        await stepRuns(place, id, gate === 'built' ? 'build' : 'health');
        if (gate === 'built') await until('it builds', async () => (await readdir(notes)).includes(`${name}.builds`), livenessMs); // prettier-ignore
        const stalled = await holder(place, id);
        stalled.child.kill('SIGSTOP');
        await until('it is taken over', async () => (await runRow(place, id)).attempt === 2, livenessMs);
        await open(name, gate);
        expect((await place.on.over(id)).phase).toBe('DEPLOYED');
        // But for advice: that is a job of its own, which comes when it comes.
        const state = async () => {
          const { rows } = await place.sql.query<{ all: unknown }>(
            `select json_build_object('run', (select to_json(r) from run r where id = $1),
             'steps', (select json_agg(s order by position) from run_step s where run_id = $1),
             'events', (select json_agg(type order by seq) from event where type <> 'deployment.advised'), 'lines', (select count(*) from log_line),
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
