import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { rowId } from '../data/shape.ts';
import { serveRuns } from './shared/runs.ts';
import { times } from './shared/times.ts';

// A worker of the server, of the checkout in CHECKOUT, with a kind of run whose three steps do nothing, and an event.

type Kinds = typeof import('../../src/kernel/runs/kinds.ts');
type Start = typeof import('../../src/start.ts');
type Config = typeof import('../../src/config.ts');
type Runs = typeof import('../../src/kernel/runs/runs.ts');
type Define = typeof import('../../src/kernel/events/define.ts');
type Actor = typeof import('../../src/kernel/auth/actor.ts');
const of = <T>(file: string): Promise<T> =>
  import(pathToFileURL(path.join(process.env['CHECKOUT'] ?? '', 'src', file)).href) as Promise<T>;

const { start } = await of<Start>('start.ts');
const { loadConfig } = await of<Config>('config.ts');
const { defineRunKind } = await of<Kinds>('kernel/runs/kinds.ts');
const { Runs } = await of<Runs>('kernel/runs/runs.ts');
const { defineEvent } = await of<Define>('kernel/events/define.ts');
const { system } = await of<Actor>('kernel/auth/actor.ts');

const steps = ['first', 'second', 'third'];
const kind = defineRunKind<object>({
  name: 'BenchRun',
  versions: [1],
  initial: 'NEW',
  phases: {
    NEW: { status: 'QUEUED', next: ['DOING', 'CANCELED', 'FAILED'] },
    DOING: { status: 'RUNNING', next: ['DONE', 'CANCELED', 'FAILED'] },
    DONE: { status: 'SUCCEEDED', next: [] },
    FAILED: { status: 'FAILED', next: [] },
    CANCELED: { status: 'CANCELED', next: [] },
  },
  ends: { canceled: () => 'CANCELED', failed: () => 'FAILED' },
  steps: () => steps,
  begin: () => 'DOING',
  deadlineS: 600,
  async execute(context) {
    for (const step of steps) await context.step(step, { timeoutS: 60 }, async () => ({}));
    return { phase: 'DONE' };
  },
  onCreate: async () => undefined,
  retryInput: async () => ({}),
});

const happened = defineEvent<{ n: number }>('bench.happened', { subject: 'Workspace', description: 'A measurement.' });

const { app } = await start(loadConfig(process.env), { endApplications: true });
const workspaces = Number(process.env['WORKSPACES']);
const workspace = (index: number): string => rowId('workspace', (index % workspaces) + 1);
const left = `select count(*)::int n from run where kind = 'BenchRun' and completed_at is null`;
const runs = app.use(Runs);
serveRuns({
  async runs(count) {
    await times(count, (index) =>
      app.transact(system, (tx) => runs.create(tx, { kind, workspaceId: workspace(index), input: {}, trigger: 'API' })),
    );
    while ((await app.database.pool.query<{ n: number }>(left)).rows[0]?.n !== 0) await delay(20);
  },
  events: (count) =>
    times(count, (index) =>
      app.transact(system, async (tx) => {
        const workspaceId = workspace(index);
        tx.append({ type: happened, workspaceId, subjectId: workspaceId, data: { n: index } });
      }),
    ),
});
