// A run kind without rows of its own, for tests of the machinery. Import it before the server: the schema is built once.
// A server in a process of its own has it with NODE_OPTIONS=--import=<this file>.
import { builder } from '../../src/kernel/graphql/builder.ts';
import { rowId } from '../../src/kernel/graphql/global-id.ts';
import { guarded } from '../../src/kernel/graphql/kit.ts';
import { defineRunKind } from '../../src/kernel/runs/kinds.ts';
import { Runs } from '../../src/kernel/runs/runs.ts';
import { RunRef } from '../../src/kernel/runs/schema.ts';
import './brittle.ts';
// The types that the kernel's refer to.
import '../../src/kernel/auth/schema.ts';
import '../../src/kernel/live/schema.ts';
import '../../src/kernel/storage/schema.ts';

type ProbeInput = { readonly lines: number };

export const probeKind = defineRunKind<ProbeInput>({
  name: 'Probe',
  versions: [1],
  phases: {
    PENDING: { status: 'QUEUED', next: ['WORKING', 'CANCELED', 'FAILED'] },
    WORKING: { status: 'RUNNING', next: ['DONE', 'CANCELED', 'FAILED'] },
    DONE: { status: 'SUCCEEDED', next: [] },
    FAILED: { status: 'FAILED', next: [] },
    CANCELED: { status: 'CANCELED', next: [] },
  },
  initial: 'PENDING',
  ends: { canceled: () => 'CANCELED', failed: () => 'FAILED' },
  steps: () => ['work'],
  begin: () => 'WORKING',
  deadlineS: 600,
  async execute(context) {
    await context.step('work', { timeoutS: 60 }, async ({ log }) => {
      for (let line = 1; line <= context.input.lines; line++) await log(`line ${line}`, 'STDOUT');
      return null;
    });
    return { phase: 'DONE' };
  },
  onCreate: async () => undefined,
  retryInput: async () => ({ lines: 1 }),
});

builder.prismaNode('Run', {
  variant: 'Probe',
  interfaces: [RunRef],
  id: { resolve: ({ id }) => id },
  description: 'A run for tests.',
  ...guarded('Run'),
});

builder.mutationFields((t) => ({
  startProbe: t.id({
    access: 'member',
    description: 'Starts a run that writes so many lines. Row id of the run.',
    args: {
      workspaceId: t.arg.id({ description: 'Global id of the workspace.' }),
      lines: t.arg.int({ description: 'How many lines it writes.' }),
    },
    resolve: async (_, { workspaceId, lines }, { app, actor }) => {
      const run = await app.transact(actor, (tx) =>
        app.use(Runs).create(tx, {
          kind: probeKind,
          workspaceId: rowId('Workspace', workspaceId),
          input: { lines },
          trigger: 'API',
        }),
      );
      return run.id;
    },
  }),
}));
