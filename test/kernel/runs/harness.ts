import '../../support/probe.ts';
import { randomUUID } from 'node:crypto';
import type { Run } from '#prisma';
import type { Actor } from '../../../src/kernel/auth/actor.ts';
import type { App } from '../../../src/kernel/app.ts';
import type { RunContext, StepContext } from '../../../src/kernel/runs/context.ts';
import { defineRunKind } from '../../../src/kernel/runs/kinds.ts';
import { isTerminal, type Json } from '../../../src/kernel/runs/model.ts';
import { Runs, type Hold } from '../../../src/kernel/runs/runs.ts';
import { rowId } from '../../../src/kernel/graphql/global-id.ts';
import { person, workspace } from '../../support/actors.ts';
import { until } from '../../support/embedded.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

/** A test gives up after this long, milliseconds: four times the promise for a take-over. */
export const livenessMs = 60_000;

export interface ScriptedStep {
  readonly name: string;
  readonly timeoutS?: number;
  readonly uncancelable?: boolean;
  readonly run: (step: StepContext, context: RunContext<TestInput>) => Promise<Json | void>;
}

export interface TestInput {
  readonly script: string;
  readonly n?: number;
}

const scripts = new Map<string, readonly ScriptedStep[]>();

/** A kind of run without rows of its own, whose steps are functions of the test. */
export const testKind = defineRunKind<TestInput>({
  name: 'TestRun',
  versions: [1],
  initial: 'NEW',
  phases: {
    NEW: { status: 'QUEUED', next: ['WORKING', 'CANCELED', 'FAILED'] },
    WORKING: { status: 'RUNNING', next: ['CLOSING', 'DONE', 'CANCELED', 'FAILED'] },
    CLOSING: { status: 'RUNNING', next: ['DONE', 'CANCELED', 'FAILED'] },
    DONE: { status: 'SUCCEEDED', next: [] },
    FAILED: { status: 'FAILED', next: [] },
    CANCELED: { status: 'CANCELED', next: [] },
  },
  ends: { canceled: () => 'CANCELED', failed: () => 'FAILED' },
  steps: ({ script }) => (scripts.get(script) ?? []).map(({ name }) => name),
  begin: () => 'WORKING',
  deadlineS: 600,
  async execute(context) {
    await context.moveTo('WORKING');
    for (const { name, timeoutS = 600, uncancelable = false, run } of scripts.get(context.input.script) ?? [])
      await context.step(name, { timeoutS, uncancelable }, async (step) => (await run(step, context)) ?? null);
    return { phase: 'DONE' };
  },
  onCreate: async () => undefined,
  retryInput: async (_tx, run) => run.input as unknown as TestInput & Json,
});

/** Names some steps; the name is the input of a run that has them. */
export function script(...steps: readonly (ScriptedStep | string)[]): string {
  const name = randomUUID();
  scripts.set(
    name,
    steps.map((step) => (typeof step === 'string' ? { name: step, run: async () => undefined } : step)),
  );
  return name;
}

export interface Bench {
  /** Takes no runs by itself. */
  readonly api: TestServer;
  readonly app: App;
  readonly actor: Actor;
  readonly workspaceId: string;
  /** Another server on the same database, with a worker. */
  worker(env?: Readonly<Record<string, string>>): Promise<TestServer>;
  stop(): Promise<void>;
}

export async function bench(): Promise<Bench> {
  const api = await startTestServer({ SWITCHYARD_ROLES: 'api', SWITCHYARD_RUN_LEASE_S: '4' });
  const workers: TestServer[] = [];
  const { actor, workspaceId } = await owner(api);
  return {
    api,
    app: api.running.app,
    actor,
    workspaceId,
    async worker(env = {}) {
      const server = await startTestServer(
        {
          SWITCHYARD_ROLES: 'worker',
          SWITCHYARD_PROCESS_DRIVER: 'false',
          SWITCHYARD_RUN_LEASE_S: '4',
          SWITCHYARD_STOP_GRACE_S: '0',
          ...env,
        },
        {},
        api.database,
      );
      workers.push(server);
      return server;
    },
    async stop() {
      for (const one of workers) await one.stop();
      await api.stop();
    },
  };
}

/** A person with a workspace, as the services see them. */
export async function owner(api: TestServer): Promise<{ actor: Actor; workspaceId: string; token: string }> {
  const someone = await person(api.url);
  const { id } = await workspace(api.url, someone);
  const workspaceId = rowId('Workspace', id);
  const user = await api.running.app.db.membership.findFirstOrThrow({ where: { workspaceId } });
  return {
    token: someone.token,
    workspaceId,
    actor: {
      kind: 'SESSION',
      userId: user.userId,
      credentialId: null,
      expiresAt: null,
      roles: new Map([[workspaceId, 'OWNER' as const]]),
      scopes: null,
      origin: null,
    },
  };
}

export interface Begin {
  readonly script?: string;
  readonly n?: number;
  readonly lockKey?: string;
  readonly key?: string;
  readonly deadlineInMs?: number;
  readonly actor?: Actor;
  readonly workspaceId?: string;
  readonly hostId?: string;
}

/** Creates a run of the test kind as a verb does. Answers with its id. */
export async function begin(on: Bench, options: Begin = {}): Promise<string> {
  const { app } = on;
  const { actor = on.actor, workspaceId = on.workspaceId, lockKey, key, hostId } = options;
  const input = {
    script: options.script ?? script('one', 'two'),
    ...(options.n === undefined ? {} : { n: options.n }),
  };
  return app.transact(actor, async (tx) => {
    const runs = app.use(Runs);
    const { id } = await runs.once(tx, { workspaceId, mutation: 'testRun', key, input }, () =>
      runs.create(tx, {
        kind: testKind,
        workspaceId,
        input,
        trigger: 'API',
        ...(lockKey ? { lockKey } : {}),
        ...(hostId ? { hostId } : {}),
      }),
    );
    if (options.deadlineInMs !== undefined)
      await tx.db.run.update({ where: { id }, data: { deadlineAt: new Date(Date.now() + options.deadlineInMs) } });
    return id;
  });
}

export const row = (on: Bench, id: string): Promise<Run> => on.app.db.run.findUniqueOrThrow({ where: { id } });

/** The run once it is over. */
export async function over(on: Bench, id: string): Promise<Run> {
  await until(`run ${id} is over`, async () => isTerminal((await row(on, id)).status), livenessMs);
  return row(on, id);
}

export async function reached(on: Bench, id: string, status: Run['status']): Promise<void> {
  await until(`run ${id} is ${status}`, async () => (await row(on, id)).status === status, livenessMs);
}

/** Takes a run as a worker that does not renew its lease. */
export async function hold(on: Bench, id: string): Promise<Hold> {
  const workerId = randomUUID();
  const run = await on.app.use(Runs).take(id, { workerId, hostId: randomUUID() });
  if (!run) throw new Error(`run ${id} was not to be taken`);
  return { runId: id, attempt: run.attempt, workerId };
}

/** Makes a held run's lease a thing of the past. */
export async function expire(on: Bench, id: string): Promise<void> {
  await on.app.database.pool.query(
    `update run set lease_until = clock_timestamp() - interval '1 second' where id = $1`,
    [id],
  );
}

/** Types of a run's events in order, without the kind. */
export async function eventsOf(on: Bench, id: string): Promise<string[]> {
  const { rows } = await on.app.database.pool.query<{ type: string; data: { step?: string } }>(
    `select type, data from event where run_id = $1 order by seq`,
    [id],
  );
  return rows.map(({ type, data }) => `${type.replace('testRun.', '')}${data.step ? ` ${data.step}` : ''}`);
}

/** A promise that the test resolves. */
export const gate = (): { open: () => void; opened: Promise<void> } => {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { open: resolve, opened: promise };
};

/** Rejects when the signal aborts, with its reason. */
export const aborted = (signal: AbortSignal): Promise<never> =>
  new Promise((_resolve, reject) => {
    const fail = () => reject(signal.reason as Error);
    if (signal.aborted) fail();
    else signal.addEventListener('abort', fail, { once: true });
  });
