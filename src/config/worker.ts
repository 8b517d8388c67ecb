import { setting, whole } from './kit.ts';

export const worker = {
  SWITCHYARD_WORKER_CONCURRENCY: setting({
    group: 'Worker',
    description: 'Most runs that one worker executes at once.',
    unit: 'runs',
    default: '4',
    example: '8',
    schema: whole(1, 256),
  }),
  SWITCHYARD_RUN_LEASE_S: setting({
    group: 'Worker',
    description: 'A worker that has not renewed a run for so long has lost it, and another worker takes the run over.',
    unit: 's',
    default: '10',
    example: '30',
    schema: whole(4, 3600),
  }),
  SWITCHYARD_STOP_GRACE_S: setting({
    group: 'Worker',
    description: 'How long a process that was told to stop may take to finish requests and hand back its runs.',
    unit: 's',
    default: '20',
    example: '25',
    schema: whole(0, 3600),
  }),
  SWITCHYARD_EVENT_RETENTION_DAYS: setting({
    group: 'Worker',
    description:
      'Events older than this are removed; a stream that asks for them gets a StreamGap. So are dead letters, and runs of the server itself that ended before (deletions, whose receipts end with them; rotations of keys).',
    unit: 'days',
    default: '90',
    example: '365',
    schema: whole(1, 36_500),
  }),
} as const;
