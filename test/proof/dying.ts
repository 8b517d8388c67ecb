import { createServer, request as startRequest, type ServerResponse } from 'node:http';
import { once } from 'node:events';
import { mkdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import { expect, type TestContext } from 'vitest';
import { isAlive, listProcesses, type ListedProcess } from '../../src/kernel/processes/children.ts';
import { raw, repository, plain, serving, team, type Team } from '../domains/deployments/harness.ts';
import { testDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/embedded.ts';
import { git, startGitHttp, type GitHttp } from '../support/git-http.ts';
import { environment, spawnServer, testFolder, type ServerProcess } from '../support/server.ts';

/** A take-over is promised within 15 s; a test gives up after four times that, milliseconds. */
export const livenessMs = 60_000;
/** Users of applications of one place of this process alone: another checkout may run the same proof on this machine. */
const userBase = (index: number) => 1_602_000_000 + ((process.pid % 24_000) * 4 + index) * 4000;

export interface Place {
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

/** A server with a database of its own, whose workers are processes. @param index of those that are there at a time, 0 to 3 */
export async function makePlace(index: number, more: Readonly<Record<string, string>>): Promise<Place> {
  const folder = await testFolder();
  await mkdir(path.join(folder, 'shared'), { mode: 0o711 });
  const database = await testDatabase();
  const env = environment(folder, database.url, {
    SWITCHYARD_APP_USER_BASE: String(userBase(index)),
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
export const appProcesses = async ({ userBase: first }: Pick<Place, 'userBase'>): Promise<ListedProcess[]> =>
  (await listProcesses()).filter(({ uid, zombie }) => uid >= first && uid < first + 4000 && !zombie);

export const appPids = async (place: Place): Promise<number[]> =>
  (await appProcesses(place)).map(({ pid }) => pid).toSorted((a, b) => a - b);

const proxyOf = async ({ folder }: Place) =>
  JSON.parse(await readFile(path.join(folder, 'shared/host/proxy/proxy.json'), 'utf8')) as {
    readonly pid: number;
    readonly startTime: string;
  };

export async function leave(place: Place): Promise<void> {
  const { folder, api, workers, sql, database } = place;
  for (const one of [...workers, api]) {
    one.child.kill('SIGCONT');
    await one.kill('SIGKILL');
  }
  const record = await proxyOf(place);
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

export const measured = (what: string, values: readonly number[], unit: string): void => {
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

export const runRow = async (place: Place, id: string): Promise<RunRow> => {
  const { rows } = await place.sql.query<RunRow>(
    `select id, status, phase, attempt, worker_id, updated_at, log_seq from run where id = $1`,
    [raw('Run', id)],
  );
  if (!rows[0]) throw new Error('no such run');
  return rows[0];
};

export const stepsOf = async (
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
export async function holder(place: Place, id: string): Promise<ServerProcess> {
  const { worker_id: workerId } = await runRow(place, id);
  const found = place.workers.find((one) => one.workerId === workerId);
  if (!found) throw new Error(`no worker ${workerId}`);
  return found;
}

export const stepRuns = (place: Place, id: string, step: string): Promise<void> =>
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

/** What applications of a dying ground run with. */
export interface Runner {
  readonly driver: 'PROCESS' | 'DOCKER';
  readonly settings: Readonly<Record<string, string>>;
  /** Address of this machine that builds and instances reach it at. */
  readonly address: string;
  /** What runs of the applications of a place, each by a name of its own. */
  instances(place: Place): Promise<readonly string[]>;
}

export const processes: Runner = {
  driver: 'PROCESS',
  settings: {},
  address: '127.0.0.1',
  instances: async (place) => [...new Set((await appProcesses(place)).map(({ groupId }) => String(groupId)))],
};

type Gate = 'built' | 'healthy' | 'broken';

/** Where builds and instances ask whether they may go on. */
async function startGates(address: string) {
  const opened = new Set<string>();
  const builds = new Map<string, number>();
  const waiting = new Map<string, Set<ServerResponse>>();
  const waitingAt = (gate: string): Set<ServerResponse> => waiting.get(gate) ?? new Set();
  const server = createServer((request, response) => {
    const asked = (request.url ?? '').slice(1);
    const [name = '', gate] = asked.split('/');
    if (gate === 'built') builds.set(name, (builds.get(name) ?? 0) + 1);
    if (opened.has(asked)) response.end();
    else if (gate === 'healthy') response.writeHead(503).end();
    else {
      const all = waitingAt(asked).add(response);
      waiting.set(asked, all);
      response.once('close', () => all.delete(response));
    }
  }).listen(0, address);
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  return {
    urlOf: (name: string, gate: Gate): string => `http://${address}:${port}/${name}/${gate}`,
    open(name: string, ...gates: readonly Gate[]): void {
      for (const key of gates.map((gate) => `${name}/${gate}`)) {
        opened.add(key);
        for (const response of waitingAt(key)) response.end();
      }
    },
    /** How often something has been built. */
    builds: (name: string): number => builds.get(name) ?? 0,
    /** How many builds of it go on. */
    building: (name: string): number => waitingAt(`${name}/built`).size,
    close(): void {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** A command that waits for a gate, and fails when nobody is there. */
const waitsFor = (url: string): string =>
  `node -e 'require("node:http").get("${url}", (told) => process.exit(told.statusCode === 200 ? 0 : 1))'`;

export type DyingGround = Awaited<ReturnType<typeof dyingGround>>;

/**
 * A place of its own for workers that die one after the other. It goes after the test.
 * @param more settings; without any it has the default lease, so that what is measured is what is promised
 */
export async function dyingGround(
  { onTestFinished }: TestContext,
  index: number,
  runner: Runner = processes,
  more: Readonly<Record<string, string>> = {},
) {
  const place = await inTurn(async () => {
    const made = await makePlace(index, { ...runner.settings, ...more });
    onTestFinished(() => leave(made));
    await made.worker();
    await made.worker();
    return made;
  });
  const gates = await startGates(runner.address);
  onTestFinished(() => gates.close());
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
  const frontAddress = front.address();
  const frontUrl = typeof frontAddress === 'object' && frontAddress ? `http://127.0.0.1:${frontAddress.port}/bare.git` : ''; // prettier-ignore

  async function publish(files: Readonly<Record<string, string>>): Promise<void> {
    await source.commit(files);
    await rm(path.join(place.folder, 'bare.git'), { recursive: true, force: true });
    await git(place.folder, 'clone', '--quiet', '--bare', source.url, 'bare.git');
  }

  /** An application whose build waits at a gate, and which is healthy once another one is open. */
  async function application(name: string): Promise<string> {
    await publish({
      ...plain,
      'server.js': serving(name).replace(
        'response.end(',
        `require('node:http').get('${gates.urlOf(name, 'healthy')}', (told) => response.writeHead(told.resume().statusCode).end(`,
      ).replace('));\nsetTimeout', ')));\nsetTimeout'), // prettier-ignore
    });
    return place.on.application({
      name,
      driver: runner.driver,
      repositoryUrl: frontUrl,
      buildCommand: waitsFor(gates.urlOf(name, 'built')),
      healthTimeoutS: 120,
    });
  }

  /** A version that never listens, and goes when it is told to. */
  const publishBroken = (name: string): Promise<void> =>
    publish({ ...plain, 'server.js': `require('node:http').get('${gates.urlOf(name, 'broken')}', () => process.exit(1));` }); // prettier-ignore

  /** Kills the worker that holds a run. */
  async function kill(id: string, held?: ServerProcess): Promise<void> {
    const victim = held ?? (await holder(place, id));
    await victim.kill('SIGKILL');
    place.workers.splice(place.workers.indexOf(victim), 1);
  }

  const { instances } = runner;
  const { open, builds, building } = gates;
  const scenarios: Record<
    Death,
    {
      readonly builds: number;
      kill(id: string, name: string, strike: (held?: ServerProcess) => Promise<void>): Promise<void>;
    }
  > = {
    fetch: {
      builds: 1,
      async kill(_id, name, strike) {
        open(name, 'built', 'healthy');
        await until('git has asked', async () => fetching.asked > 0, livenessMs);
        await strike();
        fetching.open = true;
      },
    },
    scan: {
      builds: 1,
      async kill(id, name, strike) {
        open(name, 'built', 'healthy');
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
        open(name, 'healthy');
        await until('the build runs', async () => builds(name) === 1, livenessMs);
        await strike();
        await until('it builds again', async () => builds(name) === 2, livenessMs);
        await until('the build of the dead worker is ended', async () => building(name) === 1, livenessMs);
        open(name, 'built');
      },
    },
    start: {
      builds: 1,
      async kill(id, name, strike) {
        open(name, 'healthy');
        const before = await instances(place);
        // The instance runs, and its row cannot be written.
        await whileLocked(place, 'lock table release in share row exclusive mode', [], async () => {
          open(name, 'built');
          await stepRuns(place, id, 'start');
          await until('the step cannot complete', async () => (await blocked(place)) > 0, livenessMs);
          expect((await instances(place)).filter((one) => !before.includes(one))).toHaveLength(1);
          await strike();
        });
      },
    },
    health: {
      builds: 1,
      async kill(id, name, strike) {
        open(name, 'built');
        await stepRuns(place, id, 'health');
        await strike();
        open(name, 'healthy');
      },
    },
    'activate, before the switch': {
      builds: 1,
      async kill(id, name, strike) {
        open(name, 'built');
        await stepRuns(place, id, 'health');
        await whileLocked(place, 'select 1 from application for update', [], async () => {
          open(name, 'healthy');
          await stepRuns(place, id, 'activate');
          await until('the switch waits', async () => (await blocked(place)) > 0, livenessMs);
          await strike();
        });
      },
    },
    'activate, after the switch': {
      builds: 1,
      async kill(id, name, strike) {
        open(name, 'built');
        await stepRuns(place, id, 'health');
        const proxy = await proxyOf(place);
        // A run that has ended is held by nobody.
        const held = await holder(place, id);
        // It has the address already, so that the switch does not wait for the proxy.
        open(name, 'healthy');
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
        await strike(held);
        process.kill(proxy.pid, 'SIGCONT');
      },
    },
  };

  /** Workers die in these steps, one after the other: another takes the run over, nothing is done twice, nothing is left. */
  async function dieIn(deaths: readonly Death[]): Promise<readonly number[]> {
    const takeOvers: number[] = [];
    for (const scenario of deaths) {
      const name = `app-${deaths.indexOf(scenario)}`;
      const before = await instances(place);
      const applicationId = await application(name);
      Object.assign(fetching, { asked: 0, open: scenario !== 'fetch' });
      const created = await place.on.createDeployment({ applicationId });
      const id = created.deployment?.id ?? '';
      let struckAt = 0;
      let completed: string[] = [];
      await scenarios[scenario].kill(id, name, async (held) => {
        await kill(id, held);
        struckAt = performance.now();
        completed = Object.entries(await stepsOf(place, id))
          .filter(([, { status }]) => status === 'SUCCEEDED')
          .map(([step]) => step);
      });
      // It is there before the next one dies, and nobody waits for it until then.
      const next = place.worker();
      await until(`${scenario}: taken over`, async () => (await runRow(place, id)).attempt === 2 || (await runRow(place, id)).status === 'SUCCEEDED', livenessMs); // prettier-ignore
      const tookMs = performance.now() - struckAt;
      const over = await place.on.over(id);
      expect([scenario, over.phase, over.statusReason]).toEqual([scenario, 'DEPLOYED', null]);
      // After the switch it may have ended before the kill.
      expect([scenario, over.attempt]).toEqual([scenario, scenario === 'activate, after the switch' ? expect.toBeOneOf([1, 2]) : 2]); // prettier-ignore
      if (over.attempt === 2) takeOvers.push(tookMs / 1000);
      const steps = await stepsOf(place, id);
      for (const step of ['fetch', 'scan', 'build', 'start', 'health', 'activate']) {
        expect([scenario, step, steps[step]]).toEqual([
          scenario,
          step,
          { status: 'SUCCEEDED', attempt: completed.includes(step) ? 1 : over.attempt, events: 1 },
        ]);
      }
      expect(builds(name)).toBe(scenarios[scenario].builds);
      expect(await place.on.answer(applicationId)).toBe(name);
      const those = async () => (await instances(place)).filter((one) => !before.includes(one));
      await until(`${scenario}: one instance is left`, async () => (await those()).length === 1, livenessMs);
      const { rows } = await place.sql.query(`select 1 from run_child`);
      expect(rows).toHaveLength(0);
      const { rows: switches } = await place.sql.query(`select 1 from event where run_id = $1 and type = 'application.released'`, [raw('Run', id)]); // prettier-ignore
      expect([scenario, switches.length]).toEqual([scenario, 1]);
      await next;
    }
    return takeOvers;
  }

  /** A worker dies while it rolls back: another one does it, and what served serves on. */
  async function dieInRollback(name: string): Promise<void> {
    const applicationId = await application(name);
    open(name, 'built', 'healthy');
    expect((await place.on.deploy(applicationId)).phase).toBe('DEPLOYED');
    const before = await instances(place);
    await publishBroken(name);
    const id = (await place.on.createDeployment({ applicationId })).deployment?.id ?? '';
    await stepRuns(place, id, 'health');
    // That its instance is gone cannot be written down.
    await whileLocked(place, 'lock table release in share row exclusive mode', [], async () => {
      open(name, 'broken');
      await stepRuns(place, id, 'rollback');
      await until('the step waits', async () => (await blocked(place)) > 0, livenessMs);
      await kill(id);
    });
    expect(await place.on.over(id)).toMatchObject({ phase: 'ROLLED_BACK', attempt: 2 });
    expect((await stepsOf(place, id))['rollback']).toEqual({ status: 'SUCCEEDED', attempt: 2, events: 1 });
    expect(await place.on.answer(applicationId)).toBe(name);
    const sorted = async () => String((await instances(place)).toSorted());
    await until('only what served runs', async () => (await sorted()) === String(before.toSorted()), livenessMs);
    const { rows } = await place.sql.query(`select 1 from run_child`);
    expect(rows).toHaveLength(0);
  }

  return { place, publish, application, open, builds, dieIn, dieInRollback };
}

/** The steps that a worker dies in, by the place that they are tried at: those of one place follow each other. */
const deaths = [
  ['fetch', 'start', 'activate, before the switch'],
  ['scan', 'build', 'health', 'activate, after the switch'],
] as const;

type Death = (typeof deaths)[number][number];

/** Workers die in every step and while they roll back, on two grounds side by side. Gives how long take-overs took, seconds. */
export async function dieInAll(ground: (index: number) => Promise<DyingGround>): Promise<readonly number[]> {
  const took = await Promise.all(
    deaths.map(async (steps, index) => {
      const { dieIn, dieInRollback } = await ground(index);
      const takeOvers = await dieIn(steps);
      if (index === 0) await dieInRollback('rolled-back');
      return takeOvers;
    }),
  );
  return took.flat();
}
